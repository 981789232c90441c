"""The measurements, one function each."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import httpx
from benchmarks import stage
from benchmarks.load import Load, Row
from benchmarks.plan import Plan
from benchmarks.processes import gateway_processes, processor_seconds, resident_bytes

from support.gateway import GatewayProcess

SEND = "/messaging/send"
NOOP = "/noop"
BULK_SIZE = 1000  # messages in a call
MEMORY_FROM = 10_000  # sends; caches and pools are full by then
_CONNECTIONS = 64  # of what is measured at one level only


@dataclass(frozen=True)
class Processor:
    """Processor time a message takes, in µs."""

    gateway: float
    writer: float


@dataclass(frozen=True)
class Bulk:
    """Calls of 1,000 messages, one after the other."""

    rate: float  #: messages a second, median over the calls
    created: int
    failed: int
    processor: Processor


@dataclass(frozen=True)
class Memory:
    """Resident memory of the gateway and of its writer, in bytes."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    sends: int  #: answered between the two


class Ledger:
    """What one gateway answered, to compare with its database afterwards."""

    def __init__(self) -> None:
        self.created = 0
        self.cut_short = 0  #: at most: wrk hangs up on what is under way when its time is over

    def sends(self, url: str, connections: int, seconds: int) -> Load:
        load = Load.run(url, SEND, connections, seconds)
        self.created += load.created
        self.cut_short += connections
        return load


def warm_up(ledger: Ledger, url: str, empty_url: str, plan: Plan, *, at_least: int = 1) -> None:
    """Fill caches and pools; at the highest level, so that memory is counted from there."""
    Load.run(empty_url, NOOP, _CONNECTIONS, plan.seconds)
    while ledger.created < at_least:
        ledger.sends(url, max(plan.connections), 1)


def in_turns(ledger: Ledger, url: str, empty_url: str, connections: int, plan: Plan) -> Row:
    """The gateway and the empty endpoint, A B A B A B."""
    sends, empty = [], []
    for _ in range(plan.pairs):
        sends.append(ledger.sends(url, connections, plan.seconds))
        empty.append(Load.run(empty_url, NOOP, connections, plan.seconds))
    row = Row(connections, sends, empty)
    note(f"{connections} connections: {row.ratio:.2f} of the empty endpoint")
    return row


def with_listener(ledger: Ledger, url: str, port: int, plan: Plan) -> tuple[list[Load], list[Load]]:
    """Sends while nobody listens, and while a device does, in turns."""
    unheard, heard = [], []
    for _ in range(plan.pairs):
        unheard.append(ledger.sends(url, _CONNECTIONS, plan.seconds))
        with stage.listener(port):
            heard.append(ledger.sends(url, _CONNECTIONS, plan.seconds))
    return unheard, heard


def processor_time(pid: int, work: Callable[[], int]) -> Processor:
    """What each of the messages that `work` sends costs."""
    pids = gateway_processes(pid)
    before = [processor_seconds(each) for each in pids]
    messages = work()
    gateway, writer = (processor_seconds(each) - was for each, was in zip(pids, before, strict=True))
    return Processor(gateway / messages * 1e6, writer / messages * 1e6)


def processor_time_of_sends(ledger: Ledger, url: str, pid: int, seconds: int) -> Processor:
    return processor_time(pid, lambda: ledger.sends(url, _CONNECTIONS, seconds).created)


def bulk(ledger: Ledger, url: str, pid: int, calls: int) -> Bulk:
    messages = [{"imei": f"86{device % 500:013}", "micro_op": "push_down"} for device in range(BULK_SIZE)]
    took: list[float] = []
    created = 0

    def work() -> int:
        nonlocal created
        with httpx.Client(base_url=url, timeout=60.0) as client:
            for _ in range(calls):
                begun = time.perf_counter()
                answer = client.post("/messaging/bulk", json={"messages": messages})
                took.append(time.perf_counter() - begun)
                answer.raise_for_status()
                created += answer.json()["summary"].get("201", 0)
        return calls * BULK_SIZE

    processor = processor_time(pid, work)
    ledger.created += created
    return Bulk(BULK_SIZE / median(took), created, calls * BULK_SIZE - created, processor)


def memory(ledger: Ledger, gateway: GatewayProcess, before: tuple[int, ...], sent_before: int, sends: int) -> Memory:
    """Send until `sends` were answered in all, and see what is resident then; `before` was so at `sent_before`."""
    seconds = 1  # the first tells the rate
    while (missing := sends - ledger.created) > 0:
        rate = ledger.sends(gateway.url, _CONNECTIONS, seconds).rate
        seconds = max(1, min(10, round(missing / rate)))
    return Memory(before, resident_bytes(gateway_processes(gateway.pid)), ledger.created - sent_before)


def note(text: str) -> None:
    sys.stderr.write(f"chapar: {text}\n")
