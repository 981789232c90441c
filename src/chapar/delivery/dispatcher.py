"""Publish what is due over the link, and save what came of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, assert_never

import structlog

from chapar.delivery import outcomes
from chapar.delivery.departures import Departures
from chapar.delivery.lease import ProcessLease
from chapar.delivery.outcomes import Facts, Outcome
from chapar.delivery.suspects import Trial
from chapar.delivery.waiting import Waiters, Waiting
from chapar.errors import (
    BrokerUnanswered,
    LinkDown,
    LinkLost,
    NotSaved,
    PublicationExpired,
    PublicationInvalid,
    StoreError,
    TakenBack,
)
from chapar.link.keeper import Link
from chapar.link.publication import Publication
from chapar.link.topics import DeviceTopics
from chapar.model.acceptance import Addition
from chapar.model.change import Change, Move
from chapar.model.message import ANSWERED, AT_BROKER, UNFINISHED, Attempt, Condition, Message, Status, clearing
from chapar.model.queue import Taken
from chapar.model.reason import Reason
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised
from chapar.store.lanes import leaves_lane
from chapar.store.store import Store

log = structlog.get_logger(__name__)

PAGE: Final = 100  # messages taken in one commit: a few milliseconds, for which a caller may have to wait
MAX_TAKEN: Final = 4 * PAGE  # … and not at their end: keeps the broker's window full between two commits
MAX_UNDER_WAY: Final = 4000  # deliveries at a time, the direct ones included; beyond it messages wait in the database

_TOGETHER: Final = 0.005  # seconds in which outcomes are collected where each caller waits for several of them

_WITHDRAWABLE: Final = frozenset({Status.QUEUED, Status.CANCELLED})  # certainly unsent, for who took it back
_NEWS: Final = frozenset({Status.SCHEDULED, Status.QUEUED, Status.CANCELLED})  # what may be of use to the queue
_POLL_ALONE = 1.0  # seconds between looks at the queue; what this process queues itself wakes it
_POLL_SHARED = 0.1  # where other processes may queue too: a look is one indexed read


@dataclass(eq=False, slots=True)
class _Delivery:
    """A message on its way: handed to the link, answered, committed."""

    message: Message  #: as it was claimed
    direct: bool  #: whether it never was in the queue
    caller: Waiting | None  #: of a call that would not queue, until it is answered
    handed_over: float = 0.0  #: to the link, by `time.perf_counter`: the loop's own clock is too coarse under uvloop
    may_have_left: bool = False
    is_faulty: bool = False  #: whether a fault of ours has ended it once already
    is_returning: bool = False  #: whether it is on its way back into the queue
    taken_back: asyncio.Future[bool] | None = None  #: whether it is back in the queue, for who took it back

    @property
    def may_queue(self) -> bool:
        """Return whether it waits in the queue where the broker cannot take it now; else it is rejected.

        A call that is answered before its message has ended was told that the delivery goes on.
        """
        if self.message.condition == Condition.ONLINE:  # it never waits, but for a second attempt
            return self.message.possible_duplicate
        return self.caller is None or self.caller.done.done()


_Ended = list[tuple[_Delivery, Outcome]]
"""Deliveries, and what came of each."""


class Dispatcher:
    """Delivers messages that this process has claimed.

    A message comes here committed as `publishing`, its attempt counted: whatever happens to the process next, its
    row says that a PUBLISH may have left.
    """

    def __init__(
        self,
        store: Store,
        link: Link,
        lease: ProcessLease,
        waiters: Waiters,
        clock: Clock,
        metrics: Metrics,
        *,
        reply_topics: DeviceTopics,
        clears_expired: bool,
    ) -> None:
        self._store = store
        self._link = link
        self._lease = lease
        self._waiters = waiters
        self._clock = clock
        self._process = lease.process
        self._metrics = metrics
        self._reply_topics = reply_topics  # where a device is asked to reply
        self._clears_expired = clears_expired  # what the broker retains, which forgets nothing by itself
        self._loop = asyncio.get_running_loop()
        self._departures = Departures(link, lease)
        self._suspects = self._departures.suspects
        self._claims = count(1)
        self._lanes: set[str] = set()  # devices whose lane another process may have changed at the same time
        self._work = asyncio.Event()  # something was queued here
        self._leaving: dict[tuple[str, int], _Delivery] = {}  # by message and attempt: what leaves in this turn
        self._batches: set[asyncio.Task[None]] = set()
        self._under_way: set[_Delivery] = set()
        self._taken: set[_Delivery] = set()  # those under way that come from the queue
        self._taken_of = Counter[str]()  # how many those are, by device
        self._fewer = asyncio.Event()  # a delivery has come to an end
        self._room = asyncio.Event()  # another page may be taken, or something urgent was queued here
        self._unanswered = 0  # publications that the link has not said anything about
        self._fewer_unanswered = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Settle what dead processes left, and deliver what is due, until stopped."""
        async with asyncio.TaskGroup() as tasks:
            lease = tasks.create_task(supervised("lease", self._lease.run, self._metrics), name="lease")
            await supervised("dispatcher", self._drain, self._metrics)
            lease.cancel()

    def stop(self) -> None:
        """Take nothing more from the queue; `run` ends, and what is under way goes on."""
        self._stopping = True
        self._work.set()
        self._room.set()

    def look(self) -> None:
        """Look at the queue at once: something has changed there that no message says."""
        self._work.set()

    async def drain(self) -> None:
        """Wait until every delivery under way has come to an end."""
        while self._under_way:
            self._fewer.clear()
            await self._fewer.wait()

    @property
    def reaches_broker(self) -> bool:
        """Return whether there is a session with the broker."""
        return self._link.up

    @property
    def takes_direct(self) -> bool:
        """Return whether a message may be published as it comes; else it belongs into the queue."""
        return self._departures.takes_direct and len(self._under_way) < MAX_UNDER_WAY

    @property
    def takes_urgent(self) -> bool:
        """Return whether an urgent message may be published as it comes, whatever else is under way."""
        return self._departures.takes_direct and len(self._under_way) < 2 * MAX_UNDER_WAY

    def deliver_direct(self, message: Message, caller: Waiting | None) -> None:
        """Publish a claimed message that never was in the queue.

        Until `caller` is answered, it is rejected where the link is down or the broker refuses it; otherwise it waits
        in the queue then.
        """
        self._deliver(message, self._departures.trial(message, direct=True), caller, direct=True)

    async def take_back(self, message_id: str) -> bool:
        """Put a message that the link has not sent back into the queue, for a while; answer whether it is there."""
        for delivery in self._under_way:
            if delivery.message.id == message_id and self._link.take_back(message_id):
                self._goes_back(delivery)  # now: its answer comes in the next turn
                delivery.taken_back = self._loop.create_future()
                return await delivery.taken_back
        return False

    def received(self, changes: Sequence[Change]) -> None:
        """Something has changed: the queue is looked at where something was put there, or blocks it no more."""
        has_suspects = bool(self._suspects)
        for change in changes:
            # What was due was looked at in the same commit.
            if change.after in _NEWS and change.before is not Status.SCHEDULED:
                self._work.set()
                if change.message is not None and change.message.urgent:
                    self._room.set()
            if change.message is not None:
                self._has_changed(change.message)
            if change.before is Status.PUBLISHING and change.after in ANSWERED:
                self._link.take_back(change.id)  # its device had an earlier attempt
            if has_suspects and change.after not in UNFINISHED:
                self._suspects.forget(change.id)

    def _has_changed(self, message: Message) -> None:
        """Let another message leave where one has ended, and keep one from leaving that was superseded."""
        if message.superseded_by is not None and message.status is Status.PUBLISHING:
            self._link.take_back(message.id)  # where it is still in line, it need not leave
            self._departures.superseded(message)
        has_left = leaves_lane(message)
        if has_left:
            self._work.set()
        if not self._lease.alone and (has_left or message.reason == Reason.WAITING_FOR_REPLY):
            # Whoever commits last sees both: that one was the last of its lane, and that another waits for it.
            self._lanes.add(message.imei)
            self._work.set()

    async def _drain(self) -> None:
        while not self._stopping:
            self._work.clear()
            room = PAGE if self._link.up and self._has_room else 0
            urgent = PAGE if self._link.up and len(self._taken) < 2 * MAX_TAKEN else 0
            self._suspects.forget_late(self._clock.now())  # another process may have ended them
            self._departures.asks_for_page()
            self._room.clear()
            lanes, self._lanes = self._lanes, set()
            taken = await self._take(room, urgent, lanes)
            self._departures.page_taken(taken.messages)
            self._hold_back()
            await self._deliver_page(taken.messages)
            # Room may have come while the look was under way that had none to offer.
            has_more = (room == 0 and self._link.up) or len(taken.messages) >= PAGE
            if not (has_more and self._has_room):
                await self._pause(taken)

    async def _take(self, room: int, urgent: int, lanes: Collection[str] = ()) -> Taken:
        claim, now = f"{self._process}.{next(self._claims)}", self._clock.now()
        is_up = self._link.up
        taken = await self._store.queue.take(claim, room, now, urgent=urgent, reaches_broker=is_up, lanes=lanes)
        self._departures.paused = frozenset(taken.paused)
        return taken

    def _hold_back(self) -> None:
        """Take back what the link has not sent of devices that are paused meanwhile; it waits in the queue then."""
        paused = self._departures.paused
        for delivery in [each for each in self._under_way if each.message.imei in paused] if paused else ():
            # What never waits for its device is gone within seconds.
            if delivery.message.condition != Condition.ONLINE and self._link.take_back(delivery.message.id):
                self._goes_back(delivery)

    @property
    def _has_room(self) -> bool:
        """Return whether another page may be taken."""
        return len(self._taken) <= MAX_TAKEN - PAGE

    async def _deliver_page(self, messages: Sequence[Message]) -> None:
        """Deliver in this order."""
        for message in messages:
            try:
                trial = self._departures.trial(message, direct=False)
                if trial is Trial.ALONE:
                    await self._isolate(message)
                else:
                    self._deliver(message, trial)
            except Exception:
                log.exception("delivery_failed", message_id=message.id)
                self._deliver(message, Trial.LATER)

    async def _isolate(self, message: Message) -> None:
        """Deliver a suspect with nothing else in flight, so that it cannot be mistaken for an innocent one."""
        self._departures.isolating = True
        try:
            await self._all_answered()
            self._deliver(message, self._departures.trial(message, direct=False))
            await self._all_answered()
        finally:
            self._departures.isolating = False

    async def _all_answered(self) -> None:
        """Wait until the link has said of every publication what became of it; meanwhile the queue expires."""
        while self._unanswered:
            self._fewer_unanswered.clear()
            try:
                async with asyncio.timeout(_POLL_ALONE):
                    await self._fewer_unanswered.wait()
            except TimeoutError:
                await self._take(0, 0)

    async def _pause(self, taken: Taken) -> None:
        """Until something is queued, due or expired, there is room, the link is back, or others may have queued."""
        seconds = _POLL_ALONE if self._lease.alone else _POLL_SHARED
        if taken.next_at is not None:
            seconds = min(seconds, max(0, taken.next_at - self._clock.now()) / 1000)
        happens: Coroutine[None, None, object]
        if self._stopping:
            return
        if not self._has_room:
            happens = self._room.wait()
        elif self._link.up:
            happens = self._work.wait()
        else:
            happens = self._link.connected()
        # Not wait_for: where the awaited thing happens in the turn of a cancellation, it forgets the cancellation.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await happens

    def _deliver(self, message: Message, trial: Trial, caller: Waiting | None = None, *, direct: bool = False) -> None:
        """Let a message leave with all others of this turn of the loop, or put it back where it came from."""
        delivery = _Delivery(message, direct, caller)
        self._under_way.add(delivery)
        if not direct:
            self._taken.add(delivery)
            self._taken_of[message.imei] += 1
        match trial:
            case Trial.PLAIN | Trial.ALONE:
                self._leave(delivery)
            case Trial.BESIDE:
                self._suspects.tried_beside(message)
                self._leave(delivery)
            case Trial.BACK | Trial.LATER if message.condition == Condition.ONLINE:
                self._commit([(delivery, outcomes.not_now(message, self._facts()))])
            case Trial.BACK:
                self._commit([(delivery, outcomes.given_back(message))])
            case Trial.LATER:
                self._commit([(delivery, outcomes.put_aside(message, self._facts()))])
            case Trial.NEVER:
                log.warning("message_quarantined", message_id=message.id, imei=message.imei)
                code = self._suspects.reason_code(message)
                self._commit([(delivery, outcomes.quarantined(message, code, self._facts()))])
            case never:
                assert_never(never)

    def _leave(self, delivery: _Delivery) -> None:
        if not self._leaving:
            batch = self._loop.create_task(self._publish())
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
        self._leaving[delivery.message.id, delivery.message.attempts] = delivery
        self._unanswered += 1

    async def _publish(self) -> None:
        """Publish what leaves in this turn of the loop, and commit what comes of it, as the answers come."""
        batch, self._leaving = self._leaving, {}
        answered = self._link.publish(self._publications(batch.values()))
        if all(delivery.caller is not None and len(delivery.caller.pending) > 1 for delivery in batch.values()):
            answered.patience = _TOGETHER
        async for answers in answered:
            self._unanswered -= len(answers)
            if self._departures.isolating:
                self._fewer_unanswered.set()
            facts = self._facts()
            self._commit([self._outcome(batch[sent.message_id, sent.attempt], said, facts) for sent, said in answers])

    def _publications(self, batch: Iterable[_Delivery]) -> list[Publication]:
        publications = []
        now = time.perf_counter()
        clock_is_behind = self._loop.time() - self._clock.now() / 1000
        for delivery in batch:
            try:
                publications.append(_publication(delivery.message, clock_is_behind, self._reply_topics))
            except Exception as error:  # noqa: BLE001 - one bad message must not stop the rest
                self._unanswered -= 1
                self._commit([(delivery, self._faulty(delivery, error, self._facts()))])
            else:
                delivery.handed_over, delivery.may_have_left = now, True
        return publications

    def _outcome(self, delivery: _Delivery, said: int | Exception, facts: Facts) -> tuple[_Delivery, Outcome]:
        """Return what comes of a delivery of which the link `said` this."""
        message = delivery.message
        try:
            if self._suspects:
                # At QoS 0 nobody answers: it only was written.
                self._suspects.came_back(message, answered=message.qos > 0 and isinstance(said, int))
            match said:
                case int():
                    self._metrics.publish.observe(time.perf_counter() - delivery.handed_over)
                case LinkLost():
                    if isinstance(said.cause, BrokerUnanswered):
                        self._metrics.unanswered.inc()
                    self._suspects.went_wrong(message, said)
                case LinkDown() | PublicationExpired() | PublicationInvalid() | TakenBack():
                    delivery.may_have_left = False
                case _:
                    delivery.may_have_left = False
                    return delivery, self._faulty(delivery, said, facts)
            return delivery, outcomes.outcome(message, said, facts, may_queue=delivery.may_queue)
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the rest
            return delivery, self._faulty(delivery, error, facts)

    def _facts(self) -> Facts:
        return Facts(self._clock.now(), self._process, self._link.reports_subscribers)

    def _commit(self, ended: _Ended) -> None:
        """Commit what came of deliveries."""
        now = self._clock.now_ns()
        attempts: list[Attempt] = []
        moves: list[Move] = []
        clearings: list[Addition] = []
        for delivery, (after, kept) in ended:
            if delivery.caller is not None:
                delivery.caller.hold(after.id, rejected=after.status is Status.REJECTED)
            if after.status is Status.QUEUED:
                self._goes_back(delivery)
            attempts += kept
            moves.append(Move(delivery.message, after, now // 1_000_000))
            if after.retain and self._clears_expired and after.status in AT_BROKER and not after.clears:
                clearings.append(Addition(clearing(after, now, after.expires_at)))
        if attempts:
            self._store.messages.record(attempts)
        self._store.messages.move(moves).add_done_callback(partial(self._committed, ended))
        if clearings:
            self._store.messages.add(clearings)

    def _goes_back(self, delivery: _Delivery) -> None:
        if not delivery.is_returning:
            self._departures.goes_back(delivery.message)
            delivery.is_returning = True

    def _committed(self, ended: _Ended, moved: asyncio.Future[list[bool | Message | NotSaved]]) -> None:
        """End the deliveries whose outcome is committed, and those that somebody else has ended before."""
        error = moved.exception()
        results: Sequence[bool | Message | BaseException] = moved.result() if error is None else [error] * len(ended)
        again: _Ended = []
        for (delivery, (after, _)), result in zip(ended, results, strict=True):
            if delivery.is_returning:
                self._departures.is_back(delivery.message)
                delivery.is_returning = False
            if isinstance(result, BaseException):
                if not self._is_left_behind(delivery, result):
                    again.append((delivery, self._faulty(delivery, result, self._facts())))
                continue
            stands = after
            if isinstance(result, Message):  # its device replied before this was committed, or it was superseded
                self._waiters.notify(result)
                stands = result
            elif not result:
                log.warning("moved_by_another_process", message_id=after.id)
                if delivery.caller is not None:
                    delivery.caller.hold(after.id, rejected=False)
                self._waiters.look_up(after.id)
            self._end(delivery, is_back=result is not False and stands.status in _WITHDRAWABLE)
        self._fewer.set()
        if self._has_room:
            self._room.set()
        if again:
            self._commit(again)

    def _is_left_behind(self, delivery: _Delivery, error: BaseException) -> bool:
        """Return whether the database takes no end of a delivery: the next start settles what its row says then."""
        is_closed = self._stopping and isinstance(error, StoreError)
        if not (delivery.is_faulty or is_closed):
            return False
        log.warning("left_behind", message_id=delivery.message.id, cause=str(error))
        self._waiters.give_up(delivery.message)
        self._end(delivery, is_back=False)
        return True

    def _faulty(self, delivery: _Delivery, error: BaseException, facts: Facts) -> Outcome:
        """End a delivery that met a fault of ours, so that its row does not stay `publishing`."""
        delivery.is_faulty = True
        log.error("delivery_failed", message_id=delivery.message.id, exc_info=error)
        return outcomes.faulty(delivery.message, facts, may_have_left=delivery.may_have_left)

    def _end(self, delivery: _Delivery, *, is_back: bool) -> None:
        self._suspects.came_back(delivery.message, answered=False)  # whichever way it came
        self._under_way.discard(delivery)
        if delivery in self._taken:
            self._taken.discard(delivery)
            self._is_gone(delivery.message.imei)
        if delivery.taken_back is not None and not delivery.taken_back.done():
            delivery.taken_back.set_result(is_back)

    def _is_gone(self, imei: str) -> None:
        """Look at the queue where a device had a whole page on its way, and has no more: the next may be taken."""
        self._taken_of[imei] -= 1
        if self._taken_of[imei] == PAGE - 1:
            self._work.set()
        if not self._taken_of[imei]:
            del self._taken_of[imei]


def _publication(message: Message, clock_is_behind: float, replies: DeviceTopics) -> Publication:
    """Return what leaves of a message; `clock_is_behind`: seconds from the epoch's time to the loop's."""
    ends_at = message.leaves_before
    return Publication(
        topic=message.topic,
        payload=message.payload,
        qos=message.qos,
        retain=message.retain,
        message_id=message.id,
        attempt=message.attempts,
        deadline=None if ends_at is None else ends_at / 1000 + clock_is_behind,
        response_topic=None if message.reply_within is None else replies.of(message.imei),
        urgent=message.urgent,
    )
