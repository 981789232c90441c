"""Figures that take long to find, for all who look at them at the same time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

Figures = TypeVar("Figures")

_SHOWN_FOR: Final = 20  # times as long as they took to find: finding takes a twentieth of a processor at most
_MOST: Final = 100  # of those that are kept


class Shared(Generic[Figures]):
    """Finds figures once for all who ask. The longer that took, the longer the same ones are given."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Kept[Figures]] = OrderedDict()

    async def get(self, key: Hashable, find: Callable[[], Awaitable[Figures]]) -> Figures:
        """The figures of a key; `find` finds them where there are none, or only old ones. Raises what it raises."""
        kept = self._kept.pop(key, None)
        if kept is None or kept.is_old:
            kept = _Kept(find)
        self._kept[key] = kept
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return await asyncio.shield(kept.task)  # whoever hangs up does not end it for the others


class _Kept(Generic[Figures]):
    def __init__(self, find: Callable[[], Awaitable[Figures]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._old_at = 0.0  # loop time
        self.task = asyncio.create_task(self._find(find), name="figures")

    @property
    def is_old(self) -> bool:
        return self.task.done() and self._loop.time() >= self._old_at

    async def _find(self, find: Callable[[], Awaitable[Figures]]) -> Figures:
        began = self._loop.time()
        figures = await find()
        ended = self._loop.time()
        self._old_at = ended + _SHOWN_FOR * (ended - began)
        return figures
