"""The hot routes beside the framework's stack."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from chapar.errors import MessageNotFound
from chapar.model.principal import ANYBODY, NOBODY, Caller, Principal
from chapar.model.principal import Scope as Right
from chapar.web.http import problems
from chapar.web.http.direct import DirectRoutes
from chapar.web.http.entrance import GuardedRoute, RequestRoute, allow

Called = Callable[..., Awaitable[httpx.Response]]


def application(principal: Principal = ANYBODY) -> ASGIApp:
    router = APIRouter(prefix="/hot", route_class=GuardedRoute)

    @allow(Right.SEND)
    async def answer(request: Request) -> Response:
        match request.headers.get("fail"):
            case "known":
                raise MessageNotFound("m")
            case "gone":
                raise ClientDisconnect
            case "unknown":
                raise ZeroDivisionError
        return Response("direct" if "router" not in request.scope else "framework")

    router.add_api_route("/fixed", answer, methods=["POST"], route_class_override=RequestRoute)
    router.add_api_route("/{name}/open", answer, methods=["POST"], route_class_override=RequestRoute)
    app = FastAPI()
    app.include_router(router)
    problems.install(app)
    direct = DirectRoutes(app, [router])

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await direct({**scope, "caller": Caller(principal, "127.0.0.1")}, receive, send)

    return called


async def ask(method: str, path: str, app: ASGIApp | None = None, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app or application(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://chapar") as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "answered"),
    [
        ("POST", "/hot/fixed", (200, "direct")),
        ("POST", "/hot/fixed?", (200, "direct")),
        ("POST", "/hot/fixed?a=b", (422, None)),
        ("POST", "/hot/any/open", (200, "framework")),
        ("GET", "/hot/fixed", (405, None)),
        ("POST", "/hot/fixed/", (307, None)),
        ("POST", "/hot/fixed%2F", (307, None)),
        ("POST", "/hot//fixed", (404, None)),
        ("POST", "/HOT/fixed", (404, None)),
    ],
)
async def test_only_a_route_with_this_very_path_is_direct(method: str, path: str, answered: tuple[int, Any]) -> None:
    answer = await ask(method, path)
    assert answer.status_code == answered[0]
    assert answered[1] is None or answer.text == answered[1]


async def test_its_policy_holds() -> None:
    assert (await ask("POST", "/hot/fixed", application(NOBODY))).status_code == 401
    nothing = Principal("key:a", "a", frozenset())
    assert (await ask("POST", "/hot/fixed", application(nothing))).status_code == 403


async def test_an_error_of_ours_is_a_problem() -> None:
    answer = await ask("POST", "/hot/fixed", fail="known")
    assert (answer.status_code, answer.json()["code"]) == (404, "message_not_found")


async def test_a_fault_of_ours_is_answered_and_logged_by_the_server() -> None:
    answer = await ask("POST", "/hot/fixed", fail="unknown")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://chapar") as client:
        with pytest.raises(ZeroDivisionError):
            await client.post("/hot/fixed", headers={"fail": "unknown"})


async def test_nobody_is_answered_who_has_gone() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/hot/fixed",
        "query_string": b"",
        "headers": [(b"fail", b"gone")],
    }
    await application()(scope, receive, send)
    assert sent == []


@pytest.mark.parametrize(
    ("path", "answered"),
    [
        ("/hot/things/a-b.c", "direct a-b.c"),
        ("/hot/things/%D8%B4", "direct ش"),
        ("/hot/things/a/b", None),
        ("/hot/things/a%2Fb", None),
        ("/hot/things/", None),
        ("/hot/things", None),
        ("/hot/other/a", None),
    ],
)
async def test_the_last_part_of_a_direct_path_may_be_a_parameter(path: str, answered: str | None) -> None:
    router = APIRouter(prefix="/hot", route_class=GuardedRoute)

    @allow(Right.READ)
    async def answer(request: Request) -> Response:
        how = "direct" if "router" not in request.scope else "framework"
        return Response(f"{how} {request.path_params['name']}")

    router.add_api_route("/things/{name}", answer, methods=["GET"], route_class_override=RequestRoute)
    app = FastAPI()
    app.include_router(router)
    direct = DirectRoutes(app, [router])

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await direct({**scope, "caller": Caller(ANYBODY, "127.0.0.1")}, receive, send)

    found = await ask("GET", path, called)
    assert (found.text if found.status_code == 200 else None) == answered
    if answered is not None:  # its head is asked for through the framework
        assert (await ask("HEAD", path, called)).status_code == 200
