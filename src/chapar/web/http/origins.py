"""Bounds on pages in a browser: they ask the API nothing by a name that is not ours, nothing as another site."""

from collections.abc import Awaitable, Collection, Mapping
from functools import lru_cache
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from chapar.errors import HeadMalformed, HostNotAllowed, OriginNotAllowed, Phrase, RequestError
from chapar.runtime.addresses import is_loopback
from chapar.web.http.headers import SAFE, check_single, first_headers
from chapar.web.http.problems import problem_response

_OURS: Final = frozenset({b"same-origin", b"none"})  # "none" is a person who typed the address (Fetch Metadata §2.2)
_SHOWN: Final = 100  # characters of a name in a sentence

_SENT_HEADERS: Final = (
    *("Authorization", "Content-Type", "Idempotency-Key", "Prefer", "X-Request-Id", "Accept-Language"),
    "Last-Event-ID",
)
_READ_HEADERS: Final = ("Location", "Retry-After", "Idempotency-Replayed", "Preference-Applied", "X-Request-Id")


class Origins:
    """Refuses what a hostile page makes a browser send, before anything else looks at it.

    A name that such a page let point at this machine is not one of ours (DNS rebinding).
    A request of another site's page says so (`Origin`, `Sec-Fetch-Site`), be it a plain form's (CSRF).
    """

    def __init__(
        self, app: ASGIApp, *, host: str, allowed_hosts: Collection[str], cors_origins: Collection[str]
    ) -> None:
        """`host` is what the API listens on, `allowed_hosts` further names of it."""
        self._app = _with_cors(app, cors_origins) if cors_origins else app
        self._hosts = _hosts_of(host, allowed_hosts)
        self._origins = frozenset(origin.encode() for origin in cors_origins)
        self._is_ours = lru_cache(maxsize=64)(self._find_host)  # callers use few names, and always the same

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer with a problem, or hand on."""
        try:
            self._check(scope)
        except RequestError as error:
            return problem_response(Request(scope), error)(scope, receive, send)
        return self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raises HeadMalformed, HostNotAllowed, OriginNotAllowed."""
        check_single(scope)
        headers = first_headers(scope)
        host = headers.get(b"host")
        if host is None:
            if scope["http_version"] != "1.0":  # no browser leaves it out; a proxy's health check may
                raise HeadMalformed(Phrase("head.no_host"))
        elif self._hosts is not None and not self._is_ours(host):
            raise HostNotAllowed(_shown(host))
        if scope["method"] not in SAFE:
            self._check_origin(headers, host)

    def _check_origin(self, headers: Mapping[bytes, bytes], host: bytes | None) -> None:
        origin = headers.get(b"origin")
        if origin is None:
            site = headers.get(b"sec-fetch-site")
            if site is not None and site not in _OURS:
                raise OriginNotAllowed(Phrase("head.other_site"))
        elif origin not in self._origins and origin.partition(b"://")[2] != host:
            raise OriginNotAllowed(_shown(origin))

    def _find_host(self, host: bytes) -> bool:
        name = _host_name(host.decode("latin-1"))
        return name in (self._hosts or ()) or is_loopback(name)


def _hosts_of(host: str, allowed_hosts: Collection[str]) -> Collection[str] | None:
    """The names by which the API may be called; None where any will do.

    Off loopback any will, unless some are listed: the gateway cannot know by which name it is reached.
    """
    own = host.lower()
    if not allowed_hosts and not is_loopback(own):
        return None
    return frozenset({"localhost", own, *map(_host_name, allowed_hosts)})


def _host_name(host: str) -> str:
    """A Host without its port: `127.0.0.1` of `127.0.0.1:8000`, `::1` of `[::1]:8000`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=tuple(origins),
        allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
        allow_headers=_SENT_HEADERS,
        expose_headers=_READ_HEADERS,
    )


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:_SHOWN])
