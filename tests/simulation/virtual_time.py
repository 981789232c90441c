"""An event loop whose time is a number: when nothing is ready, it goes to the next timer at once."""

import asyncio
from typing import Any


class Deadlock(Exception):
    """Nothing is ready, and no timer would ever make it so."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without sockets, threads or waiting. It begins at 0 and runs a given program the same way always."""

    _scheduled: list[asyncio.TimerHandle]  # asyncio's own heap of timers

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Stand in for the selector: what would wait for `timeout` seconds goes to the next timer."""
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self._now = self._scheduled[0].when()
        return []

    def _process_events(self, _: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""
