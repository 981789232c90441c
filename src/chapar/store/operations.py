"""A kind of operation that the writer can be asked for, and how a batch of it becomes one statement."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection, String, TableValuedAlias, Text, bindparam, func
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from chapar.model.change import Change
from chapar.store.database import run_on_driver
from chapar.store.schema import Row, Value

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


class Ambiguous(Exception):
    """A batch was applied only in part, and which part is to be found out one by one."""


@dataclass(frozen=True)
class Kind(Generic[Arguments, Result]):
    """A kind of operation. `apply` runs many of it in the open transaction and gives a result for each.

    Arguments and results cross between two processes, and plain values do so at a fraction of the cost of named ones:
    `packed` makes them of the arguments, and `named` makes of a plain result, and the arguments that led to it, what
    the one who asked is to see. None: they cross as they are.
    """

    name: str
    apply: Callable[[Connection, Sequence[Any]], Sequence[Any]]
    packed: Callable[[Arguments], Any] | None = None
    named: Callable[[Arguments, Any], Result] | None = None
    changes: Callable[[Arguments, Result], Sequence[Change]] | None = None  #: what it changed; None: no message
    unpacked: Callable[[Any], Arguments] | None = None  #: the arguments of what crossed, as far as `changes` asks
    logged: Callable[[Sequence[Any], Sequence[Any]], list[str]] | None = None
    """What the log of changes keeps of many, from what crosses; None: what `changes` says."""

    def crossing(self, arguments: Sequence[Arguments]) -> Sequence[Any]:
        """The arguments as they cross."""
        return arguments if self.packed is None else list(map(self.packed, arguments))

    def result(self, arguments: Arguments, plain: object) -> Result:
        """Return what the one who asked is to see of a plain result."""
        return cast("Result", plain) if self.named is None else self.named(arguments, plain)

    def changed(self, crossed: object, plain: object) -> Sequence[Change]:
        """Return what it changed, from what crosses: that is all the writer has."""
        if self.changes is None:
            return ()
        arguments = cast("Arguments", crossed) if self.unpacked is None else self.unpacked(crossed)
        return self.changes(arguments, self.result(arguments, plain))

    def run(self, connection: Connection, arguments: Sequence[Arguments]) -> list[Result]:
        """Run it in a transaction of one's own."""
        results = self.apply(connection, self.crossing(arguments))
        return [self.result(each, plain) for each, plain in zip(arguments, results, strict=True)]


# The hot statements are compiled once, given plain values and run on the driver's own cursor: what SQLAlchemy does
# around a statement takes longer than the statement. SQLite runs one for each row. PostgreSQL gets a batch as one
# statement over arrays, which is planned once: four times as many, and without prepared statements, which a
# transaction pooler may lose. The order of the parameters is that of the values in `to_row` and `move_row`.


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
    return list(run_on_driver(connection, sql, (value, as_list(connection, texts))).fetchall())


def as_list(connection: Connection, values: Sequence[Value]) -> str:
    """A list as one parameter: with one for each value, every number of them would be a statement of its own."""
    return array(values) if connection.dialect.name == "postgresql" else json.dumps(values)


def array(values: Sequence[Value]) -> str:
    """PostgreSQL's text of an array (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO).

    The driver, which looks at the type of each value, takes four times as long for a message's.
    """
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
