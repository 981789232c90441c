"""What comes of a delivery, for everything that a link can answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from chapar.delivery import dispatcher as dispatcher_module
from chapar.delivery import lease as lease_module
from chapar.delivery import outcomes
from chapar.delivery.dispatcher import MAX_TAKEN, PAGE, _Delivery
from chapar.delivery.outcomes import MAX_ATTEMPTS
from chapar.delivery.suspects import Trial
from chapar.delivery.waiting import Waiting
from chapar.errors import (
    BrokerClosed,
    BrokerError,
    BrokerSilent,
    BrokerUnanswered,
    LinkDown,
    LinkLost,
    MalformedPacket,
    NotSaved,
    PublicationExpired,
    PublicationInvalid,
    ReleaseRefused,
)
from chapar.link.publication import Publication
from chapar.model.acceptance import Addition
from chapar.model.audit import Action
from chapar.model.change import Change
from chapar.model.message import Message, Status
from chapar.model.queue import Lease, Taken
from chapar.store.pauses import PauseQueue
from support.fakes import EPOCH, LEASE, PROCESS, FakeClock, FakeLink, MemoryStore, dispatcher_of, until
from support.stores import entry_about, new_message
from support.timers import Timers

OTHER = "fedcba9876543210"  # another process
NEVER = 1e9  # loop time
NOT_AUTHORIZED = 0x87
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
BLAMED = BrokerClosed("mqtt://fake", "Malformed Packet", 0x81)
SILENT = BrokerClosed("mqtt://fake", "it closed the connection")
UNHEARD = BrokerSilent("mqtt://fake", 15.0)
UNANSWERED = BrokerUnanswered("mqtt://fake", 30.0)
MALFORMED = MalformedPacket("mqtt://fake", "Invalid fixed header flags")
UNKNOWN = ReleaseRefused("mqtt://fake", "Packet Identifier not found", 0x92)


class Bench:
    """A dispatcher between a link, a store and a clock that the test holds in its hands."""

    def __init__(self, *, alone: bool = True, clears_expired: bool = True) -> None:
        self.store, self.link, self.clock = MemoryStore(), FakeLink(), FakeClock()
        self.dispatcher, self.waiters, self.metrics = dispatcher_of(
            self.store, self.link, self.clock, alone=alone, clears_expired=clears_expired
        )
        self.departures = self.dispatcher._departures

    def taken(self, imei: str = "A", **fields: object) -> Message:
        """A message that this process has taken."""
        return self.store.put(new_message(imei, **{"claim": f"{PROCESS}.1", "created_at": EPOCH} | fields))

    def queued(self, imei: str = "A", **fields: object) -> Message:
        fields = {"claim": None, "attempts": 0, "created_at": EPOCH} | fields
        return self.store.put(new_message(imei, Status.QUEUED, **fields))

    def delivers(self, message: Message) -> asyncio.Task[Message]:
        """The delivery of what was taken from the queue, as a page of its own, begins."""
        self.departures.asks_for_page()
        return self._ended(
            message, lambda: self.dispatcher._deliver(message, self.departures.trial(message, direct=False))
        )

    def delivers_direct(self, message: Message, caller: Waiting | None = None) -> asyncio.Task[Message]:
        return self._ended(message, lambda: self.dispatcher.deliver_direct(message, caller))

    def _ended(self, message: Message, begin: Callable[[], None]) -> asyncio.Task[Message]:
        before = {*self.dispatcher._under_way}
        begin()
        [delivery] = self.dispatcher._under_way - before

        async def ended() -> Message:
            await until(lambda: delivery not in self.dispatcher._under_way)
            return self.store.now(message)

        return asyncio.create_task(ended())

    async def deliver(self, message: Message, *answers: int | Exception) -> Message:
        self.link.answers.extend(answers)
        return await self.delivers(message)

    async def deliver_direct(
        self, message: Message, *answers: int | Exception, caller: Waiting | None = None
    ) -> Message:
        self.link.answers.extend(answers)
        return await self.delivers_direct(message, caller)

    def awaits(self, message_id: str, deadline: float = NEVER) -> Waiting:
        """Somebody waits for a message that is saved."""
        waiting = Waiting([message_id])
        self.waiters.add(waiting)
        self.waiters.time(waiting, deadline)
        return waiting

    def wake(self) -> None:
        """Let it know of something that another has queued."""
        self.dispatcher.received([Change("m", "A", None, Status.QUEUED, None, EPOCH, None)])

    async def again(self, message: Message, answer: int | Exception) -> Message:
        """Take a message that is queued, and deliver it once more."""
        before = self.store.now(message)
        taken = before._replace(status=Status.PUBLISHING, attempts=before.attempts + 1, claim=f"{PROCESS}.2")
        self.store.put(taken)
        return await self.deliver(taken, answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        runs = [asyncio.create_task(self.dispatcher.run()), asyncio.create_task(self.waiters.run())]
        try:
            yield
        finally:
            self.dispatcher.stop()
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)


async def found(waiting: Waiting) -> Message | None:
    """How the message stood that somebody waited for; None: nobody knew when time was up."""
    await asyncio.wait_for(waiting.done, 60)
    return next(iter(waiting.found.values()), None)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_an_acknowledgement_publishes_the_message(bench: Bench) -> None:
    message = bench.taken()
    after = await bench.deliver(message, 0x00)
    assert after == bench.store.now(message)
    assert (after.status, after.reason, after.reason_code, after.claim) == (Status.PUBLISHED, None, 0, None)
    assert (after.published_at, after.finished_at, after.attempts) == (EPOCH, EPOCH, 1)
    assert await bench.store.messages.attempts(message.id) == []


@pytest.mark.parametrize(
    ("code", "reports", "subscribers"), [(0x10, False, False), (0x00, False, None), (0x00, True, True)]
)
async def test_subscribers_are_claimed_only_where_the_broker_reports_them(
    bench: Bench, code: int, *, reports: bool, subscribers: bool | None
) -> None:
    bench.link.reports_subscribers = reports
    assert (await bench.deliver(bench.taken(), code)).subscribers is subscribers


async def test_qos_0_is_never_more_than_unconfirmed(bench: Bench) -> None:
    after = await bench.deliver(bench.taken(qos=0, at_most_once=True), 0x00)
    assert (after.status, after.reason) == (Status.UNCONFIRMED, "qos_0")


async def test_a_success_that_was_not_the_first_attempt_is_kept(bench: Bench) -> None:
    message = bench.taken(attempts=3)
    await bench.deliver(message, 0x10)
    (attempt,) = await bench.store.messages.attempts(message.id)
    assert attempt[1:] == (3, EPOCH, PROCESS, "published", 0x10)


async def test_what_cleared_a_retained_message_is_kept_with_that(bench: Bench) -> None:
    retained = bench.taken(retain=True, status=Status.PUBLISHED)
    empty = bench.taken(retain=True, micro_op="", origin=retained.id)
    assert (await bench.deliver(empty, 0x10)).status is Status.PUBLISHED
    [publication] = bench.link.published
    assert (publication.payload, publication.retain) == (b"", True)
    (attempt,) = await bench.store.messages.attempts(retained.id)
    assert attempt[1:] == (0, EPOCH, PROCESS, "retained_cleared", 0x10)
    assert await bench.store.messages.attempts(empty.id) == []


@pytest.mark.parametrize("fields", [{}, {"qos": 0, "at_most_once": True}])
async def test_the_built_in_broker_is_made_to_forget_at_the_expiry_and_another_need_not(
    fields: dict[str, object],
) -> None:
    bench = Bench()
    message = bench.taken(retain=True, expires_at=EPOCH + 5000, params="{}", **fields)
    await bench.deliver(message, 0x00)
    await bench.deliver(bench.taken("B"), 0x00)
    await bench.deliver(bench.taken("C", retain=True, expires_at=EPOCH + 1, qos=1), NOT_AUTHORIZED)
    await until(lambda: len(bench.store.database.messages()) == 4)
    [empty] = [each for each in bench.store.database.messages() if each.clears]
    assert (empty.status, empty.deliver_at, empty.expires_at) == (Status.SCHEDULED, EPOCH + 5000, None)
    assert (empty.imei, empty.topic, empty.origin, empty.qos) == ("A", message.topic, message.id, 1)
    assert (empty.retain, empty.at_most_once, empty.payload, empty.published_at) == (True, False, b"", None)
    other = Bench(clears_expired=False)
    await other.deliver(other.taken(retain=True, expires_at=EPOCH + 5000), 0x00)
    assert not any(each.clears for each in other.store.database.messages())


async def test_a_refusal_ends_the_message_and_is_kept(bench: Bench) -> None:
    message = bench.taken()
    after = await bench.deliver(message, NOT_AUTHORIZED)
    assert (after.status, after.reason, after.reason_code) == (Status.REJECTED, "not_authorized", NOT_AUTHORIZED)
    (attempt,) = await bench.store.messages.attempts(message.id)
    assert (attempt.attempt, attempt.outcome, attempt.reason_code) == (1, "not_authorized", NOT_AUTHORIZED)


@pytest.mark.parametrize("attempts", range(1, MAX_ATTEMPTS))
async def test_a_message_put_off_waits_twice_as_long_each_time_and_a_minute_at_most(
    bench: Bench, attempts: int
) -> None:
    after = await bench.deliver(bench.taken(attempts=attempts), QUOTA_EXCEEDED)
    assert (after.status, after.attempts, after.claim) == (Status.QUEUED, attempts, None)
    assert not after.possible_duplicate
    assert after.not_before is not None
    longest = min(1000 * 2 ** (attempts - 1), 60_000)
    assert longest / 2 <= after.not_before - EPOCH <= longest


async def test_a_message_put_off_too_often_is_given_up(bench: Bench) -> None:
    after = await bench.deliver(bench.taken(attempts=MAX_ATTEMPTS), QUOTA_EXCEEDED)
    assert (after.status, after.reason, after.attempts) == (Status.REJECTED, "quota_exceeded", MAX_ATTEMPTS)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_direct_message_is_put_off_only_where_nobody_waits_for_it(bench: Bench, *, waits: bool) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id) if waits else None
    after = await bench.deliver_direct(message, QUOTA_EXCEEDED, caller=outcome)
    assert after.status is (Status.REJECTED if waits else Status.QUEUED)
    if outcome is not None:
        assert await found(outcome) == after


@pytest.mark.parametrize("waits", [True, False])
async def test_a_direct_message_without_a_link_is_rejected_only_where_somebody_waits(
    bench: Bench, *, waits: bool
) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id) if waits else None
    after = await bench.deliver_direct(message, LinkDown(), caller=outcome)
    assert after.attempts == 0
    assert after.status is (Status.REJECTED if waits else Status.QUEUED)
    assert after.reason == ("broker_unreachable" if waits else None)
    if outcome is not None:
        assert await found(outcome) == after


async def test_a_message_from_the_queue_goes_back_without_a_link_and_its_attempt_does_not_count(bench: Bench) -> None:
    bench.link.up = False
    after = await bench.deliver(bench.taken(attempts=2))
    assert (after.status, after.attempts, after.claim, after.possible_duplicate) == (Status.QUEUED, 1, None, False)


@pytest.mark.parametrize("cause", [None, SILENT, BLAMED, UNHEARD])
async def test_a_lost_link_makes_a_possible_duplicate(bench: Bench, cause: BrokerError | None) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id)
    after = await bench.deliver(message, LinkLost(cause))
    assert (after.status, after.possible_duplicate, after.attempts) == (Status.QUEUED, True, 1)
    assert [attempt.outcome for attempt in await bench.store.messages.attempts(message.id)] == ["link_lost"]
    assert await found(outcome) == after, "whoever waits is told that the outcome is in doubt"


async def test_a_lost_link_leaves_what_may_be_sent_once_unconfirmed(bench: Bench) -> None:
    after = await bench.deliver(bench.taken(at_most_once=True), LinkLost())
    assert (after.status, after.reason, after.possible_duplicate) == (Status.UNCONFIRMED, "link_lost", False)


async def test_what_is_too_late_at_the_window_expires_untried(bench: Bench) -> None:
    after = await bench.deliver(bench.taken(), PublicationExpired())
    assert (after.status, after.reason, after.attempts) == (Status.EXPIRED, "expired", 0)


async def test_what_the_broker_cannot_take_is_rejected_untried(bench: Bench) -> None:
    after = await bench.deliver(bench.taken(), PublicationInvalid("size", 1, 2, PACKET_TOO_LARGE))
    assert (after.status, after.reason, after.attempts) == (Status.REJECTED, "packet_too_large", 0)
    assert after.reason_code == PACKET_TOO_LARGE


async def test_the_link_is_told_until_when_a_message_may_leave(bench: Bench) -> None:
    now = asyncio.get_running_loop().time()
    await bench.deliver(bench.taken(expires_at=EPOCH + 2500, attempts=2), 0x00)
    await bench.deliver(bench.taken(expires_at=None), 0x00)
    first, second = bench.link.published
    assert first.deadline == pytest.approx(now + 2.5, abs=0.5)
    assert (first.attempt, second.deadline) == (2, None)


@pytest.mark.parametrize(
    ("expires_in", "contact_ends_in", "ends_in"), [(5000, 2500, 2.5), (2500, 5000, 2.5), (None, 2500, 2.5)]
)
async def test_what_leaves_in_a_contact_has_until_its_window_or_its_own_time_is_over(
    bench: Bench, expires_in: int | None, contact_ends_in: int, ends_in: float
) -> None:
    now = asyncio.get_running_loop().time()
    expires_at = None if expires_in is None else EPOCH + expires_in
    await bench.deliver(bench.taken(expires_at=expires_at, contact_until=EPOCH + contact_ends_in), 0x00)
    assert bench.link.published[0].deadline == pytest.approx(now + ends_in, abs=0.5)


@pytest.mark.parametrize("cause", [SILENT, BLAMED, UNHEARD, MALFORMED, UNANSWERED, UNKNOWN])
async def test_what_was_alone_in_flight_when_a_second_session_ended_is_quarantined(
    bench: Bench, cause: BrokerError
) -> None:
    message = bench.queued()
    bench.link.answers.extend([LinkLost(SILENT), LinkLost(cause, singled_out=True)])
    with capture_logs() as logged:
        async with bench.running():
            await until(lambda: bench.store.now(message).status is Status.REJECTED)
    after = bench.store.now(message)
    assert (after.reason, after.attempts, after.possible_duplicate) == ("quarantined", 2, True)
    assert (after.reason_code, after.finished_at) == (getattr(cause, "reason_code", None), EPOCH)
    history = await bench.store.messages.attempts(message.id)
    assert [(attempt.outcome, attempt.reason_code) for attempt in history] == [
        ("link_lost", None),
        ("link_lost", after.reason_code),
    ]
    assert bench.link.ids == [message.id] * 2
    assert [entry["message_id"] for entry in logged if entry["event"] == "message_quarantined"] == [message.id]


@pytest.mark.parametrize("answer", [0x00, NOT_AUTHORIZED])
async def test_what_was_merely_there_is_sent_again_once(bench: Bench, answer: int) -> None:
    messages = [bench.queued(imei) for imei in "ABC"]
    bench.link.answers.extend([LinkLost(BLAMED)] * 3 + [answer] * 3)
    async with bench.running():
        await until(lambda: not bench.store.has_unfinished())
    assert [bench.store.now(message).attempts for message in messages] == [2] * 3
    assert not bench.departures.suspects


async def test_a_broker_that_was_away_meanwhile_is_believed_three_times(bench: Bench) -> None:
    bench.link.broker_was_there = False
    message = bench.queued()
    bench.link.answers.extend([LinkLost(SILENT, singled_out=True)] * 4)
    async with bench.running():
        await until(lambda: bench.store.now(message).status is Status.REJECTED)
    assert bench.link.ids == [message.id] * 4


async def test_a_session_that_we_closed_blames_nobody(bench: Bench) -> None:
    message = bench.queued()
    bench.link.answers.extend([LinkLost(None, singled_out=True)] * 5 + [0x00])  # type: ignore[list-item]
    async with bench.running():
        await until(lambda: bench.store.now(message).status is Status.PUBLISHED)
    assert not bench.departures.suspects


async def test_what_is_left_unanswered_is_tried_again_beside_the_others_and_one_of_its_device(bench: Bench) -> None:
    bench.link.window = 4
    mute = [bench.queued(imei) for imei in "AABCD"]
    bench.link.answers.extend([LinkLost(UNANSWERED)] * 5)
    async with bench.running():
        await until(lambda: len(bench.link.published) == 7)
        other = bench.queued("E")
        bench.wake()
        await until(lambda: other.id in bench.link.waiting)
        assert [*bench.link.waiting] == [mute[0].id, mute[2].id, other.id], "half of the window, and no more"
        assert bench.dispatcher.takes_direct
        assert {bench.store.now(message).not_before for message in (mute[1], *mute[3:])} <= {None, EPOCH + 1000}
        direct = bench.taken("A")
        assert (await bench.deliver_direct(direct)).status is Status.QUEUED
        bench.link.answer(mute[0].id, 0x00)
        bench.link.answer(mute[2].id, LinkLost(UNANSWERED, singled_out=True))
        bench.clock.at += 1001
        bench.wake()
        await until(lambda: bench.store.now(mute[2]).status is Status.REJECTED)
        await until(lambda: mute[1].id in bench.link.waiting)
    assert bench.metrics.unanswered._value.get() == 6


@pytest.mark.parametrize("way", ["invalid", "down", "faulty"])
async def test_a_suspect_that_never_reaches_the_link_does_not_keep_its_device(bench: Bench, way: str) -> None:
    suspect = bench.queued("A")
    bench.link.answers.append(LinkLost(UNANSWERED))
    failures = {
        "invalid": PublicationInvalid("packet", 1, 2, 0x95),
        "down": LinkDown(),
        "faulty": RuntimeError("a fault of ours"),
    }
    bench.link.answers.append(failures[way])
    async with bench.running():
        await until(lambda: bench.departures.suspects.is_unanswered("A"))
        bench.clock.at += 1001
        bench.wake()
        await turns()
        following = bench.queued("A")
        for _ in range(3):
            bench.clock.at += 1001
            bench.wake()
            await turns()
        assert {suspect.id, following.id} & set(bench.link.waiting)


async def test_a_fault_at_one_message_of_a_page_leaves_none_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *others = [bench.queued(imei) for imei in "ABC"]
    trial = bench.departures.trial

    def faulty(message: Message, *, direct: bool) -> Trial:
        if message.id == bad.id:
            raise RuntimeError("a fault of ours")
        return trial(message, direct=direct)

    monkeypatch.setattr(bench.departures, "trial", faulty)
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == 2)
        await until(lambda: bench.store.now(bad).status is Status.QUEUED)
        assert bench.store.now(bad).not_before == EPOCH + 1000
    assert {message.id for message in others} == set(bench.link.waiting)


async def test_what_the_link_has_not_sent_can_be_taken_back(bench: Bench) -> None:
    message, other = bench.queued("A"), bench.queued("B")
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == 2)
        assert await bench.dispatcher.take_back(message.id)
        assert not await bench.dispatcher.take_back("another")
        bench.wake()
        await turns()
        after = bench.store.now(message)
        assert (after.status, after.attempts, after.claim, after.not_before) == (Status.QUEUED, 0, None, EPOCH + 1000)
        assert [*bench.link.waiting] == [other.id]


async def test_a_fault_at_what_is_taken_back_does_not_block_its_device(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise FAULT

    message = bench.queued("A")
    async with bench.running():
        await until(lambda: message.id in bench.link.waiting)
        monkeypatch.setattr(outcomes, "put_aside", fails)
        assert not await bench.dispatcher.take_back(message.id)
    assert bench.store.now(message).status is Status.REJECTED
    assert not bench.departures._returning


async def test_what_has_left_is_not_taken_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.link, "take_back", lambda _: False)
    message = bench.taken()
    bench.delivers(message)
    assert not await bench.dispatcher.take_back(message.id)


async def test_the_queue_expires_also_while_a_suspect_is_tried_alone(bench: Bench, timers: Timers) -> None:
    suspect = bench.queued("A")
    bench.link.answers.append(LinkLost(SILENT))
    async with bench.running():
        await until(lambda: len(bench.link.published) == 2)
        late = bench.queued("B", expires_at=EPOCH)
        timers.run_out()
        await until(lambda: bench.store.now(late).status is Status.EXPIRED)
        assert [*bench.link.waiting] == [suspect.id]


async def test_a_suspect_that_expires_is_forgotten(bench: Bench) -> None:
    message = bench.queued(expires_at=EPOCH + 1)
    await bench.again(message, LinkLost(BLAMED))
    assert bench.departures.suspects
    bench.clock.at += 1
    async with bench.running():
        await until(lambda: bench.store.now(message).status is Status.EXPIRED)
        await turns()
    assert not bench.departures.suspects


async def test_a_suspicion_is_remembered_where_another_move_came_first(bench: Bench) -> None:
    message = bench.taken()
    current = message._replace(claim=f"{PROCESS}.9", attempts=2, possible_duplicate=True)
    bench.store.put(current)  # the move that is to come was applied before, and it was taken again
    assert (await bench.deliver(message, LinkLost(BLAMED))).status is Status.PUBLISHING
    assert bench.departures.suspects


@pytest.mark.parametrize("readable", [True, False])
async def test_a_message_that_somebody_else_moved_is_told_as_it_is_or_not_at_all(
    bench: Bench, *, readable: bool
) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id)
    moved = message._replace(status=Status.QUEUED, claim=None, possible_duplicate=True)
    bench.store.put(moved)
    bench.store.readers.failing = not readable
    looking = asyncio.create_task(bench.waiters.run())
    await bench.deliver(message, 0x00)
    await turns()
    looking.cancel()
    assert bench.store.now(message) == moved
    assert outcome.done.done() is readable
    assert not readable or await found(outcome) == moved


async def test_a_caller_is_held_while_its_message_is_being_rejected_and_not_where_somebody_else_moved_it(
    bench: Bench,
) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id)
    bench.store.put(message._replace(status=Status.QUEUED, claim=None))  # another process took it over
    delivery = bench.delivers_direct(message, outcome)
    await until(lambda: message.id in bench.link.waiting)
    bench.link.answer(message.id, LinkDown())
    await until(lambda: outcome.is_held)
    await delivery
    assert not outcome.is_held
    assert bench.store.now(message).status is Status.QUEUED


@pytest.mark.parametrize("answer", [0x00, LinkDown()])
async def test_a_device_that_replies_before_the_end_is_committed_has_the_last_word(
    bench: Bench, answer: int | Exception
) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id)
    delivery = bench.delivers_direct(message, outcome)
    await until(lambda: message.id in bench.link.waiting)
    # Another process received it, so that nobody here was notified.
    answered = bench.store.put(message._replace(status=Status.SUCCEEDED, claim=None, finished_at=EPOCH))
    bench.link.answer(message.id, answer)
    with capture_logs() as logs:
        stands = await delivery
    expected = answered if answer else answered._replace(published_at=EPOCH, reason_code=0)
    assert stands == expected
    assert await found(outcome) == stands
    assert logs == []


async def test_what_its_device_has_answered_is_not_sent_again(bench: Bench) -> None:
    message = bench.taken(attempts=2)
    delivery = bench.delivers(message)
    await until(lambda: message.id in bench.link.waiting)
    answered = bench.store.put(message._replace(status=Status.SUCCEEDED, claim=None, finished_at=EPOCH))
    change = Change(message.id, message.imei, Status.PUBLISHING, answered.status, None, EPOCH, answered)
    bench.dispatcher.received([change])
    assert message.id not in bench.link.waiting
    assert await delivery == answered


async def test_the_queue_is_taken_in_order_and_delivered(bench: Bench) -> None:
    messages = [bench.queued(imei) for imei in "ABA"]
    bench.link.answers.extend([0x00] * 3)
    async with bench.running():
        await until(lambda: not bench.store.has_unfinished())
    assert bench.link.ids == [message.id for message in messages]


async def test_nothing_is_taken_while_there_is_no_link(bench: Bench) -> None:
    bench.link.up = False
    bench.queued()
    async with bench.running():
        await until(lambda: bench.store.asked("take"))
    assert [take.limit for take in bench.store.asked("take")] == [0]


async def test_each_take_has_a_claim_of_its_own_that_begins_with_the_process(bench: Bench) -> None:
    async with bench.running():
        for number in range(1, 4):
            await until(lambda number=number: len(bench.store.asked("take")) == number)
            bench.wake()
    claims = [take.claim for take in bench.store.asked("take")]
    assert len({*claims}) == len(claims)
    assert all(claim.startswith(f"{PROCESS}.") and not claim.endswith(".0") for claim in claims)


async def test_deliveries_from_the_queue_are_bounded_and_leave_room_for_direct_ones(bench: Bench) -> None:
    for number in range(2 * MAX_TAKEN):
        bench.queued(f"D{number}")
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == MAX_TAKEN)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bench.link.published) == MAX_TAKEN
        assert bench.dispatcher.takes_direct
        first, *others = bench.link.ids[:PAGE]
        bench.link.answer(first, 0x00)
        await until(lambda: len(bench.dispatcher._taken) == MAX_TAKEN - 1)
        assert not bench.dispatcher._room.is_set(), "a page has no room yet"
        for id_ in others:
            bench.link.answer(id_, 0x00)
        await until(lambda: len(bench.link.published) == MAX_TAKEN + PAGE)


async def test_the_next_of_a_long_queue_are_taken_as_soon_as_its_device_has_no_whole_page_on_its_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_POLL_ALONE", 3600)
    for _ in range(3 * PAGE):
        bench.queued("A")
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == PAGE)
        takes = len(bench.store.asked("take"))
        bench.link.answer(bench.link.ids[0], 0x00)
        await until(lambda: len(bench.link.published) == 2 * PAGE)
        for id_ in bench.link.ids[1:PAGE]:
            bench.link.answer(id_, 0x00)
        await until(lambda: len(bench.dispatcher._taken) == PAGE)
        assert len(bench.store.asked("take")) <= takes + 3, "not for each that ends"
        bench.link.answer(bench.link.ids[PAGE], 0x00)
        await until(lambda: len(bench.link.published) == 3 * PAGE)


async def test_a_device_is_asked_where_to_reply_only_where_a_reply_is_expected(bench: Bench) -> None:
    asked, plain = bench.taken(reply_within=1000), bench.taken("B")
    await bench.deliver(asked, 0x00)
    await bench.deliver(plain, 0x00)
    assert [each.response_topic for each in bench.link.published] == ["devices/A/reply", None]


async def test_room_that_comes_while_the_queue_is_asked_is_used_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2 * MAX_TAKEN):
        bench.queued(f"D{number}")
    take = bench.dispatcher._take

    async def take_slowly(room: int, urgent: int, lanes: Collection[str] = ()) -> Taken:
        taken = await take(room, urgent, lanes)
        if not room:
            for id_ in bench.link.ids[:PAGE]:
                bench.link.answer(id_, 0x00)
            await until(lambda: bench.dispatcher._has_room)
        return taken

    async with bench.running():
        await until(lambda: len(bench.link.waiting) == MAX_TAKEN)
        monkeypatch.setattr(bench.dispatcher, "_take", take_slowly)
        bench.dispatcher._room.set()  # as something urgent does
        await until(lambda: len(bench.link.published) == MAX_TAKEN + PAGE)


async def test_direct_deliveries_under_way_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_UNDER_WAY", 50)
    for number in range(50):
        assert bench.dispatcher.takes_direct
        bench.dispatcher.deliver_direct(bench.taken(f"D{number}"), None)
    assert not bench.dispatcher.takes_direct
    await until(lambda: len(bench.link.waiting) == 50)
    bench.link.answer(bench.link.ids[0], 0x00)
    await until(lambda: bench.dispatcher.takes_direct)


async def test_what_is_urgent_is_delivered_where_there_is_room_for_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2 * MAX_TAKEN):
        bench.queued(f"D{number}")
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == MAX_TAKEN)
        urgent = new_message("D0", Status.QUEUED, claim=None, attempts=0, created_at=EPOCH, urgent=True)
        await bench.store.messages.add([Addition(urgent)])
        await until(lambda: urgent.id in bench.link.waiting)
        monkeypatch.setattr(dispatcher_module, "MAX_UNDER_WAY", MAX_TAKEN)
        assert not bench.dispatcher.takes_direct
        assert bench.dispatcher.takes_urgent


async def test_what_is_urgent_overtakes_what_is_on_its_way_back(bench: Bench) -> None:
    bench.departures.goes_back(bench.taken())
    plain, urgent = bench.taken(), bench.taken(urgent=True)
    assert (await bench.deliver(plain)).status is Status.QUEUED
    assert (await bench.deliver(urgent, 0x00)).status is Status.PUBLISHED
    assert (await bench.deliver_direct(bench.taken(urgent=True), 0x00)).status is Status.PUBLISHED


async def test_what_was_superseded_in_line_is_taken_back(bench: Bench) -> None:
    bench.link.waits = True
    old = bench.taken(collapse_key="valve")
    delivered = bench.delivers(old)
    await until(lambda: old.id in bench.link.waiting)
    newer = new_message("A", Status.QUEUED, claim=None, attempts=0, created_at=EPOCH + 1, collapse_key="valve")
    await bench.store.messages.add([Addition(newer)])
    after = await delivered
    assert (after.status, after.reason, after.superseded_by) == (Status.CANCELLED, "superseded", newer.id)


async def paused(bench: Bench, imei: str = "A") -> None:
    entry = entry_about(imei, Action.QUEUE_PAUSED)
    assert await bench.store.pauses.pause(PauseQueue(entry, "Anna", None, 100), 30)
    bench.dispatcher.look()


async def test_what_is_in_line_for_a_paused_device_is_taken_back(bench: Bench) -> None:
    bench.link.waits = True
    plain, other, online = bench.taken(), bench.taken(imei="B"), bench.taken(condition="online")
    async with bench.running():
        for message in (plain, other, online):
            bench.delivers(message)
        await until(lambda: len(bench.link.waiting) == 3)
        await paused(bench)
        await until(lambda: bench.store.now(plain).reason == "paused")
        after = bench.store.now(plain)
        assert (after.status, after.attempts) == (Status.QUEUED, 0)
        assert sorted(bench.link.waiting) == sorted([other.id, online.id]), "what never waits is gone soon"


async def test_what_waits_behind_a_suspect_does_not_leave_once_its_device_is_paused(bench: Bench) -> None:
    suspect = bench.queued("A")
    await bench.again(suspect, LinkLost(SILENT))
    held = bench.queued("C")
    async with bench.running():
        await until(lambda: suspect.id in bench.link.waiting)
        await paused(bench, "C")
        bench.departures.paused = {"C"}  # as the next look says, while the suspect is alone in flight
        bench.link.answer(suspect.id, 0x00)
        await until(lambda: bench.store.now(held).reason == "paused")
    assert bench.link.ids[1:] == [suspect.id]


async def test_what_was_superseded_behind_a_suspect_does_not_leave(bench: Bench) -> None:
    suspect = bench.queued("A")
    await bench.again(suspect, LinkLost(SILENT))
    old = bench.queued("C")
    async with bench.running():
        await until(lambda: suspect.id in bench.link.waiting)
        superseded = bench.store.put(bench.store.now(old)._replace(superseded_by="newer"))
        assert superseded.status is Status.PUBLISHING
        bench.dispatcher.received([Change(old.id, "C", Status.PUBLISHING, Status.PUBLISHING, None, EPOCH, superseded)])
        bench.link.answer(suspect.id, 0x00)
        await until(lambda: bench.store.now(old).status is Status.CANCELLED)
    assert bench.link.ids[1:] == [suspect.id]


async def test_what_was_superseded_in_doubt_is_not_sent_again(bench: Bench) -> None:
    old = bench.taken(collapse_key="valve")
    bench.store.put(old._replace(superseded_by="newer"))
    waiting = bench.awaits(old.id)
    after = await bench.deliver(old, LinkLost(SILENT))
    assert (after.status, after.reason) == (Status.UNCONFIRMED, "superseded")
    assert await found(waiting) == after


@pytest.mark.parametrize("lapsed", [True, False])
async def test_what_is_for_a_device_that_is_online_does_not_wait_for_its_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, lapsed: bool
) -> None:
    message = bench.taken(condition="online")
    if lapsed:
        monkeypatch.setattr(type(bench.departures._lease), "is_held", False)
        after = await bench.deliver(message)
        assert (after.status, after.reason) == (Status.REJECTED, "device_busy")
    else:
        after = await bench.deliver(message, LinkDown())
        assert (after.status, after.reason) == (Status.REJECTED, "broker_unreachable")


async def test_a_lane_is_looked_at_again_where_another_process_may_have_changed_it_too() -> None:
    bench = Bench(alone=False)
    ended = bench.taken(reply_within=1000, claim=f"{PROCESS}.1")
    async with bench.running():
        await until(lambda: bench.store.asked("take"))
        bench.dispatcher.received(
            [Change(ended.id, "A", Status.PUBLISHED, Status.SUCCEEDED, None, EPOCH, ended._replace(finished_at=EPOCH))]
        )
        await until(lambda: any(take.lanes == ("A",) for take in bench.store.asked("take")))


async def test_a_suspect_is_delivered_with_nothing_else_in_flight(bench: Bench) -> None:
    before, suspect, behind = (bench.queued(imei) for imei in "BAC")
    await bench.again(suspect, LinkLost(SILENT))
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == 1)
        assert bench.link.ids[1:] == [before.id]
        bench.link.answer(before.id, 0x00)
        await until(lambda: suspect.id in bench.link.waiting)
        assert not bench.dispatcher.takes_direct
        assert [*bench.link.waiting] == [suspect.id]
        bench.link.answer(suspect.id, 0x00)
        await until(lambda: behind.id in bench.link.waiting)
        assert bench.dispatcher.takes_direct
    assert bench.link.ids[1:] == [before.id, suspect.id, behind.id]


async def test_what_is_behind_a_suspect_that_went_back_goes_back_too(bench: Bench) -> None:
    suspect = bench.queued("A")
    await bench.again(suspect, LinkLost(SILENT))
    behind, elsewhere = bench.queued("A"), bench.queued("B")
    bench.link.answers.extend([QUOTA_EXCEEDED, 0x00])
    async with bench.running():
        await until(lambda: bench.store.now(elsewhere).status is Status.PUBLISHED)
        await until(lambda: bench.store.now(behind).status is Status.QUEUED)
    assert bench.link.ids[1:] == [suspect.id, elsewhere.id]
    assert bench.store.now(behind).attempts == 0


async def test_what_follows_something_on_its_way_back_does_not_overtake_it(bench: Bench) -> None:
    first, second = bench.taken("A"), bench.taken("A")
    bench.departures.goes_back(first)
    after = await bench.deliver_direct(second)
    assert (after.status, after.attempts, bench.link.published) == (Status.QUEUED, 0, [])


async def test_a_process_that_outlived_its_lease_sends_nothing_more() -> None:
    bench = Bench(alone=False)
    after = await bench.deliver(bench.taken())
    assert (after.status, after.attempts, bench.link.published) == (Status.QUEUED, 0, [])


async def test_who_waits_for_a_message_is_told_that_it_expired(bench: Bench) -> None:
    message = bench.queued(expires_at=EPOCH)
    outcome = bench.awaits(message.id)
    async with bench.running():
        assert (await found(outcome)).status is Status.EXPIRED


@pytest.mark.parametrize("status", [Status.PUBLISHED, Status.CANCELLED, Status.REJECTED])
async def test_who_waits_is_told_what_another_process_did(status: Status) -> None:
    bench = Bench(alone=False)
    message = bench.queued()
    outcome = bench.awaits(message.id)
    bench.link.up = False
    async with bench.running():
        await until(lambda: bench.store.asked("take"))
        ended = bench.store.put(message._replace(status=status, finished_at=EPOCH))
        change = Change(ended.id, ended.imei, Status.QUEUED, status, None, EPOCH, None, foreign=True)
        bench.store.changes.announce([change])
        assert await found(outcome) == ended


async def test_a_database_that_cannot_be_read_does_not_end_the_dispatcher() -> None:
    bench = Bench(alone=False)
    message = bench.queued()
    outcome = bench.awaits(message.id)
    bench.store.readers.failing = True
    async with bench.running():
        await until(lambda: bench.store.asked("take") and message.id in bench.link.waiting)
        bench.link.answer(message.id, 0x00)
        assert (await found(outcome)).status is Status.PUBLISHED


async def test_stopping_takes_nothing_more_and_what_is_under_way_goes_on(bench: Bench) -> None:
    message = bench.queued()
    run = asyncio.create_task(bench.dispatcher.run())
    await until(lambda: message.id in bench.link.waiting)
    bench.dispatcher.stop()
    await run
    bench.queued("B")
    bench.link.answer(message.id, 0x00)
    await bench.dispatcher.drain()
    assert bench.store.now(message).status is Status.PUBLISHED
    assert bench.link.ids == [message.id]


async def test_what_a_dead_process_left_is_settled_and_delivered(bench: Bench) -> None:
    left = bench.taken(claim="fedcba9876543210.1")
    bench.link.answers.append(0x00)
    async with bench.running():
        await until(lambda: bench.store.now(left).status is Status.PUBLISHED)
    assert (bench.store.now(left).attempts, bench.store.now(left).possible_duplicate) == (2, True)


async def test_a_dispatcher_that_is_cancelled_as_it_is_woken_ends(bench: Bench) -> None:
    run = asyncio.create_task(bench.dispatcher.run())
    await until(lambda: bench.store.asked("take"))
    for _ in range(10):
        await asyncio.sleep(0)
    bench.wake()
    await asyncio.sleep(0)
    run.cancel()
    await asyncio.wait([run], timeout=3)
    ended = run.done()
    bench.dispatcher.stop()
    await asyncio.wait([run])
    assert ended


async def test_a_stop_while_the_queue_is_looked_at_is_heard_without_waiting_for_anything(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = bench.store.queue.take

    async def stopping(*asked: object, **more: object) -> Taken:
        bench.dispatcher.stop()
        return await take(*asked, **more)

    monkeypatch.setattr(bench.store.queue, "take", stopping)
    bench.link.up = False
    run = asyncio.create_task(bench.dispatcher.run())
    await until(run.done)
    assert len(bench.store.asked("take")) == 1


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PUBLISHING])
async def test_who_waits_is_not_told_of_what_has_not_come_to_an_end(status: Status) -> None:
    bench = Bench(alone=False)
    await bench.store.queue.acquire_lease(Lease(OTHER, "another", 60, alone=False))
    message = bench.store.put(new_message(status=status, claim=f"{OTHER}.1", created_at=EPOCH))
    outcome = bench.awaits(message.id)
    bench.link.up = False
    async with bench.running():
        await until(lambda: bench.store.asked("take"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not outcome.done.done()


FAULT = RuntimeError("nobody thought of it")


async def test_what_cannot_be_committed_any_more_is_left_as_it_is(bench: Bench) -> None:
    message = bench.taken()
    outcome = bench.awaits(message.id)
    bench.store.commits.failing["move"] = NotSaved("a test says so.")
    bench.dispatcher.stop()
    with capture_logs() as logged:
        assert await bench.deliver(message, 0x00) == message
    assert bench.store.now(message) == await found(outcome) == message
    assert [entry["event"] for entry in logged] == ["left_behind"]


async def test_an_end_that_alone_cannot_be_saved_is_a_fault_that_ends_the_delivery(bench: Bench) -> None:
    message = bench.taken()
    bench.store.commits.failing["move"] = NotSaved("a test says so.")
    bench.store.commits.alone.add("move")
    with capture_logs() as logged:
        assert await bench.deliver(message, 0x00) == message
    assert [entry["event"] for entry in logged] == ["delivery_failed", "left_behind"]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("fault", [FAULT, UnicodeEncodeError("utf-8", "", 0, 1, "a test says so"), MemoryError()])
async def test_a_fault_before_a_byte_left_rejects_the_message_at_once_and_no_other(
    bench: Bench, fault: Exception, *, direct: bool
) -> None:
    before, message, after = (bench.taken() for _ in range(3))
    told = bench.awaits(message.id)
    bench.link.answers.extend([0x00, fault, 0x00])
    with capture_logs() as logged:
        messages = (before, message, after)
        ended = [bench.delivers_direct(each, told) if direct else bench.delivers(each) for each in messages]
        statuses = [(await each).status for each in ended]
    assert statuses == [Status.PUBLISHED, Status.REJECTED, Status.PUBLISHED]
    rejected = bench.store.now(message)
    assert await found(told) == rejected
    assert (rejected.status, rejected.reason, rejected.attempts, rejected.claim, rejected.finished_at) == (
        Status.REJECTED,
        "internal_error",
        0,
        None,
        EPOCH,
    )
    assert [attempt.outcome for attempt in await bench.store.messages.attempts(message.id)] == ["internal_error"]
    assert [(entry["event"], entry["message_id"], entry["exc_info"]) for entry in logged] == [
        ("delivery_failed", message.id, fault)
    ]


async def test_a_message_that_makes_no_publication_stops_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = bench.taken("A"), bench.taken("B")
    real = dispatcher_module._publication

    def publication(message: Message, *facts: Any) -> Publication:
        if message.id == bad.id:
            raise FAULT
        return real(message, *facts)

    monkeypatch.setattr(dispatcher_module, "_publication", publication)
    bench.link.answers.append(0x00)
    rejected, published = bench.delivers(bad), bench.delivers(good)
    assert ((await rejected).status, (await published).status) == (Status.REJECTED, Status.PUBLISHED)
    assert bench.store.now(bad).reason == "internal_error"


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> int:
    """An answer of the broker at which a fault of ours shows."""

    def fails(_: int) -> str:
        raise FAULT

    monkeypatch.setattr(outcomes, "reason_slug", fails)
    return NOT_AUTHORIZED


async def test_a_fault_once_it_may_have_left_is_an_unknown_outcome(bench: Bench, unreadable: int) -> None:
    message, other = bench.taken(), bench.taken("B")
    told = bench.awaits(message.id)
    after = await bench.deliver(message, unreadable)
    assert (after.status, after.possible_duplicate, after.attempts) == (Status.QUEUED, True, 1)
    assert bench.store.now(message) == await found(told) == after
    again = await bench.again(message, 0x00)
    assert (again.status, again.possible_duplicate) == (Status.PUBLISHED, True)
    assert (await bench.deliver(other, 0x00)).status is Status.PUBLISHED


async def test_a_fault_that_comes_again_ends_the_message(bench: Bench, unreadable: int) -> None:
    message = bench.taken()
    await bench.deliver(message, unreadable)
    after = await bench.again(message, unreadable)
    assert (after.status, after.reason, after.attempts) == (Status.UNCONFIRMED, "internal_error", 2)


async def test_a_fault_leaves_what_may_be_sent_once_unconfirmed(bench: Bench, unreadable: int) -> None:
    after = await bench.deliver(bench.taken(at_most_once=True), unreadable)
    assert (after.status, after.reason) == (Status.UNCONFIRMED, "internal_error")


async def test_a_publication_that_somebody_took_back_is_not_left_publishing(bench: Bench) -> None:
    message = bench.taken()
    ended = bench.delivers(message)
    await until(lambda: bench.link.take_back(message.id))
    assert (await ended).status is Status.QUEUED
    assert bench.store.now(message).status is Status.QUEUED


@pytest.mark.parametrize("answer", [0x00, QUOTA_EXCEEDED])
@pytest.mark.parametrize("fault", [FAULT, NotSaved("a value that no column takes.")])
async def test_an_end_that_the_database_does_not_take_becomes_another(
    bench: Bench, fault: Exception, answer: int
) -> None:
    message, behind = bench.taken(), bench.taken()
    bench.store.commits.refusing[message.id] = [fault]
    after = await bench.deliver(message, answer)
    assert (after.status, after.possible_duplicate, after.not_before) == (Status.QUEUED, True, None)
    assert bench.store.now(message) == after
    assert (await bench.deliver(behind, 0x00)).status is Status.PUBLISHED, "nothing of the device is held back for ever"


async def test_what_the_database_never_takes_stops_no_other_delivery(bench: Bench) -> None:
    message, other = bench.taken(), bench.taken("B")
    told = bench.awaits(message.id)
    bench.store.commits.refusing[message.id] = [FAULT, FAULT]
    with capture_logs() as logged:
        assert await bench.deliver(message, 0x00) == message
        assert (await bench.deliver(other, 0x00)).status is Status.PUBLISHED
        await bench.dispatcher.drain()
    assert await found(told) == message, "whoever waits is told that nobody knows"
    assert [entry["event"] for entry in logged] == ["delivery_failed", "left_behind"]


async def test_a_delivery_goes_on_where_nobody_waits_for_its_end_any_more(bench: Bench) -> None:
    message = bench.taken()
    with capture_logs() as logged:
        delivery = bench.delivers(message)
        delivery.cancel()
        draining = asyncio.create_task(bench.dispatcher.drain())
        await turns()
        assert not draining.done()
        bench.link.answer(message.id, 0x00)
        await draining
    assert bench.store.now(message).status is Status.PUBLISHED
    assert logged == []


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """Of the dispatcher."""
    timers = Timers()
    monkeypatch.setattr(dispatcher_module, "asyncio", timers)
    monkeypatch.setattr(lease_module, "asyncio", timers)
    return timers


async def turns() -> None:
    """Let everything come to pass that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_lease_is_renewed_when_a_third_of_it_is_over(bench: Bench, timers: Timers) -> None:
    async with bench.running():
        await turns()
        assert timers.sleeps == [LEASE / 3]
        assert "lease" in {task.get_name() for task in asyncio.all_tasks()}
    assert len(bench.store.asked("acquire_lease")) == 1


@pytest.mark.parametrize(("alone", "seconds"), [(True, 1.0), (False, 0.1)])
async def test_the_queue_is_looked_at_again_after_a_while_and_more_often_where_others_may_queue(
    timers: Timers, *, alone: bool, seconds: float
) -> None:
    bench = Bench(alone=alone)
    async with bench.running():
        await turns()
        assert timers.timeouts == [seconds]
    assert len(bench.store.asked("take")) == 1


@pytest.mark.parametrize(("ahead", "seconds"), [(250, 0.25), (1, 0.001), (5000, 1.0)])
async def test_the_queue_is_looked_at_when_something_in_it_is_due(
    bench: Bench, timers: Timers, ahead: int, seconds: float
) -> None:
    bench.queued(not_before=EPOCH + ahead)
    async with bench.running():
        await turns()
        assert timers.timeouts == [seconds]


async def test_what_was_due_before_the_queue_was_left_is_not_waited_for(
    bench: Bench, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take(*_: object, **__: object) -> Taken:
        return Taken([], EPOCH - 5)

    monkeypatch.setattr(bench.store.queue, "take", take)
    async with bench.running():
        await turns()
        assert timers.timeouts == [0]


async def test_a_full_page_is_followed_by_the_next_without_a_pause(bench: Bench, timers: Timers) -> None:
    for number in range(PAGE + 1):
        bench.queued(f"D{number}")
    async with bench.running():
        await until(lambda: len(bench.link.published) == PAGE + 1)
        await turns()
        assert len(timers.timeouts) == 1
    assert [take.limit for take in bench.store.asked("take")] == [PAGE, PAGE]


async def test_a_process_alone_asks_only_for_what_has_just_expired(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    async def find_all(ids: list[str]) -> list[Message]:
        asked.append(ids)
        return []

    monkeypatch.setattr(bench.store.messages, "find_all", find_all)
    bench.queued("A", expires_at=EPOCH)
    waited_for, kept = bench.queued("B", expires_at=EPOCH), bench.queued("C", not_before=EPOCH + 1)
    outcomes = [bench.awaits(message.id) for message in (waited_for, kept)]
    async with bench.running():
        await turns()
    assert asked == [[waited_for.id]]
    assert not any(outcome.done.done() for outcome in outcomes)


async def test_what_ends_is_counted_by_how_and_why(bench: Bench) -> None:
    bench.queued(expires_at=EPOCH)
    bench.queued("B", expires_at=EPOCH)
    async with bench.running():
        await turns()
    await bench.deliver(bench.taken("C"), 0x00)
    await bench.deliver(bench.taken("D"), NOT_AUTHORIZED)
    await bench.deliver(bench.taken("E"), LinkDown())
    told = bench.metrics.exposition().decode()
    counts = [line.partition(" ")[::2] for line in told.splitlines() if line.startswith("chapar_messages_finished")]
    assert sorted(counts) == [
        ('chapar_messages_finished_total{reason="",status="published"}', "1.0"),
        ('chapar_messages_finished_total{reason="expired",status="expired"}', "2.0"),
        ('chapar_messages_finished_total{reason="not_authorized",status="rejected"}', "1.0"),
    ]
    assert 'chapar_stage_seconds_count{stage="publish"} 2.0' in told


async def test_how_long_the_broker_took_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.25])
    monkeypatch.setattr(dispatcher_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    await bench.deliver(bench.taken(), 0x00)
    assert 'chapar_stage_seconds_sum{stage="publish"} 0.25' in bench.metrics.exposition().decode()


async def test_a_process_that_cannot_say_who_holds_a_message_claims_nothing(bench: Bench) -> None:
    for answer in (LinkDown(), LinkLost(), QUOTA_EXCEEDED):
        after = await bench.deliver(bench.taken(), answer)
        assert (after.status, after.claim) == (Status.QUEUED, None)
    bench.departures.goes_back(bench.taken())
    assert (await bench.deliver(bench.taken())).claim is None


async def test_an_unspecified_error_is_a_refusal_that_may_pass(bench: Bench) -> None:
    message = bench.taken()
    assert (await bench.deliver(message, 0x80)).status is Status.QUEUED
    (attempt,) = await bench.store.messages.attempts(message.id)
    assert attempt[1:] == (1, EPOCH, PROCESS, "unspecified_error", 0x80)


async def test_the_second_attempt_is_the_first_that_is_kept_where_it_succeeds(bench: Bench) -> None:
    message = bench.taken(attempts=2)
    await bench.deliver(message, 0x00)
    assert [attempt[1:] for attempt in await bench.store.messages.attempts(message.id)] == [
        (2, EPOCH, PROCESS, "published", 0)
    ]


async def test_without_a_link_nothing_is_taken_direct(bench: Bench) -> None:
    assert bench.dispatcher.takes_direct
    bench.link.up = False
    assert not bench.dispatcher.takes_direct


async def test_a_device_is_free_again_once_all_that_went_back_is_there(bench: Bench) -> None:
    messages = [bench.taken("A"), bench.taken("A")]
    deliveries = [bench.delivers(message) for message in messages]
    await until(lambda: len(bench.link.waiting) == 2)
    for message in messages:
        bench.link.answer(message.id, LinkDown())
    await asyncio.gather(*deliveries)
    assert not bench.departures._returning


async def test_a_message_may_be_on_its_way_back_twice(bench: Bench) -> None:
    message = bench.taken("A")
    current = message._replace(claim=f"{PROCESS}.9", attempts=2)
    bench.link.answers.extend([LinkDown(), LinkDown()])
    await asyncio.gather(bench.delivers(message), bench.delivers(current))
    assert not bench.departures._returning


async def test_what_was_on_its_way_back_and_is_taken_again_is_not_given_back_for_ever(bench: Bench) -> None:
    messages = [bench.queued("A") for _ in range(3)]
    async with bench.running():
        await until(lambda: len(bench.link.waiting) == 3)
        for message in messages:
            bench.link.answer(message.id, LinkDown())
        bench.wake()  # so that the next take is asked for while they are on their way
        await until(lambda: len(bench.link.waiting) == 3)
    assert bench.link.ids == [message.id for message in messages] * 2


async def test_what_comes_direct_takes_no_room_of_the_queue(bench: Bench) -> None:
    for number in range(MAX_TAKEN + 1):
        bench.dispatcher.deliver_direct(bench.taken(f"D{number}"), None)
    assert bench.dispatcher._has_room
    assert bench.dispatcher._taken == set()


async def test_what_goes_back_untried_takes_room_until_it_is_back(bench: Bench) -> None:
    message = bench.taken("A")
    bench.departures._went_back.add("A")
    await bench.dispatcher._deliver_page([message])
    assert len(bench.dispatcher._taken) == 1
    await until(lambda: not bench.dispatcher._taken)
    assert bench.store.now(message).status is Status.QUEUED


async def test_until_when_a_message_may_leave_is_exact(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    message = bench.taken(expires_at=EPOCH + 2500)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", lambda: 7.0)
        [publication] = bench.dispatcher._publications([_Delivery(message, direct=False, caller=None)])
        assert publication.deadline == 9.5
