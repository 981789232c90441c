"""Decide how long the broker may leave a publication unanswered on a connection that is alive. Pure: no clock."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_WARN_AFTER: Final = 1 / 3  # of the time-out: those who watch the gateway learn of it before the session ends
_HOLD: Final = 1.0  # seconds, at most a third of the time-out, in which nothing more leaves and the rest is answered
_ASK_EVERY: Final = 0.1  # seconds between looks for the answer that proves that the broker is alive


class Step(IntEnum):
    """Steps against a publication that goes unanswered, the oldest one; each includes those before it."""

    WAIT = 0  #: nothing yet
    WARN = 1  #: say that it takes too long
    HOLD = 2  #: let nothing more leave, so that nothing else is in doubt when the session ends
    ASK = 3  #: ask for a sign of life: after a standstill of ours the answer may wait to be read
    END = 4  #: end the session: something was heard, and not this answer


@dataclass(frozen=True, slots=True)
class Patience:
    """Times are seconds of one monotonic clock."""

    timeout: float

    @property
    def _steps(self) -> tuple[float, float, float]:
        return self.timeout * _WARN_AFTER, self.timeout, self.timeout + min(_HOLD, self.timeout * _WARN_AFTER)

    def step(self, sent_at: float, heard_at: float, now: float) -> Step:
        """Return what to do at `now`; the broker was last heard at `heard_at`."""
        warn, hold, ask = self._steps
        if heard_at - sent_at >= ask:
            return Step.END
        return Step(sum(now - sent_at >= after for after in (warn, hold, ask)))

    def look_at(self, sent_at: float, now: float) -> float:
        """Return when the next step may be due; `sent_at` is `now` where everything is answered."""
        return next((at for after in self._steps if (at := sent_at + after) > now), now + _ASK_EVERY)
