"""Copies of a SQLite database: made on a running gateway, recognised, and put back in its place."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, assert_never

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import URL, Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from chapar.errors import BackupFailed, DatabaseInUse, DatabaseUnusable, Phrase, RestoreFailed
from chapar.model.audit import Action
from chapar.model.lines import plain
from chapar.model.message import UNFINISHED
from chapar.model.principal import Caller
from chapar.model.queue import Unsent
from chapar.model.times import datetime_of
from chapar.runtime.clock import system_now
from chapar.store import files, hold, migrations
from chapar.store.audit import add_entries, entry_of_local_user
from chapar.store.database import Role, empty_wal, open_engine, sqlite_file
from chapar.store.failures import cause
from chapar.store.files import OWNER_ONLY, Lock, real_path, sibling
from chapar.store.generations import begin_after, generation_of
from chapar.store.schema import has_status, messages

# When a backup was made, s since the epoch, in a field of the file that is there under every schema; 0: it is none.
_BACKED_UP_AT: Final = "user_version"

_UNSENT: Final = select(func.count()).where(has_status(UNFINISHED), messages.c.micro_op != "")


def back_up(database_url: str, target: Path, *, replace: bool) -> int:
    """Copy the database as of one moment into `target`, marked as a backup, for its owner only.

    A gateway may serve it meanwhile. The file appears complete or not at all. Gives how many messages are unsent in it.
    Raises BackupFailed, DatabaseInUse, SettingInvalid.
    """
    if (source := sqlite_file(database_url)) is None:
        raise BackupFailed(Phrase("backup.postgresql"))
    with _failing(BackupFailed):
        target = target.absolute()
        if not source.exists():
            raise BackupFailed(Phrase("backup.no_database", file=source))
        files.check_name(source)
        if target.is_dir() or _is_part(target, source):
            raise BackupFailed(Phrase("backup.not_there", file=target))
        if target.exists() and not replace:
            raise BackupFailed(Phrase("backup.exists", file=target))
        with _temporary(target) as partial:
            unsent = _copy(database_url, partial)
            _put(partial, target, replace=replace)
    return unsent


def recognise(connection: Connection, known: int) -> None:
    """Hold what is unsent where the database is a backup, or an older copy: `known` is a later generation than its own.

    Called before a gateway serves the database, and for each command beside it.
    """
    made_at = int(connection.exec_driver_sql(f"PRAGMA {_BACKED_UP_AT}").scalar() or 0)
    if not made_at and generation_of(connection) >= known:
        return
    at = system_now()
    if held := hold.hold_copy(connection, at):
        what = f"a backup of {datetime_of(made_at * 1000).isoformat()}" if made_at else "an older copy"
        add_entries(connection, [entry_of_local_user(at, Action.HELD, f"{held} messages of {what}")])
    connection.exec_driver_sql(f"PRAGMA {_BACKED_UP_AT} = 0")
    begin_after(connection, known)


class Restoration:
    """A copy of a backup, beside the database whose place it is to take and which is locked meanwhile."""

    def __init__(self, lock: Lock, source: Path, partial: Path, unsent: int) -> None:
        self.unsent = unsent  #: messages in it that were not sent when the backup was made
        self._lock = lock
        self._source = source
        self._partial = partial

    def put_in_place(self, unsent: Unsent, caller: Caller) -> Path | None:
        """Put the copy in the place of the database, once what is unsent in it is kept, held or cancelled.

        Gives the file that now has the database that was there; None where there was none. Raises RestoreFailed.
        """
        real = real_path(self._lock.file)
        with _failing(RestoreFailed):
            with open_engine(_url(self._partial), Role.MIGRATOR).connect() as connection:
                with connection.begin():
                    generation = self._prepare(connection, unsent, caller)
                if not empty_wal(connection):
                    raise RestoreFailed(Phrase("database.unsafe_log"))
            _sync(self._partial)  # first: where the disk fails, the database stays, with its log
            kept = _set_aside(real)
            try:
                self._partial.replace(real)
            except OSError:
                _put_back(real, kept)
                raise
            _sync(real.parent)
        files.write_generation(self._lock.lock_file, generation)
        return kept if kept.exists() else None

    def _prepare(self, connection: Connection, unsent: Unsent, caller: Caller) -> int:
        at = system_now()
        match unsent:
            case Unsent.KEEP:
                hold.settle_copy(connection, at)
            case Unsent.HOLD:
                hold.hold_copy(connection, at)
            case Unsent.CANCEL:
                hold.hold_copy(connection, at)
                hold.cancel_all(connection, caller, at)
            case never:
                assert_never(never)
        entry = entry_of_local_user(at, Action.RESTORED, f"{plain(self._source.name)}; unsent: {unsent.value}")
        add_entries(connection, [entry])
        connection.exec_driver_sql(f"PRAGMA {_BACKED_UP_AT} = 0")
        return begin_after(connection, self._lock.known_generation())


@contextmanager
def restoration(database_url: str, source: Path) -> Iterator[Restoration]:
    """Copy a backup beside the database, check it, and bring its tables to the shape of this version.

    Raises RestoreFailed, DatabaseInUse, SchemaNewer, SettingInvalid.
    """
    if (target := sqlite_file(database_url)) is None:
        raise RestoreFailed(Phrase("backup.restore_postgresql"))
    with _failing(RestoreFailed):
        source = source.absolute()
        if not source.is_file():
            raise RestoreFailed(Phrase("backup.no_file", file=source))
        if _is_part(source, target):
            raise RestoreFailed(Phrase("backup.is_the_database", file=source))
        if files.is_served(source):
            raise RestoreFailed(Phrase("backup.is_served", file=source))
        if files.is_served(target):  # before a large file is copied
            raise DatabaseInUse(str(target))
        with _temporary(real_path(target)) as partial:
            unsent = _checked_copy(source, partial)
            with files.lock(target) as lock:
                yield Restoration(lock, source, partial, unsent)


def _copy(source: str, partial: Path) -> int:
    with open_engine(source, Role.ADMINISTRATOR).connect() as opened, closing(sqlite.connect(str(partial))) as copy:
        driver: Any = opened.connection.driver_connection
        # In one step, which is one read: what a gateway commits meanwhile is no part of it, and never begins it anew.
        driver.backup(copy)
        copy.execute("PRAGMA journal_mode = delete")  # one file, which can be read where nothing can be written
        copy.execute(f"PRAGMA {_BACKED_UP_AT} = {system_now() // 1000}")
    return _how_many_unsent(_url(partial))


def _checked_copy(source: Path, partial: Path) -> int:
    """Copy the backup, and give how many messages are unsent in it."""
    # Byte by byte, because a backup may be where nothing can be written; with its log, where it is a plain copy.
    shutil.copyfile(source, partial)
    if (log := sibling(source, "wal")).exists():
        _make(sibling(partial, "wal"))
        shutil.copyfile(log, sibling(partial, "wal"))
    _check(source, _url(partial))
    migrations.migrate(_url(partial))
    return _how_many_unsent(_url(partial))


def _check(source: Path, url: URL) -> None:
    try:
        with open_engine(url, Role.MIGRATOR).connect() as connection:
            is_whole = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() == "ok"
            tables = connection.dialect.get_table_names(connection)
    except SQLAlchemyError:
        is_whole, tables = False, []
    if not is_whole or not {"alembic_version", messages.name} <= {*tables}:
        raise RestoreFailed(Phrase("backup.damaged", file=source))


def _how_many_unsent(url: URL) -> int:
    with open_engine(url, Role.READER).connect() as connection:
        return int(connection.execute(_UNSENT).scalar_one())


def _set_aside(real: Path) -> Path:
    """Keep the database that is there under another name too, with all that its log has, unless it is empty."""
    is_empty = not real.stat().st_size
    if not is_empty:
        with suppress(SQLAlchemyError), open_engine(_url(real), Role.MIGRATOR).connect() as connection:
            empty_wal(connection)
    kept = real.with_name(f"{real.name}.replaced-{datetime_of(system_now()):%Y%m%dT%H%M%S}")
    if not is_empty:
        _name(real, kept)  # first: where that fails, the database stays, with its log
    sibling(real, "shm").unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # as it is, unless the database is damaged
        sibling(real, "wal").rename(sibling(kept, "wal"))
    return kept


def _put_back(real: Path, kept: Path) -> None:
    """Undo `_set_aside`."""
    with suppress(FileNotFoundError):
        sibling(kept, "wal").rename(sibling(real, "wal"))
    kept.unlink(missing_ok=True)


def _put(partial: Path, target: Path, *, replace: bool) -> None:
    """Give a complete file its name; raises FileExistsError where that is taken and not to be replaced."""
    _sync(partial)
    if replace:
        partial.replace(target)
    else:
        _name(partial, target)
    _sync(target.parent)


def _name(file: Path, other: Path) -> None:
    """Give a file another name; raises FileExistsError where that is taken, also where it has been meanwhile."""
    try:
        other.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError:  # this file system has no links
        with _temporary(other) as copy:
            shutil.copyfile(file, copy)
            _sync(copy)
            _make(other)
            copy.replace(other)


def _make(file: Path) -> None:
    """Make an empty file for its owner only; raises FileExistsError."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY))


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file beside the target, for its owner only; it is removed with whatever SQLite puts beside it."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        _make(partial)
        yield partial
    finally:
        for file in (partial, *(sibling(partial, kind) for kind in ("wal", "shm", "journal"))):
            with suppress(OSError):
                file.unlink()


@contextmanager
def _failing(failed: type[BackupFailed | RestoreFailed]) -> Iterator[None]:
    """Raise as `failed` what fails in the block."""
    try:
        yield
    except FileExistsError as error:
        raise failed(Phrase("backup.exists", file=error.filename2 or error.filename)) from None
    except OSError as error:
        raise failed(Phrase("backup.failed", cause=f"{error.strerror or error}.")) from error
    except (sqlite.Error, SQLAlchemyError) as error:
        raise failed(Phrase("backup.failed", cause=cause(error))) from error
    except DatabaseUnusable as error:
        raise failed(Phrase("backup.failed", cause=error.cause)) from error


def _is_part(file: Path, of_database: Path) -> bool:
    """Return whether the file is the database, or one of those beside it."""
    parts = (of_database, files.lock_file_of(of_database), sibling(of_database, "wal"), sibling(of_database, "shm"))
    return any(file.exists() and part.exists() and file.samefile(part) for part in parts)


def _url(file: Path) -> URL:
    return URL.create("sqlite", database=str(file))
