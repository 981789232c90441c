"""What the writer can be asked to do: each kind of operation, and how a batch of it becomes statements."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    String,
    TableValuedAlias,
    Text,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

from chapar.model.message import Attempt, Message
from chapar.store.database import run_on_driver
from chapar.store.schema import MUTABLE, Row, Value, attempts, messages, processes

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


class Ambiguous(Exception):
    """A batch was applied only in part, and which part is to be found out one by one."""


@dataclass(frozen=True)
class Kind(Generic[Arguments, Result]):
    """A kind of operation. `apply` runs many of it in the open transaction and gives a result for each.

    Arguments and results cross between two processes, and plain values do so at a fraction of the cost of named ones:
    `named` makes of a result, and the arguments that led to it, what the one who asked is to see.
    """

    name: str
    rank: int  #: in one batch, kinds of a lower rank are applied, and answered, before those of a higher one
    apply: Callable[[Connection, Sequence[Arguments]], Sequence[Any]]
    named: Callable[[Arguments, Any], Result] | None = None  #: None: results cross as they are


_GUARDS = ("id", "status", "attempts", "claim")


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
        after.not_before,
        after.published_at,
        after.finished_at,
    )
    return (*mutable, before.id, before.status.value, before.attempts, before.claim)


# The hot statements are compiled once, given plain values and run on the driver's own cursor: what SQLAlchemy does
# around a statement takes 5 µs. SQLite runs one for each row. PostgreSQL gets a batch as one statement over arrays,
# which is planned once: four times as many, and without prepared statements, which a transaction pooler may lose.
# The order of the parameters is that of the values in `to_row` and `move_row`.


@cache
def insert_sql(dialect: Dialect) -> str:
    """The statement that adds messages. Repeated because its answer was lost, it finds its row, and that is fine."""
    names = list(Message._fields)
    if dialect.name == "postgresql":
        rows = batch_table({name: messages.c[name].type for name in names})
        from_rows = postgresql.insert(messages).from_select(names, select(*rows.c))
        return str(from_rows.on_conflict_do_nothing(index_elements=["id"]).compile(dialect=dialect))
    statement = sqlite.insert(messages).on_conflict_do_nothing(index_elements=["id"])
    return str(statement.compile(dialect=dialect, column_keys=names))


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


def batch_table(types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """A batch as a table, from one array for each column."""
    # Text, because a cast to VARCHAR(n) cuts off in silence what does not fit.
    plain = {name: Text() if isinstance(type_, String) else type_ for name, type_ in types.items()}
    arrays = [bindparam(name, type_=postgresql.ARRAY(type_)) for name, type_ in plain.items()]
    return func.unnest(*arrays).table_valued(*types).render_derived(name="batch")


def run_batch(connection: Connection, sql: str, rows: Sequence[Row]) -> int:
    """Run a hot statement for all `rows`; gives how many rows of its table it touched."""
    if connection.dialect.name == "postgresql":
        return int(run_on_driver(connection, sql, [array(values) for values in zip(*rows, strict=True)]).rowcount)
    return int(run_on_driver(connection, sql, rows, many=True).rowcount)


def run_on_list(connection: Connection, sql: str, value: Value, texts: Sequence[str]) -> list[tuple[Any, ...]]:
    """Run a hot statement that takes a value and a list; gives the rows that it found."""
    as_one = array if connection.dialect.name == "postgresql" else json.dumps
    return list(run_on_driver(connection, sql, (value, as_one(texts))).fetchall())


def array(values: Sequence[Value]) -> str:
    """PostgreSQL's text of an array (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO).

    The driver, which looks at the type of each value, takes 8 µs for a message's, and this 2 µs.
    """
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


_KEEP = {
    "postgresql": postgresql.insert(attempts).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(attempts).on_conflict_do_nothing(),
}
_PROBE = "probe"  # token of the row that a CHECK writes
_MUTABLE_NOW = select(*(messages.c[name] for name in MUTABLE)).where(messages.c.id == bindparam("before_id"))


def insert_messages(connection: Connection, rows: Sequence[Row]) -> int:
    """Insert the messages that are not there yet; gives how many those were."""
    return run_batch(connection, insert_sql(connection.dialect), rows)


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


def _check(connection: Connection, rows: Sequence[tuple[()]]) -> Sequence[None]:
    # A real write: a full disk or a read-only database would answer a SELECT happily, and SQLite writes nothing where
    # nothing changes. Into a table that a gateway writes anyway, so that it needs no right for this alone; as a process
    # whose lease was over long ago.
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    probe = insert(processes).values(token=_PROBE, name=_PROBE, lease_until=0)
    connection.execute(
        probe.on_conflict_do_update(index_elements=["token"], set_={"lease_until": 1 - processes.c.lease_until})
    )
    return [None] * len(rows)


def _record(connection: Connection, rows: Sequence[Attempt]) -> Sequence[None]:
    keep_attempts(connection, rows)
    return [None] * len(rows)


def keep_attempts(connection: Connection, rows: Sequence[Attempt]) -> None:
    """Keep the attempts that are not kept yet."""
    connection.execute(_KEEP[connection.dialect.name], [attempt._asdict() for attempt in rows])


MOVE: Kind[Row, bool] = Kind("move", 1, _move)
RECORD: Kind[Attempt, None] = Kind("record", 0, _record)
CHECK: Kind[tuple[()], None] = Kind("check", 9, _check)
