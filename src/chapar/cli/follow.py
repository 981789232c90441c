"""Follow a gateway: its new messages and their changes, one refresh after another.

Ids and times do not become visible in their order: a message waits for its commit while a later one is there
already. So each refresh reads the recent past again and compares it with what is remembered of it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from chapar.cli.client import GatewayClient, ShownMessage
from chapar.cli.options import Filters
from chapar.model.message import UNFINISHED

WINDOW: Final = timedelta(seconds=30)  # how late a message may become visible; a commit has 5 s unless told otherwise
MOST_READ: Final = 5000  # messages that one refresh reads of the window, and of what is unfinished
MOST_ASKED: Final = 100  # messages that one refresh asks for one by one
MOST_REMEMBERED: Final = 2 * MOST_READ  # messages; a few hundred bytes each


class Changes(NamedTuple):
    """The result of one refresh."""

    changed: list[ShownMessage]  #: new, or in another state than before; oldest first
    missed: bool  #: more became visible than a refresh reads, so some are not in `changed`


class _Known(NamedTuple):
    status: str
    attempts: int
    created_at: datetime
    finished: bool

    @classmethod
    def of(cls, message: ShownMessage) -> "_Known":
        return cls(message.status, message.attempts, message.created_at, message.finished_at is not None)


class Follower:
    """Remembers, in bounded memory, what was there at the last refresh.

    A message counts as long as it is younger than the window or unfinished. The times are the gateway's own,
    whatever the clock of this machine says.
    """

    def __init__(self, gateway: GatewayClient, filters: Filters) -> None:
        self._gateway = gateway
        self._filters = Filters(imei=filters.imei, micro_op=filters.micro_op)
        self._known: dict[str, _Known] = {}  # least recently seen first
        self._since: datetime | None = None  # the window's beginning; what is older was seen
        self._newest: datetime | None = None

    def begin(self) -> None:
        """Take what is there now for known; raises GatewayError."""
        self._gateway.messages(self._filters, 1)  # for the gateway's time
        self._since = self._window_start()
        self.refresh()

    def know(self, messages: Iterable[ShownMessage]) -> None:
        """Take these messages for known as they are."""
        for message in messages:
            self._known.pop(message.id, None)
            self._known[message.id] = _Known.of(message)

    def refresh(self) -> Changes:
        """Return what has changed since the last refresh. Raises GatewayError, and forgets nothing then."""
        next_since = self._window_start()
        recent = self._gateway.messages(self._filters._replace(since=self._since), MOST_READ)
        unfinished = self._gateway.messages(self._filters._replace(status=tuple(UNFINISHED)), MOST_READ)
        seen = {message.id: message for message in (*recent, *unfinished)}
        gone = self._ask_for(seen)
        changed = [message for message in seen.values() if self._known.get(message.id) != _Known.of(message)]
        missed = self._is_short(recent)

        self.know(reversed(seen.values()))
        for message_id in gone:
            del self._known[message_id]
        self._since = next_since
        if recent:
            self._newest = recent[0].created_at
        self._forget()
        return Changes(sorted(changed, key=lambda message: (message.created_at, message.id)), missed)

    def _window_start(self) -> datetime:
        return (self._gateway.clock or datetime.now(UTC).replace(microsecond=0)) - WINDOW

    def _ask_for(self, seen: dict[str, ShownMessage]) -> list[str]:
        """Add to `seen` what left both lists before it finished; gives what exists no longer."""
        gone = []
        unseen = [id_ for id_, known in self._known.items() if not known.finished and id_ not in seen]
        for message_id in unseen[:MOST_ASKED]:
            message = self._gateway.message(message_id)
            if message is None:
                gone.append(message_id)
            else:
                seen[message_id] = message
        return gone

    def _is_short(self, recent: list[ShownMessage]) -> bool:
        return len(recent) == MOST_READ and self._newest is not None and recent[-1].created_at > self._newest

    def _forget(self) -> None:
        since = self._since
        kept = [
            (message_id, known)
            for message_id, known in self._known.items()
            if not known.finished or since is None or known.created_at >= since
        ]
        self._known = dict(kept[-MOST_REMEMBERED:])
