"""Answers of any length, written piece by piece."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final, TypeVar

import orjson

Page = TypeVar("Page")

_CHUNK: Final = 64 * 1024  # bytes; what is written down in one turn of the event loop, which other callers share
_SEPARATOR: Final = b",\n"


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


def page_of(name: str, items: Iterable[bytes], following: str | int | None) -> Iterator[bytes]:
    """A JSON object with these items as the list `name`, and where the next page begins."""
    opening = b'{"%b":[' % name.encode()
    for item in items:
        yield opening + item
        opening = _SEPARATOR
    yield (b"" if opening is _SEPARATOR else opening) + b'],"next":' + orjson.dumps(following) + b"}\n"


async def in_list(
    pages: AsyncIterator[Iterable[bytes]], opening: bytes = b"[", closing: bytes = b"]\n"
) -> AsyncIterator[bytes]:
    """A JSON list of the items of all pages."""
    async for page in pages:
        async for chunk in in_chunks(_SEPARATOR + item for item in page):
            yield opening + chunk.removeprefix(_SEPARATOR)
            opening = _SEPARATOR
    yield (b"" if opening is _SEPARATOR else opening) + closing


async def begun(pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    """The same pages, the first read already: where that fails, the answer has not begun and can say so."""
    try:
        first = await anext(pages)
    except StopAsyncIteration:
        return pages
    return _chain(first, pages)


async def _chain(first: Page, rest: AsyncIterator[Page]) -> AsyncIterator[Page]:
    yield first
    del first  # a client who takes nothing more must not hold it
    async for page in rest:
        yield page
