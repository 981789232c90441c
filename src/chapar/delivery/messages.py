"""The use cases: send a message, withdraw it, find it, list, report, and say whether the gateway is ready."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import NamedTuple

import structlog

from chapar.delivery.acceptance import Sending
from chapar.delivery.capacity import Room
from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.idempotency import Answer, IdempotencyKeys, Replay, Use
from chapar.delivery.outcomes import not_sent
from chapar.errors import MessageNotFound, NotCancellable, NotRepeatable, NotSent, StoreUnavailable
from chapar.link.keeper import Link
from chapar.model.audit import AuditFilters, AuditPage, Entry, cancellation
from chapar.model.message import UNFINISHED, Attempt, Command, Message, Status, Wait, clearing
from chapar.model.principal import Caller
from chapar.model.report import Bucket, Filters, Page, Position, Summary
from chapar.runtime import logs
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.runtime.supervision import supervised
from chapar.store.store import Store

log = structlog.get_logger(__name__)

_CANCELLED_AT_ONCE = 500  # messages withdrawn in one commit: a few milliseconds
_KEY_REVOKED = "key revoked"  # why, in the audit trail
_STEP = 1000  # ms by which the system's clock moves only where it was stepped
_FORGET_EVERY = 600.0  # seconds between looks for what is old enough to be forgotten
_MEASURE_EVERY = 1.0  # seconds


class Readiness(NamedTuple):
    """What stands between the gateway and a delivery: one sentence each, None where all is well."""

    database: str | None
    broker: str | None


class Gateway:
    """What a caller may ask of Chapar. Knows neither HTTP nor the command line."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        link: Link,
        dispatcher: Dispatcher,
        clock: Clock,
        process: str,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._dispatcher = dispatcher
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics or Metrics()
        self._room = Room(settings, store.queue, self._metrics)
        self._sending = Sending(settings, store, link, dispatcher, self._room, clock, process, self._metrics)
        self._keys = IdempotencyKeys(store, clock, process, self._sending.when_landed)
        self._reconnects = 0  # of the link, as counted so far
        self._strays = Counter[str]()  # likewise
        self._drift = 0  # ms by which the system's clock was ahead when that was last said

    async def run(self) -> None:
        """Count what is unfinished, and forget what is old, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised("backlog", self._room.run, self._metrics), name="backlog")
            tasks.create_task(supervised("measurements", self._keep_measuring, self._metrics), name="measurements")
            tasks.create_task(supervised("retention", self._forget, self._metrics), name="retention")

    async def _keep_measuring(self) -> None:
        while True:
            self._measure()
            await asyncio.sleep(_MEASURE_EVERY)

    def _measure(self) -> None:
        self._room.measure(self._clock.now())
        self._metrics.link_up.set(self._link.up)
        self._metrics.in_flight.set(self._link.in_flight)
        self._metrics.window.set(self._link.window)
        self._metrics.reconnects.inc(self._link.reconnects - self._reconnects)
        self._reconnects = self._link.reconnects
        self._metrics.lines_lost(logs.lines_lost())
        for kind, packets in (self._link.strays - self._strays).items():
            self._metrics.strays[kind,].inc(packets)
        self._strays = self._link.strays
        if abs((drift := self._clock.drift()) - self._drift) > _STEP:
            log.warning("system_clock_stepped", by_ms=drift, note="Chapar keeps its own time until it is restarted.")
            self._drift = drift

    async def _forget(self) -> None:
        days = self._settings.retention_days
        while True:
            now = self._clock.now()
            before = 0 if days is None else now - round(days * 86_400_000)
            async for removed in self._store.retention.prune(before, now):
                log.debug("messages_forgotten", messages=removed)
            await asyncio.sleep(_FORGET_EVERY)

    def exposition(self) -> bytes:
        """The measurements in Prometheus's text format."""
        self._measure()
        return self._metrics.exposition()

    def hurry(self) -> None:
        """The gateway stops: callers who wait are answered with what is known now."""
        self._dispatcher.hurry()

    def quiet(self) -> Coroutine[None, None, None]:
        """Wait until what is being saved has been handed on to be delivered."""
        return self._sending.quiet()

    async def send(self, caller: Caller, command: Command, *, origin: str | None = None) -> Message:
        """Save a message, deliver it, and return it as it stands when what the caller waits for is there.

        Still `scheduled`, `queued` or `publishing` where the caller does not wait, or not long enough: the delivery
        goes on, and `find` tells its end.

        Raises FieldInvalid, OutOfReach, NotSent, QueueFull, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        sent = await self._sending.send(self._sending.draft(caller, command, origin))
        assert isinstance(sent, Message)  # noqa: S101 - there is no key that another request may have
        return sent

    async def send_once(
        self, caller: Caller, command: Command, use: Use, answer: Callable[[Message | NotSent], Answer]
    ) -> Answer | Replay:
        """Send a message unless the key that is used has made one before, and keep the `answer` before it is given.

        A Replay is what the first request with this key was answered. Raises what `send` raises but for NotSent, which
        is answered, and KeyMismatch, KeyInFlight, MessageNotFound.
        """
        draft = self._sending.draft(caller, command)
        return await self._keys.once(use, draft.message, lambda key: self._sending.send(draft, key), answer)

    async def cancel(self, caller: Caller, message_id: str) -> Message:
        """Withdraw a message that waits; it either is withdrawn or goes out, never both.

        One that the broker retains is taken back from there: the message as it stands when the broker has forgotten
        it. Where that takes longer, the empty message that will make it: its origin is the message, and `clears` is
        true.

        Raises MessageNotFound, NotCancellable, NotSent, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        deadline = self._loop.time() + self._settings.publish_timeout
        message = await self.find(caller, message_id)
        entry = cancellation(caller, message, self._clock.now())
        won, status = await self._store.messages.cancel(entry, deadline)
        if status is Status.PUBLISHING and await self._dispatcher.take_back(message_id):
            won, status = await self._store.messages.cancel(entry, deadline)
        if status is None:
            raise MessageNotFound(message_id)
        if won:
            self._metrics.finished[Status.CANCELLED.value, "cancelled"].inc()
            self._dispatcher.wake()  # what was behind it need not wait any more
        is_withdrawn = won or status is Status.CANCELLED
        if message.retain and not message.clears and status not in UNFINISHED:
            cleared = await self._take_back(message, None if won else entry, deadline)
            if cleared is not None and cleared.status is not Status.PUBLISHED:
                return cleared
            is_withdrawn |= cleared is not None
        if not is_withdrawn:
            raise NotCancellable(message_id, status.value)
        message = await self._found(message_id)
        self._dispatcher.tell(message)
        return message

    async def _take_back(self, retained: Message, entry: Entry | None, deadline: float) -> Message | None:
        """Have the broker forget a retained message; None where it has a newer one in its place, or nothing.

        Gives the empty message that does it, as it stands when it is done, or at the `deadline`. Raises NotSent where
        the broker refuses it.
        """
        empty = clearing(retained, self._clock.now_ns())
        clearing_id = await self._store.messages.take_back(empty, entry, deadline)
        if clearing_id is None:
            return None
        if clearing_id != empty.id:
            return await self._found(clearing_id)
        self._room.queued()
        self._dispatcher.wake()
        told: asyncio.Future[Message | None] = self._loop.create_future()
        self._dispatcher.await_outcome(clearing_id, told, deadline if self._link.up else 0)
        outcome = await told or await self._found(clearing_id)
        if outcome.status is Status.CANCELLED:  # a newer one was on its way before
            return None
        if (error := not_sent(outcome)) is not None:
            raise error
        return outcome

    async def cancel_all_of(self, caller: Caller, sender: str) -> int:
        """Withdraw whatever waits of what a principal sent; gives how many messages. For a caller who reaches them all.

        Raises NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        cancelled = 0
        async for waiting in self._store.reports.waiting_of(sender, _CANCELLED_AT_ONCE):
            entries = [cancellation(caller, message, self._clock.now(), _KEY_REVOKED) for message in waiting]
            deadline = self._loop.time() + self._settings.publish_timeout
            answers = await asyncio.gather(*(self._store.messages.cancel(entry, deadline) for entry in entries))
            withdrawn = [message for message, (won, _) in zip(waiting, answers, strict=True) if won]
            for message in withdrawn:
                now = self._clock.now()
                self._dispatcher.tell(message.moved(Status.CANCELLED, reason="cancelled", finished_at=now))
            self._metrics.finished[Status.CANCELLED.value, "cancelled"].inc(len(withdrawn))
            cancelled += len(withdrawn)
        self._dispatcher.wake()
        return cancelled

    async def resend(self, caller: Caller, message_id: str, wait: Wait, patience: float | None) -> Message:
        """Send the same operation once more, as a new message that names its origin.

        Raises what `find` and `send` raise, and NotRepeatable.
        """
        first = await self.find(caller, message_id)
        if first.clears:
            raise NotRepeatable(first.id)
        again = Command(
            imei=first.imei,
            micro_op=first.micro_op,
            params=first.params,
            qos=first.qos,
            retain=first.retain,
            at_most_once=first.at_most_once,
            expires_in=None if first.expires_at is None else (first.expires_at - _due_at(first)) / 1000,
            wait=wait,
            patience=patience,
        )
        return await self.send(caller, again, origin=first.id)

    async def find(self, caller: Caller, message_id: str) -> Message:
        """The message with this id; raises MessageNotFound, also for one out of reach, and StoreUnavailable."""
        message = await self._found(message_id)
        if not caller.principal.reach.covers(message.imei, message.micro_op):
            raise MessageNotFound(message_id)
        return message

    async def _found(self, message_id: str) -> Message:
        if "\0" in message_id:  # PostgreSQL has no text for it
            raise MessageNotFound(message_id)
        message = await self._store.messages.find(message_id)
        if message is None:
            raise MessageNotFound(message_id)
        return message

    async def attempts(self, message_id: str) -> list[Attempt]:
        """The attempts of a message that were not the plain first success; raises StoreUnavailable."""
        return await self._store.messages.attempts(message_id)

    async def page(self, caller: Caller, filters: Filters, *, after: Position | None, limit: int) -> Page:
        """A page of at most `limit` messages, newest first, older than the one at `after`; raises StoreUnavailable."""
        return await self._store.reports.page(_within(caller, filters), after=after, limit=limit)

    def report(self, caller: Caller, filters: Filters) -> AsyncIterator[list[Message]]:
        """All messages, oldest first, in lists of bounded size; raises StoreUnavailable while it is read."""
        return self._store.reports.pages(_within(caller, filters))

    async def summary(self, caller: Caller, filters: Filters, bucket: Bucket) -> Summary:
        """Counts by status, device, operation and time; raises StoreUnavailable."""
        return await self._store.reports.summary(_within(caller, filters), bucket)

    async def audit(self, caller: Caller, filters: AuditFilters, *, before: int | None, limit: int) -> AuditPage:
        """A page of at most `limit` entries of the audit trail below the number `before`; raises StoreUnavailable."""
        within = filters._replace(reach=caller.principal.reach)
        return await self._store.trail.page(within, before=before, limit=limit)

    async def readiness(self) -> Readiness:
        """Whether database and broker are both there."""
        try:
            await self._store.health.check()
        except StoreUnavailable as error:
            database: str | None = str(error)
        else:
            database = None
        trouble = self._link.trouble or (None if self._link.up else "The broker has not answered yet.")
        broker = None if trouble is None else str(trouble)
        return Readiness(database, broker)


def _within(caller: Caller, filters: Filters) -> Filters:
    """The filters, narrowed to what the caller may see."""
    return replace(filters, reach=caller.principal.reach)


def _due_at(message: Message) -> int:
    return message.deliver_at or message.created_at
