"""What the writer can be asked to do: each kind of operation, and how a batch of it becomes statements."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from sqlalchemy import Connection, Dialect, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from chapar.message import Message
from chapar.store.schema import MUTABLE, Row, messages, to_row

Result = TypeVar("Result")


class Ambiguous(Exception):
    """A batch was applied only in part, and which part is to be found out one by one."""


@dataclass(frozen=True)
class Kind(Generic[Result]):
    """A kind of operation. `apply` runs many of it in the open transaction and gives a result for each."""

    name: str
    apply: Callable[[Connection, Sequence[Row]], Sequence[Result]]


def add_row(message: Message) -> Row:
    """The arguments of an ADD."""
    return to_row(message)


def move_row(before: Message, after: Message) -> Row:
    """The arguments of a MOVE: what is set, then what must still hold."""
    mutable = (
        after.status.value,
        after.reason,
        after.reason_code,
        after.attempts,
        after.possible_duplicate,
        after.subscribers,
        after.claim,
        after.published_at,
        after.finished_at,
    )
    return (*mutable, before.id, before.status.value, before.attempts, before.claim)


# The hot statements are compiled once and given plain tuples: a third more operations a second than dictionaries
# through `Connection.execute`. The order of their parameters is the order of the rows above.
@cache
def insert_sql(dialect: Dialect) -> str:
    """The statement of an ADD. Repeated because its answer was lost, it finds its row, and that is fine."""
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    statement = insert(messages).on_conflict_do_nothing(index_elements=["id"])
    return str(statement.compile(dialect=dialect, column_keys=list(Message._fields)))


@cache
def update_sql(dialect: Dialect) -> str:
    """The statement of a MOVE, the only way a message changes. Zero rows: somebody else moved it first."""
    statement = (
        update(messages)
        .values({name: bindparam(f"after_{name}") for name in MUTABLE})
        .where(
            messages.c.id == bindparam("before_id"),
            messages.c.status == bindparam("before_status"),
            messages.c.attempts == bindparam("before_attempts"),
            messages.c.claim.is_not_distinct_from(bindparam("before_claim")),
        )
    )
    return str(statement.compile(dialect=dialect))


_MUTABLE_NOW = select(*(messages.c[name] for name in MUTABLE)).where(messages.c.id == bindparam("before_id"))


def _add(connection: Connection, rows: Sequence[Row]) -> Sequence[None]:
    connection.exec_driver_sql(insert_sql(connection.dialect), list(rows))
    return [None] * len(rows)


def _move(connection: Connection, rows: Sequence[Row]) -> Sequence[bool]:
    moved = connection.exec_driver_sql(update_sql(connection.dialect), list(rows)).rowcount
    if moved == len(rows):
        return [True] * len(rows)
    if len(rows) > 1:
        raise Ambiguous
    return [_is_there(connection, rows[0])]


def _is_there(connection: Connection, row: Row) -> bool:
    """Whether the message already is what the move would make it: a move repeated because its answer was lost."""
    now = connection.execute(_MUTABLE_NOW, {"before_id": row[len(MUTABLE)]}).one_or_none()
    return now is not None and tuple(now) == row[: len(MUTABLE)]


def _check(connection: Connection, rows: Sequence[Row]) -> Sequence[None]:
    # A real write: a full disk or a read-only database would answer a SELECT happily.
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
    return [None] * len(rows)


ADD = Kind("add", _add)
MOVE = Kind("move", _move)
CHECK = Kind("check", _check)

KINDS: tuple[Kind[None] | Kind[bool], ...] = (ADD, MOVE, CHECK)
"""Every kind, in the order in which a batch applies them: a message is added before it is moved."""
