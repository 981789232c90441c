"""Proxies in front: who calls, and below which path the caller knows the gateway, as a trusted one says."""

from collections.abc import Awaitable
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from chapar.runtime.addresses import normal_root_path

_ROOT_PATH: Final = "chapar.root_path"  # in the scope; `root_path` itself would be a part of the path (ASGI)
_PREFIX: Final = b"x-forwarded-prefix"


def behind_proxies(app: ASGIApp, *, trusted: str | None, root_path: str) -> ASGIApp:
    """Return the application, which knows what `trusted` proxies say of each request.

    `root_path` is the path below which it stands where they do not say. A proxy may hand it on with the path or not.
    What one says by `X-Forwarded-Prefix` it has taken off itself: it begins links, and never decides about the route.
    """
    if trusted is not None:
        return _Forwarded(app, trusted, root_path)
    return _Below(app, root_path) if root_path else app


def root_path_of(scope: Scope) -> str:
    """Return the path below which the caller knows the gateway, such as `/chapar`; empty where it is the host alone."""
    root_path: str = scope.get(_ROOT_PATH, "")
    return root_path


class _Below:
    """Application below a path."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Hand on, with the path as the routes know it."""
        scope.setdefault(_ROOT_PATH, self._root_path)
        path = scope["path"]
        if self._root_path and (path + "/").startswith(self._root_path + "/"):
            scope["path"] = path[len(self._root_path) :] or "/"
        return self._app(scope, receive, send)


class _Forwarded:
    """Believe `X-Forwarded-For`, `-Proto` and `-Prefix` where a trusted proxy calls."""

    def __init__(self, app: ASGIApp, trusted: str, root_path: str) -> None:
        below: Any = _Below(app, root_path)  # uvicorn has types of its own for the same
        self._app: Any = ProxyHeadersMiddleware(below, trusted)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Hand on."""
        client = scope.get("client")
        if client is not None and client[0] in self._app.trusted_hosts:
            given = [value for name, value in scope["headers"] if name == _PREFIX]
            prefix = normal_root_path(given[0].decode("latin-1")) if len(given) == 1 else None
            if prefix is not None:
                scope[_ROOT_PATH] = prefix
        handed_on: Awaitable[None] = self._app(scope, receive, send)
        return handed_on
