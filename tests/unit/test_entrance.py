"""Who gets past the entrance, and to which route."""

import asyncio
import base64
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request, Response

from chapar.access.api_keys import new_api_key
from chapar.app.wiring import limits_of
from chapar.errors import CredentialInvalid, ScopeMissing, StoreUnavailable, Unauthenticated
from chapar.model.principal import ANYBODY, EVERY_SCOPE, NOBODY, Caller, Principal, Scope
from chapar.runtime.metrics import Metrics
from chapar.web.http import entrance as access
from chapar.web.http import problems
from chapar.web.http.entrance import (
    AdmittedStream,
    Calling,
    Entrance,
    GuardedRoute,
    Identity,
    Policy,
    RequestRoute,
    allow,
    caller_of,
    check,
    readmit,
)
from chapar.web.http.exchange import CUT
from support.doors import DoorBench

ADDRESS = "192.0.2.7"
READER = Caller(Principal("key:reader", "reader", frozenset({Scope.READ})), ADDRESS)


class Place(DoorBench):
    """An application behind the entrance: each of its routes tells who calls it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        router = APIRouter(route_class=GuardedRoute)

        @router.get("/anybody")
        @allow(Identity.ANY)
        async def anybody(caller: Calling) -> str:
            return f"{caller.principal.name}@{caller.address}"

        @router.api_route("/known", methods=["GET", "HEAD", "POST", "PUT"])
        @allow(Identity.KNOWN)
        async def known(caller: Calling) -> str:
            return f"{caller.principal.name}@{caller.address}"

        @router.post("/noted")
        @allow(Identity.KNOWN)
        async def noted(note: dict[str, str] | None = None) -> str:
            return "none" if note is None else note["why"]

        @allow(Scope.SEND)
        async def send(request: Request) -> Response:
            return Response(f"{caller_of(request).principal.name} sends {(await request.body()).decode()}")

        router.add_api_route("/send", send, methods=["POST"], route_class_override=RequestRoute)
        app = FastAPI()
        problems.install(app)
        app.include_router(router)
        self.entrance = Entrance(app, self.door, limits_of(self.settings), Metrics())

    async def closed(self) -> None:
        """Make a key, and close the door."""
        self.new_key()
        await self.door.refresh()

    @asynccontextmanager
    async def calling(self, credential: str | bytes | None = None) -> AsyncIterator[httpx.AsyncClient]:
        headers = {} if credential is None else {b"Authorization": f"Bearer {credential}".encode()}
        if isinstance(credential, bytes):
            headers = {b"Authorization": credential}
        transport = httpx.ASGITransport(self.entrance, client=(ADDRESS, 7))
        async with httpx.AsyncClient(transport=transport, base_url="http://chapar", headers=headers) as client:
            yield client

    async def ask(self, credential: str | bytes | None, method: str = "GET", path: str = "/known") -> httpx.Response:
        async with self.calling(credential) as client:
            return await client.request(method, path)


def basic(password: str, name: str = "") -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode("latin-1"))


@pytest.mark.parametrize("policy", [*Scope, *Identity])
def test_a_policy_lets_in_whom_it_names(policy: Policy) -> None:
    check(Caller(ANYBODY, ADDRESS), policy)
    named = {Scope.READ: None, Identity.ANY: None, Identity.KNOWN: None}
    if policy in named:
        check(READER, policy)
    else:
        with pytest.raises(ScopeMissing) as caught:
            check(READER, policy)
        assert caught.value.scope == policy.value
    if policy is Identity.ANY:
        check(Caller(NOBODY, ADDRESS), policy)
    else:
        with pytest.raises(Unauthenticated):
            check(Caller(NOBODY, ADDRESS), policy)


def test_who_is_known_but_may_do_nothing_is_known() -> None:
    check(Caller(Principal("key:idle", "idle", frozenset()), ADDRESS), Identity.KNOWN)


async def test_while_access_is_open_anybody_calls_who_shows_no_wrong_credential() -> None:
    place = Place()
    assert (await place.ask(None)).json() == f"anybody@{ADDRESS}"
    assert (await place.ask(None, "POST", "/send")).text == "anybody sends "
    for credential in (new_api_key(), "chapar_nonsense", "a.b.c", b"Basic YTpi", b"Digest x"):
        for method, path in (("GET", "/anybody"), ("GET", "/known"), ("POST", "/send")):
            answer = await place.ask(credential, method, path)
            assert (answer.status_code, answer.json()["code"]) == (401, "credential_invalid"), credential
    assert "leave it out" in (await place.ask(new_api_key())).json()["reason"]


async def test_what_a_route_does_not_take_is_refused_where_it_might_have_meant_something() -> None:
    place = Place()
    assert (await place.ask(None, "GET", "/anybody?_=17")).status_code == 200
    assert (await place.ask(None, "POST", "/send?_=17")).json()["code"] == "field_invalid"


async def test_a_body_that_may_be_left_out_is_read_where_there_is_one() -> None:
    async with Place().calling() as client:
        for body in (None, b""):
            assert (await client.post("/noted", content=body)).json() == "none"
        assert (await client.post("/noted", json={"why": "x"})).json() == "x"
        chunked = await client.post("/noted", content=aiter_of(b'{"why":', b'"y"}'), headers=JSON)
        assert chunked.json() == "y"
        assert (await client.post("/noted", content=b"why", headers=JSON)).status_code == 400
        assert (await client.post("/noted", content=b"why")).status_code == 415


JSON = {"Content-Type": "application/json"}


async def aiter_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_the_first_key_counts_before_the_door_has_noticed_it() -> None:
    place = Place()
    assert (await place.ask(place.new_key())).json() == f"backend@{ADDRESS}"
    assert (await place.ask(None)).json() == f"anybody@{ADDRESS}"


async def test_behind_a_closed_door_nobody_comes_in_without_a_credential() -> None:
    place = Place()
    await place.closed()
    assert (await place.ask(None, "GET", "/anybody")).json() == f"nobody@{ADDRESS}"
    for method, path in (("GET", "/known"), ("POST", "/send")):
        answer = await place.ask(None, method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_a_key_opens_what_its_scopes_say() -> None:
    place = Place()
    await place.closed()
    sender, reader = place.new_key(Scope.SEND), place.new_key(Scope.READ, name="reader")
    assert (await place.ask(sender)).json() == f"backend@{ADDRESS}"
    async with place.calling(sender) as client:
        assert (await client.post("/send", content=b"open")).text == "backend sends open"
    assert (await place.ask(reader)).json() == f"reader@{ADDRESS}"
    answer = await place.ask(reader, "POST", "/send")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert 'scope="messages:send"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("method", "credential", "asks"),
    [
        ("GET", None, True),
        ("HEAD", None, True),
        ("GET", b"Basic YTpi", True),
        ("GET", b"basic nonsense", True),
        ("GET", b"Bearer nonsense", False),
        ("POST", None, False),
        ("POST", b"Basic YTpi", False),
        ("POST", b"Bearer nonsense", False),
    ],
)
async def test_a_browser_is_asked_for_a_password_where_one_is_taken(
    method: str, credential: bytes | None, *, asks: bool
) -> None:
    """Each scheme in a header of its own: Chromium sees the first of several in one."""
    place = Place()
    await place.closed()
    for _ in range(2):
        answer = await place.ask(credential, method)
        bearer, *basic = answer.headers.get_list("www-authenticate")
        assert (answer.status_code, bearer.partition(" ")[0]) == (401, "Bearer")
        assert basic == (['Basic realm="Chapar", charset="UTF-8"'] if asks else [])


async def test_a_wrong_credential_is_refused_on_every_route() -> None:
    place = Place()
    await place.closed()
    for path in ("/anybody", "/known", "/nowhere"):
        answer = await place.ask("chapar_nonsense", path=path)
        assert (answer.status_code, answer.json()["code"]) == (401, "credential_invalid")


@pytest.mark.parametrize("written", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}  "])
async def test_a_bearer_is_taken_in_any_letters_and_spaces(written: str) -> None:
    place = Place()
    await place.closed()
    key = place.new_key()
    assert (await place.ask(written.format(key).encode())).status_code == 200


async def test_who_reads_persian_is_told_in_persian_what_is_wrong_with_a_credential() -> None:
    place = Place()
    await place.closed()
    async with place.calling("nothing") as client:
        english = (await client.get("/known")).json()["reason"]
        persian = (await client.get("/known", headers={"Accept-Language": "fa"})).json()["reason"]
    with pytest.raises(CredentialInvalid) as refused:
        await place.door.admit("nothing")
    assert refused.value.problem.sentence() in english
    assert refused.value.problem.sentence("fa") in persian


async def test_other_headers_prove_nothing() -> None:
    place = Place()
    await place.closed()
    async with place.calling() as client:
        for header in ("X-Authorization", "Authorization-X", "Cookie"):
            assert (await client.get("/known", headers={header: f"Bearer {place.new_key()}"})).status_code == 401


async def test_a_password_is_taken_to_read_and_never_to_change_something() -> None:
    place = Place()
    await place.closed()
    key = place.new_key()
    for method in ("GET", "HEAD"):
        assert (await place.ask(basic(key), method)).status_code == 200
        assert (await place.ask(basic(key, "anna"), method)).status_code == 200
        assert (await place.ask(b"bAsIc  " + basic(key)[6:] + b" ", method)).status_code == 200
    for method, path in (("POST", "/known"), ("PUT", "/known"), ("POST", "/send")):
        answer = await place.ask(basic(key), method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "credential_invalid")
        assert "must be written as `Bearer`" in answer.json()["reason"]


async def test_all_that_follows_the_first_colon_is_the_password() -> None:
    place = Place()
    await place.closed()
    answer = await place.ask(basic("anna:" + place.new_key()))
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Basic",
        b"Basic not base64",
        b"Basic !!!!",
        b"Basic " + base64.b64encode(b"no colon"),
        b"Digest abc",
        b"Token chapar_abc",
        b"\xff\xfe",
    ],
)
async def test_what_is_no_credential_is_refused(authorization: bytes) -> None:
    place = Place()
    await place.closed()
    assert (await place.ask(authorization)).status_code == 401


async def test_base64_with_something_in_between_is_no_password() -> None:
    place = Place()
    await place.closed()
    written = basic(place.new_key())
    assert (await place.ask(written[:20] + b"!" + written[20:])).status_code == 401


async def test_who_was_let_in_is_remembered_and_passes_without_a_question() -> None:
    place = Place()
    await place.closed()
    key = place.new_key()
    for _ in range(3):
        assert (await place.ask(key)).status_code == 200
    assert place.store.asked == 1


async def test_where_the_database_is_away_nobody_is_let_in_on_trust() -> None:
    place = Place()
    await place.closed()
    key = place.new_key()
    place.store.away = True
    answer = await place.ask(key)
    assert (answer.status_code, answer.json()["code"]) == (503, "access_unavailable")
    place.store.away = False
    assert (await place.ask(key)).status_code == 200


async def test_an_address_is_counted_before_its_credential_is_looked_at() -> None:
    place = Place(address_requests_per_second=0.01, burst=100)
    await place.closed()
    await place.ask("chapar_nonsense")
    answer = await place.ask("chapar_nonsense")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


async def test_a_caller_is_counted_and_told_what_is_left() -> None:
    place = Place(requests_per_second=0.02, burst=100)
    await place.closed()
    key = place.new_key()
    answer = await place.ask(key)
    assert answer.headers["ratelimit-policy"] == '"requests";q=2;w=100'
    assert answer.headers["ratelimit"].startswith('"requests";r=1;')
    assert answer.headers["content-type"] == "application/json"
    assert (await place.ask(key)).status_code == 200
    assert (await place.ask(key)).status_code == 429
    assert (await place.ask(place.new_key())).status_code == 200


async def test_where_nothing_is_limited_nothing_is_told() -> None:
    assert "ratelimit" not in (await Place().ask(None)).headers


async def test_what_is_no_request_goes_through_untouched() -> None:
    passed: list[object] = []

    async def app(*arguments: object) -> None:
        passed.extend(arguments)

    async def receive() -> Any:
        raise AssertionError("nobody asked")

    async def send(_: object) -> None:
        raise AssertionError("nobody answered")

    place = Place()
    await place.closed()
    scope = {"type": "lifespan"}
    await Entrance(app, place.door, limits_of(place.settings), Metrics())(scope, receive, send)
    assert passed == [scope, receive, send]
    assert scope == {"type": "lifespan"}


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, ""),
        (("203.0.113.9", 0), "203.0.113.9"),
        (("::ffff:203.0.113.9", 0), "203.0.113.9"),
        (("fd00::7", 0), "fd00::7"),
    ],
)
async def test_a_caller_is_known_by_one_address_also_where_there_is_none(
    client: tuple[str, int] | None, address: str
) -> None:
    """A proxy on a socket for both versions forwards an IPv4 address as an IPv6 one."""
    seen: list[Caller] = []

    async def app(scope: Any, *_: object) -> None:
        seen.append(scope["caller"])

    async def unused(*_: object) -> Any:
        raise AssertionError("nobody asked")

    place = Place()
    entrance = Entrance(app, place.door, limits_of(place.settings), Metrics())
    await entrance({"type": "http", "client": client, "headers": [], "method": "GET"}, unused, unused)
    assert seen == [Caller(ANYBODY, address)]


def test_a_route_that_does_not_say_who_may_call_it_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)

    async def endpoint() -> None:
        """Does nothing."""

    with pytest.raises(TypeError, match="/open does not declare who may call it"):
        router.add_api_route("/open", endpoint)


def test_a_route_knows_its_policy() -> None:
    router = APIRouter(route_class=GuardedRoute)

    async def endpoint() -> None:
        """Does nothing."""

    router.add_api_route("/open", allow(Scope.AUDIT)(endpoint))
    (route,) = router.routes
    assert isinstance(route, GuardedRoute)
    assert route.policy is Scope.AUDIT


def test_nobody_has_no_scope_and_anybody_has_all() -> None:
    assert (NOBODY.id, NOBODY.scopes) == ("", frozenset())
    assert (ANYBODY.id, ANYBODY.scopes) == ("", EVERY_SCOPE)


async def streamed_to(
    place: Place, credential: str | None, pieces: AsyncIterator[bytes], *, leaves_after: int = -1
) -> list[Any]:
    """What a caller is sent of a stream, piece by piece."""
    sent: list[Any] = []
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await AdmittedStream(pieces)(scope, receive, send)

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == leaves_after:
            left.set()

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    headers = [] if credential is None else [(b"authorization", f"Bearer {credential}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "client": (ADDRESS, 7)}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.4"}}
    await Entrance(app, place.door, limits_of(place.settings), Metrics())(scope, receive, send)
    return sent


async def test_a_stream_goes_to_its_end_while_its_caller_is_admitted() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"all"

    place = Place()
    for credential in (None, place.new_key()):
        sent = await streamed_to(place, credential, pieces())
        assert [message.get("body") for message in sent] == [None, b"all", b""]
        assert not sent[-1]["more_body"]
        await place.door.refresh()


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_stream_without_end_is_cut_once_its_caller_counts_no_more(
    monkeypatch: pytest.MonkeyPatch, *, is_open: bool
) -> None:
    monkeypatch.setattr(access, "READMIT_EVERY", 0)
    place = Place()
    credential = None if is_open else place.new_key()
    await place.door.refresh()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"some"
            await asyncio.sleep(0)
        keys = place.store.by_hash
        if is_open:
            place.new_key()
            await place.door.refresh()
        place.store.by_hash = {hash_: row._replace(revoked_at=1) for hash_, row in keys.items()}
        while True:
            yield b"more"
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        with structlog.testing.capture_logs() as logged:
            sent = await streamed_to(place, credential, pieces())
    assert len(sent) > 20
    assert sent[-2]["more_body"], "it has no end"
    assert sent[-1] == {"type": CUT}
    assert [line["event"] for line in logged if line["event"] == "stream_cut"] == ["stream_cut"]


class Held:
    """Something of which a test can see whether it is still held."""


async def test_what_a_stream_holds_is_free_once_its_client_has_left() -> None:
    held = []

    async def page() -> AsyncIterator[bytes]:
        something = Held()
        held.append(weakref.ref(something))
        while True:
            yield b"some"
            await asyncio.sleep(0)

    async def stream() -> AsyncIterator[bytes]:
        async for piece in page():
            yield piece

    place = Place()
    gc.collect()
    gc.disable()
    try:
        sent = await streamed_to(place, None, stream(), leaves_after=20)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [reference() for reference in held] == [None]
    finally:
        gc.enable()
    assert sent[-1]["more_body"]


async def test_a_fault_amid_a_stream_is_the_servers_to_log() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"some"
        raise StoreUnavailable("it went away.")

    with pytest.raises(StoreUnavailable):
        await streamed_to(Place(), None, pieces())


async def test_after_a_long_wait_a_credential_must_still_count() -> None:
    bench = DoorBench()
    key = bench.new_key()
    await bench.door.refresh()
    request = Request({"type": "http", "admission": (bench.door, key)})
    await readmit(request)
    bench.store.by_hash.clear()
    with pytest.raises(CredentialInvalid):
        await readmit(request)
