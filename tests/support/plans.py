"""How a database goes about the statements that it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

from sqlalchemy import Connection, event

_ROWS_READ: Final = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname = 'messages'"


def plans_on(connection: Connection) -> list[str]:
    """The plan of each statement that SQLAlchemy runs on the connection from now on, before it runs."""
    plans: list[str] = []
    prefix = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"

    def explain(_connection: object, cursor: Any, sql: str, values: Any, *_: object) -> None:
        cursor.execute(f"{prefix} {sql}", values)
        plans.append(str(cursor.fetchall()))

    event.listen(connection, "before_cursor_execute", explain)
    return plans


def avoid_scans(connection: Connection) -> None:
    """Have PostgreSQL use an index also where a table is so small that it would read it whole."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")


@contextmanager
def counting(connection: Connection) -> Iterator[list[int]]:
    """Count what a database goes through: steps of SQLite, rows that PostgreSQL reads."""
    counted: list[int] = []
    if connection.dialect.name == "postgresql":
        before = connection.exec_driver_sql(_ROWS_READ).scalar_one()
        yield counted
        counted.append(int(connection.exec_driver_sql(_ROWS_READ).scalar_one() - before))
        return
    steps = count()
    driver = connection.connection.driver_connection
    driver.set_progress_handler(lambda: 0 * next(steps), 1)
    yield counted
    driver.set_progress_handler(None, 0)
    counted.append(next(steps))
