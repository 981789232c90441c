"""Spreadsheets of text cells: each is written by a process of its own, into a file that is sent once it is whole."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from tempfile import TemporaryFile, gettempdir
from typing import IO, Final

import structlog
from starlette.types import Receive, Scope, Send

from chapar.errors import Phrase, SpreadsheetNotMade
from chapar.model.report import Format
from chapar.web.http.chunks import in_chunks
from chapar.web.http.direct import HEAD_ONLY
from chapar.web.http.entrance import AdmittedStream

MOST: Final = 4  # made or being sent at a time: each takes room on the disk and 25 MB of memory

_ON_DISK: Final = "/var/tmp"  # noqa: S108 - where /tmp is memory, this is not (FHS 3.0 §5.15)
_PIECE: Final = 64 * 1024  # bytes read at once

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Pages = AsyncIterator[Iterable[Sequence[object]]]


class Spreadsheets:
    """Makes spreadsheets, a few at a time."""

    def __init__(self) -> None:
        self._under_way = 0

    @asynccontextmanager
    async def made(self, name: str, columns: Sequence[str], pages: Pages) -> AsyncIterator[IO[bytes]]:
        """A file with all rows below their columns, gone at the end of the block.

        Raises SpreadsheetNotMade, and what the pages raise.
        """
        if self._under_way == MOST:
            raise SpreadsheetNotMade(Phrase("spreadsheet.many", count=MOST))
        self._under_way += 1
        try:
            folder = os.environ.get("TMPDIR") or (_ON_DISK if os.access(_ON_DISK, os.W_OK | os.X_OK) else gettempdir())
            with _file_in(folder) as file:
                await _write(file, folder, name, columns, pages)
                yield file
        finally:
            self._under_way -= 1


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


def _file_in(folder: str) -> IO[bytes]:
    """An empty file without a name; raises SpreadsheetNotMade."""
    try:
        return TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise _failure(Phrase("spreadsheet.disk", folder=folder, cause=error.strerror or str(error))) from error


async def _write(file: IO[bytes], folder: str, name: str, columns: Sequence[str], pages: Pages) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a file in the working folder must not stand in for a module
            "-m",
            "chapar.web.api.workbook",
            folder,
            stdin=asyncio.subprocess.PIPE,  # it ends when this closes, so also where we are killed
            stdout=file,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to hear
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
