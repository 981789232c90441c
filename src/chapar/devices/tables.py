"""Tables of devices as people keep them, CSV or xlsx: each is read by a process of its own, within bounds."""

import asyncio
import json
import os
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from chapar.devices.table_program import LONGEST_ROW
from chapar.errors import Phrase, TableMalformed, TableNotRead
from chapar.runtime import programs

MOST_READ: Final = 2  # at a time: each takes a processor, and memory for what is in the file

_PIECE: Final = 64 * 1024  # bytes written at once
_LONGEST_LINE: Final = 8 * LONGEST_ROW  # bytes: of a sign at most six, and what JSON puts between cells
_PATIENCE: Final = 60.0  # seconds for one

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Table(NamedTuple):
    """A table: its rows in the form in which they take the least memory."""

    header: list[str]
    rows: list[bytes]  #: JSON lists, of the number that a spreadsheet counts and the cells

    @property
    def size(self) -> int:
        """Bytes that it takes, as far as they grow with the file."""
        return sum(map(len, self.rows))


class Tables:
    """Reads tables, a few at a time."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MOST_READ)

    async def read(self, content: bytes) -> Table:
        """The table of a file; raises TableMalformed, TableNotRead."""
        async with self._places:
            lines = await _lines(content)
        problem, facts = json.loads(lines.pop()) if lines else ("memory", {})
        if problem is not None:
            raise TableMalformed(Phrase(f"table.{problem}", **facts))
        if len(lines) < 2:  # noqa: PLR2004 - a header, and a row
            raise TableMalformed(Phrase("table.empty"))
        _, *header = json.loads(lines[0])
        return Table(header, lines[1:])


async def _lines(content: bytes) -> list[bytes]:
    """The lines that the program says; none where it was killed."""
    try:
        process = await programs.start(
            *("-m", "chapar.devices.table_program"), stdout=PIPE, stderr=DEVNULL, longest_line=_LONGEST_LINE
        )
    except OSError as error:
        log.warning("table_not_read", cause=str(error))
        raise TableNotRead(error.strerror or str(error)) from error
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                _, said = await asyncio.gather(_give(process.stdin, content), _take(process.stdout))
                if await process.wait() == os.EX_OK:
                    return said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    log.warning("table_not_read", exit=process.returncode)
    return []


async def _give(pipe: asyncio.StreamWriter | None, content: bytes) -> None:
    assert pipe is not None  # noqa: S101 - it is a pipe
    with suppress(ConnectionError):  # it has ended, and its exit says so
        for first in range(0, len(content), _PIECE):
            pipe.write(content[first : first + _PIECE])
            await pipe.drain()
    pipe.close()


async def _take(pipe: asyncio.StreamReader | None) -> list[bytes]:
    assert pipe is not None  # noqa: S101 - it is a pipe
    return [line.rstrip(b"\n") async for line in pipe]
