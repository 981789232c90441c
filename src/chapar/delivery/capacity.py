"""The capacity of the whole queue: how much is unfinished on all devices, and whether there is room for more."""

import asyncio
from contextlib import suppress
from typing import Final

from chapar.errors import QueueFull, StoreUnavailable
from chapar.model.message import UNFINISHED
from chapar.model.principal import EVERYWHERE, Reach
from chapar.model.queue import Backlog
from chapar.runtime.metrics import Metrics
from chapar.store.queue import Queue

FRESH: Final = 0.1  # seconds for which a count of what is unfinished may refuse a message

_PATIENCE = 5  # seconds after which the whole full queue is worth another try
_COUNT_EVERY = 1.0  # seconds between counts of what is unfinished


class Capacity:
    """Room in the whole queue: a count of the database now and then, and what was queued here since."""

    def __init__(self, limit: int, queue: Queue, metrics: Metrics) -> None:
        """`limit`: messages in all (CHAPAR_MAX_QUEUE)."""
        self._limit = limit
        self._queue = queue
        self._metrics = metrics
        self._backlog = Backlog({}, None)
        self._counting = asyncio.Lock()
        self._counted_at = 0.0  # loop time of that count
        self._queued_since = 0  # messages queued here since then
        self._joining: dict[str, None] = {}  # ids of messages that are about to be queued, in their order

    async def run(self) -> None:
        """Count what is unfinished now and then, until cancelled."""
        while True:
            async with self._counting:
                with suppress(StoreUnavailable):
                    await self._count()
            await asyncio.sleep(_COUNT_EVERY)

    @property
    def held(self) -> int:
        """Messages that wait until their owner releases them, as counted last."""
        return self._backlog.held

    def measure(self, now: int) -> None:
        """Put what is unfinished at the time `now` (ms since the epoch) into the measurements."""
        for status in UNFINISHED:
            self._metrics.queue.labels(status.value).set(self._backlog.depths.get(status, 0))
        self._metrics.held.set(self._backlog.held)
        self._metrics.paused.set(self._backlog.paused)
        oldest = self._backlog.oldest
        self._metrics.oldest.set(0 if oldest is None else (now - oldest.created_at) / 1000)

    def joins(self, message_id: str) -> None:
        """A message is about to be queued."""
        self._joining[message_id] = None

    def joined(self, message_id: str) -> None:
        """It was queued, or will not be."""
        self._joining.pop(message_id, None)

    def queued(self) -> None:
        """A message was queued here."""
        self._queued_since += 1

    async def check(self, reach: Reach) -> None:
        """Raise QueueFull where the whole queue is as deep as it may be, by a count that is fresh.

        It names the oldest message where that is within `reach`.
        """
        if self._depth() < self._limit:
            return
        async with self._counting:  # one after the other, so that messages of one call keep their order
            was_full = sum(self._backlog.depths.values()) >= self._limit
            is_fresh = asyncio.get_running_loop().time() - self._counted_at < FRESH
            if self._depth() >= self._limit and not (was_full and is_fresh):
                with suppress(StoreUnavailable):
                    await self._count()
        if self._depth() >= self._limit:
            raise QueueFull("CHAPAR_MAX_QUEUE", self._limit, self._oldest(reach), _PATIENCE)

    def _oldest(self, reach: Reach) -> str | None:
        """The id of the oldest message, None where it is not within reach."""
        oldest = self._backlog.oldest
        if oldest is None:
            return next(iter(self._joining), None) if reach == EVERYWHERE else None
        return oldest.id if reach.covers(oldest.imei, oldest.micro_op) else None

    def _depth(self) -> int:
        """Unfinished messages, as far as this process knows: counted, queued since, and about to be."""
        return sum(self._backlog.depths.values()) + self._queued_since + len(self._joining)

    async def _count(self) -> None:
        before = self._queued_since
        self._backlog = await self._queue.backlog()
        self._counted_at = asyncio.get_running_loop().time()
        # What was queued while it was counted may be in it or not. Counted twice, it is at worst refused too early.
        self._queued_since -= before
