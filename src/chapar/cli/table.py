"""Messages as a person reads them: a table, the newest last."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapar.cli.sentences import say, word
from chapar.cli.terminal import local_time
from chapar.errors import Language, joined, persian_digits
from chapar.model.lines import json_line, plain
from chapar.model.message import Status

if TYPE_CHECKING:
    from chapar.cli.client import ShownDetail, ShownMessage, ShownReply

ROOM_FOR_ID: Final = 120  # columns of a terminal; with fewer an id stands below its row
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
_LONGEST_NOTE: Final = 80  # characters of a reply in the table; `chapar show` shows all of it


class MessageTable:
    """Prints messages in batches that stand in line with each other."""

    def __init__(self, language: Language, console: Console | None = None) -> None:
        self._language: Language = language
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDE
        self._has_room = self._console.width >= ROOM_FOR_ID
        self._columns = [place for place in range(len(_WIDTHS)) if self._has_room or place != _ID]
        self._widths = [_WIDTHS[place] for place in self._columns]

    def print(self, messages: "Sequence[ShownMessage]", *, headings: bool = False) -> None:
        """One row a message, in the order given."""
        rows = [self._row(message) for message in messages]
        for place in range(len(self._columns)):
            widest = max((row[place].cell_len for row in rows), default=0)
            self._widths[place] = max(self._widths[place], min(widest, _WIDEST))
        if self._has_room:
            if rows or headings:
                self._console.print(self._table(rows, headings=headings))
            return
        if headings:
            self._console.print(self._table([], headings=True))
        for message, row in zip(messages, rows, strict=True):
            self._console.print(self._table([row], headings=False))
            self._console.print(Text(f"  {plain(message.id)}"), soft_wrap=True)

    def _table(self, rows: Iterable[Sequence[Text]], *, headings: bool) -> Table:
        table = Table(box=None, show_header=headings, pad_edge=False, padding=(0, 1))
        for width, column in zip(self._widths, self._columns, strict=True):
            heading = Text(say(f"heading.{_HEADINGS[column]}", self._language))
            table.add_column(heading, min_width=width, overflow="fold")
        for row in rows:
            table.add_row(*row)
        return table

    def _row(self, message: "ShownMessage") -> list[Text]:
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


def note(message: "ShownMessage", language: Language) -> str:
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
    if message.reply is not None:
        parts.append(say("note.reply", language, reply=_short(payload_of(message.reply))))
        if message.reply.late:
            parts.append(say("note.late", language))
    return joined(parts, language)


def reply_words(reply: "ShownReply", language: Language) -> str:
    """The reply as a person reads it: the device's words are on one line, and as harmless as `plain` makes them."""
    return f"{word('status', reply.status, language)}: {payload_of(reply)}"


def payload_of(reply: "ShownReply") -> str:
    """The words of the device: text as text, everything else as JSON."""
    return plain(reply.payload) if isinstance(reply.payload, str) else json_line(reply.payload)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NOTE else f"{text[:_LONGEST_NOTE]}…"


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], language: Language) -> None:
    """Rows of plain text below their headings; one below the other where the terminal is too narrow for them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    words = [say(f"heading.{heading}", language) for heading in headings]
    lines = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(words, *lines, strict=True)]
    if lines and sum(widths) + 2 * len(widths) > console.width:
        for line in lines:
            _print_record(console, zip(words, line, strict=True))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in words:
        table.add_column(heading, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def print_record(lines: Mapping[str, str], language: Language) -> None:
    """A line for each heading that has a text."""
    _print_record(Console(highlight=False), ((say(f"heading.{name}", language), lines[name]) for name in lines))


def print_message(message: "ShownDetail", language: Language) -> None:
    """All that is known of a message, a line each."""
    console = Console(highlight=False)

    def time(at: datetime | None) -> str | None:
        return None if at is None else local_time(at, language)

    lines = {
        "id": message.id,
        "device": message.imei,
        "operation": message.micro_op,
        "params": None if message.params is None else json_line(message.params),
        "topic": message.topic,
        "status": word("status", message.status, language),
        "note": note(message, language),
        "accepted": time(message.created_at),
        "deliver_at": time(message.deliver_at),
        "expires_at": time(message.expires_at),
        "published_at": time(message.published_at),
        "finished_at": time(message.finished_at),
        "origin": message.origin,
        "reply_by": time(message.reply_by),
        "replied_at": None if message.reply is None else time(message.reply.at),
        "reply": None if message.reply is None else reply_words(message.reply, language),
        "matched_by": None if message.reply is None else word("matched", message.reply.matched_by or "", language),
        "condition": _condition(message, language),
        "contact_until": time(message.contact_until),
        "collapse_key": message.collapse_key,
        "superseded_by": message.superseded_by,
        "urgent": say("note.urgent", language) if message.urgent else None,
    }
    _print_record(console, ((say(f"heading.{name}", language), str(text)) for name, text in lines.items() if text))
    if message.history:
        rows = [
            (
                persian_digits(str(each.attempt)) if language == "fa" else str(each.attempt),
                local_time(each.at, language),
                word("reason", each.outcome, language),
            )
            for each in message.history
        ]
        print_table(("attempt", "at", "outcome"), rows, language)


def _condition(message: "ShownDetail", language: Language) -> str | None:
    if message.only_if_online:
        return say("note.only_if_online", language)
    return None if message.deliver == "now" else say("note.on_contact", language)


def _print_record(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    shown = [(heading, text) for heading, text in lines if text]
    width = max(cell_len(heading) for heading, _ in shown)
    for heading, text in shown:
        blanks = " " * (width - cell_len(heading) + 2)
        console.print(Text(f"{heading}{blanks}{plain(text)}"), soft_wrap=True)
    console.print()
