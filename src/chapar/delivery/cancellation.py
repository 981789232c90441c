"""Withdraw messages: before they are sent, and from a broker that retains them."""

import asyncio
from typing import Final

from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.messages import Messaging
from chapar.delivery.outcomes import not_sent
from chapar.delivery.waiting import Waiters, Waiting
from chapar.errors import MessageNotFound, NotCancellable, NotSaved
from chapar.model.audit import KEY_REVOKED, Entry, cancellation
from chapar.model.change import Cancelled
from chapar.model.message import UNFINISHED, Message, Status, clearing
from chapar.model.principal import Caller
from chapar.runtime.clock import Clock
from chapar.store.store import Store

CANCELLED_AT_ONCE: Final = 500  # messages withdrawn in one commit: a few milliseconds


class Cancellation:
    """Withdraw messages, one by one or all that a principal sent."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        waiters: Waiters,
        messaging: Messaging,
        clock: Clock,
        *,
        patience: float,
    ) -> None:
        """`patience`: seconds that the database and the broker may take."""
        self._store = store
        self._dispatcher = dispatcher
        self._waiters = waiters
        self._messaging = messaging
        self._clock = clock
        self._patience = patience
        self._loop = asyncio.get_running_loop()

    async def cancel(self, caller: Caller, message_id: str) -> Message:
        """Withdraw a message that waits; it either is withdrawn or goes out, never both.

        One that the broker retains is taken back from there: the message as it stands when the broker has forgotten
        it. Where that takes longer, the empty message that will make it: its origin is the message, and `clears` is
        true.

        Raises MessageNotFound, NotCancellable, NotSent, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        deadline = self._loop.time() + self._patience
        message = await self._messaging.find(caller, message_id)
        entry = cancellation(caller, message, self._clock.now())
        cancelled = await self._withdrawn(entry, deadline)
        if cancelled.message.status is Status.PUBLISHING and await self._dispatcher.take_back(message_id):
            cancelled = await self._withdrawn(entry, deadline)
        won, status = cancelled.won, cancelled.message.status
        is_withdrawn = won or status is Status.CANCELLED
        if message.retain and not message.clears and status not in UNFINISHED:
            cleared = await self._take_back(message, None if won else entry, deadline)
            if cleared is not None and cleared.status is not Status.PUBLISHED:
                return cleared
            is_withdrawn |= cleared is not None
        if not is_withdrawn:
            raise NotCancellable(message_id, status.value)
        return await self._messaging.look_up(message_id)

    async def _withdrawn(self, entry: Entry, deadline: float) -> Cancelled:
        [cancelled] = await self._store.messages.cancel([entry], deadline)
        if cancelled is None:
            raise MessageNotFound(entry.subject)
        if isinstance(cancelled, NotSaved):
            raise cancelled
        return cancelled

    async def cancel_all_of(self, caller: Caller, sender: str) -> int:
        """Withdraw whatever waits of what a principal sent; gives how many messages. For a caller who reaches them all.

        Raises NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        cancelled = 0
        async for waiting in self._store.reports.waiting_of(sender, CANCELLED_AT_ONCE):
            entries = [cancellation(caller, message, self._clock.now(), KEY_REVOKED) for message in waiting]
            deadline = self._loop.time() + self._patience
            for each in await self._store.messages.cancel(entries, deadline):
                if isinstance(each, NotSaved):
                    raise each
                cancelled += each is not None and each.won
        return cancelled

    async def _take_back(self, retained: Message, entry: Entry | None, deadline: float) -> Message | None:
        """Have the broker forget a retained message; None where it has a newer one in its place, or nothing.

        Gives the empty message that does it, as it stands when it is done, or at the `deadline`. Raises NotSent where
        the broker refuses it.
        """
        empty = clearing(retained, self._clock.now_ns())
        waiting = Waiting([empty.id])
        self._waiters.add(waiting)
        try:
            clearing_id = await self._store.messages.take_back(empty, entry, deadline)
            if clearing_id is None:
                return None
            if clearing_id != empty.id:
                return await self._messaging.look_up(clearing_id)
            self._waiters.time(waiting, deadline if self._dispatcher.reaches_broker else 0)
            await waiting.done
        finally:
            self._waiters.remove(waiting)
        outcome = waiting.found.get(clearing_id) or await self._messaging.look_up(clearing_id)
        if outcome.status is Status.CANCELLED:  # a newer one was on its way before
            return None
        if (error := not_sent(outcome)) is not None:
            raise error
        return outcome
