"""Messages as a person reads them: a table, the newest last."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapar.cli.client import ShownMessage
from chapar.cli.sentences import say, word
from chapar.cli.terminal import local_time
from chapar.errors import Language, joined
from chapar.model.lines import plain
from chapar.model.message import Status

ROOM_FOR_ID: Final = 120  # columns of a terminal; with fewer the ids would break every line
_WIDE: Final = 10_000  # columns of what is no terminal: nobody wants lines broken there

_STYLES: Final = {
    Status.PUBLISHED.value: "green",
    Status.SUCCEEDED.value: "green",
    Status.REJECTED.value: "red",
    Status.FAILED.value: "red",
    Status.UNCONFIRMED.value: "yellow",
    Status.EXPIRED.value: "yellow",
    Status.TIMED_OUT.value: "yellow",
}

_HEADINGS: Final = ("accepted", "device", "operation", "status", "id", "note")
_WIDTHS: Final = (19, 15, 12, 11, 36, 0)  # at least, so that batches of a log stand in line
_WIDEST: Final = 40  # columns that one long cell may make all later batches wide
_ID: Final = 4  # its place among them


class MessageTable:
    """Prints messages in batches that stand in line with each other."""

    def __init__(self, language: Language, console: Console | None = None) -> None:
        self._language: Language = language
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDE
        has_room = self._console.width >= ROOM_FOR_ID
        self._columns = [place for place in range(len(_WIDTHS)) if has_room or place != _ID]
        self._widths = [_WIDTHS[place] for place in self._columns]

    def print(self, messages: Iterable[ShownMessage], *, headings: bool = False) -> None:
        """One row a message, in the order given."""
        rows = [self._row(message) for message in messages]
        if not rows and not headings:
            return
        table = Table(box=None, show_header=headings, pad_edge=False, padding=(0, 1))
        for place, column in enumerate(self._columns):
            widest = max((row[place].cell_len for row in rows), default=0)
            self._widths[place] = max(self._widths[place], min(widest, _WIDEST))
            heading = Text(say(f"heading.{_HEADINGS[column]}", self._language))
            table.add_column(heading, min_width=self._widths[place], overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def _row(self, message: ShownMessage) -> list[Text]:
        """Text objects, because rich would read its markup in plain strings."""
        cells = [
            Text(local_time(message.created_at, self._language)),
            Text(plain(message.imei)),
            Text(plain(message.micro_op)),
            Text(plain(word("status", message.status, self._language)), style=_STYLES.get(message.status, "")),
            Text(plain(message.id)),
            Text(plain(note(message, self._language))),
        ]
        return [cells[place] for place in self._columns]


def note(message: ShownMessage, language: Language) -> str:
    """Return what is unusual about the message: why it ended so, further attempts, nobody there."""
    parts = []
    if message.reason is not None:
        parts.append(word("reason", message.reason, language))
    if message.attempts > 1:
        parts.append(say("note.attempts", language, attempts=message.attempts))
    if message.possible_duplicate:
        parts.append(say("note.duplicate", language))
    if message.subscribers is False:
        parts.append(say("note.unheard", language))
    return joined(parts, language)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], language: Language) -> None:
    """Rows of plain text below their headings."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in headings:
        table.add_column(say(f"heading.{heading}", language), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)
