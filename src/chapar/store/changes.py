"""The seam for what has changed: each change of a message that this process commits is announced here, once."""

from collections.abc import Callable, Sequence

import structlog

from chapar.model.change import Change

log = structlog.get_logger()

Listener = Callable[[Sequence[Change]], None]
"""Called with what one commit has changed, in its order. It must return at once."""


class Changes:
    """Listeners to what has changed.

    Announced are the commits of this process alone. For other processes, and for whoever comes later, a log of changes
    belongs into the same transaction: `Kind.changes` gives what the writer would add to it.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have `listener` called from now on, after each commit that changed something."""
        self._listeners.append(listener)

    @property
    def has_listeners(self) -> bool:
        """Return whether anybody listens; else nothing need be announced."""
        return bool(self._listeners)

    def announce(self, changes: Sequence[Change]) -> None:
        """Notify all listeners. One that fails must not stop the rest."""
        for listener in self._listeners:
            try:
                listener(changes)
            except Exception:
                log.exception("listener_failed", changes=len(changes))
