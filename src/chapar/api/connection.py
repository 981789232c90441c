"""A client's connection, within bounds: how large a head may be, how long a client may take, how many there may be."""

import asyncio
import contextlib
import enum
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, assert_never
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chapar.api.exchange import PLAIN, SECURE, Exchange, lines_of
from chapar.api.problems import answer_to, preferred_language
from chapar.errors import (
    BodyTooSlow,
    ChaparError,
    ConnectionsExhausted,
    HeadersTooMany,
    HeadMalformed,
    HeadTooLarge,
    HeadTooSlow,
    Language,
    RequestError,
    TargetTooLong,
)
from chapar.settings import Settings

MAX_HEADERS: Final = 100  # a browser behind two proxies sends 30
MAX_TARGET: Final = 8000  # bytes of path and query (RFC 9110 §4.1)

_RESERVE: Final = 64  # descriptors for the database, the broker, the writer and the log
_LEEWAY: Final = 1.0  # seconds; whoever reads a body, and uvicorn's own timer, are first to say that it took too long


class _Wait(enum.Enum):
    OPENED = enum.auto()  #: the connection is new, and nothing has come
    HEAD = enum.auto()  #: a head has begun
    BODY = enum.auto()  #: the rest of a body is to come
    IDLE = enum.auto()  #: the last request is answered
    TAKING = enum.auto()  #: an answer has yet to be taken


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of the gateway one client, and all of them, may hold. Sizes in bytes, times in seconds."""

    connections: int
    head_size: int
    head_timeout: float
    body_timeout: float
    write_timeout: float
    idle_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """What the settings say, and no more connections than there are descriptors for."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            connections=max(1, min(settings.max_connections, descriptors - _RESERVE - settings.readers)),
            head_size=settings.max_head_bytes,
            head_timeout=settings.head_timeout,
            body_timeout=settings.body_timeout,
            write_timeout=settings.write_timeout,
            idle_timeout=settings.idle_timeout,
        )


class _Trailers(list[tuple[bytes, bytes]]):
    """Takes what comes behind a body, and forgets it: nobody asks for trailers (RFC 9110 §6.5.1)."""

    def append(self, _trailer: tuple[bytes, bytes]) -> None:
        pass


_TRAILERS: Final = _Trailers()


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, within bounds. `look_after` has to be called every now and then."""

    bounds: ClassVar[Bounds]

    cycle: Exchange
    _unheeded = 0  #: bytes that came since a head or a piece of a body was complete
    _deaf = False  #: whether nothing more is heard, because what came makes no sense or took too long
    _requests = 0
    _waited_for: tuple[_Wait, int] | None = None
    _since = 0.0  #: when that wait was first seen

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take the connection, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(ConnectionsExhausted(self.bounds.connections))

    def data_received(self, data: bytes) -> None:
        """Feed the parser, for as long as what comes makes sense."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._unheeded += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # a server may ignore the offer (RFC 9110 §7.8)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestError) else HeadMalformed(str(cause or error)))
        else:
            if self._unheeded > self.bounds.head_size:
                self._refuse(HeadTooLarge(self.bounds.head_size))

    def on_headers_complete(self) -> None:
        """Start the request, or get it in line behind those that came before it on this connection."""
        self._check_head()
        self._unheeded = 0
        self._requests += 1
        version = self.parser.get_http_version()
        target = httptools.parse_url(self.url)
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        path = target.path.decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = target.path
        self.scope["query_string"] = target.query or b""
        before = self.cycle
        self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle.standing = SECURE if self.scheme == "https" else PLAIN
        self.headers = _TRAILERS
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""
        self._unheeded = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body, if any, has come to its end; also where the answer did not wait for it."""
        self._unheeded = 0
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def look_after(self, now: float) -> None:
        """End the connection where its client has kept it waiting for too long; `now` is the loop's time."""
        waits_for = self._waits_for()
        if waits_for != self._waited_for:
            self._waited_for, self._since = waits_for, now
        elif waits_for is not None and now - self._since > self._patience(waits_for[0]):
            self._since = now
            self._give_up(waits_for[0])

    def _check_head(self) -> None:
        """Raises HeadersTooMany, TargetTooLong, HeadTooLarge."""
        if len(self.headers) > MAX_HEADERS:
            raise HeadersTooMany(MAX_HEADERS)
        if len(self.url) > MAX_TARGET:
            raise TargetTooLong(MAX_TARGET)
        # A body may have come along, so the head is measured only where it may be too large.
        if self._unheeded > self.bounds.head_size:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.bounds.head_size:
                raise HeadTooLarge(self.bounds.head_size)

    def _waits_for(self) -> tuple[_Wait, int] | None:
        """What the client has to do next, and a number that changes when it does; None while the work is ours."""
        if pending := self.transport.get_write_buffer_size():
            return _Wait.TAKING, pending
        exchange = self.cycle
        if self.scope is not None and (exchange is None or exchange.scope is not self.scope):
            return _Wait.HEAD, self._requests
        if exchange is None:
            return _Wait.OPENED, 0
        if exchange.more_body:
            return _Wait.BODY, self._requests
        return (_Wait.IDLE, self._requests) if exchange.response_complete else None

    def _patience(self, wait: _Wait) -> float:
        match wait:
            case _Wait.OPENED | _Wait.HEAD:
                return self.bounds.head_timeout
            case _Wait.BODY:
                return self.bounds.body_timeout + _LEEWAY
            case _Wait.IDLE:
                return self.bounds.idle_timeout + _LEEWAY
            case _Wait.TAKING:
                return self.bounds.write_timeout
            case _ as never:
                assert_never(never)

    def _give_up(self, wait: _Wait) -> None:
        if wait is _Wait.TAKING or self._deaf:
            self.transport.abort()  # to close would be to wait until the client has taken everything
        elif wait is _Wait.HEAD:
            self._refuse(HeadTooSlow(self.bounds.head_timeout))
        elif wait is _Wait.BODY:
            self._refuse(BodyTooSlow(self.bounds.body_timeout))
        else:
            self.transport.close()

    def _refuse(self, error: ChaparError) -> None:
        """Hear nothing more; answer what cannot become a request, behind the answers that are owed, and close."""
        self._deaf = True
        exchange = self.cycle
        if exchange is None or exchange.response_complete:
            self._say(error)
            return
        exchange.keep_alive = False  # it is the last one
        if exchange.more_body and isinstance(error, RequestError):
            exchange.fault = error
            exchange.message_event.set()

    def _say(self, error: ChaparError) -> None:
        answer = answer_to(error, self._language())
        standing = SECURE if self.scheme == "https" else PLAIN
        headers = lines_of([*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")])
        self.transport.write(
            STATUS_LINE[answer.status_code] + headers + standing.lines() + b"\r\n" + bytes(answer.body)
        )
        self.transport.close()

    def _language(self) -> Language:
        preferred = [value for name, value in self.headers or () if name == b"accept-language"]
        return preferred_language(b",".join(preferred).decode("latin-1"))


def within(bounds: Bounds) -> type[Connection]:
    """The connections of a server whose clients are held to these bounds."""
    return type("Connection", (Connection,), {"bounds": bounds})


def look_after(connections: Iterable[object], now: float) -> None:
    """Look at each of a server's connections."""
    for connection in tuple(connections):
        if isinstance(connection, Connection):
            connection.look_after(now)


def raise_descriptor_limit() -> None:
    """Let this process and its children open as many files and connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
