"""Counts of what is accepted and what ends: a listener of what has changed."""

from collections import Counter
from collections.abc import Sequence

from chapar.model.change import Change
from chapar.model.message import UNFINISHED
from chapar.runtime.metrics import Metrics


class Counters:
    """Counts messages by the status in which they begin, and by the status and reason with which they end.

    A message whose device replies after its end has ended twice.
    What makes a broker forget a retained message is nobody's message, so it is counted only where it ends.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def received(self, changes: Sequence[Change]) -> None:
        """Count what has changed."""
        accepted: Counter[str] = Counter()
        finished: Counter[tuple[str, str]] = Counter()
        for change in changes:
            if change.foreign:
                continue
            if change.before is None and not (change.message is not None and change.message.clears):
                accepted[change.after] += 1
            if change.after not in UNFINISHED and change.before is not change.after and not _awaits_reply(change):
                finished[change.after, change.reason or ""] += 1
        for status, count in accepted.items():
            self._metrics.accepted[status,].inc(count)
        for labels, count in finished.items():
            self._metrics.finished[labels].inc(count)


def _awaits_reply(change: Change) -> bool:
    """Return whether a message that the broker has has not ended, as a reply is awaited."""
    return change.message is not None and change.message.finished_at is None
