"""The files of a SQLite database: who serves them, and whether they are still where they were opened."""

import fcntl
import os
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from chapar.errors import DatabaseFileGone, DatabaseInUse, Phrase, SettingInvalid
from chapar.store.identity import Identity, identity_of

OWNER_ONLY: Final = 0o600
"""The mode of every file: what is sent to devices, and by whom, is not for every user of the machine."""

_SETTING: Final = "CHAPAR_DATABASE_URL"
_NOT_THE_OWNER: Final = 0o077

# Seconds a start waits for the lock: the writer of a killed gateway holds it until it has committed its last batch.
_LOCK_PATIENCE: Final = 2.0
_TRY_EVERY: Final = 0.05  # seconds

# Far behind every page, and behind the bytes from 1 GiB on that SQLite locks (https://sqlite.org/lockingv3.html).
_LOCKED_BYTE: Final = 1 << 62
# A lock of the open file, not of the process (fcntl(2), Linux): a writer process inherits it, SQLite's locks of the
# same file leave it alone, and no descriptor that is closed ends it.
_SET_LOCK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_GET_LOCK: Final[int | None] = getattr(fcntl, "F_OFD_GETLK", None)
_LOCK_FORMAT: Final = "hhqqi"  # struct flock: type, whence, start, length, process

_GENERATION_DIGITS: Final = 19  # of a lock file; all that an integer of SQLite has

_HEADER: Final = 100  # bytes at the file's beginning; its size and its counter of changes are there


class Lock:
    """A lock: nobody else serves a database file, under whatever name, until it is closed.

    The writer process inherits the descriptors: the lock is free only when both processes are gone, so that a successor
    never reads before the last commit of a killed gateway.
    """

    def __init__(self, file: Path, beside: int, database: int) -> None:
        self.file = file
        self.identity = Identity.of(database)
        self.lock_file = beside  #: a descriptor of it
        self.database = database  #: a descriptor of the database file; to close it earlier would end SQLite's own locks
        self.descriptors = (beside, database)

    def readable_by_others(self) -> bool:
        """Return whether the database's mode lets anybody but its owner at it."""
        return bool(os.fstat(self.database).st_mode & _NOT_THE_OWNER)

    def known_generation(self) -> int:
        """The last generation of the database that was served under this name; 0 where none is known."""
        return read_generation(self.lock_file)

    def close(self) -> None:
        """Let the next one serve the file."""
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock(file: Path) -> Lock:
    """Lock the database file, which is made where it is missing; raises DatabaseInUse, SettingInvalid.

    Locked are the file itself and, because earlier versions of Chapar know no other lock, `<file>.lock`.
    """
    with ExitStack() as opened:
        beside = _open(lock_file_of(file), os.O_NOFOLLOW)
        opened.callback(os.close, beside)
        with suppress(OSError):  # another's; it was made by an earlier version then
            os.fchmod(beside, OWNER_ONLY)
        database = _open(file)
        opened.callback(os.close, database)
        patience_ends = time.monotonic() + _LOCK_PATIENCE
        while not _is_locked(file, beside, database):
            if time.monotonic() > patience_ends:
                raise DatabaseInUse(str(file))
            time.sleep(_TRY_EVERY)
        check(file, Identity.of(database))
        opened.pop_all()
        return Lock(file, beside, database)


def known_generation(file: Path) -> int:
    """The last generation of the database that was served under this name; 0 where none is known."""
    try:
        lock_file = os.open(lock_file_of(file), os.O_RDONLY)
    except OSError:
        return 0
    try:
        return read_generation(lock_file)
    finally:
        os.close(lock_file)


def read_generation(lock_file: int) -> int:
    """The generation that was written into a lock file, by its descriptor; 0 where there is none."""
    written = os.pread(lock_file, _GENERATION_DIGITS, 0)
    return int(written) if written.isdigit() else 0


def write_generation(lock_file: int, generation: int) -> None:
    """Keep the generation of what was committed. Where that fails, an older copy is not recognised by it later."""
    with suppress(OSError):
        os.pwrite(lock_file, b"%0*d\n" % (_GENERATION_DIGITS, generation), 0)


def keep_generation(file: Path, generation: int) -> None:
    """Keep the generation of what a command committed, in the database's lock file, where it has one."""
    with suppress(OSError), lock_file_of(file).open("rb+", buffering=0) as opened:
        if generation > read_generation(opened.fileno()):  # a gateway may have committed since
            write_generation(opened.fileno(), generation)


def check(file: Path, identity: Identity) -> None:
    """Raise DatabaseFileGone unless the name leads to this file."""
    try:
        is_same = Identity.of(file) == identity
    except OSError:
        is_same = False
    if not is_same:
        raise DatabaseFileGone(str(file))


def check_name(file: Path) -> None:
    """Raise DatabaseInUse where a gateway serves the file under another name.

    SQLite keeps the log beside the name that the file was opened by. With two logs, each process would not see what the
    other one writes, and overwrite it.
    """
    log = sibling(file, "wal")
    patience_ends = time.monotonic() + _LOCK_PATIENCE
    while is_served(file) and not log.exists():
        if time.monotonic() > patience_ends:  # it is not just starting
            raise DatabaseInUse(str(file))
        time.sleep(_TRY_EVERY)


class Watch:
    """Notices when the files of an open connection are not those that their names lead to, or were overwritten.

    For use by the one process that writes, with the descriptors of the lock. It keeps the generation in the lock file.
    """

    def __init__(self, file: Path, lock_file: int, database: int) -> None:
        """Watch the files from now on; raises DatabaseFileGone where one is missing already."""
        self._file = file
        self._lock_file = lock_file
        self._database = database
        self._identities = {bytes(file): Identity.of(database)}
        for name in (sibling(file, "wal"), sibling(file, "shm")):
            try:
                self._identities[bytes(name)] = Identity.of(name)
            except OSError:
                raise DatabaseFileGone(str(name)) from None
        self._generation = read_generation(lock_file)
        self._last_written = 0, 0
        self._header = b""
        self.wrote()

    def committed(self, generation: int) -> None:
        """Keep the generation that was just committed, and take the contents for ours."""
        if generation != self._generation:
            write_generation(self._lock_file, generation)
            self._generation = generation
        self.wrote()

    def wrote(self) -> None:
        """Take the contents for ours as they are: we have just written."""
        found = os.fstat(self._database)
        if (written := (found.st_mtime_ns, found.st_size)) != self._last_written:
            self._last_written = written
            self._header = os.pread(self._database, _HEADER, 0)

    def gone(self) -> str | None:
        """The first of the files that is not what is open, or not as we wrote it; None where all are."""
        for name, identity in self._identities.items():
            try:
                if identity_of(name) != identity:
                    return os.fsdecode(name)
            except OSError:
                return os.fsdecode(name)
        return str(self._file) if self.overwritten() else None

    def overwritten(self) -> bool:
        """Return whether somebody else has changed what is in the file. To touch it is no harm."""
        found = os.fstat(self._database)
        if (found.st_mtime_ns, found.st_size) == self._last_written:
            return False
        if found.st_size != self._last_written[1] or os.pread(self._database, _HEADER, 0) != self._header:
            return True
        self._last_written = found.st_mtime_ns, found.st_size
        return False


def lock_file_of(file: Path) -> Path:
    """The lock file of a database, beside the name that it is served by."""
    return file.with_name(f"{file.name}.lock")


def real_path(file: Path) -> Path:
    """The path that links lead to. Not `Path.resolve`, which raises RuntimeError where they go round in a circle."""
    return Path(os.path.realpath(file))


def sibling(file: Path, kind: str) -> Path:
    """The file that SQLite keeps beside the database, which is where links lead to."""
    real = real_path(file)
    return real.with_name(f"{real.name}-{kind}")


def _open(path: Path, flags: int = 0) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, OWNER_ONLY)
    except OSError as error:
        reason = (error.strerror or "it failed").lower()
        raise SettingInvalid(_SETTING, Phrase("setting.database_folder", folder=path.parent, cause=reason)) from None


def _lock_whole(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_byte(descriptor: int) -> None:
    if _SET_LOCK is not None:
        fcntl.fcntl(descriptor, _SET_LOCK, _lock_of_the_byte())


def _is_locked(file: Path, beside: int, database: int) -> bool:
    """Return whether both locks could be had; raises SettingInvalid where the file system has none."""
    try:
        _lock_whole(beside)
        _lock_byte(database)
    except (BlockingIOError, PermissionError):  # fcntl(2): either says that it is taken
        return False
    except OSError as error:
        reason = (error.strerror or "it failed").lower()
        raise SettingInvalid(
            _SETTING, Phrase("setting.database_unlockable", folder=file.parent, cause=reason)
        ) from None
    return True


def is_served(file: Path) -> bool:
    """Return whether somebody holds the lock. Not for a process that has the database open: it would lose its locks."""
    if _GET_LOCK is None:
        return False
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        found = fcntl.fcntl(descriptor, _GET_LOCK, _lock_of_the_byte())
    except OSError:  # there are no locks here
        return False
    finally:
        os.close(descriptor)
    return bool(struct.unpack(_LOCK_FORMAT, found)[0] != fcntl.F_UNLCK)


def _lock_of_the_byte() -> bytes:
    return struct.pack(_LOCK_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
