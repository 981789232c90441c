"""Every route says who may call it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import Mock, patch

import pytest
from fastapi import APIRouter, FastAPI, Request
from httpx import ASGITransport, AsyncClient
from starlette.routing import BaseRoute, Mount

from chapar.app import wiring
from chapar.app.wiring import Running, application, limits_of
from chapar.errors import BodyTooLarge, CredentialInvalid, Phrase, ScopeMissing, Unauthenticated
from chapar.model.principal import ANYBODY, NOBODY, Caller, Principal, Scope
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.web.http.entrance import Entrance, GuardedRoute, Identity, Policy, allow, check


def routes_of(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, and those of the routers that were included."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from routes_of(included.routes)


def policy_of(route: BaseRoute) -> Policy | None:
    if isinstance(route, Mount):
        return getattr(route.app, "policy", None)
    return route.policy if isinstance(route, GuardedRoute) else None


def test_every_route_declares_who_may_call_it() -> None:
    part: Any = Mock()
    made, console = Mock(), Mock()
    with patch.object(wiring, "DirectRoutes", made), patch.object(wiring, "Console", console):
        application(Running(*[part] * len(Running._fields)), Settings(), limits_of(Settings()))
    api, pages = made.call_args.args[0], console.call_args.args[1]
    routes = [*routes_of(api.routes), *routes_of(pages.routes)]
    assert len(routes) >= 24
    for route in routes:
        assert isinstance(policy_of(route), Scope | Identity), route


def test_a_route_that_does_not_cannot_be_made() -> None:
    async def open_to_all() -> None:
        pass

    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="/somewhere does not declare"):
        router.get("/somewhere")(open_to_all)


async def test_what_takes_a_body_reads_it_within_bounds() -> None:
    taken = []

    @allow(Identity.ANY)
    async def take(body: dict[str, int]) -> None:
        taken.append(body)

    router = APIRouter(route_class=GuardedRoute)
    router.post("/somewhere")(take)
    app = FastAPI()
    app.include_router(router)
    share = limits_of(Settings()).bodies.share(Caller(ANYBODY, "192.0.2.7"))

    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "caller": Caller(ANYBODY, "192.0.2.7"), "body_share": share}, receive, send)

    async with AsyncClient(transport=ASGITransport(entered), base_url="http://gateway") as client:
        assert (await client.post("/somewhere", json={"a": 1})).status_code == 200
        with pytest.raises(BodyTooLarge):
            await client.post("/somewhere", json={"a" * 70_000: 1})
    assert taken == [{"a": 1}]


@pytest.mark.parametrize(
    ("principal", "policy", "refused"),
    [
        (NOBODY, Identity.ANY, None),
        (NOBODY, Identity.KNOWN, Unauthenticated),
        (NOBODY, Scope.SEND, Unauthenticated),
        (ANYBODY, Scope.KEYS, None),
        (Principal("key:a", "a", frozenset()), Identity.KNOWN, None),
        (Principal("key:a", "a", frozenset()), Scope.SEND, ScopeMissing),
        (Principal("key:a", "a", frozenset({Scope.READ})), Scope.SEND, ScopeMissing),
        (Principal("key:a", "a", frozenset({Scope.READ})), Scope.READ, None),
    ],
)
def test_a_policy_lets_through_whom_it_names(
    principal: Principal, policy: Policy, refused: type[Exception] | None
) -> None:
    caller = Caller(principal, "127.0.0.1")
    if refused is None:
        check(caller, policy)
    else:
        with pytest.raises(refused):
            check(caller, policy)


def test_a_declaration_leaves_the_endpoint_as_it_is() -> None:
    async def endpoint(request: Request) -> Request:
        return request

    declared: Callable[..., Any] = allow(Scope.SEND)(endpoint)
    assert declared is endpoint


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ([], False),
        ([(b"content-length", b"99999")], False),
        ([(b"content-length", b"100000")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
async def test_a_refusal_closes_only_where_much_would_follow(
    headers: list[tuple[bytes, bytes]], *, closes: bool
) -> None:
    class ClosedDoor:
        is_open = False

        async def admit(self, _credential: str) -> Principal:
            raise CredentialInvalid(Phrase("credential.mistyped"))

        def known(self, _credential: str) -> None:
            return None

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    never: Any = None
    door: Any = ClosedDoor()
    scope = {"type": "http", "method": "POST", "path": "/", "client": None, "query_string": b""}
    scope["headers"] = [*headers, (b"authorization", b"Bearer x")]
    metrics = Metrics()
    await Entrance(never, door, limits_of(Settings()), metrics)(scope, never, send)
    assert sent[0]["status"] == 401
    assert b'chapar_requests_turned_away_total{code="credential_invalid"} 1.0' in metrics.exposition()
    assert ((b"connection", b"close") in sent[0]["headers"]) is closes


async def test_where_nothing_is_limited_an_answer_goes_straight_to_the_server() -> None:
    handed: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        handed.append(send)

    part: Any = Mock()
    part.is_open = True
    scope = {"type": "http", "method": "GET", "path": "/", "client": ("127.0.0.1", 1), "headers": []}
    for settings, straight in ((Settings(), True), (Settings(requests_per_second=1), False)):
        send: Any = object()
        await Entrance(app, part, limits_of(settings), part)(dict(scope), part, send)
        assert (handed.pop() is send) is straight
