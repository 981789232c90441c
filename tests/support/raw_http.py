"""HTTP by hand, for requests that no well-behaved client would make."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from support.ports import LOOPBACK

_PATIENCE = 15.0  # seconds
JSON = ("Content-Type: application/json",)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What came back, and how many bytes had been sent by the time the other side stopped listening."""

    status: int
    media_type: str | None
    problem: Mapping[str, Any]
    sent: int
    headers: Mapping[str, str]


class RawConnection:
    """A connection to the gateway at `port`, for whatever bytes."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=_PATIENCE)
        self._sent = 0

    def send(self, pieces: Iterable[bytes]) -> Self:
        """Send until the pieces or the other side's patience are at an end."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for piece in pieces:
                self._socket.sendall(piece)
                self._sent += len(piece)
        return self

    def answer(self) -> RawAnswer:
        response = http.client.HTTPResponse(self._socket)
        response.begin()
        media_type = response.getheader("Content-Type")
        text = response.read()
        problem = json.loads(text) if media_type == "application/problem+json" else {}
        return RawAnswer(response.status, media_type, problem, self._sent, dict(response.getheaders()))

    def is_closed(self) -> bool:
        """Whether the other side ends the connection, within the patience of a test."""
        with contextlib.suppress(ConnectionResetError):
            while self._socket.recv(64 * 1024):
                pass
        return True

    def hang_up(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()


class RawRequest(RawConnection):
    """One request to the gateway at `port`; its body is whatever is sent next."""

    def __init__(
        self, port: int, *headers: str, method: str = "POST", path: str = "/messaging/send", body: bytes | None = None
    ) -> None:
        super().__init__(port)
        length = () if body is None else (f"Content-Length: {len(body)}",)
        head = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}:{port}", *headers, *length, "", ""])
        self._socket.sendall(head.encode("latin-1") + (body or b""))
        self._sent = len(body or b"")
