"""Accept connections for TLS: each counts from its first moment, and costs little until its client begins."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sized
from typing import Final

_HANDSHAKE: Final = 10.0  # seconds a client may take for its handshake, and for its farewell
_CROWDED: Final = 2.0  # the same where many are at it, so that whoever waits for a turn gets it in time
_AT_ONCE: Final = 100  # connections accepted in one turn of the event loop, which others share
_AGAIN: Final = 1.0  # seconds until there may be descriptors again, as in asyncio
# One in so many connections may be in its handshake: it takes several times what a silent one does.
_SHARE: Final = 4
_CROWD: Final = 4  # and one in so many of those is a crowd
# Bytes. For each connection uvloop keeps memory for the most that ever came at once.
_RECEIVED: Final = 64 * 1024


class TlsListener:
    """A listening socket whose connections speak TLS, at most `limit` of them; the next one is closed at once.

    asyncio's own server makes all of a TLS connection when it is accepted, and reports it only after its handshake.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        made: Callable[[], asyncio.Protocol],
        *,
        connected: Sized,
        limit: int,
        patience: float,
    ) -> None:
        """`made` makes the protocol of a connection, `connected` are those past their handshake.

        A client has to begin within `patience` seconds.
        """
        self._listener = listener
        self._context = context
        self._made = made
        self._connected = connected
        self._limit = limit
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._handshakes = asyncio.Semaphore(max(1, limit // _SHARE))
        self._crowd = limit // _SHARE // _CROWD
        self._under_way = 0
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)  # its connections inherit it
        self._listen()

    def close(self) -> None:
        """Accept nobody any more, and let go who has not got through yet."""
        self._loop.remove_reader(self._listener)
        for task in self._coming:
            task.cancel()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors are left
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_AGAIN, self._listen)
                return
            if len(self._coming) + len(self._connected) >= self._limit:
                connection.close()
                continue
            task = self._loop.create_task(self._admit(connection))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    async def _admit(self, connection: socket.socket) -> None:
        """Wait for the client's first byte and for a turn, and shake hands."""
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        with contextlib.ExitStack() as waiting:
            waiting.callback(connection.close)
            try:
                async with asyncio.timeout(self._patience):
                    await self._begun(connection)
                    await self._handshakes.acquire()
            except TimeoutError:
                return
            waiting.pop_all()  # from here on it is the loop's to close
        self._under_way += 1
        try:
            await self._loop.connect_accepted_socket(
                self._made,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=_CROWDED if self._under_way > self._crowd else _HANDSHAKE,
                ssl_shutdown_timeout=_HANDSHAKE,
            )
        except OSError:
            pass  # it hung up, took too long, or does not speak TLS
        finally:
            self._under_way -= 1
            self._handshakes.release()

    async def _begun(self, connection: socket.socket) -> None:
        begun = asyncio.Event()
        self._loop.add_reader(connection, begun.set)
        try:
            await begun.wait()
        finally:
            self._loop.remove_reader(connection)
