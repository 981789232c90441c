"""Every request has an id: it is in the answer's `X-Request-Id` and in all that is logged meanwhile."""

import re
import secrets
from collections.abc import Awaitable, Iterable
from itertools import count
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chapar.runtime.logs import REQUEST_ID

_HEADER: Final = b"x-request-id"
_ACCEPTED: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def with_request_ids(app: ASGIApp) -> ASGIApp:
    """The application, each request with the id that its caller gave it, or else a new one."""
    process = secrets.token_hex(6).encode() + b"-"
    numbers = count(1)

    # Plain functions that hand on what is to be awaited: a coroutine around each call would cost as much as all else.
    def identified(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return app(scope, receive, send)
        request_id = _given(scope["headers"]) or b"%b%d" % (process, next(numbers))
        # Each request is a task with a context of its own, so nothing has to be reset.
        REQUEST_ID.set(request_id)

        def answer(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, request_id)]
            return send(message)

        return app(scope, receive, answer)

    return identified


def _given(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return what the caller gave as the id, where it can be one."""
    for name, value in headers:
        if name == _HEADER and _ACCEPTED.fullmatch(value):
            return value
    return None
