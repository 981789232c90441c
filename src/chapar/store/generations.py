"""The generation of a SQLite database: a number that is lower in an older copy.

It is increased whenever a gateway starts or stops, and whenever something leaves the queue. The lock file beside the
database has the last one: a database with a lower one is an older copy, and what it has unsent may have been sent.
"""

from sqlalchemy import Connection, bindparam, update

from chapar.store.database import run_on_driver
from chapar.store.schema import installation

_ADVANCE = update(installation).values(generation=installation.c.generation + 1)
_BEGIN = update(installation).values(generation=bindparam("begun"))
_GENERATION = "SELECT generation FROM installation"


def advance(connection: Connection) -> None:
    """Begin another generation, in the open transaction; nothing on PostgreSQL, whose copies are not made of files."""
    if connection.dialect.name == "sqlite":
        connection.execute(_ADVANCE)


def generation_of(connection: Connection) -> int:
    """The generation of the database, in the open transaction. Asked before each commit: on the driver's own cursor."""
    (generation,) = run_on_driver(connection, _GENERATION).fetchall()[0]
    return int(generation)


def begin_after(connection: Connection, known: int) -> int:
    """Begin a generation higher than the database's own and than one that is `known` elsewhere; gives it."""
    begun = max(known, generation_of(connection)) + 1
    connection.execute(_BEGIN, {"begun": begun})
    return begun
