"""The store while its writer dies, its database goes away or its disk is full: nothing is lost, nobody told wrong."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chapar.errors import NotSaved, OutcomeUnknown, StoreUnavailable
from chapar.model.message import Message
from chapar.model.report import Filters
from chapar.runtime.metrics import Metrics
from chapar.store.store import Store
from support.postgres import PostgresServer
from support.processes import kill, wait_until_gone
from support.stores import add_one, measured, move_one, new_message, open_store, published, writer_processes


@dataclass
class Ledger:
    """What callers were told."""

    saved: dict[str, Message] = field(default_factory=dict)  #: by id, as last confirmed
    not_saved: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    stopping: bool = False
    published: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    async def more(self, count: int = 100) -> None:
        """Wait until so many more messages are added and moved."""
        for _ in range(self.published.qsize() + count):
            await self.published.get()

    async def check(self, store: Store) -> None:
        """Compare with what the database has, now that all is over."""
        rows = {message.id: message async for page in store.reports.pages(Filters()) for message in page}
        assert self.saved
        assert self.not_saved.isdisjoint(rows)
        assert {key: row for key, row in rows.items() if key not in self.unknown} == self.saved


async def accept_and_publish(store: Store, ledger: Ledger, patience: float | None) -> None:
    loop = asyncio.get_running_loop()
    while not ledger.stopping:
        message = new_message()
        try:
            await add_one(store, message, None if patience is None else loop.time() + patience)
        except NotSaved:
            ledger.not_saved.add(message.id)
        except OutcomeUnknown:
            ledger.unknown.add(message.id)
        else:
            after = published(message)
            # Nobody else moves it, so False would be wrong, also where the move had to be repeated.
            assert await move_one(store, message, after)
            ledger.saved[message.id] = after
            ledger.published.put_nowait(None)


@contextlib.asynccontextmanager
async def load(store: Store, patience: float | None = None) -> AsyncIterator[Ledger]:
    """32 callers that add and move all the time; afterwards the database must have what they were told."""
    ledger = Ledger()
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for _ in range(32):
            tasks.create_task(accept_and_publish(store, ledger, patience))
        yield ledger
        ledger.stopping = True
    await ledger.check(store)


@pytest.mark.parametrize("times", [5, pytest.param(20, marks=pytest.mark.long)])
async def test_a_writer_killed_again_and_again_loses_nothing(database_url: str, times: int) -> None:
    metrics = Metrics()
    async with open_store(database_url, metrics) as store:
        async with load(store) as ledger:
            for _ in range(times):
                await ledger.more()
                kill(writer_processes())
            await ledger.more()
        assert not ledger.not_saved
        assert not ledger.unknown
        assert measured(metrics, "chapar_writer_deaths_total") == times


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.long)])
async def test_what_callers_are_told_before_their_patience_ends_is_true(database_url: str, times: int) -> None:
    async with open_store(database_url) as store, load(store, patience=0.05) as ledger:
        for _ in range(times):
            await ledger.more()
            kill(writer_processes())
        await ledger.more()


async def test_an_operation_in_the_hands_of_a_stopped_writer_is_unknown(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with open_store(database_url) as store:
        await store.health.check(30.0)
        [writer] = writer_processes()
        os.kill(writer, signal.SIGSTOP)
        handed_over = add_one(store, new_message(), loop.time() + 0.2)
        await asyncio.sleep(0)
        queued = add_one(store, new_message(), loop.time() + 0.2)
        with pytest.raises(OutcomeUnknown):
            await handed_over
        with pytest.raises(NotSaved):
            await queued
        with pytest.raises(StoreUnavailable):
            await store.health.check()
        os.kill(writer, signal.SIGCONT)
        await add_one(store, new_message())
        assert len((await store.reports.page(Filters(), after=None, limit=10)).messages) == 2


async def test_a_gateway_that_is_gone_takes_its_writer_along(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.health.check(30.0)
        writers = writer_processes()
    assert len(writers) == 1
    assert wait_until_gone(writers) == []


async def test_a_restart_of_postgresql_loses_nothing(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with open_store(postgres_url) as store, load(store) as ledger:
        for mode in ("fast", "immediate"):
            await ledger.more()
            await asyncio.to_thread(postgres_server.restart, mode)
        await ledger.more()


async def test_connections_cut_at_any_moment_lose_nothing(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with open_store(postgres_url) as store, load(store) as ledger:
        for count in range(20):
            await ledger.more(50 + count)
            await asyncio.to_thread(postgres_server.terminate_backends, postgres_url)
        await ledger.more()


async def test_while_postgresql_is_down_nothing_is_saved_and_everybody_knows(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    loop = asyncio.get_running_loop()
    async with open_store(postgres_url) as store:
        saved = new_message()
        await add_one(store, saved)
        waiting = new_message()
        await asyncio.to_thread(postgres_server.stop)
        try:
            with pytest.raises(NotSaved):
                await add_one(store, new_message(), loop.time() + 0.3)
            with pytest.raises(StoreUnavailable):
                await store.messages.find(saved.id)
            with pytest.raises(StoreUnavailable):
                await store.health.check()
            patient = add_one(store, waiting)
        finally:
            await asyncio.to_thread(postgres_server.start)
        await patient
        assert (await store.reports.page(Filters(), after=None, limit=10)).messages == [waiting, saved]


async def test_a_reader_whose_connection_was_cut_reads_on(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with open_store(postgres_url) as store:
        message = new_message()
        await add_one(store, message)
        for _ in range(3):
            assert await store.messages.find(message.id) == message
            await asyncio.to_thread(postgres_server.terminate_backends, postgres_url)
        assert await store.messages.find(message.id) == message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


async def test_a_full_disk_saves_nothing_and_recovers(small_disk: Path) -> None:
    loop = asyncio.get_running_loop()
    ballast = small_disk / "ballast"
    async with open_store(f"sqlite:///{small_disk}/chapar.db") as store:
        ledger = Ledger()
        await store.health.check(30.0)
        fill(ballast)
        while not ledger.not_saved:  # SQLite first uses up the room that its log already has
            message = new_message(params="x" * 1000)
            try:
                await add_one(store, message, loop.time() + 0.2)
                ledger.saved[message.id] = message
            except NotSaved as error:
                cause = error.cause
                ledger.not_saved.add(message.id)
        assert cause == "database or disk is full."
        with pytest.raises(StoreUnavailable, match=cause):
            await store.health.check()
        waiting = new_message()
        patient = add_one(store, waiting)
        ballast.unlink()
        await patient
        ledger.saved[waiting.id] = waiting
        await ledger.check(store)
        await store.health.check(30.0)


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
