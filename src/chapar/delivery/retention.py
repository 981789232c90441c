"""Forget what is old: a running gateway does so now and then, a person whenever they want."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from chapar.model.audit import Action
from chapar.runtime.clock import Clock
from chapar.store.audit import entry_of_local_user
from chapar.store.change_log import ChangeLog
from chapar.store.retention import Retention
from chapar.store.store import Store

log = structlog.get_logger(__name__)

_FORGET_EVERY: Final = 600.0  # seconds between looks for what is old enough to be forgotten
_DAY: Final = 86_400_000  # ms


class Forgetting:
    """Forget finished messages after so many days, and events, and idempotency keys that are outlived."""

    def __init__(
        self, retention: Retention, log: ChangeLog, clock: Clock, days: float | None, *, events_days: float
    ) -> None:
        """`days` None: messages are kept for ever."""
        self._retention = retention
        self._log = log
        self._clock = clock
        self._days = days
        self._events_days = events_days

    async def run(self) -> None:
        """Forget what is old now and then, until cancelled."""
        while True:
            now = self._clock.now()
            before = 0 if self._days is None else now - round(self._days * _DAY)
            async for removed in self._retention.prune(before, now):
                log.debug("messages_forgotten", messages=removed)
            await self._log.forget(now - round(self._events_days * _DAY))
            await asyncio.sleep(_FORGET_EVERY)


async def prune(store: Store, clock: Clock, days: float, on_progress: Callable[[int], None]) -> int:
    """Forget finished messages that are older, as the local user asks; gives how many, also on the way there.

    The audit trail says that it was begun, whatever ends this program, and how many it removed.
    """
    now = clock.now()
    removed = 0

    async def keep(what: str) -> None:
        note = f"accepted longer ago than {days:g} days: {what}"
        await store.trail.add(entry_of_local_user(clock.now(), Action.PRUNED, note))

    await keep("begun")
    try:
        async for batch in store.retention.prune(now - round(days * _DAY), now):
            removed += batch
            on_progress(removed)
    finally:
        await keep(f"{removed} removed")
    return removed
