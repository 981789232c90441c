"""Administration by the database's owner, beside a gateway that may be running: a transaction now and then."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from chapar.errors import DatabaseUnusable, SchemaOutdated, StoreUnavailable
from chapar.store import database, files, migrations
from chapar.store.database import Role, open_engine
from chapar.store.failures import cause
from chapar.store.health import CHECK


def check_commit(database_url: str) -> None:
    """Raise DatabaseUnusable unless a commit succeeds."""
    try:
        with open_engine(database_url, Role.ADMINISTRATOR).begin() as connection:
            CHECK.run(connection, [()])
    except SQLAlchemyError as error:
        raise DatabaseUnusable(cause(error)) from error


@contextmanager
def administer(database_url: str) -> Iterator[Connection]:
    """One transaction, committed where the block ends well. A SQLite database that is missing or old is made first.

    Raises SchemaOutdated, SchemaNewer, DatabaseInUse, DatabaseUnsafe, StoreUnavailable, SettingInvalid.
    """
    file = _sqlite_file(database_url)
    if file is not None:
        files.check_name(file)
    try:
        migrations.check_schema(database_url)
    except SchemaOutdated:
        if file is None:
            raise
        with files.lock(file):
            migrations.migrate(database_url)
    try:
        with open_engine(database_url, Role.ADMINISTRATOR).begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise StoreUnavailable(cause(error)) from error


def migrate(database_url: str) -> tuple[str | None, str]:
    """Bring the schema to the newest revision, as the owner asked; gives the revisions before and after.

    A SQLite database that a gateway serves is left as it is. Raises SchemaNewer, DatabaseInUse, DatabaseUnsafe,
    StoreUnavailable, SettingInvalid.
    """
    file = _sqlite_file(database_url)
    with ExitStack() as locked:
        if file is not None:
            files.check_name(file)
            try:
                migrations.check_schema(database_url)
            except SchemaOutdated:
                locked.enter_context(files.lock(file))
        return migrations.migrate(database_url, asked_for=True)


def _sqlite_file(database_url: str) -> Path | None:
    url = database.parse(database_url)
    return database.sqlite_file(url) if url.get_backend_name() == "sqlite" else None
