"""Connections to the database, and the conditions each must meet before it is used.

Every driver is left in autocommit and every transaction begins with its role's own BEGIN, which also carries the
role's settings and which the writer sends to PostgreSQL along with its first statement. So nothing depends on session
state, and a transaction pooler in between changes nothing.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, QueuePool

from chapar.errors import DatabaseUnsafe, Phrase, SettingInvalid
from chapar.store import files
from chapar.store.failures import translated
from chapar.store.files import OWNER_ONLY
from chapar.store.identity import Identity

_SETTING = "CHAPAR_DATABASE_URL"

# Before 3.51.3 a commit during another connection's checkpoint could corrupt the database (the WAL-reset bug).
_SAFE_SQLITE = (3, 51, 3)

# Milliseconds. A statement that takes longer is stuck; a report over ten million rows needs seconds.
_READER_STATEMENT_TIMEOUT = 60_000

# Bytes of a page of a file that is made anew: each commit writes whole pages. Beside SQLite's own 4096, a lone send
# writes half as many bytes, the file grows by a hundredth, and neither commits nor reports become slower.
_PAGE = 2048

# KiB of page cache: more than the largest batch dirties. In a table of a million rows of ten thousand devices, 16 MiB
# made a message no cheaper than 2: what is not here is in the system's own cache.
_WRITER_CACHE = 4 * 1024

# Bytes in the write-ahead log from which on a commit brings them into the file: SQLite's own 1,000 pages of 4 KiB.
_LOG_FULL = 1000 * 4096

# Bytes that the write-ahead log keeps when it begins anew: a long reader, such as a backup, may have let it grow. More
# than it has where nobody reads, so that it is not cut off and extended all the time.
_LOG_KEPT = 16 * 1024 * 1024

# libpq's own files in the user's home are not asked: what Chapar connects with stands in its settings.
_POSTGRES_FILES = {
    name: f"/dev/null/{name}-not-in-the-url" for name in ("passfile", "sslcert", "sslkey", "sslrootcert")
}

# Seconds, milliseconds for tcp_user_timeout (libpq). A server that is gone is noticed before a caller's patience ends.
_POSTGRES_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


# The driver looks in vain for how to adapt a type that it does not know: half of what a row costs.
sqlite.register_adapter(bool, int)
sqlite.register_adapter(type(None), lambda none: none)


class Role(StrEnum):
    """The purpose of a connection."""

    WRITER = "writer"  #: commits; there is one
    READER = "reader"  #: cannot write
    MIGRATOR = "migrator"  #: changes the schema, for as long as that takes
    ADMINISTRATOR = "administrator"  #: commits once, beside a writer that may be at work


# Milliseconds that SQLite waits for a lock. Short for the writer, because its batch can be tried again.
_BUSY_TIMEOUT = {Role.WRITER: 250, Role.READER: 2000, Role.MIGRATOR: 30_000, Role.ADMINISTRATOR: 5000}

_BEGIN = {
    ("sqlite", Role.WRITER): "BEGIN IMMEDIATE",
    ("sqlite", Role.READER): "BEGIN",
    ("sqlite", Role.MIGRATOR): "BEGIN IMMEDIATE",
    ("sqlite", Role.ADMINISTRATOR): "BEGIN IMMEDIATE",
    # What several statements say together is as of one moment, as it always is on SQLite.
    ("postgresql", Role.READER): (
        f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {_READER_STATEMENT_TIMEOUT}"
    ),
    ("postgresql", Role.MIGRATOR): "BEGIN; SET LOCAL synchronous_commit = on",
    ("postgresql", Role.ADMINISTRATOR): "BEGIN; SET LOCAL synchronous_commit = on",
}


def open_engine(
    database_url: str | URL, role: Role, connections: int = 1, *, identity: Identity | None = None
) -> Engine:
    """An engine whose connections fit `role`; opens none yet.

    Readers keep up to `connections` open; the others' connections end with their use. Where the SQLite file has an
    `identity`, each connection is to that very file, or DatabaseFileGone is raised. Raises SettingInvalid.
    """
    url = parse(database_url)
    pool = {"poolclass": NullPool} if role is not Role.READER else {"poolclass": QueuePool, "pool_size": connections}
    if (file := sqlite_file(url)) is not None:
        engine = create_engine(
            "sqlite://",
            module=sqlite,
            creator=lambda: _connect_sqlite(file, role, identity),
            hide_parameters=True,
            **pool,
        )
    else:
        from chapar.store.writer_cursor import WriterCursor  # noqa: PLC0415 - its driver takes long to load

        given = set(url.query)
        engine = create_engine(
            url,
            connect_args={
                "autocommit": True,
                # A prepared statement belongs to a session, and a transaction pooler may change that at every BEGIN.
                "prepare_threshold": None,
                "application_name": f"chapar-{role}",
                "client_encoding": "UTF8",  # else that of the server, or of the environment, which may lack letters
                **({"cursor_factory": WriterCursor} if role is Role.WRITER else {}),
                **{name: value for name, value in (_POSTGRES_DEFAULTS | _POSTGRES_FILES).items() if name not in given},
            },
            paramstyle="format",
            hide_parameters=True,
            **pool,
        )
    begin = _BEGIN.get((engine.dialect.name, role))
    if begin is not None:  # else the first statement brings it along

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            run_on_driver(connection, begin)

    return engine


def run_on_driver(connection: Connection, sql: str, values: Sequence[Any] = (), *, many: bool = False) -> DBAPICursor:
    """Run a statement on the driver's own cursor, past SQLAlchemy, but for what its errors become."""
    dialect, driver = connection.dialect, connection.connection
    cursor = driver.cursor()
    try:
        if many:
            cursor.executemany(sql, values)
        else:
            cursor.execute(sql, values)
    except dialect.loaded_dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, driver.dbapi_connection, cursor)
        if is_lost:
            connection.invalidate(error)
        raise translated(error, dialect, connection_invalidated=is_lost) from error
    return cursor


def check_durable(connection: Connection) -> None:
    """Raise DatabaseUnsafe unless every letter that is committed on this connection survives the power going out."""
    if connection.dialect.name == "sqlite":
        _expect("its journal_mode", connection.exec_driver_sql("PRAGMA journal_mode").scalar_one(), "wal")
        # 2 is FULL (https://sqlite.org/pragma.html#pragma_synchronous)
        _expect("its synchronous level", connection.exec_driver_sql("PRAGMA synchronous").scalar_one(), 2)
    else:
        _expect("its setting fsync", connection.exec_driver_sql("SHOW fsync").scalar_one(), "on")
        _expect(
            "its setting synchronous_commit", connection.exec_driver_sql("SHOW synchronous_commit").scalar_one(), "on"
        )
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise DatabaseUnsafe(Phrase("database.encoding", encoding=encoding))


def empty_wal(connection: Connection) -> bool:
    """Bring everything in SQLite's write-ahead log into the database file; False where that is not possible now.

    After a failed fsync the log's pages may be in memory only, and a second fsync would not say so. Here they are
    written once more, elsewhere. Readers may be in the way.
    """
    cursor = connection.connection.cursor()  # the driver's: a checkpoint must not be inside a transaction
    try:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (busy, *_) = cursor.fetchall()[0]
    except sqlite.Error:
        return False
    return not busy


def _expect(what: str, found: object, needed: object) -> None:
    if found != needed:
        raise DatabaseUnsafe(Phrase("database.not_durable", what=what, found=found, needed=needed))


def parse(database_url: str | URL) -> URL:
    """Read a database URL; raises SettingInvalid with a sentence that does not repeat it."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise SettingInvalid(_SETTING, Phrase("setting.database_url_form")) from None
    if isinstance(database_url, str) and "\0" in unquote(database_url):  # libpq would take what is before it
        raise SettingInvalid(_SETTING, Phrase("setting.database_url_form"))
    if url.get_backend_name() == "sqlite":
        if isinstance(database_url, str) and "?" in database_url:
            raise SettingInvalid(_SETTING, Phrase("setting.database_path_query"))
        if url.host:
            raise SettingInvalid(_SETTING, Phrase("setting.database_url_form"))
        if url.database in {None, "", ":memory:"}:
            raise SettingInvalid(_SETTING, Phrase("setting.database_in_memory"))
        return url
    return url.set(drivername="postgresql+psycopg")


def sqlite_file(database_url: str | URL) -> Path | None:
    """The file of a SQLite database, of which a relative one is in the working folder; None: it is none of SQLite.

    Raises SettingInvalid.
    """
    url = parse(database_url)
    if url.get_backend_name() != "sqlite":
        return None
    try:
        return Path(url.database or "").absolute()
    except OSError as error:  # the folder that this runs in was deleted
        cause = (error.strerror or str(error)).lower()
        raise SettingInvalid(_SETTING, Phrase("setting.database_folder", folder=os.curdir, cause=cause)) from None


def _connect_sqlite(file: Path, role: Role, identity: Identity | None) -> sqlite.Connection:
    if sqlite.sqlite_version_info < _SAFE_SQLITE:
        raise DatabaseUnsafe(Phrase("database.old_sqlite", version=sqlite.sqlite_version))
    if identity is not None:
        files.check(file, identity)
    elif role is not Role.READER:
        with suppress(OSError):  # SQLite says what is wrong
            if not file.exists():
                file.touch(mode=OWNER_ONLY)  # the files that SQLite puts beside it take the same mode
    mode = "ro" if role is Role.READER else "rw"
    connection = sqlite.connect(
        f"file:{quote(os.fsencode(file))}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    if identity is not None:
        files.check(file, identity)  # also what was just opened
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT[role]}")
    if role is Role.READER:
        connection.execute("PRAGMA query_only = on")
    else:
        connection.execute(f"PRAGMA page_size = {_PAGE}")  # of no effect where the file has pages
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = full")
        connection.execute("PRAGMA foreign_keys = on")
        connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_KEPT}")
        ((page,),) = connection.execute("PRAGMA page_size").fetchall()
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_FULL // page}")
    if role is Role.ADMINISTRATOR:
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # one connection checkpoints: the writer's
    return connection
