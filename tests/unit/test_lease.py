"""The lease of a process on what it claims."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from chapar.delivery import lease as lease_module
from chapar.delivery.lease import ProcessLease
from chapar.model.message import Status
from chapar.model.queue import Lease
from support.fakes import EPOCH, PROCESS, FakeClock, MemoryStore, until
from support.stores import new_message
from support.timers import Timers

SECONDS = 30.0


class Bench:
    def __init__(self, *, alone: bool = False) -> None:
        self.store = MemoryStore()
        self.lease = ProcessLease(self.store.queue, FakeClock(), PROCESS, SECONDS, alone=alone)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        run = asyncio.create_task(self.lease.run())
        try:
            yield
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run


async def test_a_lease_says_who_holds_it_and_until_when(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    assert not bench.lease.is_held
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 7.0)
    await bench.lease.acquire()
    (asked,) = bench.store.asked("acquire_lease")
    assert (asked.process, asked.seconds, asked.alone) == (PROCESS, SECONDS, False)
    assert asked.name == f"{socket.gethostname()}:{os.getpid()}"
    assert await bench.store.queue.is_alive(PROCESS)
    await bench.lease.release()
    assert not await bench.store.queue.is_alive(PROCESS)


@pytest.mark.parametrize(("now", "is_held"), [(36.9, True), (37.0, False), (37.1, False)])
async def test_a_lease_is_over_at_its_end(monkeypatch: pytest.MonkeyPatch, now: float, *, is_held: bool) -> None:
    bench, alone, at = Bench(), Bench(alone=True), 7.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: at)
    await bench.lease.acquire()
    at = now
    assert bench.lease.is_held is is_held
    assert alone.lease.is_held, "nobody is there to take anything over"


async def test_it_counts_from_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, at = Bench(), 7.0
    acquire = bench.store.queue.acquire_lease

    async def slow(lease: Lease) -> None:
        nonlocal at
        at = 37.0
        await acquire(lease)

    monkeypatch.setattr(bench.store.queue, "acquire_lease", slow)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: at)
    await bench.lease.acquire()
    assert not bench.lease.is_held


async def test_it_is_renewed_when_a_third_of_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, timers = Bench(), Timers()
    monkeypatch.setattr(lease_module, "asyncio", timers)
    async with bench.running():
        await until(lambda: timers.sleeps)
        assert timers.sleeps == [SECONDS / 3]
    assert len(bench.store.asked("acquire_lease")) == 1


async def test_what_a_dead_process_left_is_settled_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, timers = Bench(), Timers()
    monkeypatch.setattr(lease_module, "asyncio", timers)
    left = bench.store.put(new_message("A", claim="fedcba9876543210.1", created_at=EPOCH))
    with capture_logs() as logged:
        async with bench.running():
            await until(lambda: timers.sleeps)
        async with bench.running():
            await until(lambda: len(timers.sleeps) == 2)
    assert bench.store.now(left).status is Status.QUEUED
    assert [entry for entry in logged if entry["event"] == "left_behind_by_dead_process"] == [
        {"event": "left_behind_by_dead_process", "log_level": "warning", "messages": 1}
    ]
