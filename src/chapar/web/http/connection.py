"""A client's connection, within bounds: how large a head may be, how long a client may take, how many there may be."""

import asyncio
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, assert_never, runtime_checkable
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chapar.errors import (
    BodyTooSlow,
    ChaparError,
    ConnectionsExhausted,
    HeadersTooMany,
    HeadMalformed,
    HeadTooLarge,
    HeadTooSlow,
    Language,
    Phrase,
    RequestError,
    TargetTooLong,
)
from chapar.runtime.addresses import unmapped
from chapar.web.http.exchange import PLAIN, SECURE, Exchange, lines_of
from chapar.web.http.problems import answer_to, preferred_language
from chapar.web.http.rates import BodyBudget, network_of

MAX_HEADERS: Final = 100  # a browser behind two proxies sends 30
MAX_TARGET: Final = 8000  # bytes of path and query (RFC 9110 §4.1)

_HEAD_END: Final = b"\r\n\r\n"  # the parser takes nothing else for it
_GATHERED: Final = 64 * 1024  # bytes that wait to be read, or written, before more is let in; as without TLS
_VERSIONS: Final = frozenset({"1.0", "1.1"})  # llhttp knows further ones
_LEEWAY: Final = 1.0  # seconds; whoever reads a body, and uvicorn's own timer, are first to say that it took too long


class _Wait(enum.Enum):
    OPENED = enum.auto()  #: the connection is new, and nothing has come
    HEAD = enum.auto()  #: a head has begun
    BODY = enum.auto()  #: the rest of a body is to come
    IDLE = enum.auto()  #: the last request is answered
    TAKING = enum.auto()  #: an answer has yet to be taken


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on what one client, and all of them, may hold of the gateway. Sizes in bytes, times in seconds."""

    connections: int
    head_size: int
    unwanted_body: int  #: how much may come of a body whose request is answered already
    head_timeout: float
    body_timeout: float
    write_timeout: float
    idle_timeout: float


class _Trailers(list[tuple[bytes, bytes]]):
    """Takes what comes behind a body, and forgets it: nobody asks for trailers (RFC 9110 §6.5.1)."""

    def append(self, _trailer: tuple[bytes, bytes]) -> None:
        pass


_TRAILERS: Final = _Trailers()


@runtime_checkable
class _TlsTransport(Protocol):
    """The transport of a TLS connection, which by itself lets up to eight times as much gather."""

    def set_read_buffer_limits(self, high: int) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...


class _Flow(FlowControl):
    """Reads nothing more while `is_held`, whoever asks for it."""

    is_held = False

    def resume_reading(self) -> None:
        if self.read_paused and not self.is_held:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, within bounds. `look_after` has to be called every now and then.

    One request at a time: what comes behind it waits as it came, and no more is read, until it is answered.
    """

    bounds: ClassVar[Bounds]
    budget: ClassVar[BodyBudget]

    cycle: Exchange
    flow: _Flow
    _unheeded = 0  #: bytes that came since a head or a piece of a body was complete
    _fed = 0  #: bytes of the piece that is being parsed
    _unmeasured = 0  #: bytes that came since the last head, and at most as many more as came with its end
    _unwanted = 0  #: bytes of a body that came although its request was answered
    _ahead = b""  #: what came behind a request that is not answered yet
    _ignores_input = False  #: whether nothing more is read, because what came makes no sense or took too long
    _requests = 0
    _waited_for: tuple[_Wait, int] | None = None
    _since = 0.0  #: when that wait was first seen

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take the connection, or say that there are too many."""
        super().connection_made(transport)
        if self.client is not None:  # settings, rates and the audit trail know a caller by one address
            self.client = unmapped(self.client[0]), self.client[1]
        self.flow = _Flow(transport)
        if isinstance(transport, _TlsTransport):
            transport.set_read_buffer_limits(high=_GATHERED)
            transport.set_write_buffer_limits(high=_GATHERED)
        if len(self.connections) > self.bounds.connections:
            self._refuse(ConnectionsExhausted(self.bounds.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits here any more."""
        self._take_ahead()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse it, for as long as what comes makes sense, or let it wait."""
        if self._ignores_input:
            return
        self._unset_keepalive_if_required()
        if self._is_busy:
            self._hold(data)
        elif data.count(_HEAD_END) > 1:
            self._parse(data)
        else:
            self._feed(data)

    def on_response_complete(self) -> None:
        """Go on to the next request, where it has come."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.cycle.body.clear()  # nobody reads it any more
        if self._ahead and not (self._ignores_input or self._is_busy or self.transport.is_closing()):
            self._unset_keepalive_if_required()
            self._parse(self._take_ahead())
            self.flow.resume_reading()

    def on_headers_complete(self) -> None:
        """Start the request, or get it in line behind the one that came before it on this connection."""
        self._check_head()
        if self.parser.should_upgrade():
            return  # it comes again, without the offer
        self._unheeded = self._unwanted = 0
        self._unmeasured = self._fed
        self._requests += 1
        version = self.parser.get_http_version()
        target = httptools.parse_url(self.url)
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        raw_path = target.path or b"/"  # an absolute form may name the host alone (RFC 9112 §3.2.2)
        path = raw_path.decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = raw_path
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
            expect_100_continue=self.expect_100_continue and version != "1.0",  # RFC 9110 §10.1.1
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle.standing = SECURE if self.scheme == "https" else PLAIN
        self.headers = _TRAILERS
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""
        self._unheeded = 0
        if not self.cycle.response_complete:
            super().on_body(body)
            return
        self._unwanted += len(body)
        if self._unwanted > self.bounds.unwanted_body:
            self._ignore_input()
            self.transport.close()

    def on_message_complete(self) -> None:
        """The body, if any, has come to its end; also where the answer did not wait for it."""
        if self.parser.should_upgrade():
            return
        self._unheeded = 0
        self.cycle.more_body = False
        self.cycle.message_event.set()
        if not self.parser.should_keep_alive():  # a trailer may say so too
            self._stop_after(self.cycle)

    def look_after(self, now: float) -> None:
        """End the connection where its client has kept it waiting for too long; `now` is the loop's time."""
        waits_for = self._waits_for()
        if waits_for != self._waited_for:
            self._waited_for, self._since = waits_for, now
        elif waits_for is not None and now - self._since > self._patience(waits_for[0]):
            self._since = now
            self._give_up(waits_for[0])

    @property
    def _is_busy(self) -> bool:
        """Return whether a request that has come as a whole is still to be answered."""
        exchange = self.cycle
        return bool(self.pipeline) or not (exchange is None or exchange.more_body or exchange.response_complete)

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which cannot be stopped, no more than one whole head at a time."""
        at, size = 0, len(data)
        while at < size and not self._ignores_input:
            if self._is_busy:
                self._hold(data[at:])
                return
            end = data.find(_HEAD_END, at) + len(_HEAD_END)
            if end < len(_HEAD_END) or data.find(_HEAD_END, end) < 0:
                end = size
            self._feed(data if end - at == size else data[at:end])
            at = end

    def _feed(self, piece: bytes) -> None:
        self._fed = len(piece)
        self._unheeded += self._fed
        self._unmeasured += self._fed
        behind_offer: bytes | None = None
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            behind_offer = piece[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestError) else HeadMalformed(str(cause or error)))
        else:
            if self.headers and len(self.headers) > MAX_HEADERS:
                self._refuse(HeadersTooMany(MAX_HEADERS))
            elif self._unheeded > self.bounds.head_size:
                self._refuse(HeadTooLarge(self.bounds.head_size))
        if behind_offer is not None:
            self._pass_over_upgrade(behind_offer)

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Read the request as if it did not offer another protocol, which a server may pass over (RFC 9110 §7.8).

        Behind such an offer llhttp reads no body, and what is one would be the next request.
        """
        headers = lines_of(header for header in self.headers if header[0] != b"upgrade")
        start = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self._feed(start + headers + b"\r\n")
        self._parse(rest)

    def _hold(self, data: bytes) -> None:
        """Let it wait, and read no more, until the request before it is answered."""
        if not self.cycle.keep_alive:
            self._ignore_input()
            return
        self._hold_reading()
        try:
            self.budget.take(self._network, len(data))
        except ChaparError as error:
            self._refuse(error)
        else:
            self._ahead += data

    def _take_ahead(self) -> bytes:
        """Return what has waited; it does no longer."""
        ahead, self._ahead = self._ahead, b""
        if ahead:
            self.budget.give_back(self._network, len(ahead))
            self.flow.is_held = False
        return ahead

    def _ignore_input(self) -> None:
        self._ignores_input = True
        self._hold_reading()

    def _hold_reading(self) -> None:
        self.flow.pause_reading()
        self.flow.is_held = True

    @property
    def _network(self) -> str:
        return network_of(self.client[0] if self.client else "")

    def _check_head(self) -> None:
        """Raises HeadersTooMany, HeadMalformed, TargetTooLong, HeadTooLarge."""
        if len(self.headers) > MAX_HEADERS:
            raise HeadersTooMany(MAX_HEADERS)
        if self.parser.get_method() == b"CONNECT":
            raise HeadMalformed(Phrase("head.tunnel"))
        if (version := self.parser.get_http_version()) not in _VERSIONS:
            raise HeadMalformed(Phrase("head.version", version=version))
        for name, value in self.headers:
            # A body is chunked, or has a length: no other coding is known, nor any in HTTP/1.0 (RFC 9112 §6.1).
            if name == b"transfer-encoding" and (value.lower() != b"chunked" or version != "1.1"):
                raise HeadMalformed(Phrase("head.transfer_encoding"))
        if len(self.url) > MAX_TARGET:
            raise TargetTooLong(MAX_TARGET)
        if self._unmeasured > self.bounds.head_size:  # else it is no larger, whatever else came with it
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.bounds.head_size:
                raise HeadTooLarge(self.bounds.head_size)

    def _waits_for(self) -> tuple[_Wait, int] | None:
        """Return what the client has to do next, and a number that changes then; None while the work is ours."""
        if pending := self.transport.get_write_buffer_size():
            return _Wait.TAKING, pending
        if self._is_busy:
            return None  # whatever else has begun to come waits for our answer, and is not read meanwhile
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
        if wait is _Wait.TAKING or self._ignores_input:
            self.transport.abort()  # to close would be to wait until the client has taken everything
        elif wait is _Wait.HEAD:
            self._refuse(HeadTooSlow(self.bounds.head_timeout))
        elif wait is _Wait.BODY:
            self._refuse(BodyTooSlow(self.bounds.body_timeout))
        else:
            self.transport.close()

    def _refuse(self, error: ChaparError) -> None:
        """Read nothing more; answer what cannot become a request, behind the answers that are owed, and close."""
        self._ignore_input()
        if self.headers:
            del self.headers[MAX_HEADERS:]  # one piece may have brought thousands
        exchange = self.cycle
        if exchange is None or (exchange.response_complete and not exchange.more_body):
            self._say(error)
            return
        if exchange.more_body and isinstance(error, RequestError):
            exchange.fault = error
            exchange.message_event.set()
        self._stop_after(exchange)

    def _stop_after(self, exchange: Exchange) -> None:
        """Close behind its answer, which is the last one."""
        exchange.keep_alive = False
        if exchange.response_complete:
            self.transport.close()

    def _say(self, error: ChaparError) -> None:
        answer = answer_to(error, self._language())
        standing = SECURE if self.scheme == "https" else PLAIN
        headers = lines_of([*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")])
        body = b"" if self.parser.get_method() == b"HEAD" else bytes(answer.body)
        self.transport.write(STATUS_LINE[answer.status_code] + headers + standing.lines() + b"\r\n" + body)
        self.transport.close()

    def _language(self) -> Language:
        preferred = [value for name, value in self.headers or () if name == b"accept-language"]
        return preferred_language(b",".join(preferred).decode("latin-1"))


def within(bounds: Bounds, budget: BodyBudget) -> type[Connection]:
    """The connections of a server whose clients are held to these bounds."""
    return type("Connection", (Connection,), {"bounds": bounds, "budget": budget})


def look_after(connections: Iterable[object], now: float) -> None:
    """Look at each of a server's connections."""
    for connection in tuple(connections):
        if isinstance(connection, Connection):
            connection.look_after(now)
