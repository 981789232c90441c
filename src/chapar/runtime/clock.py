"""The time by which the gateway decides."""

import time


def system_now() -> int:
    """Return the system's time, in milliseconds since the Unix epoch, for a command, which is over before it is set."""
    return time.time_ns() // 1_000_000


class Clock:
    """Milliseconds since the Unix epoch, UTC, that only ever go forward, second by second.

    It reads the system's clock once and counts on from there. Stepping the system's clock by a day then makes nothing
    due early and lets nothing expire; `drift` says by how much the two differ, and a new start adopts the system's.
    """

    def __init__(self) -> None:
        self._epoch = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self._epoch + time.monotonic_ns()

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        return self.now_ns() // 1_000_000

    def drift(self) -> int:
        """Milliseconds by which the system's clock is ahead of this one."""
        return (time.time_ns() - time.monotonic_ns() - self._epoch) // 1_000_000
