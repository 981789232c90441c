"""Events: cursors, what a listener receives, and a feed that keeps nothing for each of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import AsyncMock

import pytest

from chapar.errors import EventsGone, FieldInvalid, ListenersExhausted, Unauthenticated
from chapar.events import batches as batches_module
from chapar.events import feed as feed_module
from chapar.events.batches import Batch, Pages
from chapar.events.cursors import cursor_of, is_cursor, place_of
from chapar.events.feed import Feed
from chapar.events.wanted import Wanted
from chapar.model.change import Change
from chapar.model.device import State
from chapar.model.event import PRESENCE, WHOLE, Event, EventPage, Position
from chapar.model.message import Message, Status
from chapar.model.principal import ANYBODY, Caller, Principal, Reach, Scope
from chapar.runtime.metrics import Metrics
from chapar.store import event_log
from chapar.store.change_log import Recorder, all_written
from chapar.web.api import events
from chapar.web.api.events import EventStream, event_bytes
from chapar.web.http.admissions import Admissions
from chapar.web.http.exchange import CUT
from support.api import eventually
from support.fakes import FakeClock, MemoryStore
from support.stores import new_message

PLACE = Position("", "", 7, 1, 1_700_000_000_000)
AGAIN = "Connect again with Last-Event-ID; it goes on there."


@pytest.mark.parametrize(
    "place",
    [
        PLACE,
        PLACE._replace(item=WHOLE),
        Position("1:1:", "901:905:901,903", 12, 0, 1),
        Position("9:9:", "9:9:", 0, 0, 5),
    ],
)
def test_a_cursor_names_its_place(place: Position) -> None:
    cursor = cursor_of(place)
    assert is_cursor(cursor)
    assert place_of(cursor, "since") == place
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "e", "12", "e!", "eAAAA", "é", "e" * 5000),
        cursor_of(PLACE)[1:],
        cursor_of(PLACE) + "A",
        cursor_of(PLACE._replace(seq=-1)),
        cursor_of(PLACE._replace(upto="1:2:")),
        cursor_of(PLACE._replace(before="1:2:x", upto="1:2:")),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(FieldInvalid):
        place_of(cursor, "since")


def about(imei: str = "A", micro_op: str = "open", status: Status = Status.PUBLISHED, **fields: Any) -> Event:
    message = new_message(imei, status, micro_op=micro_op)
    event = Event(f"message.{status}", 1, imei, PLACE, message.id, message, status)
    return event._replace(**fields)


PRESENT = Event(PRESENCE, 1, "A", PLACE, None, state=State.ONLINE, since=1, evidence="spoke")
ALL = Wanted(ANYBODY)
LIMITED = Principal("key:1", "one", frozenset(Scope), Reach(("A*",), ("op*",)))


@pytest.mark.parametrize(
    ("wanted", "event", "is_covered"),
    [
        (Wanted(ANYBODY), about(), True),
        (Wanted(ANYBODY), PRESENT, True),
        (Wanted(ANYBODY, devices=frozenset("B")), about(), False),
        (Wanted(ANYBODY, devices=frozenset("AB")), PRESENT, True),
        (Wanted(ANYBODY, operations=frozenset({"close"})), about(), False),
        (Wanted(ANYBODY, operations=frozenset({"open"})), about(), True),
        (Wanted(ANYBODY, operations=frozenset({"open"})), PRESENT, False),
        (Wanted(ANYBODY, types=frozenset({"message.failed"})), about(), False),
        (Wanted(ANYBODY, types=frozenset({PRESENCE})), PRESENT, True),
        (Wanted(ANYBODY._replace(scopes=frozenset({Scope.READ}))), PRESENT, False),
        (Wanted(ANYBODY._replace(scopes=frozenset({Scope.DEVICES_READ}))), about(), False),
        (Wanted(LIMITED), about(), True),
        (Wanted(LIMITED), PRESENT, True),
        (Wanted(LIMITED), about("B"), False),
        (Wanted(LIMITED), PRESENT._replace(imei="B"), False),
        (Wanted(LIMITED), about(micro_op="close"), False),
        # Of a message that is not there any more, the operation is unknown.
        (Wanted(LIMITED), about(message=None), False),
        (Wanted(ANYBODY), about(message=None), True),
        (Wanted(ANYBODY, operations=frozenset({"open"})), about(message=None), False),
    ],
)
def test_a_listener_receives_what_it_asked_for_and_may_see(wanted: Wanted, event: Event, *, is_covered: bool) -> None:
    assert wanted.covers(event) is is_covered


def test_an_event_is_one_line_of_data_whatever_a_device_or_a_caller_wrote() -> None:
    event = about()
    assert event.message is not None
    event = event._replace(message=event.message._replace(params='{"a":\n"b"\r}'))
    lines = event_bytes(event).decode().split("\n")
    assert [line.partition(": ")[0] for line in lines] == ["id", "event", "data", "", ""]
    data = json.loads(lines[2][6:])
    assert data["message"]["params"] == {"a": "b"}
    assert data["id"] == cursor_of(PLACE)
    gone = json.loads(event_bytes(about(message=None, reason="expired", attempts=2)).decode().split("\n")[2][6:])
    assert set(gone["message"]) == {"id", "imei", "status", "reason", "attempts"}


class Bench:
    """A feed over the real statements."""

    def __init__(self, **settings: Any) -> None:
        self.store: Any = MemoryStore()
        self.metrics = Metrics()
        self.feed = Feed(
            self.store.events, FakeClock(), self.metrics, **{"retention_days": 7, "max_listeners": 2} | settings
        )

    def change(self, count: int = 1, commits: int = 1) -> None:
        for _ in range(commits):
            items = [f'[null,"A","unknown","online",{number},"spoke"]' for number in range(count)]
            self.store.database.read(lambda connection, items=items: Recorder().add(connection, items))
        self.feed.received([])

    async def all_from(self, place: Position, count: int) -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            batch = await self.feed.following(place, ALL)
            assert batch is not None
            found += batch.events
            place = batch.end
        return found


@pytest.fixture
def few_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_MOST_KEPT", 4)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    running = asyncio.create_task(bench.feed.run())
    yield bench
    running.cancel()


async def test_all_who_listen_share_what_is_read_once(bench: Bench) -> None:
    place = await bench.feed.begin(None, None)
    with bench.feed.listening(ALL), bench.feed.listening(ALL):
        waiting = [asyncio.create_task(bench.feed.following(place, ALL)) for _ in range(2)]
        await asyncio.sleep(0)
        bench.change(3)
        first, second = await asyncio.gather(*waiting)
        assert first is second is not None
        assert [event.position.item for event in first.events] == [1, 2, 3]
        bench.change(5, commits=3)
        assert len(await bench.all_from(first.end, 15)) == 15
        with pytest.raises(ListenersExhausted), bench.feed.listening(ALL):
            pass


@pytest.mark.usefixtures("few_kept")
async def test_who_is_behind_reads_by_itself_and_joins_the_others(bench: Bench) -> None:
    begin = await bench.feed.begin(None, None)
    bench.change(7, commits=100)
    with bench.feed.listening(ALL):
        found = await bench.all_from(begin, 700)
        assert len({event.position for event in found}) == 700
        for number in range(5):
            bench.change(2)
            found += await bench.all_from(found[-1].position, 2)
            assert len(found) == 702 + 2 * number
        for place in (0, 350, 705):
            assert await bench.all_from(found[place].position, 709 - place) == found[place + 1 :]
    assert len({event.position for event in found}) == 710


async def test_those_who_are_behind_share_what_one_of_them_has_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_KINDS", 2)
    reads = AsyncMock(wraps=bench.store.events.past)
    monkeypatch.setattr(bench.store.events, "past", reads)
    begin = await bench.feed.begin(None, None)
    bench.change(7, commits=100)
    with bench.feed.listening(ALL):
        found = await bench.all_from(begin, 700)
        assert (alone := reads.await_count) > 1
        for place in (0, 3, 340, 698):
            assert await bench.all_from(found[place].position, 699 - place) == found[place + 1 :]
        assert reads.await_count == alone
        end = await bench.feed.now()
        for imei in ("A", "B"):
            await bench.feed.past(begin, end, Wanted(ANYBODY, devices=frozenset(imei)))
        assert reads.await_count == alone + 2, "what others want is another page"
        await bench.all_from(begin, 700)
        assert reads.await_count == 2 * alone + 2, "and more kinds than these are not kept"
        waiting = asyncio.create_task(bench.feed.following(found[-1].position._replace(item=WHOLE), ALL))
        await asyncio.sleep(0)
        bench.change()
        assert await waiting is not None
        await bench.all_from(begin, 700)
        assert reads.await_count == 3 * alone + 2, "nor is anything once nobody is behind any more"


def test_what_is_kept_is_bounded_by_what_its_messages_hold() -> None:
    pages = Pages(1_000_000)
    long = new_message("A", params=f'"{"x" * 100_000}"')
    places = [Position("", "", seq, WHOLE, 1) for seq in range(50)]
    for start, end in pairwise(places):
        events = [about(message=long, position=end._replace(item=1))] * 2
        pages.add(EventPage(start, events, end, size=2 * long.size))
    kept = [place for place in places[:-1] if pages.behind(place) is not None]
    assert kept == places[-6:-1][1:], "four of 200 kB, and nothing within those before"
    assert pages.behind(places[0]._replace(item=1)) is None
    pages.clear()
    assert pages.behind(kept[-1]) is None


async def test_who_rests_goes_on_behind_what_was_read_and_a_stop_ends_that(bench: Bench) -> None:
    begin = await bench.feed.begin(None, None)
    assert bench.feed.newest(begin) == begin
    with bench.feed.listening(ALL):
        bench.change(3)
        [*_, last] = await bench.all_from(begin, 3)
        behind = last.position._replace(item=WHOLE)
        assert bench.feed.newest(begin) == behind
        assert bench.feed.newest(behind._replace(seq=behind.seq + 1)).seq == behind.seq + 1
        assert await bench.feed.rest(0.01)
        assert await bench.feed.rest(-1)
        resting = asyncio.create_task(bench.feed.rest(60))
        await asyncio.sleep(0)
        bench.feed.stop()
        assert not await resting


@pytest.mark.usefixtures("few_kept")
async def test_one_who_was_away_for_a_moment_goes_on_within_what_is_in_memory(bench: Bench) -> None:
    written: list[Event] = []

    def write(event: Event) -> bytes:
        written.append(event)
        return event_bytes(event)

    place = await bench.feed.begin(None, None)
    with bench.feed.listening(ALL):
        bench.change()
        [first] = await bench.all_from(place, 1)
        place = first.position._replace(item=WHOLE)
        bench.change(5)
        whole = await bench.feed.following(place, ALL)
        assert whole is not None
        bench.store.readers.failing = True
        for count in (1, 4, 5):
            rest = await bench.feed.following(whole.events[count - 1].position, ALL)
            assert rest is not None
            assert (rest.events, rest.end) == (whole.events[count:], whole.end)
            assert b"".join(rest.pieces(ALL, write)) == b"".join(map(event_bytes, whole.events[count:]))
        assert b"".join(whole.pieces(ALL, write)) == b"".join(map(event_bytes, whole.events))
        assert len(written) == 5, "each once, whichever part of the page somebody wants"
        bench.store.readers.failing = False
        # What is not kept any more is read again, and forgotten as a place.
        bench.change(5, commits=3)
        assert len(await bench.all_from(whole.end, 15)) == 15
        again = await bench.feed.following(whole.events[1].position, ALL)
        assert again is not None
        assert again.events[:3] == whole.events[2:]


async def test_a_page_that_ends_within_a_commit_is_followed_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MOST_EVENTS", 2)
    place = await bench.feed.begin(None, None)
    with bench.feed.listening(ALL):
        bench.change(7)
        found: list[Event] = []
        batches = 0
        while len(found) < 7:
            batch = await bench.feed.following(place, ALL)
            assert batch is not None
            assert batch.events, "else it would be asked for again and again"
            found += batch.events
            place, batches = batch.end, batches + 1
        assert [event.position.item for event in found] == [1, 2, 3, 4, 5, 6, 7]
        assert batches == 4


async def test_nothing_is_read_while_nobody_waits_for_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = AsyncMock(wraps=bench.store.events.news)
    monkeypatch.setattr(bench.store.events, "news", reads)
    place = await bench.feed.begin(None, None)
    with bench.feed.listening(ALL):
        for _ in range(5):
            bench.change()
            await asyncio.sleep(0.05)
        assert reads.await_count == 0, "its only listener takes nothing"
        assert len(await bench.all_from(place, 5)) == 5
        assert reads.await_count > 0
    begun = await bench.feed.begin(None, None)
    with bench.feed.listening(ALL):
        waiting = asyncio.create_task(bench.feed.following(begun, ALL))
        await asyncio.sleep(0)
        bench.change()
        assert await waiting is not None, "also after a time without any"


async def test_what_follows_is_waited_for_and_a_stop_ends_that(bench: Bench) -> None:
    place = await bench.feed.begin(None, None)
    with bench.feed.listening(ALL):
        waiting = asyncio.create_task(bench.feed.following(place, ALL))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        bench.feed.stop()
        assert await waiting is None


async def test_a_database_that_is_away_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_REST", 0.01)
    begin = await bench.feed.begin(None, None)
    bench.change(2)
    with bench.feed.listening(ALL):
        found = await bench.all_from(begin, 2)
        bench.store.readers.failing = True
        bench.change(2)
        waiting = asyncio.create_task(bench.all_from(found[-1].position, 2))
        behind = asyncio.create_task(bench.all_from(begin, 4))
        await asyncio.sleep(0.05)
        bench.store.readers.failing = False
        assert len(await waiting) == 2
        assert len(await behind) == 4


async def test_a_time_before_all_that_is_kept_is_gone(bench: Bench) -> None:
    bench.change()
    with pytest.raises(EventsGone) as gone:
        await bench.feed.begin(None, 0)
    oldest = place_of(gone.value.oldest, "since")
    end = await bench.feed.now()
    assert len((await bench.feed.past(oldest, end, ALL)).events) == 1
    with pytest.raises(EventsGone):
        await bench.feed.begin(PLACE, None)
    with pytest.raises(EventsGone):
        await bench.feed.past(Position("", "", -5, 0, 0), end, ALL)


async def test_messages_are_read_for_those_who_may_want_them(bench: Bench) -> None:
    message = bench.store.put(new_message("A", Status.PUBLISHED))
    item = f'["{message.id}","A","publishing","published",null,1,1]'

    def change() -> None:
        bench.store.database.read(lambda connection: Recorder().add(connection, [item]))
        bench.feed.received([])

    place = await bench.feed.begin(None, None)
    with bench.feed.listening(Wanted(ANYBODY, devices=frozenset("B"))):
        change()
        [first] = await bench.all_from(place, 1)
        place = first.position._replace(item=WHOLE)
        change()
        [event] = await bench.all_from(place, 1)
        assert event.message is None
        end = await bench.feed.now()
        mine = Wanted(ANYBODY, devices=frozenset("B"))
        for wanted in (mine, ALL):
            behind = await bench.feed.past(place, end, wanted)
            assert [event.message is None for event in behind.events] == [wanted is mine], "nor by one who is behind"
        with bench.feed.listening(ALL):
            # One who comes later reads what was read without it by itself, and what is new with the others.
            [again] = await bench.all_from(place, 1)
            assert again.message is not None
            change()
            [following] = await bench.all_from(event.position._replace(item=WHOLE), 1)
            assert following.message is not None
            assert ALL.covers(following)


async def test_what_this_process_has_changed_is_not_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has none of these messages, so what an event says of one is what was announced."""
    monkeypatch.setattr(feed_module, "_MOST_ANNOUNCED", 3000)
    at = 0

    def change(*messages: Message, announced: bool = True) -> None:
        nonlocal at
        at += 1
        changes = [Change(each.id, each.imei, None, each.status, None, at, each) for each in messages]
        items = all_written(changes)
        bench.store.database.read(lambda connection: Recorder().add(connection, items))
        bench.feed.received(changes if announced else [])

    with bench.feed.listening(ALL):
        place = await bench.feed.begin(None, None)
        bench.change()
        [first] = await bench.all_from(place, 1)  # from now on the feed reads what is new
        place = first.position._replace(item=WHOLE)
        one, long = new_message("A", Status.PUBLISHED), new_message("A", params=f'"{"x" * 5000}"')
        for message, announced, is_known in (
            (one, True, True),
            (one._replace(status=Status.SUCCEEDED), True, True),
            (one._replace(status=Status.FAILED), False, False),
            (one, True, True),
        ):
            change(message, announced=announced)
            [event] = await bench.all_from(place, 1)
            assert event.message is (message if is_known else None)
            place = event.position._replace(item=WHOLE)
        change(long, one)
        both = await bench.all_from(place, 2)
        assert [event.message for event in both] == [long, None], "there was room for one so long"


def test_what_is_written_is_written_once_and_joined_once_for_all_who_want_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[Event] = []

    def write(event: Event) -> bytes:
        written.append(event)
        return event_bytes(event)

    monkeypatch.setattr(batches_module, "_PIECE", 3000)
    monkeypatch.setattr(batches_module, "_KEPT_FOR", 2)
    every = [about(imei) for imei in "AB" * 5]
    batch = Batch(every, PLACE)
    pieces = batch.pieces(ALL, write)
    assert b"".join(pieces) == b"".join(map(event_bytes, every))
    assert len(pieces) > 2
    assert all(len(piece) < 3000 + len(event_bytes(every[0])) for piece in pieces)
    assert batch.pieces(Wanted(ANYBODY), write) is pieces
    one = Wanted(ANYBODY, devices=frozenset("B"))
    for _ in range(2):
        assert b"".join(batch.pieces(one, write)) == b"".join(map(event_bytes, every[1::2]))
    other = Wanted(ANYBODY, devices=frozenset("AB"))
    assert batch.pieces(other, write) == pieces
    assert batch.pieces(other, write) is not batch.pieces(other, write), "not for all that anybody may want"
    assert batch.pieces(Wanted(ANYBODY, devices=frozenset("C")), write) == []
    assert written == every


class Client:
    """The other end of a stream."""

    def __init__(self, bench: Bench, **wanted: Any) -> None:
        self.bench = bench
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.fault: Exception | None = None
        door = self
        self.scope: Any = {"caller": Caller(ANYBODY, ""), "admission": (door, "secret"), "headers": [], "method": "GET"}
        self.wanted = Wanted(ANYBODY, **wanted)

    async def readmit(self, _credential: str) -> None:
        if self.fault is not None:
            raise self.fault

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] != CUT:
            await self.takes.wait()
        self.sent.append(message)

    async def run(self, admissions: Admissions | None = None) -> None:
        place = await self.bench.feed.begin(None, None)
        stream = EventStream(self.bench.feed, admissions or Admissions(), self.wanted, place)
        await stream(self.scope, self.receive, self.send)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def until(self, text: str) -> None:
        async def look() -> bool:
            return text in self.text

        await eventually(look)


@contextmanager
def streaming(client: Client) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(client.run())
    yield task
    task.cancel()


async def test_a_stream_begins_with_its_place_and_beats(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    client = Client(bench, types=frozenset({"message.failed"}))
    with streaming(client) as task:
        await client.until(": chapar\nid: e")
        bench.change(3)

        async def has_moved_on() -> bool:
            return place_of(client.text.split("id: ")[-1].split("\n")[0], "id").seq > 0

        await eventually(has_moved_on)
        assert "data:" not in client.text
        assert client.text.count(": chapar\n") > 1
        client.gone.set()
        await task
    assert [message["type"] for message in client.sent[:2]] == ["http.response.start", "http.response.body"]
    assert all(message["type"] != CUT for message in client.sent)
    assert b"chapar_event_listeners 0.0" in bench.metrics.exposition()


async def test_who_takes_nothing_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SEND_TIMEOUT", 0.05)
    client = Client(bench)
    with streaming(client) as task:
        await client.until(": chapar")
        client.takes.clear()
        bench.change()
        await task
    assert client.sent[-1]["type"] == CUT
    assert client.sent[-1]["body"].startswith(b": cut: nothing was taken for 10 s.")
    assert b'chapar_event_listeners_cut_total{why="slow"} 1.0' in bench.metrics.exposition()


@pytest.mark.parametrize("fault", [Unauthenticated(), RuntimeError("a test says so")])
async def test_a_stream_ends_when_its_credential_counts_no_more(bench: Bench, fault: Exception) -> None:
    client = Client(bench)
    with streaming(client) as task:
        await client.until(": chapar")
        client.fault = fault
        await asyncio.wait_for(task, 10)
    assert client.sent[-1]["body"].startswith(b": cut: ")
    assert b'chapar_event_listeners_cut_total{why="credential"} 1.0' in bench.metrics.exposition()


async def test_a_stop_is_said_last_and_a_cancel_passes(bench: Bench) -> None:
    client, other = Client(bench), Client(bench)
    with streaming(client) as task, streaming(other) as cancelled:
        await client.until(": chapar")
        await other.until(": chapar")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        bench.feed.stop()
        await task
    assert client.sent[-1]["body"].decode() == f": cut: the gateway stops. {AGAIN}\n\n"
