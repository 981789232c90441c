"""Delays before the next try of something that may fail again."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Final

SHORTEST_GAP: Final = 0.1  # seconds
LONGEST_GAP: Final = 5.0  # seconds; what comes back is found within this


class Backoff:
    """The gaps between the tries of one loop. They grow until something has worked for as long as the longest gap.

    So a broker that accepts and drops a moment later is paced like one that refuses.

    >>> backoff = Backoff()
    >>> while True:
    ...     with contextlib.suppress(OSError), backoff.working():
    ...         await serve()
    ...     await backoff.pause()
    """

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._failing_since = self._now()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Enter it when something begins to work, and leave it when that ends."""
        began = self._now()
        try:
            yield
        finally:
            ended = self._now()
            if ended - began >= LONGEST_GAP:
                self._failing_since = ended

    def gap(self) -> float:
        """Seconds to wait before the next try.

        Half the outage, so that gaps grow by 1.5 and what comes back is found after at most half as long again as it
        was away; jittered, so that many gateways do not come back in step.
        """
        outage = self._now() - self._failing_since
        return min(max(outage / 2, SHORTEST_GAP), LONGEST_GAP) * random.uniform(0.5, 1)  # noqa: S311 - no secret

    async def pause(self) -> None:
        """Wait for the gap."""
        await asyncio.sleep(self.gap())
