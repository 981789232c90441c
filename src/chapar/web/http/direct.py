"""The hot routes, called without the stack of middleware that a web framework keeps around its endpoints."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chapar.errors import ChaparError
from chapar.web.http.entrance import RequestRoute
from chapar.web.http.problems import problem_response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

HEAD_ONLY: Final = "head_only"
"""A key of the scope: nobody reads the body of this answer, so there is no need to make it."""


class DirectRoutes:
    """Answers what a `RequestRoute` answers, and hands everything else to the application.

    Of its path, the last part alone may be a parameter. The route is the application's own, policy and documentation
    included. What is left out, routing through included routers and wrappers for errors and exit stacks that such a
    route has no use for, was nearly a third of a send, and more than half of the memory of a call that waits.
    """

    def __init__(self, app: ASGIApp, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._handlers: dict[tuple[str, str], Handler] = {
            (method, route.path): route.handler
            for router in routers
            for route in router.routes
            if isinstance(route, RequestRoute)
            for method in route.methods or ()
        }
        # `/messages/{id}`, by what stands before the parameter.
        self._parents = {
            (method, parent): (name[1:-1], handler)
            for (method, path), handler in self._handlers.items()
            for parent, _, name in [path.rpartition("/")]
            if name.startswith("{") and "{" not in parent
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handler = self._handler(scope) if scope["type"] == "http" else None
        if handler is None:
            if scope.get("method") == "HEAD":
                scope, send = {**scope, "method": "GET", HEAD_ONLY: True}, _head_of(send)
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await handler(request)
        except ChaparError as error:
            response = problem_response(request, error)
        except ClientDisconnect:
            return  # nobody receives an answer
        except Exception:
            await problem_response(request, ChaparError())(scope, receive, send)
            raise  # the server logs it
        await response(scope, receive, send)

    def _handler(self, scope: Scope) -> Handler | None:
        method, path = scope["method"], scope["path"]
        handler = self._handlers.get((method, path))
        if handler is not None:
            return handler
        parent, _, value = path.rpartition("/")
        if not value or (found := self._parents.get((method, parent))) is None:
            return None
        name, handler = found
        scope["path_params"] = {name: value}
        return handler


def _head_of(send: Send) -> Send:
    """Send an answer's head, and end behind it: HEAD is answered wherever GET is (RFC 9110 §9.3.2)."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return send_head
