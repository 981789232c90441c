"""What a commit has changed is announced once, after those who asked have seen the results."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from chapar.errors import NotSaved
from chapar.model.acceptance import Addition, Placement
from chapar.model.change import Change, Move
from chapar.model.message import Message, Status
from chapar.runtime.metrics import Metrics
from chapar.store import writer
from chapar.store.acceptance import ADD
from chapar.store.change_log import items_of
from chapar.store.changes import Changes
from chapar.store.commits import LARGEST_BATCH, Commits
from chapar.store.health import CHECK
from chapar.store.kinds import KINDS
from chapar.store.messages import Messages
from chapar.store.moves import MOVE
from chapar.store.operations import Kind
from chapar.store.schema import to_row
from chapar.store.wire import LENGTH, unpack
from support.fakes import EPOCH
from support.memory_database import MemoryDatabase
from support.stores import new_message, published


class Writer:
    """The writer's end, over a database in memory."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._database = MemoryDatabase(lambda: EPOCH)
        self.batches: list[Any] = []
        self.has_died = False

    def is_closing(self) -> bool:
        return self.has_died

    def write(self, frame: bytes) -> None:
        if self.has_died:
            raise RuntimeError  # as that of uvloop does
        _, _, *batch = unpack(frame[LENGTH:])
        self.batches.append(batch)
        answers = self._database.commit(self.batches[-1])
        asyncio.get_running_loop().call_soon(self._commits._receive, ("answers", answers, True), self)


class Bench:
    def __init__(self) -> None:
        self.changes = Changes()
        self.commits = Commits(KINDS, self.changes, Metrics())
        self.writer = Writer(self.commits)
        self.commits._receive(("ready",), self.writer)
        readers: Any = None
        self.messages = Messages(self.commits, readers)
        self.heard: list[Sequence[Change]] = []

    async def add(self, *messages: Message) -> None:
        await self.messages.add([Addition(message) for message in messages])


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_one_commit_is_announced_once_in_the_order_of_application(bench: Bench) -> None:
    bench.changes.listen(bench.heard.append)
    first, second = new_message("A"), new_message("B")
    await bench.add(first)
    adding = bench.messages.add([Addition(second)])
    moving = bench.messages.move([Move(first, published(first), EPOCH)])
    await asyncio.gather(adding, moving)
    await asyncio.sleep(0)
    assert [[(change.id, change.before, change.after) for change in each] for each in bench.heard] == [
        [(first.id, None, Status.PUBLISHING)],
        [(first.id, Status.PUBLISHING, Status.PUBLISHED), (second.id, None, Status.PUBLISHING)],
    ]
    assert bench.heard[1][1].message == second


async def test_what_cannot_be_handed_over_any_more_is_for_the_next_writer(bench: Bench) -> None:
    """A writer that was killed is known by its pipe, which has closed, before its end is."""
    bench.changes.listen(bench.heard.append)
    bench.writer.has_died = True
    message = new_message()
    adding = asyncio.ensure_future(bench.add(message))
    for _ in range(3):
        await asyncio.sleep(0)
    assert await bench.commits.is_answering(0.0)
    bench.commits._writer_lost()
    bench.commits._receive(("ready",), Writer(bench.commits))
    await asyncio.wait_for(adding, 10)
    await asyncio.sleep(0)
    assert [[change.id for change in each] for each in bench.heard] == [[message.id]]


async def test_who_asked_has_seen_the_result_when_it_is_announced(bench: Bench) -> None:
    seen: list[str] = []
    bench.changes.listen(lambda _: seen.append("announced"))

    async def ask() -> None:
        await bench.add(new_message())
        seen.append("result")

    await ask()
    await asyncio.sleep(0)
    assert seen == ["result", "announced"]


async def test_what_failed_alone_and_what_changed_nothing_is_not_announced(bench: Bench) -> None:
    bench.changes.listen(bench.heard.append)
    good, bad = new_message("A"), new_message("B", attempts=1 << 70)
    placed, not_saved = await bench.messages.add([Addition(good), Addition(bad)])
    assert isinstance(not_saved, NotSaved)
    moved = await bench.messages.move([Move(good._replace(claim="x"), published(good), EPOCH)])
    await asyncio.sleep(0)
    assert (placed, moved) == (Placement(Status.PUBLISHING, good.claim), [False])
    assert [[change.id for change in each] for each in bench.heard] == [[good.id]]


async def test_nothing_is_evaluated_where_nobody_listens() -> None:
    def fail(*_: object) -> list[Change]:
        raise AssertionError

    bench, deaf = Bench(), Kind("add", ADD.apply, ADD.packed, ADD.named, fail)
    assert await bench.commits.submit(deaf, [Addition(message := new_message())]) == [
        Placement(message.status, message.claim)
    ]


async def test_a_listener_that_fails_does_not_stop_the_rest(bench: Bench) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a test says so")

    bench.changes.listen(fail)
    bench.changes.listen(bench.heard.append)
    with capture_logs() as logged:
        await bench.add(new_message())
        await asyncio.sleep(0)
    assert [entry["event"] for entry in logged] == ["listener_failed"]
    assert len(bench.heard) == 1


async def test_a_list_shares_a_commit_with_others_up_to_the_bound_and_is_never_divided(bench: Bench) -> None:
    sizes = (1, LARGEST_BATCH - 1, 1, LARGEST_BATCH + 7, 2)
    lists = [[Addition(new_message(f"D{number}")) for number in range(size)] for size in sizes]
    found = await asyncio.gather(*(bench.messages.add(each) for each in lists))
    assert [len(each) for each in found] == list(sizes)
    assert [[len(rows) for _, rows in batch] for batch in bench.writer.batches] == [
        [1, LARGEST_BATCH - 1],
        [1],
        [LARGEST_BATCH + 7],
        [2],
    ]


async def test_nothing_asked_for_is_answered_at_once(bench: Bench) -> None:
    assert await bench.messages.add([]) == []
    assert bench.writer.batches == []


def test_the_writer_can_say_of_each_kind_what_it_has_changed() -> None:
    assert [kind.name for kind in KINDS if kind.changes and kind.packed and not kind.unpacked] == []


def test_the_writer_records_what_is_committed_of_a_batch_and_nothing_else() -> None:
    first, second, third = (new_message(f"device-{number}") for number in range(3))
    moves = [Move(message, published(message), EPOCH) for message in (first, second, third)]
    batch = [
        (MOVE.name, MOVE.crossing(moves[:2])),
        (MOVE.name, MOVE.crossing(moves[2:])),
        (CHECK.name, CHECK.crossing([()])),
        (ADD.name, ADD.crossing([Addition(third)])),
    ]
    answers: list[Any] = [
        ("committed", [True, False]),
        ("apart", [("not_saved", "it will not do")]),
        ("committed", [None]),
        ("apart", [("committed", ("queued", None, None, "text", []))]),
    ]
    assert [json.loads(item) for item in writer.logged(batch, answers)] == [
        [first.id, first.imei, "publishing", "published", None, EPOCH, 1],
        [third.id, third.imei, None, "queued", None, third.created_at, 0],
    ]


def test_the_short_way_into_the_log_says_what_the_long_one_says() -> None:
    message = new_message()
    later = published(message)._replace(reason='a"b', attempts=2)
    moves = [Move(message, each, EPOCH) for each in (published(message), later, message)]
    kept: list[Any] = [True, False, to_row(published(message))]
    additions = [Addition(message), Addition(message._replace(reason="busy", status=Status.REJECTED))]
    placed: list[Any] = [None, ("queued", None, None, "text", [("queued", to_row(later))])]
    for kind, asked, results in (
        (MOVE, moves, [True, True, True]),
        (MOVE, moves, kept),
        (ADD, additions, [None, None]),
        (ADD, additions, placed),
    ):
        crossing = kind.crossing(asked)
        short = items_of(kind, crossing, results)
        said = [json.loads(item) for item in items_of(replace(kind, logged=None), crossing, results)]
        assert [json.loads(item)[:6] for item in short] == [item[:6] for item in said]
        assert all(item[6] in {None, json.loads(each)[6]} for each, item in zip(short, said, strict=True))
    assert items_of(CHECK, [()], [None]) == []


async def test_a_batch_that_is_repeated_keeps_its_number(bench: Bench) -> None:
    frames: list[Any] = []
    bench.writer.write = lambda frame: frames.append([*unpack(frame[LENGTH:])])  # type: ignore[method-assign]
    asked = bench.messages.add([Addition(new_message())])
    await asyncio.sleep(0)
    for answer in ("not_saved", "unknown"):
        bench.commits._receive(("answers", [(answer, "a test says so")], True), bench.writer)
        bench.commits._flush()
    bench.commits._receive(("committed", [[None]]), bench.writer)
    await asked
    await asyncio.gather(asyncio.sleep(0), bench.messages.add([]))
    following = bench.messages.add([Addition(new_message())])
    await asyncio.sleep(0)
    numbers = [(number - frames[0][0], is_repeated) for number, is_repeated, *_ in frames]
    assert numbers == [(0, False), (0, True), (0, True), (1, False)]
    following.cancel()
