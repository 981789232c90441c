"""`python -m benchmarks.replies`: sends, replies and both together in turns, round trips, and what a wait costs."""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import httpx
from benchmarks import stage
from benchmarks.load import Load, Requests, imei, p50_of, p99_of
from benchmarks.measuring import BULK_CALLERS, BULK_SIZE, SEND
from benchmarks.processes import gateway_processes, resident_bytes
from benchmarks.responder import LATER, UNANSWERED

from support.gateway import GatewayProcess
from support.ports import LOOPBACK

_RESPONDER: Final = Path(__file__).with_name("responder.py")
_CONNECTIONS: Final = 8  # of the devices: a broker bounds what one may have unacknowledged
_DEVICES: Final = 500
_END_WITHIN: Final = 120.0  # seconds
_PLAIN: Final = Requests(
    [f'POST {SEND} {{"imei":"{imei(device)}","micro_op":"{UNANSWERED}"}}' for device in range(_DEVICES)], 201
)
_ROUND_TRIPS: Final = Requests(
    [f'POST {SEND} {{"imei":"{imei(device)}","micro_op":"push_down","wait":"device"}}' for device in range(_DEVICES)],
    201,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench replies", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind, taken in turns (3)")
    parser.add_argument("--seconds", type=int, default=5, help="of one run of callers who wait (5)")
    parser.add_argument("--calls", type=int, default=12, help="bulk calls of 1,000 messages in one run (12)")
    parser.add_argument("--waits", type=int, default=5000, help="calls that wait at a time for a device (5000)")
    parser.add_argument("--profile", choices=["text", "chapar"], default="chapar", help="of the devices (chapar)")
    parser.add_argument("--window", type=int, help="`max_inflight_messages` of Mosquitto; else its default, 20")
    asked = parser.parse_args()
    results = Path(__file__).with_name("results")
    results.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results) as folder:
        _measure(Path(folder), asked)
    return 0


def _measure(folder: Path, asked: argparse.Namespace) -> None:
    # By default it drops what is more than 1,000 behind.
    options = ["log_type none", "max_queued_messages 0"]
    if asked.window:
        options.append(f"max_inflight_messages {asked.window}")
    url = f"sqlite:///{folder}/benchmark.db"
    env = {
        "CHAPAR_DATABASE_URL": url,
        "CHAPAR_DEFAULT_PROFILE": asked.profile,
        "CHAPAR_MAX_WAITS": "100000",
        "CHAPAR_MAX_CONNECTIONS": "100000",
    }
    with (
        stage.Mosquitto(*options) as broker,
        GatewayProcess(folder, env | {"CHAPAR_BROKER_URL": broker.url}) as gateway,
    ):
        with _responder(broker.port) as release:
            _rates(gateway, url, asked, release)
            _round_trips(gateway, asked)
        _waits(gateway, asked.waits)


@contextlib.contextmanager
def _responder(port: int) -> Iterator[Callable[[], object]]:
    """Devices; what is given has them answer what they were to answer later."""
    command = [sys.executable, str(_RESPONDER), str(port), str(_CONNECTIONS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield partial(process.stdin.write, "\n")
        finally:
            process.kill()


def _rates(gateway: GatewayProcess, url: str, asked: argparse.Namespace, release: Callable[[], object]) -> None:
    """Bulk sends alone, replies alone, and sends that are answered at once, in turns."""
    sends, replies, both = [], [], []
    for _ in range(asked.pairs + 1):  # the first warms up
        sends.append(_rate(gateway, url, asked.calls, "published", {"micro_op": UNANSWERED}))
        last = stage.last_row(url)
        _rate(gateway, url, asked.calls, "published", {"micro_op": LATER, "reply_within": 300})
        replies.append(_replies(url, last, asked.calls * BULK_SIZE, release))
        both.append(_rate(gateway, url, asked.calls, "succeeded", {"micro_op": "push_down", "reply_within": 60}))
    for name, rates in (("replies alone", replies[1:]), ("sends with their replies", both[1:])):
        ratio = median(rate / send for send, rate in zip(sends[1:], rates, strict=True))
        print(f"bulk sends alone {median(sends[1:]):,.0f}/s, {name} {median(rates):,.0f}/s: {ratio:.2f}")


def _rate(gateway: GatewayProcess, url: str, calls: int, status: str, message: Mapping[str, object]) -> float:
    """Messages a second, from the first bulk call until all have this status."""
    body = json.dumps(
        {"messages": [{"imei": imei(number % _DEVICES), "wait": "none", **message} for number in range(BULK_SIZE)]}
    )
    headers = {"Content-Type": "application/json"}
    last, begun = stage.last_row(url), time.monotonic()
    with (
        httpx.Client(base_url=gateway.url, timeout=60.0, headers=headers) as client,
        ThreadPoolExecutor(BULK_CALLERS) as callers,
    ):
        for answer in callers.map(lambda _: client.post("/messaging/bulk", content=body), range(calls)):
            answer.raise_for_status()
    _until(url, last, {status: calls * BULK_SIZE})
    return calls * BULK_SIZE / (time.monotonic() - begun)


def _replies(url: str, behind: int, count: int, release: Callable[[], object]) -> float:
    """Replies committed a second, where the devices answer together what was published before."""
    begun = time.monotonic()
    release()
    _until(url, behind, {"succeeded": count})
    return count / (time.monotonic() - begun)


def _until(url: str, behind: int, wanted: Mapping[str, int]) -> None:
    begun = time.monotonic()
    while (found := stage.statuses(url, behind=behind)) != wanted:
        if time.monotonic() > begun + _END_WITHIN:
            raise AssertionError(f"not all come to be {wanted}: {found}")
        time.sleep(0.02)


def _round_trips(gateway: GatewayProcess, asked: argparse.Namespace) -> None:
    """Callers who wait for the broker, and callers who wait for the device, in turns."""
    for connections in (1, 64):
        plain, answered = [], []
        for _ in range(asked.pairs):
            plain.append(Load.run(gateway.url, _PLAIN, connections, asked.seconds))
            answered.append(Load.run(gateway.url, _ROUND_TRIPS, connections, asked.seconds))
        for name, loads in (("broker", plain), ("device", answered)):
            rate, failed = median(load.rate for load in loads), sum(load.failed for load in loads)
            times = f"p50 {p50_of(loads):.2f} ms, p99 {p99_of(loads):.2f} ms"
            print(f"{connections:3} callers, wait {name}: {rate:,.0f}/s, {times}, {failed} failed")


def _waits(gateway: GatewayProcess, count: int) -> None:
    """Memory of calls that wait for devices that do not answer."""
    pids = gateway_processes(gateway.pid)
    before = resident_bytes(pids)
    held, after = asyncio.run(_hold(gateway, count, lambda: resident_bytes(pids)))
    each = (sum(after) - sum(before)) / held / 1024
    print(f"{held:,} calls that wait for a device: {each:.1f} KiB each, connection included")


async def _hold(
    gateway: GatewayProcess, count: int, measure: Callable[[], tuple[int, ...]]
) -> tuple[int, tuple[int, ...]]:
    writers = []
    for number in range(count):
        _, writer = await asyncio.open_connection(LOOPBACK, gateway.port)
        body = json.dumps(
            {"imei": imei(number), "micro_op": "push_down", "wait": "device", "reply_within": 300, "timeout": 300}
        )
        head = f"POST {SEND} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        writers.append(writer)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
        while True:  # until all are with the broker
            answer = await client.get("/reporting/summary?bucket=day")
            statuses = answer.raise_for_status().json()["statuses"]
            if not any(statuses.get(status) for status in ("scheduled", "queued", "publishing")):
                break
            await asyncio.sleep(0.5)
    after = measure()
    for writer in writers:
        writer.close()
    return len(writers), after


if __name__ == "__main__":
    raise SystemExit(main())
