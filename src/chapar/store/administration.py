"""Administration by the database's owner, beside a gateway that may be running: a transaction now and then."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from chapar.errors import DatabaseUnusable, SchemaOutdated, StoreUnavailable
from chapar.model.audit import Action
from chapar.model.message import WAITING
from chapar.model.principal import Caller
from chapar.runtime.clock import system_now
from chapar.store import copies, files, hold, migrations
from chapar.store.audit import add_entries, entry_of_local_user, local_user
from chapar.store.database import Role, open_engine, sqlite_file
from chapar.store.failures import cause
from chapar.store.generations import begin_after, generation_of
from chapar.store.health import CHECK
from chapar.store.queue import how_many_held


def begin(database_url: str, lock: files.Lock | None) -> int:
    """Commit once before a gateway serves; gives how many messages are held. Raises DatabaseUnusable.

    A SQLite database, whose `lock` this process holds, begins another generation.
    """
    try:
        with open_engine(database_url, Role.ADMINISTRATOR).begin() as connection:
            CHECK.run(connection, [()])
            if lock is not None:
                known = lock.known_generation()
                copies.recognise(connection, known)
                generation = begin_after(connection, known)
            held = how_many_held(connection)
    except SQLAlchemyError as error:
        raise DatabaseUnusable(cause(error)) from error
    if lock is not None:
        files.write_generation(lock.lock_file, generation)
    return held


@contextmanager
def administer(database_url: str) -> Iterator[Connection]:
    """One transaction, committed where the block ends well. A SQLite database that is missing or old is made first.

    Raises SchemaOutdated, SchemaNewer, DatabaseInUse, DatabaseUnsafe, StoreUnavailable, SettingInvalid.
    """
    file = sqlite_file(database_url)
    if file is not None:
        files.check_name(file)
    try:
        migrations.check_schema(database_url)
    except SchemaOutdated:
        if file is None:
            raise
        with files.lock(file):
            migrations.migrate(database_url)
    known = generation = 0 if file is None else files.known_generation(file)
    try:
        with open_engine(database_url, Role.ADMINISTRATOR).begin() as connection:
            if file is not None:
                copies.recognise(connection, known)
            yield connection
            if file is not None:
                generation = generation_of(connection)
    except SQLAlchemyError as error:
        raise StoreUnavailable(cause(error)) from error
    if file is not None and generation > known:
        files.keep_generation(file, generation)


def migrate(database_url: str) -> tuple[str | None, str]:
    """Bring the schema to the newest revision, as the owner asked; gives the revisions before and after.

    A SQLite database that a gateway serves is left as it is. Raises SchemaNewer, DatabaseInUse, DatabaseUnsafe,
    StoreUnavailable, SettingInvalid.
    """
    file = sqlite_file(database_url)
    with ExitStack() as locked:
        if file is not None:
            files.check_name(file)
            try:
                migrations.check_schema(database_url)
            except SchemaOutdated:
                locked.enter_context(files.lock(file))
        return migrations.migrate(database_url, asked_for=True)


def hold_queue(database_url: str) -> int:
    """Hold all that waits; gives how many messages are held. Raises what `administer` raises."""
    with administer(database_url) as connection:
        at = system_now()
        if held := hold.hold(connection, at):
            add_entries(connection, [entry_of_local_user(at, Action.HELD, f"{held} messages")])
    return held


def release_queue(database_url: str) -> tuple[int, int]:
    """Release all that is held, in short transactions; gives how many may leave now, and how many are unconfirmed.

    Raises what `administer` raises.
    """
    released = unconfirmed = 0
    for status in WAITING:
        last: int | None = 0
        while last is not None:
            with administer(database_url) as connection:
                some = hold.release_some(connection, status, last, system_now())
            released, unconfirmed, last = released + some.messages, unconfirmed + some.unconfirmed, some.last
    with administer(database_url) as connection:
        hold.lift(connection)
        if released or unconfirmed:
            detail = f"{released} messages; {unconfirmed} unconfirmed"
            add_entries(connection, [entry_of_local_user(system_now(), Action.RELEASED, detail)])
    return released, unconfirmed


def cancel_queue(database_url: str) -> int:
    """Cancel all that is held, in short transactions; gives how many messages. Raises what `administer` raises."""
    caller, cancelled = Caller(local_user(), ""), 0
    for status in WAITING:
        while True:
            with administer(database_url) as connection:
                some = hold.cancel_some(connection, status, caller, system_now())
            if not some:
                break
            cancelled += sum(not message.clears for message in some)
    with administer(database_url) as connection:
        hold.lift(connection)
    return cancelled
