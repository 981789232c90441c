"""The log of changes as listeners read it: each change once, in one order, from any place on, in any process."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from unittest.mock import AsyncMock

import psycopg
import pytest
from sqlalchemy import Connection, func, select, update

from chapar.events.feed import Feed
from chapar.events.wanted import Wanted
from chapar.model.acceptance import Addition
from chapar.model.change import Change
from chapar.model.device import Evidence, Ground, State
from chapar.model.event import WHOLE, CursorGone, Event, Position
from chapar.model.message import Status
from chapar.model.principal import ANYBODY
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.store import change_log, event_log, writer
from chapar.store.acceptance import ADD
from chapar.store.administration import cancel_queue, hold_queue, release_queue
from chapar.store.change_log import Recorder
from chapar.store.database import Role, open_engine
from chapar.store.migrations import migrate
from chapar.store.presences import Noted
from chapar.store.schema import changes
from chapar.store.store import Store
from support.changing import everything
from support.postgres import PostgresServer
from support.stores import PROCESS, add_one, new_message, now, open_store

START = Position("", "", 0, WHOLE, 0)


@contextmanager
def administrator(url: str) -> Iterator[Connection]:
    with open_engine(url, Role.ADMINISTRATOR).begin() as connection:
        yield connection


@asynccontextmanager
async def opened(url: str, process: str = PROCESS) -> AsyncIterator[Store]:
    async with open_store(url, process=process) as store:
        yield store


async def all_from(store: Store, after: Position) -> list[Event]:
    """All that follows a place."""
    events = []
    while True:
        page = await store.events.news(after)
        events += page.events
        if page.end[:4] == after[:4] or (not page.events and page.end.is_at_end):
            return events
        after = page.end


def said(events: list[Event]) -> list[tuple[str | None, str]]:
    return [(event.id or event.imei, event.type) for event in events]


async def test_each_change_of_a_state_is_there_once_and_in_order(database_url: str) -> None:
    async with opened(database_url) as store:
        heard: list[Change] = []
        store.changes.listen(heard.extend)
        begin = await store.events.end()
        await everything(store)
        events = await all_from(store, begin)
        moved = [change for change in heard if change.before is not change.after]
        assert [(event.id, event.imei, event.status) for event in events] == [
            (change.id, change.imei, change.after) for change in moved
        ]
        assert len(events) > 15
        assert all(abs(event.at - now()) < 60_000 for event in events)
        for event, change in zip(events, moved, strict=True):
            assert event.type == f"message.{change.after}"
            assert event.message is not None
            assert (event.message.id, event.message.status) == (change.id, change.after)
            assert event.message.reason == event.reason == change.reason
            assert event.at == change.at, "by which a change that was announced is known again"
            if change.message is not None:
                assert event.message.attempts == change.message.attempts
        last = {change.id: change.message for change in moved}
        for id_, message in last.items():
            if message is not None:
                assert await store.messages.find(id_) == message, "who announces a change knows all of its message"
        assert (await store.events.news(events[-1].position)).events == []


async def test_one_who_goes_on_from_any_cursor_misses_nothing_and_gets_nothing_twice(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a page ends inside of a row, and in another process."""
    async with opened(database_url) as store:
        begin = await store.events.end()
        for size in (1, 5, 3, 1, 1, 1, 2):
            await store.messages.add([Addition(new_message(f"D{number}")) for number in range(size)])
        await everything(store)
        expected = said(await all_from(store, begin))
        monkeypatch.setattr(event_log, "MOST_EVENTS", 3)
        events = await all_from(store, begin)
        assert said(events) == expected
        for place, event in enumerate(events):
            await store.events.check(event.position, 0)
            assert said(await all_from(store, event.position)) == expected[place + 1 :]
        monkeypatch.setattr(event_log, "MOST_BYTES", 1000)
        assert said(await all_from(store, begin)) == expected
        middle = events[len(events) // 2].position
        page = await store.events.past(middle, events[-1].position._replace(item=WHOLE))
        assert said(page.events) == expected[len(events) // 2 + 1 :][: len(page.events)]
    async with opened(database_url, "fedcba9876543210") as another:
        await another.events.check(middle, 0)
        assert said(await all_from(another, middle)) == expected[len(events) // 2 + 1 :]


async def test_transactions_that_end_out_of_order_are_each_read_once_from_every_cursor(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MOST_EVENTS", 2)
    url = postgres_server.create_database()

    def insert(connection: psycopg.Connection, *names: str) -> None:
        moved = json.dumps([[name, "A", "publishing", "published", None, 1, 1] for name in names])
        connection.execute(change_log._ADD["postgresql"], (PROCESS, 1, moved))

    async with opened(url) as store:
        begin = await store.events.end()
        with (
            psycopg.connect(url) as slow,
            psycopg.connect(url) as quick,
            psycopg.connect(url) as undone,
            psycopg.connect(url) as endless,
        ):
            endless.execute("SELECT pg_current_xact_id()")
            insert(slow, "slow")
            insert(undone, "undone")
            page = await store.events.news(begin)
            assert page.events == []
            insert(quick, "quick 1", "quick 2", "quick 3")
            quick.commit()
            events = await all_from(store, page.end)
            assert [event.id for event in events] == ["quick 1", "quick 2", "quick 3"]
            insert(quick, "quick 4")
            undone.rollback()
            slow.commit()
            quick.commit()
            events += await all_from(store, events[-1].position)
            assert [event.id for event in events] == ["quick 1", "quick 2", "quick 3", "slow", "quick 4"]
            insert(endless, "endless")
            endless.commit()
            events += await all_from(store, events[-1].position)
        expected = ["quick 1", "quick 2", "quick 3", "slow", "quick 4", "endless"]
        assert [event.id for event in events] == expected
        async with opened(url, "fedcba9876543210") as another:
            for place, event in enumerate(events):
                rest = await all_from(another, event.position)
                assert sorted(str(each.id) for each in rest) == sorted(expected[place + 1 :])
                end = await another.events.end()
                found = said((await another.events.past(event.position, end)).events)
                assert found == said(rest)[: len(found)]
                assert bool(found) == bool(rest)
            # To go back to what a place had not seen is no going on.
            assert (await another.events.past(end, events[0].position)).events == []
    postgres_server.drop_database(url)


async def test_those_who_are_behind_soon_read_the_same_pages_wherever_they_begin(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each began at the end of what was there once, as on PostgreSQL no other does."""
    monkeypatch.setattr(event_log, "_TRANSACTIONS", 16)
    monkeypatch.setattr(event_log, "MOST_EVENTS", 10)
    everything_ = Wanted(ANYBODY)
    async with opened(database_url) as store:
        begins = []
        for _ in range(200):
            begins.append(await store.events.end())
            await store.messages.add([Addition(new_message())])
        end = await store.events.end()
        reads = AsyncMock(wraps=store.events.past)
        monkeypatch.setattr(store.events, "past", reads)
        feed = Feed(store.events, Clock(), Metrics(), retention_days=7, max_listeners=1)

        async def received(place: Position) -> list[str | None]:
            found: list[str | None] = []
            while place.order < end.order or not place.is_at_end:
                await store.events.check(place, 0)
                batch = await feed.past(place, end, everything_)
                found += [event.id for event in batch.events]
                place = batch.end
            return found

        expected = await received(begins[0])
        assert len(expected) == len(set(expected)) == 200
        alone = reads.await_count
        for number, begin in enumerate(begins):
            assert await received(begin) == expected[number:]
        assert reads.await_count - alone <= alone + 3 * len(begins), "up to the next milestone by itself"
        assert alone >= 20


async def test_a_commit_is_one_row_and_one_that_changes_nothing_is_none(database_url: str) -> None:
    async with opened(database_url) as store:
        messages = [new_message(f"device-{number}") for number in range(50)]
        await asyncio.gather(*(add_one(store, message) for message in messages))
        await store.health.check()
    with administrator(database_url) as connection:
        [moved] = connection.execute(select(changes.c.moved)).scalars().all()
    at = [message.created_at for message in messages]
    assert json.loads(moved) == [
        [message.id, message.imei, None, "publishing", None, at[place], 1] for place, message in enumerate(messages)
    ]


async def test_a_batch_that_is_repeated_is_logged_once(database_url: str) -> None:
    migrate(database_url)
    engine = open_engine(database_url, Role.WRITER)
    recorder = Recorder(PROCESS)
    first, second = new_message(), new_message()

    def commit(number: int, *messages: object, is_repeated: bool) -> None:
        with engine.connect() as connection:
            batch = [("add", ADD.crossing([Addition(message)])) for message in messages]  # type: ignore[arg-type]

            def record(connection: Connection, items: list[str]) -> None:
                recorder.add(connection, items, number, is_repeated=is_repeated)

            answers, _ = writer.commit(connection, batch, None, record)  # type: ignore[arg-type]
            assert all(answer[0] == "committed" for answer in answers)

    commit(7, first, is_repeated=False)
    commit(7, first, is_repeated=True)
    commit(8, second, is_repeated=True)
    with administrator(database_url) as connection:
        rows = connection.execute(select(changes.c.batch, changes.c.moved).order_by(changes.c.seq)).all()
    assert [(number, json.loads(moved)[0][0]) for number, moved in rows] == [(7, first.id), (8, second.id)]


async def test_what_is_old_is_removed_but_for_the_newest_and_a_cursor_before_it_is_gone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "_FORGOTTEN", 2)
    async with opened(database_url) as store:
        begin = await store.events.end()
        for _ in range(6):
            await add_one(store, new_message())
        events = await all_from(store, begin)
        middle = await store.events.news(begin)
        with administrator(database_url) as connection:
            age = update(changes).values(at=changes.c.at - 1_000_000)
            connection.execute(age.where(changes.c.seq <= _seq(events[3])))
        await store.log.forget(now() - 500_000)
        later = [event.position for event in events[4:]]
        for position in later:
            await store.events.check(position, 0)
        for position in (events[0].position, events[2].position, later[0]._replace(at=1), later[0]._replace(seq=99)):
            with pytest.raises(CursorGone) as gone:
                await store.events.check(position, 0)
            assert said(await all_from(store, gone.value.oldest)) == said(events[4:])
        with pytest.raises(CursorGone):
            await store.events.past(events[1].position, middle.end)
        await store.log.forget(now() + 500_000)
        with administrator(database_url) as connection:
            assert connection.execute(select(func.count()).select_from(changes)).scalar_one() == 1
        assert said(await all_from(store, events[-2].position)) == said(events[-1:])
        await add_one(store, message := new_message())
        assert [event.id for event in await all_from(store, events[-1].position)] == [message.id]


def _seq(event: Event) -> int:
    return event.position.seq


async def test_a_place_at_the_end_counts_for_as_long_as_rows_are_kept(database_url: str) -> None:
    async with opened(database_url) as store:
        end = await store.events.end()
        await store.events.check(end, now() - 1_000_000)
        await add_one(store, new_message())
        end = await store.events.end()
        await store.events.check(end, now() - 1_000_000)
        other = Position("", "", 1, 1, 1) if end.upto else Position("1:2:", "3:4:", 1, 1, 1)
        strange = [other]
        if end.upto:
            strange += [end._replace(at=1), end._replace(before="5:99999999:", upto="5:99999999:")]
        for position in strange:
            with pytest.raises(CursorGone):
                await store.events.check(position, now() - 1_000_000)


async def test_from_a_time_on(database_url: str) -> None:
    async with opened(database_url) as store:
        assert await all_from(store, await store.events.since(0)) == []
        begin = await store.events.end()
        for _ in range(9):
            await add_one(store, new_message())
        events = await all_from(store, begin)
        with administrator(database_url) as connection:
            for place, event in enumerate(events):
                at = update(changes).where(changes.c.seq == _seq(event))
                connection.execute(at.values(at=1_000_000 + 10_000 * place))
        for place in range(9):
            found = await all_from(store, await store.events.since(1_000_000 + 10_000 * place))
            assert said(found) == said(events[place:])
        assert said(await all_from(store, await store.events.since(0))) == said(events)
        assert await all_from(store, await store.events.since(now())) == []


async def test_what_the_owner_does_beside_a_gateway_is_there_too(database_url: str) -> None:
    async with opened(database_url) as store:
        begin = await store.events.end()
        waiting = [new_message(f"D{number}", Status.QUEUED, claim=None, attempts=0) for number in range(3)]
        await store.messages.add([Addition(message) for message in waiting[:2]])
        once = new_message("O", Status.QUEUED, claim=None, attempts=0, at_most_once=True)
        left = new_message("L", claim="00000000deadbeef.0")
        await store.messages.add([Addition(once), Addition(left)])
        before = len(await all_from(store, begin))
        hold_queue(database_url)
        release_queue(database_url)
        hold_queue(database_url)
        cancel_queue(database_url)
        events = (await all_from(store, begin))[before:]
        found = [(event.id, str(event.status), event.reason) for event in events]
        assert found[:2] == [(left.id, "queued", None), (once.id, "unconfirmed", "held")]
        assert sorted(found[2:]) == sorted((message.id, "cancelled", "cancelled") for message in (*waiting[:2], left))


async def test_a_presence_is_there_when_its_state_changes(database_url: str) -> None:
    async with opened(database_url) as store:
        begin = await store.events.end()
        online = Evidence(State.ONLINE, 1000, Ground.ANNOUNCED, None)
        steps = [
            Noted("stranger", online, 1000),
            Noted("D", online, 1000, register_at=1000, max_devices=9),
            Noted("D", online._replace(evidence=Ground.SPOKE), 2000),
            Noted("D", online._replace(offline_at=3000), 2000),
            Noted("D", Evidence(State.OFFLINE, 3000, Ground.ANNOUNCED, None), 2000),
            Noted("D", None, None),
            Noted("D", Evidence(State.UNKNOWN, 4000, Ground.ANNOUNCED, 4000), None),
        ]
        answers = [(await store.presences.note([noted]))[0] for noted in steps]
        assert answers == [False, *[True] * 6]
        events = await all_from(store, begin)
        assert [(event.type, event.imei, event.state, event.since, event.evidence) for event in events] == [
            ("device.presence", "D", State.ONLINE, 1000, "announced"),
            ("device.presence", "D", State.OFFLINE, 3000, "announced"),
            ("device.presence", "D", State.UNKNOWN, None, None),
        ]
        assert all(abs(event.at - now()) < 60_000 and event.id is None for event in events)
