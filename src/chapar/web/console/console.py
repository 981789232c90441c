"""The console as an application of its own, beside the API: its entrance takes the cookie, and nothing else does.

So no page of another site can use the cookie on the API, and what the entrance of the API takes is of no use here.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from chapar.access.door import Door
from chapar.errors import (
    ChaparError,
    CredentialInvalid,
    MethodNotAllowed,
    PathUnknown,
    Unauthenticated,
)
from chapar.model.principal import NOBODY, Caller
from chapar.runtime.metrics import Metrics
from chapar.web.console.routes import IS_IDLE, ROOT, SESSION, FormExpired, routes
from chapar.web.console.session import COOKIE, Session, session_of
from chapar.web.console.site import POLICY, Site
from chapar.web.http.entrance import Entrance, Identity, allow
from chapar.web.http.headers import SAFE, first_headers
from chapar.web.http.proxies import root_path_of
from chapar.web.http.rates import Limits

_ELSEWHERE: Final = frozenset({b"cross-site", b"same-site"})  # Fetch Metadata §2.2


def pages_of(site: Site, routers: Iterable[APIRouter]) -> FastAPI:
    """The application of these routers, whose errors are pages."""
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    for router in (_assets_router(site), *routers):
        app.include_router(router)

    async def on_error(request: Request, error: Exception) -> Response:
        if isinstance(error, Unauthenticated):
            return _to_sign_in(site, request)
        if isinstance(error, FormExpired):
            return site.page(request, "problem.html", HTTPStatus.FORBIDDEN, sentence=None)
        return site.problem(request, _in_our_words(error, request))

    for kind in (ChaparError, FormExpired, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    return app


class Console:
    """The console beside the API: answers below `/console`, and leads there from `/`."""

    def __init__(self, api: ASGIApp, pages: ASGIApp, site: Site, door: Door, limits: Limits, metrics: Metrics) -> None:
        self._api = api
        self._site = site
        self._entrance = Entrance(
            pages, door, limits, metrics, credential_of=_credential_of, turned_away=self._turn_away
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it to the API."""
        path: str = scope.get("path", "")
        if path.startswith(ROOT + "/"):
            if _hides_cookies(scope):
                await _come_again()(scope, receive, send)
                return
            session = session_of(Request(scope).cookies)
            scope[IS_IDLE] = session is not None and session.is_over(self._site.idle_timeout)
            scope[SESSION] = None if scope[IS_IDLE] else session
            await self._entrance(scope, receive, send)
        elif path in {"/", ROOT} and scope.get("method") in SAFE:
            target = f"{root_path_of(scope)}{ROOT}/"
            await Response(status_code=307, headers={"Location": target})(scope, receive, send)
        else:
            await self._api(scope, receive, send)

    def _turn_away(self, error: ChaparError, scope: Scope) -> Response:
        """The answer to who does not get past the entrance."""
        request = Request(scope)
        if not isinstance(error, CredentialInvalid):
            scope.setdefault("caller", Caller(NOBODY, ""))
            return self._site.problem(request, error)
        response = self._site.redirect(request, "/sign-in", why="ended")
        self._site.set_session(request, response, None)
        return response


def _credential_of(scope: Scope) -> str | None:
    session: Session | None = scope[SESSION]
    return None if session is None else session.credential or None


async def _on_hang_up(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody receives it


def _assets_router(site: Site) -> APIRouter:
    router = routes()

    @router.get("/static/{version}/{name}")
    @allow(Identity.ANY)
    async def asset(request: Request) -> Response:
        """Give a script, a style or a font."""
        return site.assets.answer(request, request.path_params["version"], request.path_params["name"])

    return router


def _in_our_words(error: Exception, request: Request) -> ChaparError:
    match error:
        case ChaparError():
            return error
        case HTTPException(status_code=HTTPStatus.NOT_FOUND):
            return PathUnknown()
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED):
            return MethodNotAllowed(request.method)
        case _:
            return ChaparError()


def _to_sign_in(site: Site, request: Request) -> Response:
    query = {"why": "idle"} if request.scope[IS_IDLE] else {}
    if request.method in SAFE:
        asked = request.scope["query_string"].decode("latin-1")
        path = quote(request.scope["path"].removeprefix(ROOT))
        query["next"] = f"{path}?{asked}" if asked else path
    return site.redirect(request, "/sign-in", **query)


def _hides_cookies(scope: Scope) -> bool:
    """Return whether a link of another site leads here: then the browser keeps back the cookie (SameSite=Strict)."""
    headers = first_headers(scope)
    return (
        scope["method"] == "GET"
        and headers.get(b"sec-fetch-site") in _ELSEWHERE
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and COOKIE.encode() not in headers.get(b"cookie", b"")
    )


def _come_again() -> Response:
    """A page that leads to itself: what it asks for is asked by us, so the browser sends the cookie."""
    return HTMLResponse("", headers={"Refresh": "0", "Content-Security-Policy": POLICY})
