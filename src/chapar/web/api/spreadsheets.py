"""Spreadsheets of text cells: each is written by a process of its own, into a file that is sent once it is whole."""

import asyncio
import itertools
import json
import os
import shutil
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import IO, Final

import structlog
from starlette.types import Receive, Scope, Send

from chapar.errors import Phrase, SpreadsheetNotMade
from chapar.model.principal import Caller
from chapar.model.report import Format
from chapar.runtime import programs
from chapar.web.http.chunks import in_chunks
from chapar.web.http.direct import HEAD_ONLY
from chapar.web.http.entrance import AdmittedStream
from chapar.web.http.rates import who_of

MOST_MADE: Final = 4  # at a time: each takes a processor for minutes, 25 MB of memory, and its parts on the disk
MOST_MADE_FOR_ONE: Final = 2  # caller at a time
MOST_OPEN: Final = 64  # made or being sent at a time: each takes a file descriptor, and its size on the disk
MOST_OPEN_FOR_ONE: Final = 16  # caller at a time

# Where /tmp is memory, /var/tmp is not (FHS 3.0 §5.15).
_FOLDERS: Final = ("/var/tmp", "/tmp")  # noqa: S108 - the files have no name, and the folder of the parts is our own
_PARTS: Final = "chapar-spreadsheet-", ".parts"  # how the name of a folder of parts begins and ends, once it is locked
_PIECE: Final = 64 * 1024  # bytes read at once

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Pages = AsyncIterator[Iterable[Sequence[object]]]


class Spreadsheets:
    """Makes spreadsheets, a few at a time. A slow client keeps a file, but nobody else from having one made."""

    def __init__(self) -> None:
        self._made = _Places("made", MOST_MADE, MOST_MADE_FOR_ONE)
        self._open = _Places("open", MOST_OPEN, MOST_OPEN_FOR_ONE)

    @asynccontextmanager
    async def made(self, caller: Caller, name: str, columns: Sequence[str], pages: Pages) -> AsyncIterator[IO[bytes]]:
        """A file with all rows below their columns, gone at the end of the block.

        Raises SpreadsheetNotMade, and what the pages raise.
        """
        who = who_of(caller)
        folder = _folder()
        with self._open.place(who), _file_in(folder) as file:
            with self._made.place(who):
                async with _parts_in(folder) as (parts, lock):
                    await _write(file, folder, parts, lock, name, columns, pages)
            yield file


def remove_abandoned_parts() -> None:
    """Remove what was left where a gateway and its writing process were killed together: nobody has it locked."""
    for parts in itertools.chain.from_iterable(Path(folder).glob("*".join(_PARTS)) for folder in _folders()):
        with suppress(OSError), ExitStack() as opened:
            lock = os.open(parts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, lock)
            flock(lock, LOCK_EX | LOCK_NB)
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(parts)
                log.info("spreadsheet_parts_removed", folder=str(parts))


class SpreadsheetResponse(AdmittedStream):
    """A spreadsheet, whose answer begins once it is whole: until then, what goes wrong is answered with a problem."""

    def __init__(self, making: AbstractAsyncContextManager[IO[bytes]], headers: Mapping[str, str]) -> None:
        super().__init__((), media_type=Format.XLSX.media_type, headers=headers)
        self._making = making

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make it and send it; who asks for the head only gets that at once."""
        if HEAD_ONLY in scope:
            await AdmittedStream.stream_response(self, send)
        else:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Make the spreadsheet, and send it."""
        async with self._making as file:
            self.headers["Content-Length"] = str(file.seek(0, os.SEEK_END))
            file.seek(0)
            self.body_iterator = _pieces(file)
            await super().stream_response(send)


class _Places:
    """A bound on those at a time: in all, and for one caller."""

    def __init__(self, kind: str, most: int, most_for_one: int) -> None:
        self._kind = kind
        self._most = most
        self._most_for_one = most_for_one
        self._taken = Counter[str]()

    @contextmanager
    def place(self, who: str) -> Iterator[None]:
        """Take one for the block; raises SpreadsheetNotMade."""
        if self._taken.total() >= self._most:
            raise SpreadsheetNotMade(Phrase(f"many_spreadsheets.{self._kind}", count=self._most))
        if self._taken[who] >= self._most_for_one:
            raise SpreadsheetNotMade(Phrase(f"many_spreadsheets.{self._kind}_for_one", count=self._most_for_one))
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            self._taken += Counter()  # which forgets whoever has none


def _folders() -> Sequence[str]:
    named = os.environ.get("TMPDIR")
    return (named,) if named else _FOLDERS


def _folder() -> str:
    """The first that can be written in; where none can, the one that an error is to name."""
    folders = _folders()
    return next((folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)), folders[0])


@contextmanager
def _disk_errors(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(Phrase("spreadsheet.disk", folder=folder, cause=error.strerror or str(error))) from error


def _file_in(folder: str) -> IO[bytes]:
    """An empty file without a name; raises SpreadsheetNotMade."""
    with _disk_errors(folder):
        return TemporaryFile(dir=folder, buffering=0)


@asynccontextmanager
async def _parts_in(folder: str) -> AsyncIterator[tuple[Path, int]]:
    """A folder for the parts, and the descriptor that keeps it locked while any process has it open.

    Raises SpreadsheetNotMade.
    """
    with _disk_errors(folder):
        parts, lock = _locked_folder(folder)
    try:
        yield parts, lock
    finally:
        os.close(lock)
        # They are still there where the child was killed.
        await asyncio.to_thread(shutil.rmtree, parts, ignore_errors=True)


def _locked_folder(folder: str) -> tuple[Path, int]:
    """A new folder, which gets the name of parts once it is locked, so that nobody takes it for abandoned."""
    begin, end = _PARTS
    unlocked = Path(mkdtemp(prefix=begin, dir=folder))
    lock = os.open(unlocked, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # what cannot be locked is never found abandoned
        flock(lock, LOCK_EX | LOCK_NB)
    return unlocked.rename(f"{unlocked}{end}"), lock


async def _write(
    file: IO[bytes], folder: str, parts: Path, lock: int, name: str, columns: Sequence[str], pages: Pages
) -> None:
    try:
        process = await programs.start(
            *("-m", "chapar.web.api.workbook", parts),
            stdout=file,
            stderr=PIPE,
            pass_fds=(lock,),  # where we are killed, the parts are its own until it ends
        )
    except OSError as error:
        raise _failure(Phrase("spreadsheet.process", cause=error.strerror or str(error))) from error
    stdin, stderr = process.stdin, process.stderr
    assert stdin is not None  # noqa: S101 - it is a pipe
    assert stderr is not None  # noqa: S101 - it is a pipe
    try:
        with suppress(ConnectionError):  # it has ended, and says why
            stdin.write(_line((name, columns)))
            async for page in pages:
                async for chunk in in_chunks(map(_line, page)):
                    stdin.write(chunk)
                    await stdin.drain()
            stdin.write(_line(None))
            await stdin.drain()
        said = (await stderr.read()).decode(errors="replace").strip()
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if code == os.EX_IOERR:
        raise _failure(Phrase("spreadsheet.disk", folder=folder, cause=said))
    if code:
        raise _failure(Phrase("spreadsheet.process", cause=f"exit {code}"), said)


def _failure(cause: Phrase, said: str = "") -> SpreadsheetNotMade:
    log.warning("spreadsheet_not_made", cause=cause.sentence(), **({"output": said} if said else {}))
    return SpreadsheetNotMade(cause)


def _line(row: Sequence[object] | None) -> bytes:
    return json.dumps(row).encode() + b"\n"


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece
