"""A crowd of clients that hold connections and give nothing for it. `python -m support.crowd PORT COUNT` is one."""

import asyncio
import contextlib
import itertools
import socket
import sys
from types import TracebackType
from typing import Self

import uvloop

from support.ports import LOOPBACK

_PACE = 3.0  # seconds between two bytes
_AT_ONCE = 100  # connects under way
_HOST = b"Host: 127.0.0.1\r\n"
_SLOW_HEAD = b"POST /messaging/send HTTP/1.1\r\n" + _HOST + b"X-Filling: "
_SLOW_BODY = (
    b"POST /messaging/send HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
)
_UNREAD = b"GET /docs/assets/swagger-ui.css HTTP/1.1\r\n" + _HOST + b"\r\n"  # 188 kB
_KINDS = ((_SLOW_HEAD, b"x"), (_SLOW_BODY, b" "), (b"", b""), (_UNREAD, b""))  #: what comes first, and what trickles


class Crowd:
    """`count` clients in equal parts: heads that trickle in, bodies that do, silence, and answers not taken.

    Whoever is cut off comes again at once.
    """

    def __init__(self, port: int, count: int) -> None:
        self.arrived = 0  #: connections made, the repeated ones too
        self._port = port
        self._count = count
        self._all_here = asyncio.Event()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        kinds = itertools.islice(itertools.cycle(_KINDS), self._count)
        self._tasks = [asyncio.create_task(self._come(first, then)) for first, then in kinds]
        async with asyncio.timeout(60):
            await self._all_here.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _come(self, first: bytes, then: bytes) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._stay(first, then)

    async def _stay(self, first: bytes, then: bytes) -> None:
        """One connection, until the gateway ends it."""
        connection = socket.socket()
        if first is _UNREAD:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        async with self._gate:
            await asyncio.get_running_loop().sock_connect(connection, (LOOPBACK, self._port))
            reader, writer = await asyncio.open_connection(sock=connection)
        self.arrived += 1
        if self.arrived >= self._count:
            self._all_here.set()
        try:
            writer.write(first)
            if first is _UNREAD:
                writer.transport.pause_reading()  # type: ignore[attr-defined] # a writer's transport reads as well
            while not reader.at_eof() and not writer.transport.is_closing():
                writer.write(then)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), _PACE)
        finally:
            writer.transport.abort()


async def _main(port: int, count: int) -> None:
    async with Crowd(port, count):
        sys.stdout.write("here\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2])))
