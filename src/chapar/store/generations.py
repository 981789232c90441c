"""The generation of a SQLite database, which tells an older copy from what it was copied of.

It counts on whenever a gateway starts or stops, and whenever something leaves the queue. The lock file beside the
database has the last one: a database with an earlier one is an older copy, and what it has unsent may have been sent.
"""

from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from chapar.store.schema import installation

#: Kinds of operations that may begin another generation.
MAY_ADVANCE: Final = frozenset({"take", "cancel", "withdraw", "release_lease"})

_ADVANCE = update(installation).values(generation=installation.c.generation + 1)
_BEGIN = update(installation).values(generation=bindparam("begun"))
_GENERATION = select(installation.c.generation)


def advance(connection: Connection) -> None:
    """Begin another generation, in the open transaction; nothing on PostgreSQL, whose copies are not made of files."""
    if connection.dialect.name == "sqlite":
        connection.execute(_ADVANCE)


def generation_of(connection: Connection) -> int:
    """The generation of the database."""
    return int(connection.execute(_GENERATION).scalar() or 0)


def begin_after(connection: Connection, known: int) -> int:
    """Begin a generation behind the database's own and one that is `known` elsewhere; gives it."""
    begun = max(known, generation_of(connection)) + 1
    connection.execute(_BEGIN, {"begun": begun})
    return begun
