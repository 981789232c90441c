"""The real tables and statements over SQLite in memory."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import Boolean, Connection, Engine, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import NullPool

from chapar.model.message import UNFINISHED, Attempt, Message
from chapar.store import schema, writer
from chapar.store.kinds import KINDS
from chapar.store.schema import COLUMNS, to_message

Result = TypeVar("Result")

_ALL = select(*COLUMNS).order_by(schema.messages.c.seq)
_KINDS = {kind.name: kind for kind in KINDS}
_ATTEMPTS = select(schema.attempts)
_insert = insert(schema.messages)
_PUT = _insert.on_conflict_do_update(
    index_elements=["id"], set_={name: _insert.excluded[name] for name in Message._fields}
)

_FLAGS = [column.name for column in COLUMNS if isinstance(column.type, Boolean)]

# A temporary table takes part in the transaction: what is rolled back was no change.
_FIELDS = ", ".join(Message._fields)
_NOTE = f"INSERT INTO changed ({_FIELDS}) VALUES ({', '.join(f'NEW.{name}' for name in Message._fields)})"  # noqa: S608
_WATCH = f"""
    CREATE TEMP TABLE changed (place INTEGER PRIMARY KEY, {_FIELDS});
    CREATE TEMP TRIGGER added AFTER INSERT ON messages BEGIN {_NOTE}; END;
    CREATE TEMP TRIGGER moved AFTER UPDATE ON messages BEGIN {_NOTE}; END;
"""
_CHANGED = f"SELECT {_FIELDS} FROM changed WHERE place > ? ORDER BY place"  # noqa: S608


class MemoryDatabase:
    """A database of its own, on one connection that writes and reads. `clock` is that of its host, in ms."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._connection = _engine().connect()
        self.driver.create_function("unixepoch", 2, lambda *_: clock() / 1000)

    @property
    def driver(self) -> Any:
        """The driver's own connection."""
        return self._connection.connection.driver_connection

    def commit(self, batch: writer.Batch) -> list[writer.Answer]:
        """Commit a batch as the writer does; gives its answers."""
        answers, usable = writer.commit(self._connection, batch)
        assert usable, answers
        return answers

    def ask(self, *operations: tuple[str, Any]) -> list[Any]:
        """Commit operations together; gives what came of each, as who asks the store sees it."""
        batch = [(name, _KINDS[name].crossing([arguments])) for name, arguments in operations]
        results = []
        for (name, arguments), (outcome, found) in zip(operations, self.commit(batch), strict=True):
            assert outcome == "committed", found
            results.append(_KINDS[name].result(arguments, *found))
        return results

    def put(self, message: Message) -> None:
        """Have a message there, in whatever state, whether it was there before or not."""
        with self._connection.begin():
            self._connection.execute(_PUT, message._asdict() | {"status": message.status.value})

    def read(self, query: Callable[[Connection], Result]) -> Result:
        """What a query finds."""
        with self._connection.begin():
            return query(self._connection)

    def messages(self) -> list[Message]:
        """All that is kept, in the order of acceptance."""
        return [to_message(tuple(row)) for row in self.read(lambda connection: connection.execute(_ALL).all())]

    def attempts(self) -> list[Attempt]:
        """All that is kept."""
        return [Attempt._make(row) for row in self.read(lambda connection: connection.execute(_ATTEMPTS).all())]

    def close(self) -> None:
        """Forget everything."""
        self._connection.close()


class WatchedDatabase(MemoryDatabase):
    """A database that knows each change of a message, however many one statement or one batch made."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(clock)
        self.by_id: dict[str, Message] = {}  #: what is kept now, in the order of acceptance
        self._changes = 0
        self.driver.executescript(_WATCH)

    @property
    def unfinished(self) -> list[str]:
        """Ids, in the order of acceptance."""
        return [id_ for id_, message in self.by_id.items() if message.status in UNFINISHED]

    def commit(self, batch: writer.Batch) -> list[writer.Answer]:
        """Commit a batch as the writer does, and say what it changed."""
        answers = super().commit(batch)
        changed = self.driver.execute(_CHANGED, (self._changes,)).fetchall()
        self._changes += len(changed)
        for after in map(_message, changed):
            before, self.by_id[after.id] = self.by_id.get(after.id), after
            self.changed(before, after)
        return answers

    def changed(self, before: Message | None, after: Message) -> None:
        """A message was added (`before` is None) or moved."""


def _message(row: tuple[Any, ...]) -> Message:
    """The message in a row as the driver has it, in which true is 1."""
    message = to_message(row)
    flags = {name: getattr(message, name) for name in _FLAGS}
    return message._replace(**{name: None if flag is None else bool(flag) for name, flag in flags.items()})


@cache
def _engine() -> Engine:
    """Each of its connections is a database. One engine serves all, because it remembers compiled statements."""
    empty = sqlite.connect(":memory:")

    def connect() -> Any:
        database = sqlite.connect(":memory:", isolation_level=None, check_same_thread=False)
        empty.backup(database)
        return database

    engine = create_engine("sqlite://", module=sqlite, creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.connection.execute("BEGIN IMMEDIATE"))
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
        connection.execute(insert(schema.installation), {"id": 1, "generation": 0, "name": "in memory"})
        connection.execute(insert(schema.receiver), {"id": 1, "lease_until": 0})
        connection.commit()
        connection.connection.driver_connection.backup(empty)
    return engine
