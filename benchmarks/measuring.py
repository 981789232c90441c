"""What every theme measures with: a caller who keeps count, turns, and a look into the database afterwards."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
from benchmarks import stage
from benchmarks.figures import Bulk, Check, Processor, Results
from benchmarks.load import Load, Pairs, Requests, imei, sends_to
from benchmarks.plan import Plan
from benchmarks.processes import gateway_processes, processor_seconds, resident_bytes

from support.gateway import GatewayProcess

SEND = "/messaging/send"
SENDS = sends_to(SEND, range(500))
BULK_SIZE = 1000  # messages in a call
BULK_CALLERS = 4  # at a time: one alone leaves the gateway waiting for the writer, and the writer for the gateway
CONNECTIONS = 64  # of what is measured at one level only

Result = TypeVar("Result")


class Caller:
    """Whoever sends to one gateway, and keeps count of its answers."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.created = 0
        self.failed = 0
        self.cut_short = 0  #: at most: wrk hangs up on what is under way when its time is over
        self.url = gateway.url
        self.port = gateway.port
        self._pids = gateway_processes(gateway.pid)

    def sends(self, connections: int, seconds: int, requests: Requests = SENDS) -> tuple[Load, Processor]:
        """Also gives the processor time per send."""
        load, processor = self._processor_time(lambda: Load.run(self.url, requests, connections, seconds))
        self.created += load.good
        self.failed += load.failed
        self.cut_short += connections
        return load, processor.per(load.good)

    def bulk(self, calls: int) -> Bulk:
        messages = [{"imei": imei(device % 500), "micro_op": "push_down"} for device in range(BULK_SIZE)]
        body = json.dumps({"messages": messages})
        headers = {"Content-Type": "application/json"}
        with (
            httpx.Client(base_url=self.url, timeout=60.0, headers=headers) as client,
            ThreadPoolExecutor(BULK_CALLERS) as callers,
        ):
            begun = time.monotonic()
            answers, processor = self._processor_time(
                lambda: list(callers.map(lambda _: client.post("/messaging/bulk", content=body), range(calls)))
            )
            seconds = time.monotonic() - begun
        created = sum(answer.raise_for_status().json()["summary"].get("201", 0) for answer in answers)
        failed = calls * BULK_SIZE - created
        self.created += created
        self.failed += failed
        return Bulk(created / seconds, created, failed, processor.per(calls * BULK_SIZE))

    def resident(self) -> tuple[int, ...]:
        """Bytes of memory, of the gateway and of its writer."""
        return resident_bytes(self._pids)

    def _processor_time(self, work: Callable[[], Result]) -> tuple[Result, Processor]:
        before = [processor_seconds(pid) for pid in self._pids]
        result = work()
        gateway, writer = (processor_seconds(pid) - was for pid, was in zip(self._pids, before, strict=True))
        return result, Processor(gateway, writer)


@contextlib.contextmanager
def caller_of(results: Results, name: str, folder: Path, broker_url: str, database_url: str) -> Iterator[Caller]:
    """Whoever sends to a gateway of its own; once that has ended, its database is read past it."""
    with stage.gateway(folder, broker_url, database_url) as gateway:
        last = stage.last_row(database_url)
        caller = Caller(gateway)
        yield caller
    statuses = stage.statuses(database_url, behind=last)
    results.checks[name] = Check(caller.created, caller.failed, caller.cut_short, statuses)


def in_turns(plan: Plan, first: Callable[[], Load], second: Callable[[], Load]) -> Pairs:
    """Run the two in turns; what a first run warms up is not counted."""
    first(), second()
    runs = [(first(), second()) for _ in range(plan.pairs)]
    return Pairs([run[0] for run in runs], [run[1] for run in runs])


def note(text: str) -> None:
    sys.stderr.write(f"chapar: {text}\n")
