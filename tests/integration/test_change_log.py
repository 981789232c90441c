"""The log of changes: what one process commits, the others on its database announce, each change once."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
import pytest
from sqlalchemy import Connection, select

from chapar.delivery.waiting import Waiters, Waiting
from chapar.model.change import Change
from chapar.model.message import Message, Status, Wait
from chapar.model.queue import Lease
from chapar.store import change_log
from chapar.store.change_log import read
from chapar.store.database import Role, open_engine
from chapar.store.schema import changes
from chapar.store.store import Store
from support.api import eventually
from support.changing import everything
from support.postgres import PostgresServer
from support.stores import PROCESS, add_one, move_one, new_message, now, open_store, published

OTHER = "fedcba9876543210"
DEAD = "00000000deadbeef"


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with open_store(url, process=PROCESS) as store:
        await store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
        yield store


@contextmanager
def reader(url: str) -> Iterator[Connection]:
    engine = open_engine(url, Role.READER)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def rows(url: str) -> list[list[list[object]]]:
    with reader(url) as connection:
        found = connection.execute(select(changes.c.moved).order_by(changes.c.seq)).scalars().all()
    return [json.loads(moved) for moved in found]


class Listener:
    """What a process hears."""

    def __init__(self, store: Store) -> None:
        self.heard: list[Change] = []
        self.missed = 0
        store.changes.listen(self.heard.extend)

    def miss(self) -> None:
        self.missed += 1

    async def until(self, condition: Callable[[], object]) -> None:
        async def look() -> bool:
            return bool(condition())

        await eventually(look)


@pytest.fixture
async def following(url: str) -> AsyncIterator[Listener]:
    """Another process, which follows the log."""
    async with open_store(url, process=OTHER) as other:
        await other.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
        listener = Listener(other)
        follow = asyncio.create_task(other.log.follow(OTHER, listener.miss))
        await listener.until(lambda: listener.missed)
        yield listener
        follow.cancel()
        with suppress(asyncio.CancelledError):
            await follow


def moves(heard: Sequence[Change]) -> list[tuple[str, str, Status | None, Status]]:
    return [(change.id, change.imei, change.before, change.after) for change in heard]


async def test_what_one_process_changes_another_announces_as_that_does(store: Store, following: Listener) -> None:
    here = Listener(store)
    await everything(store)
    await following.until(lambda: len(following.heard) >= len(here.heard))
    assert moves(following.heard) == moves(here.heard)
    assert len(here.heard) > 15
    assert {change.after for change in here.heard} >= {
        Status.QUEUED,
        Status.PUBLISHING,
        Status.PUBLISHED,
        Status.CANCELLED,
        Status.EXPIRED,
        Status.REJECTED,
        Status.SUCCEEDED,
    }
    assert {(change.foreign, change.message) for change in following.heard} == {(True, None)}
    assert not any(change.foreign for change in here.heard)
    assert all(abs(change.at - now()) < 60_000 for change in following.heard)


@pytest.mark.usefixtures("store")
async def test_transactions_that_end_out_of_order_are_each_read_once(url: str) -> None:
    """Whatever number they have, and whatever else runs for however long."""

    def insert(connection: psycopg.Connection, name: str) -> None:
        moved = json.dumps([[name, "A", "publishing", "published", None, 1, 1]])
        connection.execute(change_log._ADD["postgresql"], (PROCESS, 1, moved))

    def news(after: str | None) -> tuple[str, list[str]]:
        with reader(url) as connection:
            found = read(connection, OTHER, after)
            assert read(connection, PROCESS, after).changes == [], "its own are none"
        return found.snapshot, [change.id for change in found.changes]

    with (
        psycopg.connect(url) as first,
        psycopg.connect(url) as second,
        psycopg.connect(url) as undone,
        psycopg.connect(url) as endless,
    ):
        endless.execute("SELECT pg_current_xact_id()")
        insert(undone, "undone")
        insert(first, "first")
        snapshot, found = news(None)
        assert found == []
        insert(second, "second")
        assert news(snapshot)[1] == []
        second.commit()
        snapshot, found = news(snapshot)
        assert found == ["second"]
        insert(second, "third")
        undone.rollback()
        first.commit()
        second.commit()
        snapshot, found = news(snapshot)
        assert found == ["first", "third"]
        assert news(snapshot)[1] == []


@pytest.mark.usefixtures("store")
async def test_what_is_committed_while_the_log_is_read_is_read_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = json.dumps([["first", "A", "publishing", "published", None, 1, 1]])
    run = change_log.run_on_driver
    with psycopg.connect(url) as other, reader(url) as connection:
        before = read(connection, OTHER, None)

        def run_and_commit(connection: Connection, sql: str, *values: object) -> object:
            found = run(connection, sql, *values)
            if sql == change_log._SNAPSHOT:
                other.execute(change_log._ADD["postgresql"], (PROCESS, 1, moved))
                other.commit()
            return found

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(change_log, "run_on_driver", run_and_commit)
            during = read(connection, OTHER, before.snapshot)
        after = read(connection, OTHER, during.snapshot)
    assert [change.id for change in (*during.changes, *after.changes)] == ["first"]


async def test_who_was_away_for_long_is_told_that_it_missed_something(
    store: Store, following: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = following.missed
    await asyncio.sleep(3 * change_log._READ_EVERY)
    assert following.missed <= before + 1, "only at the beginning"
    monkeypatch.setattr(change_log, "_LONGEST_GAP", 0.0)
    await following.until(lambda: following.missed > before + 1)
    monkeypatch.setattr(change_log, "_LONGEST_GAP", 10.0)
    message = new_message()
    await add_one(store, message)
    await following.until(lambda: message.id in {change.id for change in following.heard})


async def test_a_database_that_is_away_ends_nothing(
    store: Store, following: Listener, postgres_server: PostgresServer, url: str
) -> None:
    await add_one(store, new_message())
    await following.until(lambda: len(following.heard) == 1)
    postgres_server.terminate_backends(url)
    await add_one(store, new_message())
    await following.until(lambda: len(following.heard) == 2)


async def test_who_waits_at_one_process_goes_on_when_another_has_stored_the_end(store: Store, url: str) -> None:
    asked: list[int] = []
    async with open_store(url, process=OTHER) as other:
        await other.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
        waiters = Waiters(other.messages)
        other.changes.listen(waiters.received)
        find_all = other.messages.find_all

        async def counted(ids: Sequence[str]) -> list[Message]:
            asked.append(len(ids))
            return await find_all(ids)

        other.messages.find_all = counted  # type: ignore[method-assign]
        tasks: list[Awaitable[None]] = [
            asyncio.create_task(waiters.run()),
            asyncio.create_task(other.log.follow(OTHER, waiters.missed)),
        ]
        messages = [new_message(f"device-{number}") for number in range(5)]
        await asyncio.gather(*(add_one(store, message) for message in messages))
        waiting = [Waiting([message.id], Wait.BROKER) for message in messages]
        for each in waiting:
            waiters.add(each)
            waiters.time(each, asyncio.get_running_loop().time() + 60)
        await asyncio.sleep(4 * change_log._READ_EVERY)
        asked.clear()
        await asyncio.sleep(4 * change_log._READ_EVERY)
        assert asked == [], "while nothing ends"
        for message, each in zip(messages, waiting, strict=True):
            await move_one(store, message, published(message))
            await asyncio.wait_for(each.done, 20)
            assert each.found[message.id].status is Status.PUBLISHED
        assert sum(asked) == len(messages)
        for task in tasks:
            task.cancel()  # type: ignore[attr-defined]
