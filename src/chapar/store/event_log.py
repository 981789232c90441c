"""The log of changes, as listeners to events read it: page by page, from any place on, in any process.

On PostgreSQL a place is made of snapshots, because rows become visible out of order (see `Position`). The rows between
two snapshots are in the order of their numbers, and never change any more, so every process reads them in that order.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, select

from chapar.model.device import State
from chapar.model.event import NOTHING, PRESENCE, WHOLE, CursorGone, Event, EventPage, Position, type_of
from chapar.model.message import Message, Status
from chapar.store.change_log import BETWEEN_SNAPSHOTS, NOW_SQL, between
from chapar.store.database import run_on_driver
from chapar.store.readers import Readers
from chapar.store.schema import COLUMNS, messages, to_message

MOST_EVENTS: Final = 500  # of a page
MOST_BYTES: Final = 256 * 1024  # of what the messages of a page hold, roughly
_ROWS: Final = 50  # of the log, that are read at a time: one may hold thousands of changes
_TRANSACTIONS: Final = 256  # of PostgreSQL, from one milestone to the next
_LOOKED_UP: Final = 100  # messages at a time
_LEEWAY: Final = 1000  # ms by which what several processes write at once may be out of order
_MINUTE: Final = 60_000  # ms

_MESSAGES: Final = select(*COLUMNS).where(messages.c.id.in_(bindparam("ids", expanding=True)))

_BOUNDS: Final = """
    SELECT oldest.seq, oldest.at, newest.seq, newest.at
    FROM (SELECT seq, at FROM changes ORDER BY seq LIMIT 1) AS oldest,
        (SELECT seq, at FROM changes ORDER BY seq DESC LIMIT 1) AS newest
"""
_NOW: Final = f"SELECT pg_current_snapshot()::text, {NOW_SQL}"
# Not `min(seq)`: to find it, a planner may go through all that was there before.
_FIRST: Final = f"SELECT min(seq + 0) FROM changes WHERE {BETWEEN_SNAPSHOTS}"  # noqa: S608 - made of constants
_FIRST_TX: Final = f"SELECT tx FROM changes WHERE {BETWEEN_SNAPSHOTS} ORDER BY tx LIMIT 1"  # noqa: S608
_BETWEEN: Final = f"""
    SELECT seq, at, moved FROM changes WHERE seq >= %s AND {BETWEEN_SNAPSHOTS} ORDER BY seq LIMIT {_ROWS}
"""  # noqa: S608
_UP_TO: Final = f"SELECT seq, at, moved FROM changes WHERE seq >= ? AND seq <= ? ORDER BY seq LIMIT {_ROWS}"  # noqa: S608
_AT: Final = {
    "postgresql": "SELECT at FROM changes WHERE seq = %s",
    "sqlite": "SELECT at FROM changes WHERE seq = ?",
}
_FROM: Final = {
    "postgresql": "SELECT seq, at FROM changes WHERE seq >= %s ORDER BY seq LIMIT 1",
    "sqlite": "SELECT seq, at FROM changes WHERE seq >= ? ORDER BY seq LIMIT 1",
}


Wants = Callable[[Event], bool]
"""Whether somebody may want an event, as far as it says without its message."""

Known = Callable[[str, int, Status], Message | None]
"""The message of this id that came at a time (ms since the epoch) to have a status, where it need not be read."""

_TYPES: Final = {status.value: type_of(status) for status in Status}
_STATUSES: Final = {status.value: status for status in Status}


class _Bounds(NamedTuple):
    """The rows that the log has."""

    oldest: int
    oldest_at: int
    newest: int
    newest_at: int


def _nothing(_id: str, _at: int, _status: Status) -> None:
    """Know no message."""


class _Sources(NamedTuple):
    """Sources of the messages of a page."""

    wants: Wants | None = None  # None: all events are wanted
    known: Known = _nothing


class EventLog:
    """The events of all processes, in their order."""

    def __init__(self, lookups: Readers, reporters: Readers) -> None:
        self._lookups = lookups
        self._reporters = reporters

    async def end(self) -> Position:
        """The place behind all that there is; raises StoreUnavailable."""
        return await self._lookups.read(_end)

    async def news(self, after: Position, wants: Wants | None = None, known: Known = _nothing) -> EventPage:
        """Some of what follows a place, up to now; raises StoreUnavailable.

        Messages that are not `known` are read for those events that somebody `wants`.
        """
        return await self._lookups.read(lambda connection: _read(connection, after, None, _Sources(wants, known)))

    async def past(self, after: Position, until: Position, wants: Wants | None = None) -> EventPage:
        """Some of what follows a place, up to another one; raises CursorGone, StoreUnavailable.

        Messages are read for those events that are wanted.
        """
        return await self._reporters.read(lambda connection: _read_past(connection, after, until, _Sources(wants)))

    async def check(self, cursor: Position, kept_since: int) -> None:
        """Raise CursorGone where what follows a place is not all there. Rows are kept `kept_since` a time at least.

        Also raises StoreUnavailable.
        """
        await self._lookups.read(lambda connection: _check(connection, cursor, kept_since))

    async def oldest(self) -> Position:
        """The place before all that there is; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: _oldest(connection, _bounds(connection)))

    async def since(self, at: int) -> Position:
        """The place before all that was written at a time or later, and little else; raises StoreUnavailable."""
        return await self._reporters.read(lambda connection: _since(connection, at))


def _end(connection: Connection) -> Position:
    if connection.dialect.name == "postgresql":
        return _end_of(*_now(connection))
    bounds = _bounds(connection)
    return Position("", "", 0, WHOLE, 0) if bounds is None else Position("", "", bounds.newest, WHOLE, bounds.newest_at)


def _now(connection: Connection) -> tuple[str, int]:
    ((snapshot, at),) = run_on_driver(connection, _NOW).fetchall()
    return str(snapshot), int(at)


def _end_of(snapshot: str, at: int) -> Position:
    return Position(snapshot, snapshot, 0, 0, at)


def _bounds(connection: Connection) -> _Bounds | None:
    found = run_on_driver(connection, _BOUNDS).fetchall()
    return _Bounds(*found[0]) if found else None


def _read_past(connection: Connection, after: Position, until: Position, sources: _Sources) -> EventPage:
    bounds = _bounds(connection)
    behind = after.seq if connection.dialect.name == "postgresql" else after.seq + 1  # where no number is left out
    if bounds is not None and after.seq and behind < bounds.oldest:
        raise CursorGone(_oldest(connection, bounds))
    return _read(connection, after, until, sources)


def _read(connection: Connection, after: Position, until: Position | None, sources: _Sources) -> EventPage:
    if connection.dialect.name != "postgresql":
        last = WHOLE << 30 if until is None else until.seq
        first = after.seq + 1 if after.item == WHOLE else after.seq
        return _page(connection, after, run_on_driver(connection, _UP_TO, (first, last)).fetchall(), None, sources)
    if not after.is_at_end:
        # The rest of what its snapshots are about.
        rows = run_on_driver(connection, _BETWEEN, (after.seq, *between(after.before, after.upto))).fetchall()
        page = _page(connection, after, rows, _end_of(after.upto, after.at), sources)
        if page.events:
            return page
    known = after.upto
    target = _end_of(*_now(connection)) if until is None else until
    if target.upto == known or target.order <= _end_of(known, after.at).order:
        return EventPage(after, [], _end_of(known, after.at))
    upto = target.upto if until is None else _milestone(connection, known, target.upto)
    ((first,),) = run_on_driver(connection, _FIRST, between(known, upto)).fetchall()
    if first is None:
        return EventPage(after, [], _end_of(upto, target.at))
    rows = run_on_driver(connection, _BETWEEN, (first, *between(known, upto))).fetchall()
    # At a milestone it is as late as what was written last: what follows may be much older than the target.
    end = _end_of(upto, target.at if upto == target.upto else rows[-1][1])
    page = _page(connection, Position(known, upto, first, 0, 0), rows, end, sources)
    return page._replace(start=after)


def _milestone(connection: Connection, before: str, upto: str) -> str:
    """The snapshot up to which is read next: a milestone, or `upto` where that comes first.

    Milestones are the same for all, wherever a reader began and in whatever process. So readers who are behind soon
    read the same pages. A milestone is a number of a transaction: all with lower numbers had ended.
    """
    found = run_on_driver(connection, _FIRST_TX, between(before, upto)).fetchall()
    if not found:
        return upto
    last = max(found[0][0], int(before.split(":")[1]) - 1)
    number = (last // _TRANSACTIONS + 1) * _TRANSACTIONS
    return f"{number}:{number}:" if number <= int(upto.split(":", maxsplit=1)[0]) else upto


def _page(
    connection: Connection, after: Position, rows: Sequence[Any], end: Position | None, sources: _Sources
) -> EventPage:
    """The page that begins behind a place, in the rows that follow it. `end`: the place behind the last of them all."""
    events: list[Event] = []
    place = after
    has_more = len(rows) == _ROWS
    for seq, at, moved in rows:
        items = json.loads(moved)
        passed = after.item if seq == after.seq else 0
        for number, item in enumerate(items[passed : passed + MOST_EVENTS - len(events)], passed + 1):
            place = Position(after.before, after.upto, seq, number, at)
            events.append(_event(item, place, sources.known))
        if place.seq != seq or place.item < len(items):  # there was no room for all of it
            has_more = True
            break
        place = Position(after.before, after.upto, seq, WHOLE, at)
    if not has_more and end is not None:
        place = end
    whole, size = _with_messages(connection, events, sources.wants)
    if len(whole) < len(events):
        return EventPage(after, whole, whole[-1].position, has_more=True, size=size)
    return EventPage(after, whole, place, has_more=has_more, size=size)


def _event(item: Sequence[Any], place: Position, known: Known) -> Event:
    if item[0] is None:
        _, imei, _, after, since, evidence = item
        return Event(PRESENCE, place.at, imei, place, None, state=State(after), since=since, evidence=evidence)
    id_, imei, _, after, reason, at, attempts = item
    status = _STATUSES[after]
    return Event(_TYPES[after], at, imei, place, id_, known(id_, at, status), status, reason, attempts)


def _with_messages(connection: Connection, events: Sequence[Event], wants: Wants | None) -> tuple[list[Event], int]:
    """The events with the messages that they are about, and their size: as many as are not too large together."""
    found: dict[str, Message] = {}
    whole: list[Event] = []
    size = 0
    for first in range(0, len(events), _LOOKED_UP):
        some = events[first : first + _LOOKED_UP]
        unknown = [event for event in some if event.message is None and event.id is not None]
        wanted = unknown if wants is None else filter(wants, unknown)
        found |= _look_up(connection, {event.id for event in wanted if event.id is not None and event.id not in found})
        for event in some:
            shown = event if event.message is not None else _as_of(event, found)
            larger = size + shown.size
            if larger > MOST_BYTES and whole:
                return whole, size
            whole.append(shown)
            size = larger
    return whole, size


def _look_up(connection: Connection, ids: Iterable[str]) -> dict[str, Message]:
    if not ids:
        return {}
    rows = connection.execute(_MESSAGES, {"ids": list(ids)})
    return {message.id: message for message in (to_message(tuple(row)) for row in rows)}


def _as_of(event: Event, found: Mapping[str, Message]) -> Event:
    """An event with the message that it is about, where there is one, in the state that it made."""
    message = None if event.id is None else found.get(event.id)
    if message is None or event.status is None:
        return event
    attempts = message.attempts if event.attempts is None else event.attempts
    state = event.status, event.reason, attempts
    if (message.status, message.reason, message.attempts) != state:
        message = message._replace(status=event.status, reason=event.reason, attempts=attempts)
    return event.about(message)


def _oldest(connection: Connection, bounds: _Bounds | None) -> Position:
    """The place before the oldest row."""
    if bounds is None:
        return _end(connection)
    if connection.dialect.name != "postgresql":
        return Position("", "", bounds.oldest, 0, bounds.oldest_at)
    return Position(NOTHING, _now(connection)[0], bounds.oldest, 0, bounds.oldest_at)


def _check(connection: Connection, cursor: Position, kept_since: int) -> None:
    bounds = _bounds(connection)
    is_there = _is_there_postgresql if connection.dialect.name == "postgresql" else _is_there_sqlite
    if not is_there(connection, cursor, bounds, kept_since):
        raise CursorGone(_oldest(connection, bounds))


def _is_there_sqlite(connection: Connection, cursor: Position, bounds: _Bounds | None, _: int) -> bool:
    if cursor.upto:
        return False
    if bounds is None or cursor.seq == 0:
        return cursor.seq == 0 and (bounds is None or bounds.oldest == 1)
    written_at = _written_at(connection, cursor.seq)
    # No number is left out, so a row that has gone was just before the oldest, or others have gone with it.
    return written_at == cursor.at if written_at is not None else cursor.seq + 1 == bounds.oldest


def _is_there_postgresql(connection: Connection, cursor: Position, _: _Bounds | None, kept_since: int) -> bool:
    if not cursor.upto:
        return False
    snapshot, _at = _now(connection)
    if _end_of(snapshot, 0).order[0] < cursor.order[0]:  # it is of another cluster
        return False
    if cursor.is_at_end:
        return cursor.at >= kept_since + _MINUTE
    return _written_at(connection, cursor.seq) == cursor.at


def _written_at(connection: Connection, seq: int) -> int | None:
    found = run_on_driver(connection, _AT[connection.dialect.name], (seq,)).fetchall()
    return int(found[0][0]) if found else None


def _since(connection: Connection, at: int) -> Position:
    """Bisect: numbers and times go up together, but for a little."""
    bounds = _bounds(connection)
    wanted = at - _LEEWAY
    if bounds is None or bounds.newest_at < wanted:
        return _end(connection)
    low, high = bounds.oldest, bounds.newest
    row = bounds.oldest, bounds.oldest_at
    while low < high:
        middle = (low + high) // 2
        row = _row_from(connection, middle)
        if row[1] < wanted:
            low = row[0] + 1
        else:
            high = middle
    seq, written_at = _row_from(connection, low)
    if connection.dialect.name != "postgresql":
        return Position("", "", seq, 0, written_at)
    return Position(NOTHING, _now(connection)[0], seq, 0, written_at)


def _row_from(connection: Connection, seq: int) -> tuple[int, int]:
    ((found, at),) = run_on_driver(connection, _FROM[connection.dialect.name], (seq,)).fetchall()
    return int(found), int(at)
