"""Batches: events that follow each other, kept and written once for all who want them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from chapar.events.wanted import Wanted
from chapar.model.event import Event, EventPage, Position

_KEPT_FOR: Final = 4  # kinds of listeners for which what a page is to them is kept
_PIECE: Final = 64 * 1024  # bytes that are written at a time: as many as the server takes before it waits

_Key = tuple[str, str, int, int]

Write = Callable[[Event], bytes]
"""Makes an event into what is sent."""


class Batch:
    """Some events that follow each other, each of which is written once, for all who want it."""

    __slots__ = ("_first", "_written", "_written_for", "end", "events", "size")

    def __init__(
        self,
        events: Sequence[Event],
        end: Position,
        size: int = 0,
        written: list[bytes | None] | None = None,
        first: int = 0,
    ) -> None:
        """`written`: what another batch has written of its events, the one at `first` being the first of these."""
        self.events = events
        self.end = end
        self.size = size  #: bytes of its messages, roughly
        self._written: list[bytes | None] = [None] * len(events) if written is None else written
        self._first = first
        self._written_for: dict[Wanted, Sequence[bytes]] = {}

    def behind(self, count: int) -> "Batch":
        """Return what follows so many of these events."""
        return Batch(self.events[count:], self.end, written=self._written, first=self._first + count)

    def pieces(self, wanted: Wanted, write: Write) -> Sequence[bytes]:
        """Return what a listener is sent of these events, in pieces of 64 KiB or one event."""
        found = self._written_for.get(wanted)
        if found is None:
            found = self._pieces(wanted, write)
            if len(self._written_for) < _KEPT_FOR:  # most listeners want the same: what is in their key's reach
                self._written_for[wanted] = found
        return found

    def _pieces(self, wanted: Wanted, write: Write) -> Sequence[bytes]:
        pieces: list[bytes] = []
        piece: list[bytes] = []
        size = 0
        for place, event in enumerate(self.events, self._first):
            if not wanted.covers(event):
                continue
            written = self._written[place]
            if written is None:
                written = self._written[place] = write(event)
            piece.append(written)
            size += len(written)
            if size >= _PIECE:
                pieces.append(b"".join(piece))
                piece, size = [], 0
        if piece:
            pieces.append(b"".join(piece))
        return pieces


class Pages:
    """Pages in memory. What follows any place in them is found without a read."""

    def __init__(self, most: int) -> None:
        """`most`: bytes of messages that are kept, roughly, those of the page that came last apart."""
        self._most = most
        self._pages: OrderedDict[_Key, Batch] = OrderedDict()  # by where they begin, in the order in which they came
        self._within: dict[_Key, tuple[Batch, int]] = {}  # each place in these, and how many events are before it
        self._size = 0

    def add(self, page: EventPage) -> Batch:
        """Keep a page that leads on, and forget the oldest ones where that is too much."""
        batch = Batch(page.events, page.end, page.size)
        if page.start[:4] == page.end[:4] or page.start[:4] in self._pages:
            return batch
        self._pages[page.start[:4]] = batch
        self._within.update({event.position[:4]: (batch, number) for number, event in enumerate(page.events, 1)})
        self._within.pop(page.end[:4], None)  # behind that nothing follows on this page
        self._size += batch.size
        while self._size > self._most and len(self._pages) > 1:
            _, oldest = self._pages.popitem(last=False)
            self._size -= oldest.size
            for event in oldest.events:
                self._within.pop(event.position[:4], None)
        return batch

    def behind(self, place: Position) -> Batch | None:
        """Return what follows a place on its page, as for one who was away for a moment; None: nothing is kept."""
        key = place[:4]
        if (batch := self._pages.get(key)) is not None:
            return batch
        if (found := self._within.get(key)) is not None:
            batch, count = found
            return batch.behind(count)
        return None

    def clear(self) -> None:
        """Forget all pages."""
        self._pages.clear()
        self._within.clear()
        self._size = 0
