"""The gateway's readiness to deliver, and its own measures."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from chapar.delivery.capacity import Capacity
from chapar.errors import Phrase, StoreUnavailable
from chapar.link.keeper import Link
from chapar.runtime import logs
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.store.health import Health
from chapar.web.api.health import Readiness, RepliesState

log = structlog.get_logger(__name__)

_STEP: Final = 1000  # ms by which the system's clock moves only where it was stepped
_MEASURE_EVERY: Final = 1.0  # seconds


class Monitor:
    """Watches the database, the link, the queue and the clock."""

    def __init__(
        self,
        database: Health,
        link: Link,
        capacity: Capacity,
        clock: Clock,
        metrics: Metrics,
        replies: Callable[[], RepliesState],
    ) -> None:
        """`replies` gives the state of the link for replies."""
        self._database = database
        self._link = link
        self._capacity = capacity
        self._clock = clock
        self._metrics = metrics
        self._replies = replies
        self._reconnects = 0  # of the link, as counted so far
        self._strays = Counter[str]()  # likewise
        self._drift = 0  # ms by which the system's clock was ahead when that was last said

    async def run(self) -> None:
        """Measure every second, until cancelled."""
        while True:
            self._measure()
            self._metrics.hand_over()
            await asyncio.sleep(_MEASURE_EVERY)

    async def readiness(self) -> Readiness:
        """Return whether database and broker are both there."""
        try:
            await self._database.check()
        except StoreUnavailable as error:
            database: StoreUnavailable | None = error
        else:
            database = None
        broker = self._link.trouble or (None if self._link.up else Phrase("link.not_yet"))
        return Readiness(database, broker, self._capacity.held, self._replies())

    async def is_well(self, patience: float) -> bool:
        """Return whether the writer answers; a new start brings back neither a database nor a broker that is away."""
        return await self._database.writer_answers(patience)

    def exposition(self) -> bytes:
        """The measurements in Prometheus's text format."""
        self._measure()
        return self._metrics.exposition()

    def _measure(self) -> None:
        self._capacity.measure(self._clock.now())
        self._metrics.database_up.set(self._database.is_saving)
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
