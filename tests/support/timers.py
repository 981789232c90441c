"""Time as a module under test asks for it, for tests that look at how long and do not wait."""

import asyncio
from typing import Any


class Timers:
    """Stands for `asyncio` in one module: notes each sleep and each timeout, and none of them ends by itself.

    `run_out()` ends the newest timeout.
    """

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self.timeouts: list[float | None] = []
        self._newest: asyncio.Timeout | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.Event().wait()

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        self.timeouts.append(seconds)
        self._newest = asyncio.timeout(None)
        return self._newest

    def run_out(self) -> None:
        assert self._newest is not None
        self._newest.reschedule(0.0)
