"""What is due goes over the link, and what came of it goes into the store."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, Unpack, assert_never

import structlog

from chapar.delivery.suspects import Suspects, Trial
from chapar.delivery.waiting import Waiters
from chapar.errors import (
    BrokerUnanswered,
    LinkDown,
    LinkLost,
    PublicationExpired,
    PublicationInvalid,
    StoreError,
    StoreUnavailable,
)
from chapar.link.keeper import Link
from chapar.link.publication import Publication
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, TRANSIENT, reason_slug
from chapar.model.message import AT_BROKER, UNFINISHED, Attempt, Changes, Message, Status, clearing
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.runtime.supervision import supervised
from chapar.store.queue import Lease
from chapar.store.store import Store, Taken

log = structlog.get_logger(__name__)

PAGE: Final = 100  # messages taken in one commit: a few milliseconds, for which a caller may have to wait
MAX_TAKEN: Final = 4 * PAGE  # … and not at their end: keeps the broker's window full between two commits
MAX_UNDER_WAY: Final = 1000  # deliveries at a time, the direct ones included; beyond it messages wait in the database
MAX_ATTEMPTS: Final = 8  # of a message that the broker keeps putting off; the last comes two minutes after the first

_POLL_ALONE = 1.0  # seconds between looks at the queue; what this process queues itself wakes it
_POLL_SHARED = 0.1  # where other processes may queue too: a look is one indexed read
_FIRST_BACKOFF = 1_000  # ms until a message that the broker put off is tried again; doubles …
_LONGEST_BACKOFF = 60_000  # … up to this
_INTERNAL_ERROR = "internal_error"  # the reason of a message that met a fault of ours
_LATER = 1_000  # ms until a message is tried again that was not to be tried now


@dataclass(eq=False, slots=True)
class _Delivery:
    """A message on its way: handed to the link, answered, committed."""

    message: Message  #: as it was claimed
    direct: bool  #: whether it never was in the queue
    ended: asyncio.Future[Message]
    look: asyncio.Task[None] | None = None  #: keeps the task alive
    acknowledged: asyncio.Future[int] | None = None  #: what the link says, once it was handed to it
    handed_over: float = 0.0  #: to the link, by `time.perf_counter`: the loop's own clock is too coarse under uvloop
    is_taken_back: bool = False  #: whether the link gave it back unsent
    is_faulty: bool = False  #: whether a fault of ours has ended it once already


class Dispatcher:
    """Delivers messages that this process has claimed.

    A message comes here committed as `publishing`, its attempt counted: whatever happens to the process next, its
    row says that a PUBLISH may have left.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        link: Link,
        clock: Clock,
        process: str,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._clock = clock
        self._process = process
        self._metrics = metrics or Metrics()
        self._loop = asyncio.get_running_loop()
        self._alone = settings.serves_alone
        self._keeps_expired = settings.broker_url is None  # the built-in broker forgets nothing that it retains
        self._claims = count(1)
        self._work = asyncio.Event()  # something was queued here
        self._under_way: set[_Delivery] = set()
        self._taken: set[_Delivery] = set()  # those under way that come from the queue
        self._fewer = asyncio.Event()  # a delivery has come to an end
        self._room = asyncio.Event()  # another page may be taken
        self._waiters = Waiters()
        self._went_back: set[str] = set()  # devices of which something went back since the last take
        self._returning: dict[str, list[str]] = {}  # devices, and what of them is on its way back into the queue
        self._leased_until = 0.0  # loop time until which nobody takes over what this process holds
        self._suspects = Suspects()
        self._isolating = False
        self._unanswered = 0  # publications that the link has not said anything about
        self._fewer_unanswered = asyncio.Event()
        self._stopping = False

    async def enter(self) -> None:
        """Take a lease on what this process will claim. Must be done before anything is claimed."""
        asked = self._loop.time()
        name = f"{socket.gethostname()}:{os.getpid()}"
        await self._store.hold(Lease(self._process, name, self._settings.lease, self._alone))
        self._leased_until = asked + self._settings.lease

    async def run(self) -> None:
        """Settle what dead processes left, and deliver what is due, until stopped."""
        async with asyncio.TaskGroup() as tasks:
            lease = tasks.create_task(supervised("lease", self._keep_lease, self._metrics), name="lease")
            await supervised("dispatcher", self._drain, self._metrics)
            lease.cancel()

    def stop(self) -> None:
        """Take nothing more from the queue; `run` ends, and what is under way goes on."""
        self._stopping = True
        self.wake()
        self._room.set()

    async def leave(self) -> None:
        """Give the lease up; other processes take over at once what is left."""
        await self._store.leave(self._process)

    async def drained(self) -> None:
        """Wait until every delivery under way has come to an end."""
        while self._under_way:
            self._fewer.clear()
            await self._fewer.wait()

    @property
    def takes_direct(self) -> bool:
        """Whether a message may be published as it comes; else it belongs into the queue."""
        return self._link.up and not self._isolating and len(self._under_way) < MAX_UNDER_WAY

    def deliver(self, message: Message, *, direct: bool = False) -> asyncio.Future[Message]:
        """Publish a claimed message; the future is the message as it stands afterwards, committed.

        One that comes `direct` was never in the queue. While its caller waits it is rejected where the link is down
        or the broker refuses it; otherwise it waits in the queue then. Cancelling the future cancels nothing.
        """
        delivery = self._begin(message, direct=direct)
        if self._must_wait(message, direct=direct):
            self._give_back(delivery)
        else:
            self._publish(delivery)
        return delivery.ended

    def await_outcome(self, message_id: str, told: asyncio.Future[Message | None], deadline: float) -> None:
        """Let `told` be what becomes of a message: the message once it ended, or once nobody can say what came of it.

        None where that is not known at the `deadline` (loop time), or when the gateway stops. Ask in the turn in which
        the message is known to be added. Cancelling the future is how a caller stops waiting.
        """
        self._waiters.add(message_id, told, deadline)

    async def take_back(self, message_id: str) -> bool:
        """Put a message that the link has not sent back into the queue, for a while; answer whether it is there."""
        for delivery in self._under_way:
            acknowledged = delivery.acknowledged if delivery.message.id == message_id else None
            if acknowledged is not None and self._link.take_back(acknowledged):
                delivery.is_taken_back = True
                self._give_back(delivery, not_before=self._clock.now() + _LATER)
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

    async def _keep_lease(self) -> None:
        while True:
            await self.enter()
            if settled := await self._store.settle(self._process, self._clock.now()):
                log.warning("left_behind_by_dead_process", messages=settled)
                self.wake()
            await asyncio.sleep(self._settings.lease / 3)

    async def _drain(self) -> None:
        while not self._stopping:
            self._work.clear()
            room = PAGE if self._link.up and self._has_room else 0
            self._went_back = set()
            self._suspects.forget_late(self._clock.now())  # another process may have ended them
            before = {imei: set(ids) for imei, ids in self._returning.items()}
            taken = await self._take(room)
            # What was on its way back and is not here came too late, so what is behind it must not overtake it.
            here = {message.id for message in taken.messages}
            self._went_back |= {imei for imei, ids in before.items() if not ids <= here}
            await self._deliver_all(taken.messages)
            await self._note_ended(taken)
            if len(taken.messages) < PAGE or not self._has_room:
                await self._pause(taken)

    async def _take(self, room: int) -> Taken:
        return await self._store.take(f"{self._process}.{next(self._claims)}", room, self._clock.now())

    @property
    def _has_room(self) -> bool:
        """Whether another page may be taken."""
        return len(self._taken) <= MAX_TAKEN - PAGE

    async def _deliver_all(self, messages: Sequence[Message]) -> None:
        """Deliver in this order; what is behind something of its device that went back meanwhile goes back too."""
        for message in messages:
            try:
                if message.imei in self._went_back:
                    self._give_back(self._begin(message, direct=False))
                elif self._suspects:
                    await self._try(message)
                else:
                    self.deliver(message)
            except Exception:
                log.exception("delivery_failed", message_id=message.id)
                self._give_back(self._begin(message, direct=False), not_before=self._clock.now() + _LATER)

    async def _try(self, message: Message) -> None:
        """Deliver a message while there are suspects, which it may be one of."""
        link = self._link
        match self._suspects.trial(message, link.window, broker_was_there=link.broker_was_there):
            case Trial.PLAIN:
                self.deliver(message)
            case Trial.ALONE:
                await self._isolate(message)
            case Trial.BESIDE:
                self._suspects.tried_beside(message)
                self.deliver(message)
            case Trial.LATER:
                self._give_back(self._begin(message, direct=False), not_before=self._clock.now() + _LATER)
            case Trial.NEVER:
                log.warning("message_quarantined", message_id=message.id, imei=message.imei)
                self._move(self._begin(message, direct=False), self._quarantined(message))
            case never:
                assert_never(never)

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
        ended = [*taken.expired, *taken.superseded]
        if taken.expired:
            self._metrics.finished[Status.EXPIRED.value, "expired"].inc(len(taken.expired))
        if taken.superseded:
            self._metrics.finished[Status.CANCELLED.value, "superseded"].inc(len(taken.superseded))
        for message_id in ended:
            self._suspects.forget(message_id)
        ids = self._waiters.among(ended) if self._alone else self._waiters.all()
        if ids:
            with suppress(StoreUnavailable):
                for message in await self._store.find_all(ids):
                    if message.status not in {Status.QUEUED, Status.PUBLISHING}:
                        self.tell(message)

    async def _isolate(self, message: Message) -> None:
        """Deliver a suspect with nothing else in flight, so that it cannot be mistaken for an innocent one."""
        self._isolating = True
        try:
            await self._all_answered()
            self.deliver(message)
            await self._all_answered()
        finally:
            self._isolating = False

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

    def _begin(self, message: Message, *, direct: bool) -> _Delivery:
        delivery = _Delivery(message, direct, self._loop.create_future())
        self._under_way.add(delivery)
        if not direct:
            self._taken.add(delivery)
        return delivery

    def _publish(self, delivery: _Delivery) -> None:
        try:
            acknowledged = self._link.publish(self._publication(delivery.message))
        except LinkDown:
            self._move(delivery, self._unsent(delivery.message, direct=delivery.direct))
        except PublicationInvalid as error:
            self._move(delivery, self._impossible(delivery.message, error.reason_code))
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the rest
            self._fail(delivery, error)
        else:
            delivery.handed_over = time.perf_counter()
            delivery.acknowledged = acknowledged
            self._unanswered += 1
            acknowledged.add_done_callback(partial(self._heard, delivery))

    def _heard(self, delivery: _Delivery, acknowledged: asyncio.Future[int]) -> None:
        """What the link says became of a publication."""
        self._unanswered -= 1
        if self._isolating:
            self._fewer_unanswered.set()
        if delivery.is_taken_back:
            return
        try:
            after = self._outcome(delivery, acknowledged)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - one bad message must not stop the rest
            self._fail(delivery, error)
        else:
            self._move(delivery, after)

    def _outcome(self, delivery: _Delivery, acknowledged: asyncio.Future[int]) -> Message:
        message, direct = delivery.message, delivery.direct
        if self._suspects:
            # At QoS 0 nobody answers: it only was written.
            self._suspects.came_back(message, answered=message.qos > 0 and acknowledged.exception() is None)
        try:
            reason_code = acknowledged.result()
        except LinkDown:
            return self._unsent(message, direct=direct)
        except LinkLost as error:
            return self._in_doubt(message, error)
        except PublicationExpired:
            return self._ended(message, Status.EXPIRED, reason="expired", attempts=message.attempts - 1)
        self._metrics.publish.observe(time.perf_counter() - delivery.handed_over)
        return self._answered(message, reason_code, direct=direct)

    def _must_wait(self, message: Message, *, direct: bool) -> bool:
        """Whether something has to happen before this message may leave.

        Something earlier of its device is on its way back into the queue; or it came direct while a suspect is being
        delivered alone, or the broker leaves its device unanswered; or this process stood still for so long that
        another may have taken over.
        """
        if message.imei in self._returning:
            return True
        if direct and (self._isolating or self._suspects.is_unanswered(message.imei)):
            return True
        return not self._alone and self._loop.time() >= self._leased_until

    def _give_back(self, delivery: _Delivery, *, not_before: int | None = None) -> None:
        """Put a message that was not tried back where it came from, to stay there until a time (ms since the epoch)."""
        message = delivery.message
        back = message.moved(Status.QUEUED, attempts=message.attempts - 1, claim=None, not_before=not_before)
        self._move(delivery, back)

    def _move(self, delivery: _Delivery, after: Message) -> None:
        """Commit what came of a delivery, and tell who waits for it."""
        if after.status is Status.QUEUED:
            self._returning.setdefault(after.imei, []).append(after.id)
            self._went_back.add(after.imei)
        else:
            self._metrics.finished[after.status.value, after.reason or ""].inc()
        self._store.move(delivery.message, after).add_done_callback(partial(self._moved, delivery, after))
        if after.retain and self._keeps_expired and after.status in AT_BROKER and not after.clears:
            self._store.add(clearing(after, self._clock.now_ns(), after.expires_at))

    def _moved(self, delivery: _Delivery, after: Message, moved: asyncio.Future[bool]) -> None:
        if after.status is Status.QUEUED:
            self._returned(after)
        if (error := moved.exception()) is not None:
            self._fail(delivery, error)
            return
        if moved.result():
            self._tell_end(delivery, after)
        else:
            log.warning("moved_by_another_process", message_id=after.id)
            delivery.look = asyncio.create_task(self._look(delivery))

    def _returned(self, message: Message) -> None:
        """A message is no longer on its way back into the queue; it may be so twice, where it was taken in between."""
        returning = self._returning[message.imei]
        returning.remove(message.id)
        if not returning:
            del self._returning[message.imei]

    async def _look(self, delivery: _Delivery) -> None:
        """See where a message stands that another process has moved."""
        found: Message | None = None
        try:
            with suppress(StoreUnavailable):
                found = await self._store.find(delivery.message.id)
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
        self._move(delivery, self._faulty(message, may_have_left=delivery.handed_over > 0))

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

    def _answered(self, message: Message, reason_code: int, *, direct: bool) -> Message:
        """The message after its PUBACK."""
        if reason_code >= FIRST_FAILURE:
            if reason_code in TRANSIENT and message.attempts < MAX_ATTEMPTS and self._may_queue(message, direct=direct):
                return self._put_off(message, reason_code)
            return self._refused(message, reason_code)
        if message.qos == 0:  # there was no PUBACK: it left, and that is all anybody knows
            return self._ended(message, Status.UNCONFIRMED, reason="qos_0")
        if message.attempts > 1:
            self._record(message, "published", reason_code)
        if message.clears and message.origin is not None:
            cleared = Attempt(message.origin, 0, self._clock.now(), self._process, "retained_cleared", reason_code)
            self._store.record(cleared)
        heard = reason_code != NO_MATCHING_SUBSCRIBERS
        return self._ended(
            message,
            Status.PUBLISHED,
            reason_code=reason_code,
            subscribers=False if not heard else self._link.reports_subscribers or None,
            published_at=self._clock.now(),
        )

    def _refused(self, message: Message, reason_code: int) -> Message:
        self._record(message, reason_slug(reason_code), reason_code)
        return self._ended(message, Status.REJECTED, reason=reason_slug(reason_code), reason_code=reason_code)

    def _impossible(self, message: Message, reason_code: int) -> Message:
        """The broker's announced limits forbid it, so it was not tried."""
        slug, untried = reason_slug(reason_code), message.attempts - 1
        return self._ended(message, Status.REJECTED, reason=slug, attempts=untried, reason_code=reason_code)

    def _put_off(self, message: Message, reason_code: int) -> Message:
        """The broker may take it later: it waits in the queue, and what is behind it on its device waits too."""
        self._record(message, reason_slug(reason_code), reason_code)
        backoff = min(_FIRST_BACKOFF << (message.attempts - 1), _LONGEST_BACKOFF)
        not_before = self._clock.now() + round(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load
        return message.moved(Status.QUEUED, claim=None, not_before=not_before)

    def _may_queue(self, message: Message, *, direct: bool) -> bool:
        """Whether a message may wait: unless its caller waits, who was not told that it would."""
        return not direct or not self._waiters.is_awaited(message.id)

    def _unsent(self, message: Message, *, direct: bool) -> Message:
        """Nothing of it left, so the attempt does not count."""
        if self._may_queue(message, direct=direct):
            return message.moved(Status.QUEUED, attempts=message.attempts - 1, claim=None)
        return self._ended(message, Status.REJECTED, reason="broker_unreachable", attempts=message.attempts - 1)

    def _in_doubt(self, message: Message, lost: LinkLost) -> Message:
        """It left, and nobody knows what came of it."""
        if isinstance(lost.cause, BrokerUnanswered):
            self._metrics.unanswered.inc()
        self._suspects.went_wrong(message, lost)
        self._record(message, "link_lost", self._suspects.reason_code(message))
        if message.at_most_once:
            return self._ended(message, Status.UNCONFIRMED, reason="link_lost")
        return message.moved(Status.QUEUED, possible_duplicate=True, claim=None)

    def _quarantined(self, message: Message) -> Message:
        """It is taken for the cause of what went wrong whenever it was in flight, so it is not tried any more."""
        code, untried = self._suspects.reason_code(message), message.attempts - 1
        return self._ended(message, Status.REJECTED, reason="quarantined", attempts=untried, reason_code=code)

    def _faulty(self, message: Message, *, may_have_left: bool) -> Message:
        """A fault of ours, such as a text that cannot be encoded, ended the attempt.

        What may have left is sent again once and not more often: the same fault may await every attempt.
        """
        self._record(message, _INTERNAL_ERROR, None)
        if not may_have_left:
            return self._ended(message, Status.REJECTED, reason=_INTERNAL_ERROR, attempts=message.attempts - 1)
        if message.at_most_once or message.possible_duplicate:
            return self._ended(message, Status.UNCONFIRMED, reason=_INTERNAL_ERROR)
        return message.moved(Status.QUEUED, possible_duplicate=True, claim=None)

    def _ended(self, message: Message, status: Status, **changes: Unpack[Changes]) -> Message:
        """The message in a final state, with these changes: no process claims it any longer."""
        changes.setdefault("reason", None)
        changes["claim"] = None
        changes["finished_at"] = self._clock.now()
        return message.moved(status, **changes)

    def _record(self, message: Message, outcome: str, reason_code: int | None) -> None:
        """Keep an attempt that was not the plain first success."""
        self._store.record(
            Attempt(message.id, message.attempts, self._clock.now(), self._process, outcome, reason_code)
        )
