"""The seam for what has changed: each change of a message is announced here, once."""

from collections.abc import Callable, Sequence

import structlog

from chapar.model.change import Change

log = structlog.get_logger()

Listener = Callable[[Sequence[Change]], None]
"""Called with what one commit has changed, in its order. It must return at once."""


class Changes:
    """Listeners to what has changed: by the commits of this process, and as the log of changes says by those of others.

    Of what others have changed the message is not known, and its change says that it is `foreign`.
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
