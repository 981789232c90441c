"""The lease of this process on what it claims: held anew in time, and given up at the end."""

import asyncio
import os
import socket
from typing import Final

import structlog

from chapar.model.queue import Lease
from chapar.runtime.clock import Clock
from chapar.store.queue import Queue

log = structlog.get_logger(__name__)

_RENEWALS: Final = 3  # in the time that one lease lasts, so that two may fail


class ProcessLease:
    """Says to other processes that this one lives. What it holds is its own until the lease is over.

    `acquire()` must be done before anything is claimed; `run()` renews it, and settles what dead processes left.
    """

    def __init__(self, queue: Queue, clock: Clock, process: str, seconds: float, *, alone: bool) -> None:
        self._queue = queue
        self._clock = clock
        self.process = process  #: token
        self._seconds = seconds
        self.alone = alone  #: no other process can take anything over, or move or queue anything
        self._loop = asyncio.get_running_loop()
        self._until = 0.0  # loop time

    @property
    def is_held(self) -> bool:
        """Return whether nobody takes over what this process holds."""
        return self.alone or self._loop.time() < self._until

    async def acquire(self) -> None:
        """Take the lease, or renew it."""
        asked = self._loop.time()
        name = f"{socket.gethostname()}:{os.getpid()}"
        await self._queue.acquire_lease(Lease(self.process, name, self._seconds, self.alone))
        self._until = asked + self._seconds

    async def run(self) -> None:
        """Renew it until cancelled, and settle what dead processes left."""
        while True:
            await self.acquire()
            if messages := await self._queue.settle(self.process, self._clock.now()):
                log.warning("left_behind_by_dead_process", messages=messages)
            await asyncio.sleep(self._seconds / _RENEWALS)

    async def release(self) -> None:
        """Give it up: other processes take over at once what is left."""
        await self._queue.release_lease(self.process)
