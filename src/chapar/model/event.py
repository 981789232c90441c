"""Events: what has changed, in an order of which every place can be named. No I/O."""

from typing import Final, NamedTuple

from chapar.model.device import State
from chapar.model.message import Message, Status

WHOLE: Final = 1 << 30
"""The number behind all changes of a row, however many it has."""

NOTHING: Final = "1:1:"
"""The snapshot of PostgreSQL in which nothing is visible."""

PRESENCE: Final = "device.presence"
"""The type of an event about a device's presence."""

_MESSAGE: Final = "message."
_WITHOUT_MESSAGE: Final = 300  # bytes, roughly


class Position(NamedTuple):
    """A place in the log of changes: what is before it is known, and what follows is not.

    On SQLite that is all up to a row. On PostgreSQL, whose transactions end out of order, it is what the snapshot
    `before` shows, and of what the snapshot `upto` shows beyond that all up to a row. Where the two are the same, there
    is no such row.
    """

    before: str  #: a snapshot; empty on SQLite
    upto: str  #: likewise
    seq: int  #: of the row
    item: int  #: so many changes of the row are known
    at: int  #: when the row was written, or the place was read; ms since the epoch

    @property
    def is_at_end(self) -> bool:
        """Return whether it is behind all that its snapshot shows."""
        return self.before == self.upto

    @property
    def order(self) -> tuple[int, int]:
        """Return a number of each place at the end of what was read: the later one has the higher."""
        if not self.upto:
            return self.seq, self.item
        _, last, running = self.upto.split(":")
        # Of two snapshots with the same last transaction, the later one has fewer that still run.
        return int(last), -len(running.split(",")) if running else 0


class Event(NamedTuple):
    """One change of a message or of a device's presence."""

    type: str  #: `message.<status>`, or `device.presence`
    at: int  #: when it happened, ms since the epoch
    imei: str
    position: Position  #: behind it
    id: str | None  #: of the message; None: it is about the device
    message: Message | None = None  #: with the state that this event made; None: it has been removed since
    status: Status | None = None  #: of the message
    reason: str | None = None  #: of its status
    attempts: int | None = None  #: of the message; None: not known
    state: State | None = None  #: of the device
    since: int | None = None  #: since when it has that state, ms since the epoch
    evidence: str | None = None  #: the ground on which that is believed

    @property
    def size(self) -> int:
        """Bytes of its message, roughly."""
        return _WITHOUT_MESSAGE if self.message is None else self.message.size

    def about(self, message: Message) -> "Event":
        """The same event with the message that it is about. Not by `_replace`, which costs three times as much."""
        return Event._make((*self[:_BEFORE_MESSAGE], message, *self[_BEFORE_MESSAGE + 1 :]))


_BEFORE_MESSAGE: Final = Event._fields.index("message")


class EventPage(NamedTuple):
    """Some events that follow each other."""

    start: Position
    events: list[Event]
    end: Position
    has_more: bool = False  #: whether more follows that could be read at once
    size: int = 0  #: bytes of its messages, roughly


class CursorGone(Exception):
    """A place is too old: the log does not have all that follows it any more."""

    def __init__(self, oldest: Position) -> None:
        super().__init__()
        self.oldest = oldest  #: the place from which on everything is there


def type_of(status: str) -> str:
    """The type of the event by which a message comes to have a status."""
    return _MESSAGE + status


TYPES: Final = (*(type_of(status) for status in Status), PRESENCE)
"""The type of each event there is."""
