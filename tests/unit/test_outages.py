"""Outages of the link are kept once they are over, and kept again where the database did not take them."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from chapar.delivery.outages import OutageRecorder
from chapar.errors import NotSaved
from chapar.link.keeper import Outage as Met
from chapar.runtime.clock import Clock
from chapar.store.outages import Outage


class Outages:
    """Takes outages, or refuses them."""

    def __init__(self) -> None:
        self.kept: list[Outage] = []
        self.refuses = False

    def keep(self, met: Sequence[Outage]) -> asyncio.Future[list[None]]:
        future: asyncio.Future[list[None]] = asyncio.get_running_loop().create_future()
        if self.refuses:
            future.set_exception(NotSaved("The disk is full."))
        else:
            self.kept += met
            future.set_result([None] * len(met))
        return future


async def test_an_outage_is_kept_once_with_its_times() -> None:
    outages: Any = Outages()
    link: Any = SimpleNamespace(outages=deque[Met]())
    clock = Clock()
    recorder = OutageRecorder(outages, link, clock, "process")
    await recorder.keep()
    assert outages.kept == []
    ended = time.monotonic()
    link.outages.append(Met(ended - 4.0, ended, "broker_closed"))
    outages.refuses = True
    await recorder.keep()
    assert len(link.outages) == 1, "it is not lost"
    outages.refuses = False
    await recorder.keep()
    await recorder.keep()
    [kept] = outages.kept
    assert (kept.process, kept.cause) == ("process", "broker_closed")
    assert abs(kept.ended_at - kept.began_at - 4000) <= 1
    assert kept.ended_at <= clock.now() + 1
    assert not link.outages
