"""The log of changes: what one process commits, the others on its database announce, each change once."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
import pytest
from sqlalchemy import Connection, select

from chapar.delivery.waiting import Waiters, Waiting
from chapar.model.acceptance import Withdrawal
from chapar.model.audit import Action, Entry
from chapar.model.change import Change
from chapar.model.message import Message, Status, Wait, clearing
from chapar.model.principal import Reach
from chapar.model.queue import Lease
from chapar.model.reply import read_reply
from chapar.store import change_log
from chapar.store.change_log import read
from chapar.store.database import Role, open_engine
from chapar.store.purges import Purge
from chapar.store.schema import changes
from chapar.store.store import Store
from support.api import eventually
from support.callers import cancelling
from support.postgres import PostgresServer
from support.stores import CLAIM, PROCESS, add_one, move_one, new_message, now, open_store, published, single

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


async def beside_another(store: Store) -> None:
    """Another process is alive, and this one knows it."""
    await store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    await asyncio.sleep(change_log._ASK_EVERY)


@contextmanager
def reader(url: str) -> Iterator[Connection]:
    engine = open_engine(url, Role.READER)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def rows(url: str) -> list[list[tuple[str, str, str | None, str]]]:
    with reader(url) as connection:
        found = connection.execute(select(changes.c.moved).order_by(changes.c.seq)).scalars().all()
    return [[tuple(each) for each in json.loads(moved)] for moved in found]


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


async def everything(store: Store) -> None:
    """Change messages in each way there is."""
    deadline = asyncio.get_running_loop().time() + 30
    direct, retained = new_message("A"), new_message("R", retain=True)
    queued = [new_message("B", Status.QUEUED, claim=None, attempts=0) for _ in range(4)]
    too_late = new_message("C", Status.QUEUED, claim=None, attempts=0, expires_at=1)
    left = new_message("D", claim=f"{DEAD}.0")
    await asyncio.gather(*(add_one(store, message) for message in (direct, retained, *queued, too_late, left)))
    await asyncio.gather(*(move_one(store, message, published(message)) for message in (direct, retained)))
    assert not await move_one(store, direct, published(direct)._replace(status=Status.REJECTED)), "moved already"
    await store.messages.cancel([cancelling(queued[0].id, now())], deadline)
    await store.messages.take_back(clearing(retained, now() * 1_000_000), None, deadline)
    await store.queue.settle(PROCESS, now())
    await store.queue.take(f"{PROCESS}.1", 2, now())
    never = new_message("E", Status.REJECTED, claim=None, finished_at=now())
    await single(store.messages.withdraw([Withdrawal(never, CLAIM, None)]))
    reply = read_reply(b"ok", direct.id.encode(), (), device="A", topic="devices/A/reply", at=now())
    await store.replies.receive([reply])
    for _ in range(2):
        await add_one(store, new_message("F", Status.QUEUED, claim=None, attempts=0, collapse_key="valve"))
    entry = Entry(now(), "me", "me", "", Action.CANCELLED.value, "", "B")
    await store.purges.purge(Purge(entry, Reach()), 30)


async def test_what_one_process_changes_another_announces_as_that_does(store: Store, following: Listener) -> None:
    await asyncio.sleep(change_log._ASK_EVERY)
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


async def test_a_commit_is_one_row_and_one_that_changes_nothing_is_none(store: Store, url: str) -> None:
    await beside_another(store)
    messages = [new_message(f"device-{number}") for number in range(50)]
    await asyncio.gather(*(add_one(store, message) for message in messages))
    await store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    assert rows(url) == [[(message.id, message.imei, None, "publishing") for message in messages]]


async def test_a_process_alone_writes_no_row(store: Store, url: str) -> None:
    await store.health.check()  # which leaves a row among the processes
    await everything(store)
    assert rows(url) == []
    await beside_another(store)
    await add_one(store, new_message())
    assert len(rows(url)) == 1
    await store.queue.release_lease(OTHER)
    await asyncio.sleep(change_log._ASK_EVERY)
    await add_one(store, new_message())
    assert len(rows(url)) == 1


async def test_sqlite_writes_no_row(sqlite_url: str) -> None:
    async with open_store(sqlite_url, process=PROCESS) as store:
        await beside_another(store)
        await everything(store)
    assert rows(sqlite_url) == []


@pytest.mark.usefixtures("store")
async def test_transactions_that_end_out_of_order_are_each_read_once(url: str) -> None:
    """Whatever number they have, and whatever else runs for however long."""

    def insert(connection: psycopg.Connection, name: str) -> None:
        moved = json.dumps([[name, "A", "publishing", "published"]])
        connection.execute(change_log._ADD, (PROCESS, moved))

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


async def test_what_everybody_has_read_is_removed(
    store: Store, following: Listener, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "_FORGET_EVERY", 0.02)
    monkeypatch.setattr(change_log, "_FORGOTTEN", 2)
    await asyncio.sleep(change_log._ASK_EVERY)
    forget = asyncio.create_task(store.log.forget())
    for _ in range(5):
        await add_one(store, new_message())
    await following.until(lambda: len(following.heard) == 5)
    await asyncio.sleep(0.1)
    assert len(rows(url)) == 5, "for a minute"
    monkeypatch.setattr(change_log, "_KEPT", 0.05)
    await following.until(lambda: rows(url) == [])
    forget.cancel()


async def test_who_was_away_for_long_is_told_that_it_missed_something(
    store: Store, following: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.sleep(change_log._ASK_EVERY)
    monkeypatch.setattr(change_log, "_UNNOTICED", 0.0)
    before = following.missed
    await asyncio.sleep(3 * change_log._READ_EVERY)
    assert following.missed <= before + 1, "only at the beginning"
    monkeypatch.setattr(change_log, "_UNNOTICED", 0.05)
    monkeypatch.setattr(change_log, "_LONGEST_GAP", 0.0)
    await following.until(lambda: following.missed > before + 1)
    monkeypatch.setattr(change_log, "_LONGEST_GAP", 10.0)
    message = new_message()
    await add_one(store, message)
    await following.until(lambda: message.id in {change.id for change in following.heard})


async def test_a_database_that_is_away_ends_nothing(
    store: Store, following: Listener, postgres_server: PostgresServer, url: str
) -> None:
    await asyncio.sleep(change_log._ASK_EVERY)
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
        await asyncio.sleep(change_log._UNNOTICED + 4 * change_log._READ_EVERY)
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
