"""What Alembic runs: every revision that is missing, in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import Connection, text

from chapar.store.schema import metadata

# Any number will do, as long as every Chapar takes the same: here, "chapar" in ASCII.
_LOCK = 0x636861706172


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


_run(context.config.attributes["connection"])
