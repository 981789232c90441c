"""The schema's history: `migrate` brings a database to the newest revision, `check_schema` says whether it is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from chapar.errors import DatabaseUnusable, SchemaNewer, SchemaOutdated
from chapar.store.database import Role, check_durable, open_engine
from chapar.store.failures import cause


def migrate(database_url: str, *, asked_for: bool = False) -> tuple[str | None, str]:
    """Bring the schema to the newest revision; gives the revisions before (None: no tables) and after.

    The audit trail says so in the same transaction, but for the tables of a new database that nobody `asked_for`.
    Several processes may ask for it at once; one does it.
    Raises SchemaNewer, DatabaseUnsafe, DatabaseUnusable and SettingInvalid.
    """
    config = _config()
    with _connected(database_url) as connection:
        before, newest = _revisions(connection, config)
        config.attributes |= {"connection": connection, "asked_for": asked_for}
        command.upgrade(config, "head")
    return before, newest


def check_schema(database_url: str) -> None:
    """Raise SchemaOutdated or SchemaNewer unless the schema is the one this program writes.

    Also raises DatabaseUnsafe, DatabaseUnusable and SettingInvalid.
    """
    with _connected(database_url) as connection:
        found, newest = _revisions(connection, _config())
    if found != newest:
        raise SchemaOutdated(found or "none", newest)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _revisions(connection: Connection, config: Config) -> tuple[str | None, str]:
    """The revision found and the newest one; raises SchemaNewer where the former is not in our history."""
    history = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    with connection.begin():
        found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in history:
        raise SchemaNewer(found, history[0])
    return found, history[0]


@contextmanager
def _connected(database_url: str) -> Iterator[Connection]:
    try:
        with open_engine(database_url, Role.MIGRATOR).connect() as connection:
            with connection.begin():
                check_durable(connection)
            yield connection
    except DBAPIError as error:
        raise DatabaseUnusable(cause(error)) from error
