"""Moving a message from one state to another, and what is kept of its attempts."""

from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Connection, Dialect, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from chapar.model.audit import Entry
from chapar.model.message import MUTABLE, WAITING, Attempt, Message, Status
from chapar.store.audit import add_entries
from chapar.store.operations import Ambiguous, Kind, batch_table, run_batch
from chapar.store.schema import Row, attempts, messages

_GUARDS = ("id", "status", "attempts", "claim")
_set = attrgetter(*MUTABLE[1:])


def move_row(before: Message, after: Message) -> Row:
    """The arguments of a MOVE: what is set, then what must still hold."""
    return (after.status.value, *_set(after), before.id, before.status.value, before.attempts, before.claim)


# The order of the parameters is that of the values in `move_row`.
@cache
def update_sql(dialect: Dialect) -> str:
    """The statement of a MOVE, the only way a message changes. Zero rows: somebody else moved it first."""
    types = {f"after_{name}": messages.c[name].type for name in MUTABLE}
    types |= {f"before_{name}": messages.c[name].type for name in _GUARDS}
    given: Callable[[str], ColumnElement[Any]]
    given = batch_table(types).c.__getitem__ if dialect.name == "postgresql" else bindparam
    statement = (
        update(messages)
        .values({name: given(f"after_{name}") for name in MUTABLE})
        .where(
            messages.c.id == given("before_id"),
            messages.c.status == given("before_status"),
            messages.c.attempts == given("before_attempts"),
            messages.c.claim.is_not_distinct_from(given("before_claim")),
        )
    )
    return str(statement.compile(dialect=dialect))


_KEEP = {
    "postgresql": postgresql.insert(attempts).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(attempts).on_conflict_do_nothing(),
}
_MUTABLE_NOW = select(*(messages.c[name] for name in MUTABLE)).where(messages.c.id == bindparam("before_id"))
_CANCEL = (
    update(messages)
    .where(
        messages.c.id == bindparam("of_message"),
        messages.c.status.in_([status.value for status in WAITING]),
    )
    .values(
        status=Status.CANCELLED.value,
        reason="cancelled",
        not_before=None,
        finished_at=bindparam("at", type_=BigInteger),
    )
)
_STATUS = select(messages.c.status).where(messages.c.id == bindparam("of_message"))


def _move(connection: Connection, rows: Sequence[Row]) -> Sequence[bool]:
    moved = run_batch(connection, update_sql(connection.dialect), rows)
    if moved == len(rows):
        return [True] * len(rows)
    if len(rows) > 1:
        raise Ambiguous
    return [_is_there(connection, rows[0])]


def _is_there(connection: Connection, row: Row) -> bool:
    """Whether the message already is what the move would make it: a move repeated because its answer was lost."""
    now = connection.execute(_MUTABLE_NOW, {"before_id": row[len(MUTABLE)]}).one_or_none()
    return now is not None and tuple(now) == row[: len(MUTABLE)]


def _cancel(connection: Connection, cancels: Sequence[Entry]) -> Sequence[tuple[bool, str | None]]:
    """Whether each was withdrawn by this, and its status now; None where there is no such message."""
    results = []
    for entry in cancels:
        message_id = entry.subject
        won = connection.execute(_CANCEL, {"of_message": message_id, "at": entry.at}).rowcount == 1
        add_entries(connection, [entry] if won else [])
        results.append((won, connection.execute(_STATUS, {"of_message": message_id}).scalar_one_or_none()))
    return results


def _record(connection: Connection, rows: Sequence[Attempt]) -> Sequence[None]:
    keep_attempts(connection, rows)
    return [None] * len(rows)


def keep_attempts(connection: Connection, rows: Sequence[Attempt]) -> None:
    """Keep the attempts that are not kept yet."""
    connection.execute(_KEEP[connection.dialect.name], [attempt._asdict() for attempt in rows])


MOVE: Final[Kind[Row, bool]] = Kind("move", _move)
RECORD: Final[Kind[Attempt, None]] = Kind("record", _record)
CANCEL: Final[Kind[Entry, tuple[bool, str | None]]] = Kind("cancel", _cancel)
