"""What the owner of the database does to it beside a gateway that may be running: a transaction now and then."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from chapar.errors import DatabaseUnusable, SchemaOutdated, StoreUnavailable
from chapar.store import database, migrations
from chapar.store.database import Role, open_engine
from chapar.store.failures import cause
from chapar.store.operations import CHECK


def check_commit(database_url: str) -> None:
    """Raise DatabaseUnusable unless a commit succeeds."""
    try:
        with open_engine(database_url, Role.ADMINISTRATOR).begin() as connection:
            CHECK.apply(connection, [()])
    except SQLAlchemyError as error:
        raise DatabaseUnusable(cause(error)) from error


@contextmanager
def administer(database_url: str) -> Iterator[Connection]:
    """One transaction, committed where the block ends well. A SQLite database that is missing or old is made first.

    Raises SchemaOutdated, SchemaNewer, DatabaseInUse, DatabaseUnsafe, StoreUnavailable, SettingInvalid.
    """
    try:
        migrations.check_schema(database_url)
    except SchemaOutdated:
        url = database.parse(database_url)
        if url.get_backend_name() != "sqlite":
            raise
        with database.lock(database.sqlite_file(url)):
            migrations.migrate(database_url)
    try:
        with open_engine(database_url, Role.ADMINISTRATOR).begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise StoreUnavailable(cause(error)) from error
