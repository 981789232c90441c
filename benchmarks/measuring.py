"""The measurements, one function each."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import httpx
from benchmarks import stage
from benchmarks.load import Load, Processor, Row
from benchmarks.plan import Plan
from benchmarks.processes import gateway_processes, processor_seconds, resident_bytes

from support.gateway import GatewayProcess

SEND = "/messaging/send"
NOOP = "/noop"
BULK_SIZE = 1000  # messages in a call
BULK_CALLERS = 4  # at a time: one alone leaves the gateway waiting for the writer, and the writer for the gateway
MEMORY_FROM = 10_000  # sends; caches and pools are full by then
CONNECTIONS = 64  # of what is measured at one level only

Result = TypeVar("Result")


@dataclass(frozen=True)
class Bulk:
    """Calls of 1,000 messages."""

    rate: float  #: messages a second
    created: int
    failed: int
    processor: Processor


@dataclass(frozen=True)
class Memory:
    """Resident memory of the gateway and of its writer, in bytes."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    sends: int  #: answered between the two


class Caller:
    """Whoever sends to one gateway, and keeps count of its answers, to compare with the database afterwards."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.created = 0
        self.cut_short = 0  #: at most: wrk hangs up on what is under way when its time is over
        self._url = gateway.url
        self._pids = gateway_processes(gateway.pid)

    def sends(self, connections: int, seconds: int) -> tuple[Load, Processor]:
        load, processor = self._processor_time(lambda: Load.run(self._url, SEND, connections, seconds))
        self.created += load.created
        self.cut_short += connections
        return load, processor.per(load.created)

    def bulk(self, calls: int) -> Bulk:
        messages = [{"imei": f"86{device % 500:013}", "micro_op": "push_down"} for device in range(BULK_SIZE)]
        body = json.dumps({"messages": messages})
        headers = {"Content-Type": "application/json"}
        with (
            httpx.Client(base_url=self._url, timeout=60.0, headers=headers) as client,
            ThreadPoolExecutor(BULK_CALLERS) as callers,
        ):
            begun = time.monotonic()
            answers, processor = self._processor_time(
                lambda: list(callers.map(lambda _: client.post("/messaging/bulk", content=body), range(calls)))
            )
            seconds = time.monotonic() - begun
        created = sum(answer.raise_for_status().json()["summary"].get("201", 0) for answer in answers)
        self.created += created
        return Bulk(created / seconds, created, calls * BULK_SIZE - created, processor.per(calls * BULK_SIZE))

    def resident(self) -> tuple[int, ...]:
        """Bytes of memory, of the gateway and of its writer."""
        return resident_bytes(self._pids)

    def _processor_time(self, work: Callable[[], Result]) -> tuple[Result, Processor]:
        before = [processor_seconds(pid) for pid in self._pids]
        result = work()
        gateway, writer = (processor_seconds(pid) - was for pid, was in zip(self._pids, before, strict=True))
        return result, Processor(gateway, writer)


def warm_up(caller: Caller, empty_url: str, plan: Plan, *, at_least: int = 1) -> None:
    """Fill caches and pools; at the highest level, so that memory is counted from there."""
    Load.run(empty_url, NOOP, CONNECTIONS, 1)
    while caller.created < at_least:
        caller.sends(max(plan.connections), 1)


def in_turns(caller: Caller, empty_url: str, connections: int, plan: Plan) -> Row:
    """The gateway and the empty endpoint, A B A B A B."""
    sends, empty = [], []
    for _ in range(plan.pairs):
        sends.append(caller.sends(connections, plan.seconds))
        empty.append(Load.run(empty_url, NOOP, connections, plan.seconds))
    loads, processors = zip(*sends, strict=True)
    row = Row(connections, loads, empty, Processor.median(processors))
    note(f"{connections} connections: {row.ratio:.2f} of the empty endpoint")
    return row


def with_listener(caller: Caller, port: int, plan: Plan) -> tuple[list[Load], list[Load]]:
    """Sends while nobody listens, and while a device does, in turns."""
    unheard, heard = [], []
    for _ in range(plan.pairs):
        unheard.append(caller.sends(CONNECTIONS, plan.seconds)[0])
        with stage.listener(port):
            heard.append(caller.sends(CONNECTIONS, plan.seconds)[0])
    return unheard, heard


def memory(caller: Caller, before: tuple[int, ...], sent_before: int, plan: Plan) -> Memory:
    """Send as often or as long as planned, and see what is resident then; `before` was so at `sent_before`."""
    ends = time.monotonic() + plan.seconds_for_memory
    seconds = 1  # the first tells the rate
    while (missing := plan.sends_for_memory - caller.created) > 0 and (left := ends - time.monotonic()) > 0:
        load, _ = caller.sends(CONNECTIONS, seconds)
        seconds = max(1, min(10, round(missing / load.rate), round(left) - seconds))
    return Memory(before, caller.resident(), caller.created - sent_before)


def note(text: str) -> None:
    sys.stderr.write(f"chapar: {text}\n")
