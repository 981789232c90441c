"""What is due goes over the link, and what came of it goes into the store."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
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
from chapar.delivery.waiting import Waiters
from chapar.errors import (
    BrokerUnanswered,
    LinkDown,
    LinkLost,
    NotSaved,
    PublicationExpired,
    PublicationInvalid,
    StoreError,
    StoreUnavailable,
    TakenBack,
)
from chapar.link.keeper import Link
from chapar.link.publication import Publication
from chapar.model.acceptance import Addition
from chapar.model.change import Move
from chapar.model.message import AT_BROKER, UNFINISHED, Message, Status, clearing
from chapar.model.queue import Taken
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised
from chapar.store.store import Store

log = structlog.get_logger(__name__)

PAGE: Final = 100  # messages taken in one commit: a few milliseconds, for which a caller may have to wait
MAX_TAKEN: Final = 4 * PAGE  # … and not at their end: keeps the broker's window full between two commits
MAX_UNDER_WAY: Final = 1000  # deliveries at a time, the direct ones included; beyond it messages wait in the database

_POLL_ALONE = 1.0  # seconds between looks at the queue; what this process queues itself wakes it
_POLL_SHARED = 0.1  # where other processes may queue too: a look is one indexed read
_LATER = 1_000  # ms until a message is tried again that was not to be tried now


@dataclass(eq=False, slots=True)
class _Delivery:
    """A message on its way: handed to the link, answered, committed."""

    message: Message  #: as it was claimed
    direct: bool  #: whether it never was in the queue
    caller: asyncio.Future[Message | None] | None  #: of a call that would not queue, until it is answered
    ended: asyncio.Future[Message]
    look: asyncio.Task[None] | None = None  #: keeps the task alive
    handed_over: float = 0.0  #: to the link, by `time.perf_counter`: the loop's own clock is too coarse under uvloop
    may_have_left: bool = False
    is_faulty: bool = False  #: whether a fault of ours has ended it once already

    @property
    def may_queue(self) -> bool:
        """Whether it waits in the queue where the broker cannot take it now; else it is rejected.

        A call that is answered before its message has ended was told that the delivery goes on.
        """
        return self.caller is None or self.caller.done()


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
        clock: Clock,
        process: str,
        metrics: Metrics,
        *,
        alone: bool,
        clears_expired: bool,
    ) -> None:
        self._store = store
        self._link = link
        self._lease = lease
        self._clock = clock
        self._process = process
        self._metrics = metrics
        self._alone = alone  # nobody else queues anything, or moves what is here
        self._clears_expired = clears_expired  # what the broker retains, which forgets nothing by itself
        self._loop = asyncio.get_running_loop()
        self._departures = Departures(link, lease)
        self._suspects = self._departures.suspects
        self._claims = count(1)
        self._work = asyncio.Event()  # something was queued here
        self._under_way: set[_Delivery] = set()
        self._taken: set[_Delivery] = set()  # those under way that come from the queue
        self._fewer = asyncio.Event()  # a delivery has come to an end
        self._room = asyncio.Event()  # another page may be taken
        self._waiters = Waiters()
        self._leaving: list[tuple[_Delivery, Publication]] = []  # what this turn of the loop hands to the link
        self._unanswered = 0  # publications that the link has not said anything about
        self._fewer_unanswered = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Settle what dead processes left, and deliver what is due, until stopped."""
        async with asyncio.TaskGroup() as tasks:
            keep = partial(self._lease.run, self.wake)
            lease = tasks.create_task(supervised("lease", keep, self._metrics), name="lease")
            await supervised("dispatcher", self._drain, self._metrics)
            lease.cancel()

    def stop(self) -> None:
        """Take nothing more from the queue; `run` ends, and what is under way goes on."""
        self._stopping = True
        self.wake()
        self._room.set()

    async def drained(self) -> None:
        """Wait until every delivery under way has come to an end."""
        while self._under_way:
            self._fewer.clear()
            await self._fewer.wait()

    @property
    def takes_direct(self) -> bool:
        """Whether a message may be published as it comes; else it belongs into the queue."""
        return self._departures.takes_direct and len(self._under_way) < MAX_UNDER_WAY

    def deliver_direct(
        self, message: Message, caller: asyncio.Future[Message | None] | None
    ) -> asyncio.Future[Message]:
        """Publish a claimed message that never was in the queue; the future is the message as it stands afterwards.

        Until `caller` is answered, it is rejected where the link is down or the broker refuses it; otherwise it waits
        in the queue then. Cancelling the future cancels nothing.
        """
        trial = self._departures.trial(message, direct=True)
        return self._deliver(self._begin(message, direct=True, caller=caller), trial)

    def await_outcome(self, message_id: str, told: asyncio.Future[Message | None], deadline: float) -> None:
        """Let `told` be what becomes of a message: the message once it ended, or once nobody can say what came of it.

        None where that is not known at the `deadline` (loop time), or when the gateway stops. Ask in the turn in which
        the message is known to be added. Cancelling the future is how a caller stops waiting.
        """
        self._waiters.add(message_id, told, deadline)

    async def take_back(self, message_id: str) -> bool:
        """Put a message that the link has not sent back into the queue, for a while; answer whether it is there."""
        for delivery in self._under_way:
            if delivery.message.id == message_id and self._link.take_back(message_id):
                return (await delivery.ended).status is Status.QUEUED
        return False

    def tell(self, message: Message) -> None:
        """Tell who waits for this message what became of it."""
        if message.status not in UNFINISHED:
            self._suspects.forget(message.id)
        self._waiters.tell(message)

    def hurry(self) -> None:
        """The gateway stops: whoever waits is told now that time is up; what is under way goes on."""
        self._waiters.hurry()

    def wake(self) -> None:
        """Look at the queue now: something was put there."""
        self._work.set()

    async def _drain(self) -> None:
        while not self._stopping:
            self._work.clear()
            room = PAGE if self._link.up and self._has_room else 0
            self._suspects.forget_late(self._clock.now())  # another process may have ended them
            self._departures.asks_for_page()
            taken = await self._take(room)
            self._departures.page_taken(taken.messages)
            await self._deliver_all(taken.messages)
            await self._note_ended(taken)
            if len(taken.messages) < PAGE or not self._has_room:
                await self._pause(taken)

    async def _take(self, room: int) -> Taken:
        return await self._store.queue.take(f"{self._process}.{next(self._claims)}", room, self._clock.now())

    @property
    def _has_room(self) -> bool:
        """Whether another page may be taken."""
        return len(self._taken) <= MAX_TAKEN - PAGE

    async def _deliver_all(self, messages: Sequence[Message]) -> None:
        """Deliver in this order."""
        for message in messages:
            try:
                trial = self._departures.trial(message, direct=False)
                if trial is Trial.ALONE:
                    await self._isolate(message)
                else:
                    self._deliver(self._begin(message, direct=False), trial)
            except Exception:
                log.exception("delivery_failed", message_id=message.id)
                self._move(self._begin(message, direct=False), outcomes.given_back(message, self._clock.now() + _LATER))

    async def _pause(self, taken: Taken) -> None:
        """Until something is queued, due or expired, there is room, the link is back, or others may have queued."""
        seconds = _POLL_ALONE if self._alone else _POLL_SHARED
        if taken.next_at is not None:
            seconds = min(seconds, max(0, taken.next_at - self._clock.now()) / 1000)
        happens: Coroutine[None, None, object]
        if self._stopping:
            return
        if not self._has_room:
            self._room.clear()
            happens = self._room.wait()
        elif self._link.up:
            happens = self._work.wait()
        else:
            happens = self._link.connected()
        # Not wait_for: where the awaited thing happens in the turn of a cancellation, it forgets the cancellation.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await happens

    async def _note_ended(self, taken: Taken) -> None:
        """Count what has just ended in the queue, and tell who waits for it, or for what others may have moved."""
        ended = [change for change in taken.others if change.after not in UNFINISHED]
        for change in ended:
            self._metrics.finished[change.after.value, change.reason or ""].inc()
            self._suspects.forget(change.id)
        ids = self._waiters.among(change.id for change in ended) if self._alone else self._waiters.all()
        if ids:
            with suppress(StoreUnavailable):
                for message in await self._store.messages.find_all(ids):
                    if message.status not in {Status.QUEUED, Status.PUBLISHING}:
                        self.tell(message)

    async def _isolate(self, message: Message) -> None:
        """Deliver a suspect with nothing else in flight, so that it cannot be mistaken for an innocent one."""
        self._departures.isolating = True
        try:
            await self._all_answered()
            self._deliver(self._begin(message, direct=False), self._departures.trial(message, direct=False))
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
                await self._note_ended(await self._take(0))

    # From here to its end a delivery is callbacks: with a task for each, and its caller woken twice, a send took 144 µs
    # of the gateway instead of 126.

    def _begin(
        self, message: Message, *, direct: bool, caller: asyncio.Future[Message | None] | None = None
    ) -> _Delivery:
        delivery = _Delivery(message, direct, caller, self._loop.create_future())
        self._under_way.add(delivery)
        if not direct:
            self._taken.add(delivery)
        return delivery

    def _deliver(self, delivery: _Delivery, trial: Trial) -> asyncio.Future[Message]:
        """Publish a message, or put it back where it came from; the future is the message as it stands afterwards."""
        message = delivery.message
        match trial:
            case Trial.PLAIN | Trial.ALONE:
                self._publish(delivery)
            case Trial.BESIDE:
                self._suspects.tried_beside(message)
                self._publish(delivery)
            case Trial.BACK:
                self._move(delivery, outcomes.given_back(message))
            case Trial.LATER:
                self._move(delivery, outcomes.given_back(message, self._clock.now() + _LATER))
            case Trial.NEVER:
                log.warning("message_quarantined", message_id=message.id, imei=message.imei)
                self._move(delivery, outcomes.quarantined(message, self._suspects.reason_code(message), self._facts()))
            case never:
                assert_never(never)
        return delivery.ended

    def _publish(self, delivery: _Delivery) -> None:
        """Hand a delivery to the link, together with all others of this turn of the loop."""
        try:
            leaving = delivery, self._publication(delivery.message)
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the rest
            self._fail(delivery, error)
            return
        if not self._leaving:
            delivery.look = asyncio.create_task(self._publish_all())
        self._leaving.append(leaving)
        self._unanswered += 1

    async def _publish_all(self) -> None:
        leaving, self._leaving = self._leaving, []
        published = self._link.publish([publication for _, publication in leaving])
        deliveries, now = {}, time.perf_counter()
        for delivery, publication in leaving:
            delivery.handed_over, delivery.may_have_left = now, True
            deliveries[publication.message_id, publication.attempt] = delivery
        async for answers in published:
            for publication, said in answers:
                self._heard(deliveries[publication.message_id, publication.attempt], said)

    def _heard(self, delivery: _Delivery, said: int | Exception) -> None:
        """What the link says became of a publication."""
        self._unanswered -= 1
        if self._departures.isolating:
            self._fewer_unanswered.set()
        delivery.may_have_left = isinstance(said, int | LinkLost)
        try:
            outcome = self._outcome(delivery, said)
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the rest
            self._fail(delivery, error)
        else:
            self._move(delivery, outcome)

    def _outcome(self, delivery: _Delivery, said: int | Exception) -> Outcome:
        message = delivery.message
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
            case LinkDown() | PublicationExpired() | PublicationInvalid():
                pass  # it has not left
            case TakenBack():
                return outcomes.given_back(message, self._clock.now() + _LATER)
            case _:
                raise said
        return outcomes.outcome(message, said, self._facts(), may_queue=delivery.may_queue)

    def _facts(self) -> Facts:
        return Facts(self._clock.now(), self._process, self._link.reports_subscribers)

    def _move(self, delivery: _Delivery, outcome: Outcome) -> None:
        """Commit what came of a delivery, and tell who waits for it."""
        after = outcome.message
        if after.status is Status.QUEUED:
            self._departures.goes_back(after)
        else:
            self._metrics.finished[after.status.value, after.reason or ""].inc()
        self._store.messages.record(outcome.attempts)
        moving = self._store.messages.move([Move(delivery.message, after, self._clock.now())])
        moving.add_done_callback(partial(self._moved, delivery, after))
        if after.retain and self._clears_expired and after.status in AT_BROKER and not after.clears:
            self._store.messages.add([Addition(clearing(after, self._clock.now_ns(), after.expires_at))])

    def _moved(self, delivery: _Delivery, after: Message, moving: asyncio.Future[list[bool | NotSaved]]) -> None:
        if after.status is Status.QUEUED:
            self._departures.is_back(after)
        if (error := moving.exception()) is not None:
            self._fail(delivery, error)
            return
        [moved] = moving.result()
        if isinstance(moved, NotSaved):
            self._fail(delivery, moved)
        elif moved:
            self._tell_end(delivery, after)
        else:
            log.warning("moved_by_another_process", message_id=after.id)
            delivery.look = asyncio.create_task(self._look(delivery))

    async def _look(self, delivery: _Delivery) -> None:
        """See where a message stands that another process has moved."""
        found: Message | None = None
        try:
            with suppress(StoreUnavailable):
                found = await self._store.messages.find(delivery.message.id)
        finally:
            if found is None:  # nobody can say what it is now, so nobody is told
                self._end(delivery, delivery.message)
            else:
                self._tell_end(delivery, found)

    def _tell_end(self, delivery: _Delivery, after: Message) -> None:
        if after.status is Status.QUEUED:
            self.wake()
        if after.status is not Status.QUEUED or after.possible_duplicate:
            # A 201 is for what was heard once: whoever waits for one whose outcome is in doubt is told so now.
            self.tell(after)
        self._end(delivery, after)

    def _fail(self, delivery: _Delivery, error: BaseException) -> None:
        """End a delivery that met a fault of ours, so that its row does not stay `publishing`.

        Where the database refuses this end too, or is closed, the next start settles what the row says.
        """
        message = delivery.message
        is_closed = self._stopping and isinstance(error, StoreError)
        if delivery.is_faulty or is_closed:
            log.warning("left_behind", message_id=message.id, cause=str(error))
            self.tell(message)
            self._end(delivery, message)
            return
        delivery.is_faulty = True
        log.error("delivery_failed", message_id=message.id, exc_info=error)
        self._move(delivery, outcomes.faulty(message, self._facts(), may_have_left=delivery.may_have_left))

    def _end(self, delivery: _Delivery, after: Message) -> None:
        self._suspects.came_back(delivery.message, answered=False)  # whichever way it came
        self._under_way.discard(delivery)
        self._taken.discard(delivery)
        self._fewer.set()
        if self._has_room:
            self._room.set()
        if not delivery.ended.done():
            delivery.ended.set_result(after)

    def _publication(self, message: Message) -> Publication:
        deadline = None
        if message.expires_at is not None:
            left = (message.expires_at - self._clock.now()) / 1000
            deadline = self._loop.time() + left
        return Publication(
            topic=message.topic,
            payload=message.payload,
            qos=message.qos,
            retain=message.retain,
            message_id=message.id,
            attempt=message.attempts,
            deadline=deadline,
        )
