"""A TCP proxy that fails on demand: it stalls, as a half-open connection does, or cuts."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from support.ports import LOOPBACK

_CHUNK = 64 * 1024  # bytes
_LOOK_EVERY = 0.01  # seconds
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close sends RST


class TcpProxy:
    """Listens on `port`, forwards to `target_port`, both on the loopback address.

    `stall()` keeps every connection open and holds the bytes of one or both directions back; `resume()` lets them
    through; `cut()` resets the connections there are and drops what was held back. New ones are always accepted.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._to_server = threading.Event()
        self._to_client = threading.Event()
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="tcp proxy", daemon=True)

    def start(self) -> Self:
        self.resume()
        self._acceptor.start()
        return self

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Hold bytes back. With `to_client` alone, requests arrive and their answers are lost."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def resume(self) -> None:
        self._to_server.set()
        self._to_client.set()

    def cut(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.cut()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        self._acceptor.join()
        self.cut()
        self.resume()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection((LOOPBACK, self._target_port), timeout=5.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = _Pair(client, server)
            with self._lock:  # a pair can be cut once it is known
                self._pairs.append(pair)
                pair.start(self._to_server, self._to_client)


class _Pair:
    """One client's connection and its continuation to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._cut = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, to_server: threading.Event, to_client: threading.Event) -> None:
        for source, sink, flows in (
            (self._client, self._server, to_server),
            (self._server, self._client, to_client),
        ):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._pump, args=(source, sink, flows), name="tcp proxy", daemon=True)
            self._threads.append(thread)
            thread.start()

    def cut(self) -> None:
        self._cut.set()
        ends = (self._client, self._server)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                end.shutdown(socket.SHUT_RD)  # wakes recv and sends nothing, unlike SHUT_RDWR
        for thread in self._threads:
            thread.join(0.2)
        for end in ends:
            if any(thread.is_alive() for thread in self._threads):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # wakes a send whose receiver does not read
            end.close()
        for thread in self._threads:
            thread.join()

    def _pump(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (chunk := source.recv(_CHUNK)) and self._flows(flows):
                sink.sendall(chunk)
        # The other side hears of the end only where bytes flow at all.
        if self._flows(flows):
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def _flows(self, flows: threading.Event) -> bool:
        """Wait while stalled; False where the connection was cut meanwhile."""
        while not flows.wait(_LOOK_EVERY):
            if self._cut.is_set():
                return False
        return not self._cut.is_set()
