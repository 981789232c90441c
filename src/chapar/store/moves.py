"""Moving a message from one state to another, and what is kept of its attempts."""

from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final, cast

from sqlalchemy import BigInteger, ColumnElement, Connection, Dialect, bindparam, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from chapar.model.audit import Entry
from chapar.model.change import Cancelled, Change, Move
from chapar.model.message import ANSWERED, MUTABLE, WAITING, Attempt, Message, Status
from chapar.model.reason import Reason
from chapar.store.audit import add_entries
from chapar.store.change_log import all_written, quoted
from chapar.store.generations import advance
from chapar.store.lanes import is_in_lane, leaves_lane, release
from chapar.store.operations import Ambiguous, Kind, batch_table, run_batch
from chapar.store.schema import COLUMNS, Row, Value, attempts, messages, to_message, to_row

_CANCELLED = Reason.CANCELLED.value
# A reply may be given up before it is known that the broker had its message.
_DEVICE_WAS_FIRST: Final = ANSWERED | {Status.TIMED_OUT}
_GUARDS = ("id", "status", "attempts", "claim")
_PARAMETERS: Final = len(MUTABLE) + len(_GUARDS)
_ATTEMPTS: Final = MUTABLE.index("attempts")
_ID: Final = len(MUTABLE)
_BEFORE: Final = len(MUTABLE) + 1
_DEVICE: Final = _PARAMETERS
_AT: Final = _PARAMETERS + 1
_LEAVES_LANE: Final = _PARAMETERS + 2
_IS_PLAIN: Final = _PARAMETERS + 3
_PLAIN: Final = MUTABLE.index("attempts")
"""How many of the fields a plain move sets: the first attempt succeeds, and no reply is awaited."""


def _places_of(names: Sequence[str]) -> list[int]:
    return [Message._fields.index(name) for name in names]


_set: Callable[[Message], tuple[Value, ...]] = itemgetter(*_places_of(MUTABLE[1:]))
_kept: Callable[[Message], tuple[Value, ...]] = itemgetter(*_places_of(MUTABLE[_PLAIN:]))
_all_of: Callable[[Row], Row] = itemgetter(slice(_PARAMETERS))
_plain_of: Callable[[Row], Row] = itemgetter(*range(_PLAIN), *range(len(MUTABLE), _PARAMETERS))
_UNKNOWN: Final = Message._make([None] * len(COLUMNS))
_id_in: Callable[[Row], str] = itemgetter(len(MUTABLE))  # a move as it crosses


def move_row(move: Move) -> Row:
    """A move as it crosses: what is set, then what must still hold; last its device, its time, and of what kind it is.

    That is whether it ends a message of a lane, and whether it is plain.
    """
    before, after, at = move
    guards = (before.id, str(before.status), before.attempts, before.claim)
    is_plain = _kept(before) == _kept(after)
    return (str(after.status), *_set(after), *guards, before.imei, at, leaves_lane(after), is_plain)


def _unpacked_move(row: Row) -> Move:
    """The move that crossed, of which no more is known than what a change says without its message."""
    id_, status, _, _, imei, at, *_ = row[len(MUTABLE) :]
    before = _UNKNOWN._replace(id=str(id_), imei=str(imei), status=Status(str(status)))
    after = before._replace(status=Status(str(row[0])), reason=cast("str | None", row[1]))
    return Move(before, after, cast("int", at))


# The order of the parameters is that of the values in `move_row`.
@cache
def update_sql(dialect: Dialect, fields: int = len(MUTABLE)) -> str:
    """The statement of a MOVE, the only way a message changes: it sets the first `fields` of those that are mutable.

    Zero rows: somebody else moved it first.
    """
    names = MUTABLE[:fields]
    types = {f"after_{name}": messages.c[name].type for name in names}
    types |= {f"before_{name}": messages.c[name].type for name in _GUARDS}
    given: Callable[[str], ColumnElement[Any]]
    given = batch_table(types).c.__getitem__ if dialect.name == "postgresql" else bindparam
    statement = (
        update(messages)
        .ordered_values(*((messages.c[name], given(f"after_{name}")) for name in names))
        .where(
            messages.c.id == given("before_id"),
            # The empty string: else SQLite plans anew at each execution, as the status decides which index may be used.
            messages.c.status.concat(literal_column("''")) == given("before_status"),
            messages.c.attempts == given("before_attempts"),
            messages.c.claim.is_not_distinct_from(given("before_claim")),
            messages.c.superseded_by.is_(None),
        )
    )
    return str(statement.compile(dialect=dialect))


_KEEP = {
    "postgresql": postgresql.insert(attempts).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(attempts).on_conflict_do_nothing(),
}
_NOW = select(*COLUMNS).where(messages.c.id.in_(bindparam("ids", expanding=True)))
_STILL_PUBLISH = (
    update(messages)
    .where(messages.c.id == bindparam("of_message"), messages.c.published_at.is_(None))
    .values(
        published_at=bindparam("at", type_=BigInteger),
        subscribers=bindparam("had_subscribers"),
        reason_code=bindparam("code"),
    )
)
_CANCEL = (
    update(messages)
    .where(messages.c.id == bindparam("of_message"))
    .values(
        status=Status.CANCELLED.value,
        reason=_CANCELLED,
        not_before=None,
        contact_until=None,
        finished_at=bindparam("at", type_=BigInteger),
    )
)
_TO_CANCEL = select(*COLUMNS).where(messages.c.id == bindparam("of_message")).with_for_update()


def _move(connection: Connection, rows: Sequence[Row]) -> Sequence[bool | Row]:
    # PostgreSQL: in the order in which a batch of replies takes its locks, too.
    ordered = sorted(rows, key=_id_in) if connection.dialect.name == "postgresql" else rows
    if all(row[_IS_PLAIN] for row in rows):
        sql, parameters = update_sql(connection.dialect, _PLAIN), map(_plain_of, ordered)
    else:
        sql, parameters = update_sql(connection.dialect), map(_all_of, ordered)
    moved = run_batch(connection, sql, list(parameters))
    results = [True] * len(rows) if moved == len(rows) else _each_moved(connection, rows)
    release(connection, {str(row[_DEVICE]) for row in rows if row[_LEAVES_LANE]})
    return results


def _each_moved(connection: Connection, rows: Sequence[Row]) -> Sequence[bool | Row]:
    """Find out what came of each move, some of which found their messages moved by somebody else."""
    ids = [_id_in(row) for row in rows]
    if len(set(ids)) < len(ids):  # two moves of one message: the first is to win
        raise Ambiguous
    now = _now(connection, ids)
    return [_moved(connection, row, now.get(_id_in(row))) for row in rows]


def _now(connection: Connection, ids: Sequence[str]) -> dict[str, Message]:
    found = (to_message(tuple(row)) for row in connection.execute(_NOW, {"ids": ids}))
    return {message.id: message for message in found}


def _moved(connection: Connection, row: Row, now: Message | None) -> bool | Row:
    """Return whether a message is as a move makes it, also where that is repeated because its answer was lost.

    Where its device replied first, its row: the device outranks every conclusion, and what the broker said is kept
    beside its word.
    """
    if now is None:
        return False
    after = dict(zip(MUTABLE, row[: len(MUTABLE)], strict=True))
    if all(getattr(now, name) == value for name, value in after.items()):
        return True
    if now.superseded_by is not None and row[len(MUTABLE) + 1 : _PARAMETERS] == (now.status, now.attempts, now.claim):
        return _move_superseded(connection, now, after, row)
    if now.status not in _DEVICE_WAS_FIRST:
        return False
    if after["published_at"] is not None and now.published_at is None:
        broker = {"at": after["published_at"], "had_subscribers": after["subscribers"], "code": after["reason_code"]}
        connection.execute(_STILL_PUBLISH, {"of_message": now.id} | broker)
        now = _now(connection, [now.id])[now.id]
    return to_row(now)


def _move_superseded(connection: Connection, now: Message, after: dict[str, Value], row: Row) -> bool | Row:
    """Move a message that is never sent again: in place of waiting for another attempt it ends."""
    waits = after["status"] == Status.QUEUED.value
    if waits:
        status = Status.UNCONFIRMED if after["possible_duplicate"] else Status.CANCELLED
        after = {"status": status.value, "reason": Reason.SUPERSEDED.value, "attempts": after["attempts"]}
        after |= {"claim": None, "contact_until": None, "finished_at": row[_AT]}
    moved = connection.execute(
        update(messages)
        .where(messages.c.id == now.id, messages.c.status == now.status.value)
        .where(messages.c.attempts == now.attempts, messages.c.claim.is_not_distinct_from(now.claim))
        .values(after)
    )
    if not moved.rowcount:  # a reply came in between
        return False
    if not waits:
        return True
    release(connection, [now.imei] if is_in_lane(now) else [])
    advance(connection)
    return to_row(_now(connection, [now.id])[now.id])


def _cancel(connection: Connection, cancels: Sequence[Entry]) -> Sequence[tuple[str | None, Row] | None]:
    """Withdraw messages; return where each waited, if this withdrew it, and its row now; None where there is none."""
    return [_cancel_one(connection, entry) for entry in cancels]


def _cancel_one(connection: Connection, entry: Entry) -> tuple[str | None, Row] | None:
    found = connection.execute(_TO_CANCEL, {"of_message": entry.subject}).one_or_none()
    if found is None:
        return None
    message = to_message(tuple(found))
    if message.status in WAITING:
        connection.execute(_CANCEL, {"of_message": message.id, "at": entry.at})
        advance(connection)
        add_entries(connection, [entry])
        if is_in_lane(message):
            release(connection, [message.imei])
        cancelled = message.moved(
            Status.CANCELLED, reason=_CANCELLED, not_before=None, contact_until=None, finished_at=entry.at
        )
        return message.status.value, to_row(cancelled)
    if (message.status, message.reason, message.finished_at) == (Status.CANCELLED, _CANCELLED, entry.at):
        # This is repeated, because its answer was lost.
        before = Status.QUEUED if (message.deliver_at or 0) <= entry.at else Status.SCHEDULED
        return before.value, to_row(message)
    return None, to_row(message)


def _cancelled(_: Entry, found: tuple[str | None, Row] | None) -> Cancelled | None:
    if found is None:
        return None
    before, row = found
    return Cancelled(None if before is None else Status(before), to_message(row))


def _change_of_cancel(entry: Entry, cancelled: Cancelled | None) -> Sequence[Change]:
    if cancelled is None or cancelled.before is None:
        return ()
    message = cancelled.message
    return [Change(message.id, message.imei, cancelled.before, message.status, message.reason, entry.at, message)]


def _record(connection: Connection, rows: Sequence[Attempt]) -> Sequence[None]:
    keep_attempts(connection, rows)
    return [None] * len(rows)


def keep_attempts(connection: Connection, rows: Sequence[Attempt]) -> None:
    """Keep the attempts that are not kept yet."""
    connection.execute(_KEEP[connection.dialect.name], [attempt._asdict() for attempt in rows])


def _result_of_move(_: Move, moved: bool | Row) -> bool | Message:  # noqa: FBT001 - the result of the kind
    return moved if moved is True or moved is False else to_message(moved)


def _change_of_move(move: Move, moved: bool | Message) -> Sequence[Change]:  # noqa: FBT001 - the result of the kind
    if moved is False or (moved is not True and moved.status in _DEVICE_WAS_FIRST):
        return ()
    after = move.after if moved is True else moved
    return [Change(after.id, after.imei, move.before.status, after.status, after.reason, move.at, after)]


def _logged(rows: Sequence[Row], results: Sequence[bool | Row]) -> list[str]:
    """Return what `_change_of_move` says, at a fraction of what that costs."""
    items = []
    for row, result in zip(rows, results, strict=True):
        if result is not True:
            items += all_written(MOVE.changed(row, result))
        elif row[0] != row[_BEFORE]:
            reason, was = row[1], row[_BEFORE]
            said = "null" if reason is None else quoted(cast("str", reason))
            items.append(f'["{row[_ID]}","{row[_DEVICE]}","{was}","{row[0]}",{said},{row[_AT]},{row[_ATTEMPTS]}]')
    return items


MOVE: Final[Kind[Move, bool | Message]] = Kind(
    "move",
    _move,
    packed=move_row,
    named=_result_of_move,
    changes=_change_of_move,
    unpacked=_unpacked_move,
    logged=_logged,
)
RECORD: Final[Kind[Attempt, None]] = Kind("record", _record)
CANCEL: Final[Kind[Entry, Cancelled | None]] = Kind("cancel", _cancel, named=_cancelled, changes=_change_of_cancel)
