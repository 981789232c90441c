"""The one process that receives from the devices: the holder of a lease in the database."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from chapar.delivery.replies import Incoming
from chapar.devices.presence import Presences
from chapar.errors import ChaparError, SessionTakenOver
from chapar.link.broker_access import BrokerAccess
from chapar.link.receiver import Receiver
from chapar.link.topics import DeviceTopics
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised
from chapar.store.receiving import Held, Receiving, Reception
from chapar.web.api.health import RepliesState

log = structlog.get_logger(__name__)

_RENEWALS: Final = 3  # in the time of one lease, so that two may fail
_LOOK_EVERY: Final = 1.0  # seconds: whether the lease is free, or signs of life have begun or ceased to come
_GRACE: Final = 1.0  # seconds in which what is known of presences is stored at the end


class Term(NamedTuple):
    """The term of a lease, and who asks for it."""

    process: str  #: token
    seconds: float  #: how long a lease lasts that is not renewed
    alone: bool  #: no other process can hold it


class SoleReceiver:
    """Receives replies and signs of life while this process holds the lease, and asks for it otherwise."""

    def __init__(
        self,
        access: BrokerAccess,
        receiving: Receiving,
        incoming: Incoming,
        presences: Presences,
        metrics: Metrics,
        *,
        replies: DeviceTopics,
        presence: DeviceTopics,
        term: Term,
    ) -> None:
        self._receiver = Receiver(
            access,
            replies,
            presence,
            metrics,
            on_replies=incoming.received,
            on_life=presences.received,
            on_filters=self._subscribed,
        )
        self._receiving = receiving
        self._incoming = incoming
        self._presences = presences
        self._metrics = metrics
        self._filter = replies.filter
        self._process = term.process
        self._alone = term.alone
        self._seconds = term.seconds
        self._loop = asyncio.get_running_loop()
        self._until = 0.0  # loop time at which the lease is over
        self._filters: tuple[str, ...] | None = None  # those that hold at the broker, where that is not stored yet
        self._stored_filters: tuple[str, ...] | None = None  # those that were noted last
        self._is_receiving = False

    def state(self) -> RepliesState:
        """Return the state of the link for replies, or that another process has it."""
        return self._receiver.replies_state.value if self._holds else "elsewhere"

    def receives_life(self) -> bool:
        """Return whether this process receives what devices publish; the database has it a second later."""
        return self._holds and self._receiver.life_up

    async def run(self) -> None:
        """Receive whenever the lease is free, until cancelled; then give it up."""
        client_id = f"chapar-replies-{await self._receiving.installation()}"
        try:
            while True:
                held = await self._acquire()
                if held is not None:
                    await self._receive(client_id, held.filters)
                    # Also where a copy of this database receives elsewhere: the two must not take turns each second.
                    await asyncio.sleep(self._seconds / _RENEWALS)
                await asyncio.sleep(_LOOK_EVERY)
        finally:
            await self._in_the_end(self._receiving.release(self._process))

    @property
    def _holds(self) -> bool:
        return self._is_receiving and (self._alone or self._loop.time() < self._until)

    async def _acquire(self) -> Held | None:
        """Take the lease, or renew it; None where another process has it."""
        asked = self._loop.time()
        filters, self._filters = self._filters, None
        wish = Reception(self._process, self._seconds, self._alone, self._receiver.life_up, filters)
        held = await self._receiving.acquire(wish)
        if held is not None:
            self._until = asked + self._seconds
        return held

    async def _receive(self, client_id: str, earlier: tuple[str, ...]) -> None:
        """Receive until another process does."""
        # Before the broker has the filter, so that it keeps none that nobody knows.
        self._filters = self._stored_filters = tuple(dict.fromkeys((*earlier, self._filter)))
        if await self._acquire() is None:
            return
        await self._presences.begin()
        self._is_receiving = True
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "receiver": lambda: self._receiver.run(client_id, earlier, lambda: self._holds),
            "receiver_lease": self._renew,
            "presences": self._presences.run,
            "replies": self._incoming.run,
        }
        tasks = [asyncio.create_task(self._guarded(name, loop), name=name) for name, loop in loops.items()]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            log.warning("receiver_replaced", note="Another process receives now.")
        finally:
            self._is_receiving = False
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._incoming.forget()
            await self._in_the_end(self._presences.end())

    async def _guarded(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        with suppress(SessionTakenOver):
            await supervised(name, loop, self._metrics, SessionTakenOver)

    async def _renew(self) -> None:
        """Keep the lease, with what others are to know of this process, until it is lost."""
        was_up = self._receiver.life_up
        renew_at = 0.0
        while True:
            is_due = self._loop.time() >= renew_at or self._receiver.life_up is not was_up or self._filters is not None
            if is_due:
                was_up = self._receiver.life_up
                renew_at = self._loop.time() + self._seconds / _RENEWALS
                if await self._acquire() is None:
                    return
            await asyncio.sleep(_LOOK_EVERY)

    def _subscribed(self, filters: tuple[str, ...]) -> None:
        """Note the filters that the broker keeps for this installation."""
        if filters != self._stored_filters:
            self._filters = self._stored_filters = filters

    async def _in_the_end(self, step: Awaitable[None]) -> None:
        """Take a last step, as far as the database is there."""
        with suppress(ChaparError, TimeoutError):
            async with asyncio.timeout(_GRACE):
                await step
