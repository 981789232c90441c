"""Callers waiting for what becomes of their messages."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from chapar.delivery import waiting as waiting_module
from chapar.delivery.waiting import Waiters, Waiting, is_over
from chapar.model.change import Change
from chapar.model.message import Message, Status, Wait
from support.fakes import EPOCH, MemoryStore, until
from support.stores import new_message

FAR = 1e9  # loop time


class Bench:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.waiters = Waiters(self.store.messages)

    def put(self, status: Status = Status.PUBLISHING, **fields: object) -> Message:
        return self.store.put(new_message(status=status, **{"claim": None, "created_at": EPOCH} | fields))

    def awaits(self, *ids: str, deadline: float | None = FAR, wait: Wait = Wait.BROKER) -> Waiting:
        waiting = Waiting(ids, wait)
        self.waiters.add(waiting)
        if deadline is not None:
            self.waiters.time(waiting, deadline)
        return waiting

    def changed(self, *messages: Message, known: bool = True) -> None:
        self.waiters.received([change_to(message, known=known) for message in messages])


def change_to(message: Message, *, known: bool = True) -> Change:
    now = message if known else None
    return Change(message.id, message.imei, Status.QUEUED, message.status, message.reason, EPOCH, now)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
async def looking(bench: Bench) -> AsyncIterator[Bench]:
    """Who waits is looked after."""
    run = asyncio.create_task(bench.waiters.run())
    yield bench
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run


# For each state: whether who waits for the broker, and who waits for the device, goes on.
TABLE = {
    Status.SCHEDULED: (False, False),
    Status.QUEUED: (False, False),
    Status.PUBLISHING: (False, False),
    Status.PUBLISHED: (True, False),
    Status.ACKNOWLEDGED: (True, False),
    Status.SUCCEEDED: (True, True),
    Status.FAILED: (True, True),
    Status.TIMED_OUT: (True, True),
    Status.REJECTED: (True, True),
    Status.UNCONFIRMED: (True, True),
    Status.EXPIRED: (True, True),
    Status.CANCELLED: (True, True),
}


def test_what_is_waited_for_is_decided_for_each_state() -> None:
    assert {*TABLE} == {*Status}
    for status, ends in TABLE.items():
        message = new_message(status=status)
        assert (is_over(message, Wait.BROKER), is_over(message, Wait.DEVICE)) == ends
        in_doubt = message._replace(possible_duplicate=True)
        assert is_over(in_doubt, Wait.BROKER) is (ends[0] or status is Status.QUEUED)
        assert is_over(in_doubt, Wait.DEVICE) is ends[1], "what the device says ends the doubt"


@pytest.mark.parametrize("status", sorted(Status))
@pytest.mark.parametrize(("wait", "place"), [(Wait.BROKER, 0), (Wait.DEVICE, 1)])
async def test_who_waits_goes_on_when_its_message_has_come_so_far(
    bench: Bench, status: Status, wait: Wait, place: int
) -> None:
    message = bench.put(status)
    waiting = bench.awaits(message.id, wait=wait)
    bench.changed(message)
    assert waiting.done.done() is TABLE[status][place]
    if waiting.done.done():
        assert waiting.found == {message.id: message}
        assert not bench.waiters._waiting
        assert not bench.waiters._timed, "nothing of it is kept until its deadline"


async def test_several_wait_for_one_message_each_for_what_it_wants(bench: Bench) -> None:
    message = bench.put(Status.PUBLISHED)
    sent, other = bench.awaits(message.id), bench.awaits(message.id)
    answered, again = bench.awaits(message.id, wait=Wait.DEVICE), bench.awaits(message.id, wait=Wait.DEVICE)
    bench.changed(message)
    assert sent.done.done()
    assert other.done.done()
    assert not answered.done.done()
    bench.changed(done := message._replace(status=Status.SUCCEEDED))
    assert answered.found == again.found == {message.id: done}


async def test_one_waits_for_several_messages_until_the_last(bench: Bench) -> None:
    first, second, third = (bench.put(Status.PUBLISHED) for _ in range(3))
    waiting = bench.awaits(first.id, second.id, third.id)
    bench.changed(second, first)
    assert not waiting.done.done()
    bench.changed(third)
    assert waiting.done.done()
    assert waiting.found == {message.id: message for message in (first, second, third)}


async def test_nobody_goes_on_before_what_it_waits_for_is_saved(bench: Bench) -> None:
    message = bench.put(Status.EXPIRED)
    waiting = bench.awaits(message.id, deadline=None)
    bench.changed(message)
    assert not waiting.done.done()
    bench.waiters.time(waiting, FAR)
    assert waiting.done.done()
    assert waiting.found == {message.id: message}


async def test_what_was_not_saved_is_not_waited_for(bench: Bench) -> None:
    saved, refused = bench.put(Status.PUBLISHED), bench.put()
    waiting = bench.awaits(saved.id, refused.id, deadline=None)
    bench.waiters.time(waiting, FAR, without=[refused.id])
    assert not waiting.done.done()
    bench.changed(saved)
    assert waiting.done.done()
    nothing = bench.awaits(refused.id, deadline=None)
    bench.waiters.time(nothing, FAR, without=[refused.id])
    assert nothing.done.done()
    assert not bench.waiters._waiting


async def test_each_goes_on_at_its_own_deadline(bench: Bench) -> None:
    now = asyncio.get_running_loop().time()
    later = bench.awaits("later", deadline=now + 0.2)
    never = bench.awaits("never")
    soon = bench.awaits("soon", deadline=now + 0.05)
    gone = bench.awaits("gone", deadline=now + 0.01)
    gone.done.cancel()
    await soon.done
    assert not later.done.done()
    await later.done
    assert asyncio.get_running_loop().time() >= now + 0.2
    assert not never.done.done()
    assert (later.found, soon.found) == ({}, {})
    assert [*bench.waiters._waiting] == ["never"]


@pytest.mark.parametrize("end", ["rejected", "something else", "unknown"])
async def test_what_is_about_to_be_rejected_holds_its_caller_past_the_deadline(bench: Bench, end: str) -> None:
    message, other = bench.put(), bench.put()
    now = asyncio.get_running_loop().time()
    waiting = bench.awaits(message.id, other.id, deadline=now + 0.01)
    waiting.hold(message.id, rejected=True)
    await bench.awaits("another", deadline=now + 0.02).done
    assert not waiting.done.done(), "else its caller is told that the delivery goes on"
    match end:
        case "rejected":
            bench.changed(message._replace(status=Status.REJECTED))
            assert waiting.found[message.id].status is Status.REJECTED
        case "something else":
            waiting.hold(message.id, rejected=False)
        case _:
            bench.waiters.give_up(message)
    await waiting.done
    assert other.id not in waiting.found


async def test_what_others_are_told_holds_nobody(bench: Bench) -> None:
    message, other = bench.put(), bench.put()
    waiting = bench.awaits(message.id, other.id)
    waiting.hold(message.id, rejected=True)
    waiting.hold(other.id, rejected=False)
    bench.changed(message._replace(status=Status.REJECTED))
    assert not waiting.is_held
    bench.changed(other._replace(status=Status.PUBLISHED))
    await waiting.done


async def test_who_comes_too_late_goes_on_at_once(bench: Bench) -> None:
    waiting = bench.awaits("m", deadline=0.0)
    await waiting.done
    assert not bench.waiters._waiting


async def test_who_is_gone_is_forgotten(bench: Bench) -> None:
    message = bench.put()
    gone, left = bench.awaits(message.id), bench.awaits(message.id)
    gone.done.cancel()
    bench.waiters.notify(message)
    assert bench.waiters._waiting == {message.id: [left]}
    other = bench.awaits(message.id)
    bench.waiters.remove(left)
    assert bench.waiters._waiting == {message.id: [other]}
    bench.waiters.remove(other)
    assert not bench.waiters._waiting
    waiting = bench.awaits("another", deadline=None)
    waiting.done.cancel()
    bench.waiters.time(waiting, FAR)
    assert not bench.waiters._waiting


async def test_when_the_gateway_stops_time_is_up_for_everybody(bench: Bench) -> None:
    waiting, unsaved = bench.awaits("one"), bench.awaits("two", deadline=None)
    bench.waiters.release_all()
    assert waiting.done.done()
    assert not unsaved.done.done()
    bench.waiters.time(unsaved, FAR)
    assert unsaved.done.done()
    assert bench.awaits("three").done.done()


async def test_where_nobody_can_say_what_comes_of_a_message_who_waits_goes_on(bench: Bench) -> None:
    first, second = bench.put(), bench.put()
    waiting = bench.awaits(first.id, second.id)
    bench.waiters.give_up(first)
    bench.waiters.give_up(first)
    assert not waiting.done.done()
    bench.waiters.give_up(second)
    assert waiting.found == {first.id: first, second.id: second}
    assert waiting.done.done()


async def test_a_change_that_does_not_bring_the_message_is_looked_up(looking: Bench) -> None:
    looking.waiters.look_up("nobody's")
    for _ in range(5):
        await asyncio.sleep(0)
    message, waits = looking.put(Status.EXPIRED), looking.put()
    waiting, other = looking.awaits(message.id), looking.awaits(waits.id)
    looking.changed(message, waits, looking.put(Status.EXPIRED), known=False)
    await until(waiting.done.done)
    assert waiting.found == {message.id: message}
    assert not other.done.done()


async def test_a_database_that_cannot_be_read_ends_nothing(looking: Bench) -> None:
    message, other = looking.put(Status.EXPIRED), looking.put(Status.EXPIRED)
    waiting = looking.awaits(message.id, other.id)
    looking.store.readers.failing = True
    looking.changed(message, known=False)
    for _ in range(5):
        await asyncio.sleep(0)
    looking.store.readers.failing = False
    looking.changed(other, known=False)
    await until(lambda: other.id in waiting.found)
    await waiting.done  # it is looked up again by itself


async def test_nothing_is_looked_up_while_nothing_ends(looking: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    find_all = looking.store.messages.find_all

    async def asking(ids: Sequence[str]) -> list[Message]:
        asked.append([*ids])
        return await find_all(ids)

    monkeypatch.setattr(looking.store.messages, "find_all", asking)
    monkeypatch.setattr(waiting_module, "_AT_MOST", 2)
    waits = [looking.put(Status.PUBLISHED) for _ in range(5)]
    waiting = [looking.awaits(each.id, wait=Wait.DEVICE) for each in waits]
    at_broker = looking.awaits(looking.put(Status.QUEUED).id)
    looking.changed(*waits, *(each._replace(status=Status.ACKNOWLEDGED) for each in waits))
    looking.changed(*(looking.put(Status.QUEUED) for _ in range(5)), known=False)
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked == []
    looking.waiters.missed()
    await until(lambda: len(asked) == 3)
    assert sorted(id_ for ids in asked for id_ in ids) == sorted([*(each.id for each in waits), *at_broker.pending])
    assert not any(each.done.done() for each in waiting)


async def test_what_another_process_has_left_in_doubt_is_looked_up(looking: Bench) -> None:
    message = looking.put(Status.QUEUED, possible_duplicate=True)
    sent, answered = looking.awaits(message.id), looking.awaits(message.id, wait=Wait.DEVICE)
    looking.waiters.received([change_to(message, known=False)._replace(before=Status.PUBLISHING)])
    await until(sent.done.done)
    assert sent.found == {message.id: message}
    assert not answered.done.done()


async def test_many_whose_time_is_up_are_ended_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = []
    sweep = bench.waiters._sweep
    monkeypatch.setattr(bench.waiters, "_sweep", lambda: (sweeps.append(1), sweep()))
    now = asyncio.get_running_loop().time()
    waiting = [bench.awaits(f"m{n}", deadline=now + 0.01 + n / 10_000) for n in range(1000)]
    await asyncio.gather(*(each.done for each in waiting))
    assert len(sweeps) < 20
    assert not bench.waiters._timed
