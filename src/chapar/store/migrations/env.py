"""Entry point of Alembic: run every revision that is missing, in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import Connection, text

from chapar.model.audit import Action
from chapar.runtime.clock import system_now
from chapar.store.audit import add_entries, entry_of_local_user
from chapar.store.schema import metadata

# Any number will do, as long as every Chapar takes the same: here, "chapar" in ASCII.
_LOCK = 0x636861706172


def _run(connection: Connection, *, asked_for: bool | None) -> None:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        before = context.get_context().get_current_revision()
        context.run_migrations()
        after = context.get_context().get_current_revision()
        if asked_for is not None and after != before and (before or asked_for):
            change = f"{before or 'nothing'} → {after}"
            add_entries(connection, [entry_of_local_user(system_now(), Action.MIGRATED, change)])


_run(context.config.attributes["connection"], asked_for=context.config.attributes.get("asked_for"))
