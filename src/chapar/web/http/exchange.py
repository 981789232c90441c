"""One request and its answer; writes the head of each answer, with what every answer says to browsers."""

import socket
import struct
from collections.abc import Container, Coroutine, Iterable, Mapping
from typing import Any, Final

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from chapar.errors import RequestError

STANDING: Final = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""On every answer, but for those that say something else under the same name."""

CUT: Final = "http.response.cut"
"""The type of a message that ends an answer before its end, so that its client sees that it is not complete. Its
`body`, if it has one, is sent before that, however slowly the client reads, and is a proper end."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_TELLING: Final = _FRAMING | STANDING.keys()
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: whoever reads then sees an error in place of an end
_END: Final = struct.pack("ii", 0, 0)
_BODILESS: Final = frozenset({204, 304})  # RFC 9110 §6.4.1


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand in a head."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


class Standing:
    """Headers of every answer, and the bytes that they make together."""

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self._headers = headers
        self._lines = lines_of(headers.items())

    def lines(self, said: Container[bytes] = ()) -> bytes:
        """Those that the answer has not `said` itself."""
        if not said:
            return self._lines
        return lines_of((name, value) for name, value in self._headers.items() if name not in said)


PLAIN: Final = Standing(STANDING)
SECURE: Final = Standing(STANDING | {b"strict-transport-security": b"max-age=31536000"})
"""Over TLS of our own, a browser that came once does not come without it for a year (RFC 6797 §7.2)."""


class Exchange(RequestResponseCycle):
    """uvicorn's, whose answers carry the standing headers.

    uvicorn examines each header of each answer by two regular expressions, these five as well. Here
    the standing ones are bytes made once, and a line break inside another one is found by counting lines.
    """

    standing = PLAIN
    _head: bytes | None = None  #: what waits for the first piece of the body: a write of its own is dear
    _ends_by_close = False  #: whether nothing but the end of the connection says where the body ends
    fault: RequestError | None = None  #: what is wrong with the rest of the body; raised where it is read

    # Plain functions that hand on what is to be awaited, because a coroutine around each call costs more than its work.
    def receive(self) -> Coroutine[Any, Any, ASGIReceiveEvent]:
        """The next piece of the body; raises the fault that was found in it."""
        if self.fault is not None:
            raise self.fault
        return super().receive()

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """Write the head or a piece of the body, once the client has taken enough of what went before."""
        if self.flow.write_paused and not _cuts(message):
            return self._send_later(message)
        if self.transport.is_closing():
            self.disconnected = True  # uvicorn sets this only on the last of several exchanges in line
        if message["type"] == "http.response.body":
            if self._ends_by_close:
                self._measure(message)
            return super().send(message if self._head is None else self._headed(self._head, message))
        if _cuts(message):
            last = message.get("body", b"")
            assert isinstance(last, bytes)  # noqa: S101 - the server knows no such message
            return self._cut(last)
        if self.response_started or self.disconnected or message["type"] != "http.response.start":
            return super().send(message)
        return self._start(message)

    async def _send_later(self, message: ASGISendEvent) -> None:
        await self.flow.drain()
        await self.send(message)

    def _end_by_chunk(self) -> tuple[bytes, ...]:
        self.chunked_encoding = True
        return b"transfer-encoding", b": ", b"chunked", b"\r\n"

    def _end_by_close(self) -> tuple[bytes, ...]:
        """HTTP/1.0 knows no chunks (RFC 9112 §6.1). A body that is cut off then ends with a reset."""
        self.chunked_encoding = False
        self._ends_by_close = True
        self._on_close(_RESET)
        return ()

    def _measure(self, message: HTTPResponseBodyEvent) -> None:
        """Each piece is as long as it was expected to be; behind the last one the connection may end in peace."""
        self.expected_content_length = len(message.get("body", b""))
        if not message.get("more_body", False):
            self._on_close(_END)

    def _on_close(self, linger: bytes) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def _cut(self, last: bytes) -> None:
        """End the answer now, behind some last words if there are any: then they are its end."""
        if last and not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if self.chunked_encoding else last)
        self.disconnected = True
        self.transport.close()

    async def _start(self, message: HTTPResponseStartEvent) -> None:
        self.response_started = True
        if self.waiting_for_100_continue:
            # Its client may send the body or leave it out: what comes next could be either (RFC 9110 §10.1.1).
            self.keep_alive = self.keep_alive and not self.more_body
            self.waiting_for_100_continue = False
        self._head = self.head(message["status"], message.get("headers", ()))

    def _headed(self, head: bytes, message: HTTPResponseBodyEvent) -> HTTPResponseBodyEvent:
        """The first piece of the body, behind the head where nothing has to stand between the two."""
        self._head = None
        if self.disconnected:
            return message
        if self.chunked_encoding or self.scope["method"] == "HEAD":
            self.transport.write(head)
            return message
        self.expected_content_length += len(head)
        return {**message, "body": head + message.get("body", b"")}

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head of the answer; sets how its body is framed (RFC 9112 §6)."""
        said = []
        closes = False
        parts = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
            if name in _TELLING:
                if name == b"content-length":
                    self.expected_content_length = int(value)
                    self.chunked_encoding = False
                elif name == b"transfer-encoding":
                    self.chunked_encoding = True
                elif name == b"connection":
                    closes = closes or value.lower() == b"close"
                else:
                    said.append(name)
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            parts += (b"connection", b": ", b"close", b"\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            parts += self._end_by_chunk() if self.scope["http_version"] != "1.0" else self._end_by_close()
        head = b"".join(parts)
        if not head.count(b"\n") == head.count(b"\r") == len(parts) // 4 + 1:
            raise RuntimeError("a header of the answer holds a line break")
        return head + self.standing.lines(said) + b"\r\n"


def _cuts(message: Mapping[str, object]) -> bool:
    return message["type"] == CUT
