"""Decide when to ask a silent broker for a sign of life, when to give it up (MQTT 5.0 §3.1.2.10). Pure: no clock."""

from dataclasses import dataclass
from typing import Final

# In intervals. A dead connection is found 1.25 after the last byte from it: never before 1, and within 1.5 with a
# quarter to spare for a busy loop. Where that loop itself stood still, nothing was asked, so an answer gets its time.
ASK_AFTER: Final = 0.5
SILENT_AFTER: Final = 1.25
ANSWER_WITHIN: Final = 0.75


@dataclass(slots=True)
class KeepAlive:
    """Times of the last packets in and out on one connection, in seconds of one monotonic clock."""

    interval: float
    heard_at: float
    sent_at: float
    asked_at: float | None = None  #: when PINGREQ left, until something is heard

    def received(self, now: float) -> None:
        """A byte of the broker came."""
        self.heard_at, self.asked_at = now, None

    def asked(self, now: float) -> None:
        """PINGREQ left."""
        self.asked_at = now

    def should_ask(self, now: float) -> bool:
        """Return whether to send PINGREQ: half an interval passed in which we heard nothing, or sent nothing."""
        return self.asked_at is None and now >= self.look_at()

    def is_silent(self, now: float) -> bool:
        """Return whether to take the connection for dead."""
        return self.asked_at is not None and now >= self.look_at()

    def look_at(self) -> float:
        """The time before which there is nothing to do."""
        if self.asked_at is None:
            return min(self.heard_at, self.sent_at) + ASK_AFTER * self.interval
        return max(self.heard_at + SILENT_AFTER * self.interval, self.asked_at + ANSWER_WITHIN * self.interval)
