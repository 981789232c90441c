"""Answers of any length, written piece by piece."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

_CHUNK: Final = 64 * 1024  # bytes; what is written down in one turn of the event loop, which other callers share


async def in_chunks(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces, joined until they are worth sending. Other callers have their turn after each chunk."""
    chunk: list[bytes] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(chunk)
            chunk.clear()
            size = 0
            await asyncio.sleep(0)
    if chunk:
        yield b"".join(chunk)
