"""Outages of the link to the broker, kept for who asks later why a message waited."""

import asyncio
import time
from typing import Final

import structlog

from chapar.errors import NotSaved, OutcomeUnknown
from chapar.link.keeper import Link
from chapar.runtime.clock import Clock
from chapar.store.outages import Outage, Outages

log = structlog.get_logger(__name__)

_READ_EVERY: Final = 1.0  # seconds


class OutageRecorder:
    """Keeps the outages that the link of this process has met, once they are over."""

    def __init__(self, outages: Outages, link: Link, clock: Clock, process: str) -> None:
        """`process`: token of this process."""
        self._outages = outages
        self._link = link
        self._clock = clock
        self._process = process

    async def run(self) -> None:
        """Keep what is over, until cancelled."""
        while True:
            await asyncio.sleep(_READ_EVERY)
            await self.keep()

    async def keep(self) -> None:
        """Keep the outages that are over since the last time; there is seldom one."""
        met = self._link.outages
        if not met:
            return
        known = list(met)
        ahead = self._clock.now() - time.monotonic() * 1000
        kept = [
            Outage(self._process, round(o.began * 1000 + ahead), round(o.ended * 1000 + ahead), o.cause) for o in known
        ]
        try:
            await self._outages.keep(kept)
        except (NotSaved, OutcomeUnknown) as error:
            log.warning("outages_not_kept", cause=str(error))
            return
        for _ in known:
            met.popleft()
