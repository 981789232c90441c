"""An outage of the broker: half a million messages wait, and then leave; what that takes, and what others notice.

`python -m faults.backlog [messages]` prints figures; `scripts/faults --backlog` calls it.
"""

import asyncio
import contextlib
import io
import itertools
import json
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from statistics import quantiles
from typing import Final

import uvloop

from faults.connection import Connection, NoAnswer
from faults.load import BULK, SEND
from faults.run import opened
from faults.stage import Stage
from support.memory import peak_of, resident_of

MESSAGES: Final = 500_000
_AT_ONCE: Final = 1000  # messages in one call
_CALLERS: Final = 4  # half of them wait for the broker
_PER_DEVICE: Final = 500
_DEVICES: Final = 100  # of one caller
_PAUSE: Final = 0.02  # seconds between two calls of one caller
_PATIENCE: Final = 30.0  # seconds of a caller: longer than any answer takes
_IDLE: Final = 10.0  # seconds in which callers have the gateway to themselves
_MEGABYTE: Final = 1 << 20


async def measure(messages: int, say: Callable[[str], None]) -> None:
    """Fill the queue, drain it, and say what it took."""
    numbers = itertools.count(1)
    async with opened(env={"CHAPAR_PUBLISH_TIMEOUT": "5", "CHAPAR_KEEP_ALIVE": "10"}) as stage:
        async with _callers(stage, numbers) as idle:
            await asyncio.sleep(_IDLE)
        say(f"idle: {_percentiles(idle)}")
        await asyncio.to_thread(stage.broker.kill)
        before = resident_of(stage.gateway.pid)
        seconds = await _fill(stage, messages, numbers)
        after, peak = resident_of(stage.gateway.pid), peak_of(stage.gateway.pid)
        say(f"queued: {messages:,} messages in bulk calls of {_AT_ONCE:,}, {messages / seconds:,.0f} a second")
        say(
            f"resident memory of gateway and writer: {before / _MEGABYTE:.0f} MB before, {after / _MEGABYTE:.0f} MB "
            f"after, peak {peak / _MEGABYTE:.0f} MB; database {_size(stage) / _MEGABYTE:.0f} MB"
        )
        await asyncio.to_thread(stage.broker.start)
        await stage.device_listens()
        await stage.ready(stage.gateway)
        heard = len(stage.hearings.read().all)
        async with _callers(stage, numbers) as meanwhile:
            seconds = await _drained(stage, heard + messages)
        say(f"drained: {messages / seconds:,.0f} a second, while {_CALLERS} callers send as when idle")
        say(f"meanwhile: {_percentiles(meanwhile)}")
        say(f"resident memory afterwards: peak {peak_of(stage.gateway.pid) / _MEGABYTE:.0f} MB")


class _Latencies:
    """Seconds from request to answer, by what the caller waited for; and what the answers were."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"broker": [], "none": []}
        self.answers: dict[str, dict[int, int]] = {"broker": {}, "none": {}}


@contextlib.asynccontextmanager
async def _callers(stage: Stage, numbers: Iterator[int]) -> AsyncIterator[_Latencies]:
    """Callers who send single messages at a moderate pace, half of them waiting for the broker."""
    latencies = _Latencies()
    stopping = asyncio.Event()

    async def call(caller: int) -> None:
        wait = "broker" if caller % 2 else "none"
        async with Connection(stage.ports, _PATIENCE) as connection:
            while not stopping.is_set():
                device = f"caller-{caller}-{random.randrange(_DEVICES)}"
                body = {"imei": device, "micro_op": f"n-{next(numbers)}", "wait": wait}
                began = time.perf_counter()
                status = 0
                with contextlib.suppress(NoAnswer):
                    status = (await connection.post(SEND, json.dumps(body).encode())).status
                latencies.seconds[wait].append(time.perf_counter() - began)
                latencies.answers[wait][status] = latencies.answers[wait].get(status, 0) + 1
                await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))

    tasks = [asyncio.create_task(call(caller)) for caller in range(_CALLERS)]
    try:
        yield latencies
    finally:
        stopping.set()
        await asyncio.gather(*tasks)


async def _fill(stage: Stage, messages: int, numbers: Iterator[int]) -> float:
    """Queue so many messages, in bulk calls one after the other; gives the seconds that took."""
    began = time.monotonic()
    async with Connection(stage.ports, _PATIENCE) as connection:
        for start in range(0, messages, _AT_ONCE):
            items = [
                {"imei": f"bulk-{place // _PER_DEVICE}", "micro_op": f"n-{next(numbers)}", "wait": "none"}
                for place in range(start, min(start + _AT_ONCE, messages))
            ]
            reply = await connection.post(BULK, json.dumps({"messages": items}).encode())
            summary = json.loads(reply.body).get("summary")
            if summary != {"202": len(items)}:
                raise AssertionError(f"not everything was accepted: {reply.status} {summary}")
    return time.monotonic() - began


async def _drained(stage: Stage, count: int) -> float:
    """Wait until the device has heard `count` messages in all; gives the seconds that took."""
    began = time.monotonic()
    while True:
        if len(stage.hearings.read().all) >= count:
            return time.monotonic() - began
        await asyncio.sleep(0.1)


def _percentiles(latencies: _Latencies) -> str:
    """One half-sentence for each kind of call."""
    said = []
    for wait, seconds in latencies.seconds.items():
        cuts = quantiles(seconds, n=100)
        said.append(
            f"wait={wait} p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms "
            f"({', '.join(f'{status}: {count:,}' for status, count in sorted(latencies.answers[wait].items()))})"
        )
    return "; ".join(said)


def _size(stage: Stage) -> int:
    return sum(path.stat().st_size for path in stage.folder.glob("chapar.db*"))


def main() -> None:
    """Measure, with as many messages as the command line says."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    output = sys.stdout
    logging.getLogger("paho").setLevel(logging.CRITICAL)  # it complains at each good-bye
    with contextlib.redirect_stdout(io.StringIO()):
        uvloop.run(measure(messages, lambda line: print(line, file=output, flush=True)))


if __name__ == "__main__":
    main()
