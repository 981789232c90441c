"""Inserting messages, each with the number that says in which order they were accepted."""

from collections.abc import Sequence
from functools import cache
from typing import Final

from sqlalchemy import Connection, Dialect, select
from sqlalchemy.dialects import postgresql, sqlite

from chapar.model.message import Message
from chapar.store.database import run_on_driver
from chapar.store.operations import batch_table, run_batch
from chapar.store.schema import Row, messages, whole


@cache
def insert_sql(dialect: Dialect, fields: int = len(Message._fields)) -> str:
    """The statement that adds messages, of which the first `fields` are given.

    Repeated because its answer was lost, it finds its row, and that is fine.
    """
    names = [messages.c.sent_by.name, *Message._fields[:fields]]
    if dialect.name == "postgresql":
        rows = batch_table({name: messages.c[name].type for name in names})
        from_rows = postgresql.insert(messages).from_select(names, select(*rows.c))
        return str(from_rows.on_conflict_do_nothing(index_elements=["id"]).compile(dialect=dialect))
    statement = sqlite.insert(messages).on_conflict_do_nothing(index_elements=["id"])
    return str(statement.compile(dialect=dialect, column_keys=[messages.c.seq.name, *names]))


def insert_messages(connection: Connection, rows: Sequence[Row]) -> int:
    """Insert the messages that are not there yet, each who sent it and a row, or short row; gives how many were not."""
    if len(set(map(len, rows))) > 1:
        rows = [(sent_by, *whole(tuple(row))) for sent_by, *row in rows]
    sql = insert_sql(connection.dialect, len(rows[0]) - 1)
    if connection.dialect.name == "sqlite":
        rows = [(number, *row) for number, row in zip(_numbers(connection, len(rows)), rows, strict=True)]
    return run_batch(connection, sql, rows)


# SQLite writes where it keeps the highest number of a table, in a page of its own, whenever an insertion goes beyond
# it. So it is set ahead, and each message gets its number from those that are kept free.
_AHEAD: Final = 1000  # numbers; as many are skipped at each start
_NUMBERS = "message_numbers"  # what a connection remembers: the last one given, and the highest that is kept free
_COUNTER = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
_BEGIN_COUNTER = "INSERT INTO sqlite_sequence (name, seq) VALUES ('messages', ?)"
_SET_COUNTER = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'messages'"


def _numbers(connection: Connection, count: int) -> range:
    """The numbers of the next messages. None was given before, whatever was rolled back or removed."""
    counter = run_on_driver(connection, _COUNTER).fetchone()
    kept = 0 if counter is None else int(counter[0])
    last, kept_here = connection.info.get(_NUMBERS, (kept, kept))
    if kept_here != kept:  # setting it was rolled back, or somebody else has set it
        last = kept
    numbers = range(last + 1, last + 1 + count)
    if numbers.stop > kept:
        kept = numbers.stop + _AHEAD
        run_on_driver(connection, _BEGIN_COUNTER if counter is None else _SET_COUNTER, (kept,))
    connection.info[_NUMBERS] = (numbers.stop - 1, kept)
    return numbers
