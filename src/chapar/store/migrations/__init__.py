"""The schema's history: `migrate` brings a database to the newest revision, `check_schema` says whether it is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, inspect
from sqlalchemy.exc import DBAPIError

from chapar.errors import DatabaseUnusable, SchemaNewer, SchemaOutdated
from chapar.store.database import Role, check_durable, open_engine
from chapar.store.failures import cause

_HERE: Final = Path(__file__).parent
_TABLE: Final = "alembic_version"


def migrate(database_url: str | URL, *, asked_for: bool = False) -> tuple[str | None, str]:
    """Bring the schema to the newest revision; gives the revisions before (None: no tables) and after.

    The audit trail says so in the same transaction, but for the tables of a new database that nobody `asked_for`.
    Several processes may ask for it at once; one does it.
    Raises SchemaNewer, DatabaseUnsafe, DatabaseUnusable and SettingInvalid.
    """
    with _connected(database_url) as connection:
        before, newest = _revisions(connection)
        if before != newest:
            _upgrade(connection, asked_for=asked_for)
    return before, newest


def check_schema(database_url: str) -> None:
    """Raise SchemaOutdated or SchemaNewer unless the schema is the one this program writes.

    Also raises DatabaseUnsafe, DatabaseUnusable and SettingInvalid.
    """
    with _connected(database_url) as connection:
        found, newest = _revisions(connection)
    if found != newest:
        raise SchemaOutdated(found or "none", newest)


def history() -> list[str]:
    """The revisions there are, the newest last. The name of each one's file begins with it."""
    return sorted(file.stem.partition("_")[0] for file in (_HERE / "versions").glob("*.py"))


def _revisions(connection: Connection) -> tuple[str | None, str]:
    """The revision found and the newest one; raises SchemaNewer where the former is not in our history."""
    known = history()
    with connection.begin():
        is_new = not inspect(connection).has_table(_TABLE)
        found = None if is_new else connection.exec_driver_sql(f"SELECT version_num FROM {_TABLE}").scalar()  # noqa: S608
    if found is not None and found not in known:
        raise SchemaNewer(found, known[-1])
    return found, known[-1]


def _upgrade(connection: Connection, *, asked_for: bool) -> None:
    # Alembic takes long to load, and at nearly every start the schema is the newest already.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config(attributes={"connection": connection, "asked_for": asked_for})
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    command.upgrade(config, "head")


@contextmanager
def _connected(database_url: str | URL) -> Iterator[Connection]:
    try:
        with open_engine(database_url, Role.MIGRATOR).connect() as connection:
            with connection.begin():
                check_durable(connection)
            yield connection
    except DBAPIError as error:
        raise DatabaseUnusable(cause(error)) from error
