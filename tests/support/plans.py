"""How a database goes about the statements that it is asked."""

from typing import Any

from sqlalchemy import Connection, event


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
