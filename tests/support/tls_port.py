"""A port with TLS and nothing behind it, which says in an alert why a handshake failed, as most servers do."""

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

from support.ports import LOOPBACK

_PATIENCE = 5.0  # seconds


class TlsPort:
    """Shakes hands with one client after the other. asyncio's servers hang up without the alert."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"mqtts://{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="TLS port", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes accept()
        if (connection := self._connection) is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(_PATIENCE)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._connection = connection
                    connection.settimeout(_PATIENCE)
                    self._shake_hands(connection)

    def _shake_hands(self, connection: socket.socket) -> None:
        tls = self._context.wrap_socket(connection.dup(), server_side=True, do_handshake_on_connect=False)
        with tls, contextlib.suppress(OSError):
            tls.do_handshake()
            tls.recv(1024)
        # What the client sent is read to its end: a reset would overtake the alert.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1024):
                pass
