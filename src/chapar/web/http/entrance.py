"""The entrance finds out who calls, and each route says who may."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

import structlog
from fastapi import Depends, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from chapar.access.door import Door
from chapar.errors import ChaparError, CredentialInvalid, Language, Phrase, ScopeMissing, Unauthenticated
from chapar.model.json_text import parse
from chapar.model.principal import ANYBODY, NOBODY, Caller, Principal, Scope
from chapar.runtime.addresses import unmapped
from chapar.runtime.metrics import Metrics
from chapar.web.http.body import has_body, read_body
from chapar.web.http.exchange import CUT
from chapar.web.http.headers import SAFE, first_headers
from chapar.web.http.problems import answer_to, language_of, may_ask_for_password, problem_response
from chapar.web.http.query import check_query, parameters_of
from chapar.web.http.rates import BodyShare, Limits

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_JSON: Final = "application/json"
_MANY_DIGITS: Final = 6  # of a length: 100 kB
READMIT_EVERY: Final = 0.5  # seconds between checks of who is being sent a stream


class Identity(StrEnum):
    """Access to a route that needs no scope."""

    ANY = "anybody"  #: Whoever comes.
    KNOWN = "known"  #: Whoever has a key or a token, whatever it allows.


Policy = Scope | Identity


def allow(policy: Policy) -> Callable[[Endpoint], Endpoint]:
    """Declare who may call an endpoint."""

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _DECLARED, policy)
        return endpoint

    return declare


_DECLARED: Final = "_chapar_policy"


def check(caller: Caller, policy: Policy) -> None:
    """Raise Unauthenticated or ScopeMissing unless the policy lets the caller through."""
    if policy is Identity.ANY or policy in caller.principal.scopes:
        return
    if caller.principal is NOBODY:
        raise Unauthenticated
    if policy is not Identity.KNOWN:
        raise ScopeMissing(policy.value)


class GuardedRoute(APIRoute):
    """A route that says who may call it. One that does not cannot be made.

    It is the matched route that decides, never the path as it was sent (which Starlette once read differently).
    """

    policy: Policy
    checks_query: bool  #: whether it refuses parameters; a read that takes none passes over them
    handler: Callable[[Request], Coroutine[Any, Any, Response]]  #: the endpoint behind the policy

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the policy and the rules of a query.

        FastAPI, "Custom Request and APIRoute class".
        """
        policy: Policy | None = getattr(self.endpoint, _DECLARED, None)
        if policy is None:
            raise TypeError(f"{self.path} does not declare who may call it")
        self.policy = policy
        handle = self._handler()
        parameters = parameters_of(self.dependant)
        checks_query = self.checks_query = bool(parameters) or not SAFE.issuperset(self.methods or ())

        def handler(request: Request) -> Coroutine[Any, Any, Response]:
            check(caller_of(request), policy)
            if checks_query and request.scope["query_string"]:
                check_query(request, parameters)
            return handle(request)

        async def guarded(request: Request) -> Response:  # FastAPI would call a plain function in a thread
            return await handler(request)

        self.handler = handler
        return guarded

    def _handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler; the body that it would read without bounds is read for it."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        is_required = self.body_field.field_info.is_required()

        async def handle_read(request: Request) -> Response:
            if not is_required and not has_body(request):
                return await handle(request)
            share: BodyShare = request.scope["body_share"]
            _, body = await read_body(request, {_JSON}, limit=share.largest, setting="CHAPAR_MAX_BODY_BYTES")
            parse(body)  # what FastAPI's parser lets through, or refuses in English only

            async def receive() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await handle(Request(request.scope, receive))

        return handle_read


class RequestRoute(GuardedRoute):
    """Calls its endpoint with the request and nothing else.

    FastAPI's own handling of a body costs more than all the rest of a send.
    """

    def _handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def caller_of(request: Request) -> Caller:
    """Return who makes this request."""
    caller: Caller = request.scope["caller"]
    return caller


Calling = Annotated[Caller, Depends(caller_of)]


class Entrance:
    """Finds out who calls before anything else is done for them. A credential that is wrong is refused on every route.

    Pure ASGI: what it costs a request that is let in is one look into a dictionary.
    """

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        limits: Limits,
        metrics: Metrics,
        *,
        credential_of: Callable[[ASGIScope], str | None] | None = None,
        turned_away: Callable[[ChaparError, ASGIScope], Response] | None = None,
    ) -> None:
        """`credential_of` finds the key or token of a request, and `turned_away` answers who is not let in.

        By default these are the API's: the header `Authorization`, and a problem.
        """
        self._app = app
        self._door = door
        self._limits = limits
        self._metrics = metrics
        self._credential_of = credential_of or _credential_of
        self._turned_away = turned_away or _answer

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Let one request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"]
        address = unmapped(client[0]) if client else ""  # a proxy may have written it as an IPv6 one
        try:
            self._limits.arrival(address)
            credential = self._credential_of(scope)
            caller = Caller(await self._principal(credential), address)
            self._limits.request(caller)
        except ChaparError as error:
            self._metrics.turned_away[error.code,].inc()
            await self._turned_away(error, scope)(scope, receive, send)
            return
        scope["caller"] = caller
        scope["admission"] = self._door, credential
        share = scope["body_share"] = self._limits.bodies.share(caller)
        try:
            await self._app(scope, receive, self._with_rates(caller, send) if self._limits.has_headers else send)
        finally:
            share.close()

    async def _principal(self, credential: str | None) -> Principal:
        if credential is None:
            return ANYBODY if self._door.is_open else NOBODY
        return self._door.known(credential) or await self._door.admit(credential)

    def _with_rates(self, caller: Caller, send: Send) -> Send:
        """Tell the caller with each answer how much is left."""

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._limits.headers(caller)]
            await send(message)

        return send_with_rates


class AdmittedStream(StreamingResponse):
    """A stream that is cut off within a second where its caller's key or token counts no more.

    Cut, it has no end, so that nobody takes it for complete. However it ends, what it holds is free at once: the
    framework's own way leaves pages of it to the garbage collection, which comes late.
    """

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Stream the body for as long as the caller is there, and admitted."""
        streaming = asyncio.create_task(self.stream_response(send))
        admitted = asyncio.create_task(_until_turned_away(scope))
        left = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({streaming, admitted, left}, return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                await streaming
            elif admitted.done():
                log.info("stream_cut", caller=scope["caller"].principal.id, reason=str(admitted.exception()))
                await send({"type": CUT})
        finally:
            for task in (streaming, admitted, left):
                task.cancel()
            del streaming, task  # whose exception refers to this frame


async def readmit(request: Request) -> None:
    """Raise AccessError where the caller's credential counts no more, after what may have taken minutes."""
    door, credential = request.scope["admission"]
    await door.readmit(credential)


async def _until_turned_away(scope: ASGIScope) -> None:
    """Check the caller's credential again and again; raises AccessError once it counts no more."""
    door, credential = scope["admission"]
    while True:
        await asyncio.sleep(READMIT_EVERY)
        await door.readmit(credential)


def _answer(error: ChaparError, scope: ASGIScope) -> Response:
    """The answer to who is turned away."""
    request = Request(scope)
    if _sends_much(scope):
        return problem_response(request, error, {"Connection": "close"})
    if isinstance(error, CredentialInvalid):
        return _answer_again(error.problem, language_of(request), may_ask_for_password(request))
    return problem_response(request, error)


@lru_cache(maxsize=64)
def _answer_again(problem: Phrase, language: Language, password: bool) -> Response:  # noqa: FBT001 - a cache's key
    """The answer to a wrong credential, made once for each reason: in a flood it was a quarter of what one costs."""
    return answer_to(CredentialInvalid(problem), language, password=password)


def _sends_much(scope: ASGIScope) -> bool:
    """Return whether a body follows that is too large to be read to its end; to connect anew costs more than others."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and len(value) >= _MANY_DIGITS)
        for name, value in scope["headers"]
    )


def _credential_of(scope: ASGIScope) -> str | None:
    """The key or token of a request, None where it has none; raises CredentialInvalid."""
    authorization = first_headers(scope).get(b"authorization")
    return None if authorization is None else _credential(authorization, scope["method"])


def _credential(authorization: bytes, method: str) -> str:
    """The key or token in the header (RFC 6750 §2.1); raises CredentialInvalid.

    A browser can ask for a password only (RFC 7617): a key is taken as that too, to read. To change something it is
    not, because a browser would send it along with what another site's page asks for.
    """
    scheme, _, rest = authorization.decode("latin-1").partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic" if method in SAFE:
            try:
                return base64.b64decode(rest.strip(), validate=True).decode("latin-1").partition(":")[2]
            except (binascii.Error, ValueError):
                pass
    raise CredentialInvalid(Phrase("credential.bad_scheme"))
