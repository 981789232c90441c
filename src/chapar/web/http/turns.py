"""Long pieces of work share the event loop: other callers have their turn after every few milliseconds of them."""

import asyncio
import time
from types import TracebackType
from typing import Final, Self

_TURN: Final = 0.005  # seconds; what a caller may have to wait for besides its own work


class Turns:
    """Turns of all pieces of long work: only one of them goes on in each turn of the event loop."""

    def __init__(self) -> None:
        self._taken = asyncio.Lock()

    def work(self) -> "Work":
        """A piece of work, to be entered."""
        return Work(self._taken)


class Work:
    """One piece of long work. It looks at `is_over` again and again, and awaits nothing but `end_turn()` meanwhile."""

    def __init__(self, taken: asyncio.Lock) -> None:
        self._taken = taken
        self._goes_on = False
        self._began = 0.0

    async def __aenter__(self) -> Self:
        await self._begin_turn()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._goes_on:
            self._taken.release()

    @property
    def is_over(self) -> bool:
        """Return whether this turn has been long enough."""
        return time.perf_counter() - self._began > _TURN

    async def end_turn(self) -> None:
        """Let others have the event loop now."""
        self._goes_on = False
        self._taken.release()
        await asyncio.sleep(0)
        await self._begin_turn()

    async def _begin_turn(self) -> None:
        await self._taken.acquire()
        self._goes_on = True
        self._began = time.perf_counter()
