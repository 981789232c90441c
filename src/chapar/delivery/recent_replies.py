"""Replies in each of the last minutes: a listener of what has changed."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from chapar.model.change import Change
from chapar.model.message import ANSWERED
from chapar.model.principal import EVERYWHERE, Caller
from chapar.runtime.clock import Clock

MINUTE: Final = 60_000  # ms
KEPT: Final = 60  # minutes before the one that runs


class ReplyCounts(NamedTuple):
    """Replies in each minute, as far as they were counted."""

    since: int  #: when counting began, ms since the epoch; what came before is not known
    counts: dict[int, int]  #: by the start of the minute, ms since the epoch; a minute without any is left out


class RecentReplies:
    """Counts the replies of all processes that have changed a message's state, minute by minute.

    They are counted in memory. The time of a reply is in no index, and each index would be paid for by each message;
    the log of changes has all of them, but to read an hour of it takes seconds where much is sent.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts = Counter[int]()
        self._since = clock.now()

    def begin(self) -> None:
        """Count anew: what other processes have changed may have been missed."""
        self._counts.clear()
        self._since = self._clock.now()

    def received(self, changes: Sequence[Change]) -> None:
        """Count what has changed."""
        count = sum(change.after in ANSWERED and change.before is not change.after for change in changes)
        if not count:
            return
        minute = _start_of_minute(self._clock.now())
        if minute not in self._counts:
            self._forget(minute - KEPT * MINUTE)
        self._counts[minute] += count

    def counts(self, caller: Caller) -> ReplyCounts | None:
        """The counts; None for a caller who does not reach everything, because all devices are counted together."""
        if not caller.principal.reach.includes(EVERYWHERE):
            return None
        return ReplyCounts(self._since, dict(self._counts))

    def _forget(self, before: int) -> None:
        for minute in [minute for minute in self._counts if minute < before]:
            del self._counts[minute]


def _start_of_minute(at: int) -> int:
    return at - at % MINUTE
