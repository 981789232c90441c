"""The writer as the gateway sees it: a process that is started, read from, and ended with its socket."""

import asyncio
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from chapar.runtime import programs
from chapar.store.wire import split, unpack

PROGRAM: Final = (
    "from chapar.runtime.garbage import collect_rarely; collect_rarely(); from chapar.store.writer import main; main()"
)
"""What the writer runs, with the descriptor of its socket as the only argument."""

_EXIT_PATIENCE: Final = 5.0  # seconds the writer may take to end once its socket is closed


class Channel(asyncio.Protocol):
    """The way from one writer process, frame by frame: a stream and its reader would be a turn of the loop."""

    def __init__(self, on_frame: Callable[[tuple[Any, ...], asyncio.WriteTransport], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_frame = on_frame
        self._transport: asyncio.WriteTransport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        bodies, self._received = split(self._received + data)
        for body in bodies:
            self._on_frame(unpack(body), self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        """Called by asyncio."""
        if not self.ended.done():
            self.ended.set_result(None)


@asynccontextmanager
async def writer_process(channel: Channel, inherit: tuple[int, ...]) -> AsyncIterator[asyncio.WriteTransport]:
    """A running writer, whose frames `channel` receives. Leaving closes its socket, so it ends. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        writer, _ = await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        try:
            process = await programs.start(
                *("-c", PROGRAM, str(theirs.fileno())), stdin=DEVNULL, pass_fds=(theirs.fileno(), *inherit)
            )
        except BaseException:
            writer.close()
            raise
    try:
        yield writer
    finally:
        writer.close()
        try:
            await asyncio.wait_for(process.wait(), _EXIT_PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()
