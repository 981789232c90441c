"""Errors become RFC 9457 problem documents here, and only here do they get their HTTP status."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, get_args

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from chapar.errors import (
    AccessError,
    AccessUnavailable,
    ApiKeyNotFound,
    BodiesExhausted,
    BodyMalformed,
    BodyTooDeep,
    BodyTooLarge,
    BodyTooSlow,
    ChaparError,
    ConnectionsExhausted,
    CredentialInvalid,
    DeviceNotFound,
    DevicePaused,
    DevicesExhausted,
    EventsGone,
    FieldInvalid,
    HeadersTooMany,
    HeadMalformed,
    HeadTooLarge,
    HeadTooSlow,
    HostNotAllowed,
    KeyInFlight,
    KeyMismatch,
    KeyNotTaken,
    Language,
    ListenersExhausted,
    MediaTypeUnsupported,
    MessageNotFound,
    MethodNotAllowed,
    NotCancellable,
    NotRepeatable,
    NotSaved,
    NotSent,
    OperationNotFound,
    OriginNotAllowed,
    OutcomeUnknown,
    PathUnknown,
    PauseUnconfirmed,
    Phrase,
    QueueFull,
    RateLimited,
    RequestError,
    RowMalformed,
    ScopeMissing,
    SpreadsheetNotMade,
    StoreError,
    TableMalformed,
    TableNotRead,
    TargetTooLong,
    Unauthenticated,
    rule_of,
)
from chapar.model.json_text import shown
from chapar.model.times import TimeInvalid
from chapar.web.http.headers import SAFE, first_headers, headers

STATUSES: Final[Mapping[type[ChaparError], int]] = {
    HeadMalformed: 400,
    HeadTooLarge: 431,
    HeadersTooMany: 431,
    TargetTooLong: 414,
    HeadTooSlow: 408,
    PathUnknown: 404,
    MethodNotAllowed: 405,
    HostNotAllowed: 421,
    OriginNotAllowed: 403,
    FieldInvalid: 422,
    BodyMalformed: 400,
    RowMalformed: 400,
    TableMalformed: 400,
    BodyTooDeep: 400,
    BodyTooLarge: 413,
    BodyTooSlow: 408,
    BodiesExhausted: 503,
    MediaTypeUnsupported: 415,
    RequestError: 400,
    Unauthenticated: 401,
    AccessUnavailable: 503,
    AccessError: 403,
    RateLimited: 429,
    MessageNotFound: 404,
    DeviceNotFound: 404,
    OperationNotFound: 404,
    DevicesExhausted: 409,
    DevicePaused: 409,
    PauseUnconfirmed: 503,
    EventsGone: 410,
    ListenersExhausted: 503,
    ApiKeyNotFound: 404,
    NotSent: 406,
    NotCancellable: 409,
    NotRepeatable: 409,
    QueueFull: 429,
    KeyMismatch: 422,
    KeyNotTaken: 400,
    KeyInFlight: 409,
    SpreadsheetNotMade: 503,
    TableNotRead: 503,
    ConnectionsExhausted: 503,
    NotSaved: 406,
    OutcomeUnknown: 503,
    StoreError: 503,
    ChaparError: 500,
}
"""The HTTP status of each error; an error not named has that of its nearest ancestor."""

PROBLEM_TYPE: Final = "application/problem+json"
_CHALLENGES: Final = frozenset({401, 403})
_BASIC: Final = 'Basic realm="Chapar", charset="UTF-8"'  # RFC 7617
_BODY_UNREAD: Final = (
    HeadMalformed,
    PathUnknown,
    MethodNotAllowed,
    HostNotAllowed,
    OriginNotAllowed,
    BodyTooLarge,
    BodyTooSlow,
    BodiesExhausted,
    MediaTypeUnsupported,
)
_CLOSE: Final = {"Connection": "close"}  # else uvicorn reads a body that nobody wants to its end, if it has one

_HEADERS: Final = {
    "Content-Language": {
        "description": "The language of `reason`. An answer that is repeated (`Idempotency-Replayed`) comes without.",
        "schema": {"type": "string", "enum": list(get_args(Language))},
    }
}
_LATER: Final = {
    "Retry-After": {
        "required": True,
        "description": "Seconds after which another try is worth it.",
        "schema": {"type": "integer", "minimum": 1},
    }
}

_BLANK_OFFSET: Final = re.compile(r":[0-9]{2}(\.[0-9]+)? [0-9]{2}:?[0-9]{2}$")  # of a time whose + was read as a blank
_PLACE: Final = re.compile("(.*) at line ([0-9]+) column ([0-9]+)")  # as pydantic words it
MOST_VIOLATIONS: Final = 10  # of one request; whoever breaks more rules learns how many
NOT_SENT_DETAIL: Final = "Something went wrong"  # fixed by the contract, in every language


class Problem(BaseModel):
    """A problem, as `application/problem+json` (RFC 9457)."""

    type: str = Field(examples=["urn:chapar:problem:broker_unreachable"], description="The code as a URI.")
    title: str = Field(examples=["Not Acceptable"], description="The HTTP status in words.")
    status: int = Field(examples=[406], description="The HTTP status.")
    detail: str = Field(examples=[NOT_SENT_DETAIL], description="`Something went wrong` on 406, else the reason.")
    code: str = Field(examples=["broker_unreachable"], description="Stable; for programs to compare.")
    reason: str = Field(
        examples=["The broker cannot be reached, so the message was not sent and never will be."],
        description="For a person: what happened and what to do. Persian with `Accept-Language: fa`.",
    )
    id: str | None = Field(default=None, description="The message's id, where it was recorded.")
    oldest: str | None = Field(default=None, description="On 410: the cursor from which on all events are there.")
    errors: list[dict[str, str]] | None = Field(
        default=None, description="Where fields break rules: each `field` with its `rule`."
    )


class Invalid(RequestError):
    """Several fields break rules at once; how many do besides `violations`, `further` says."""

    code = "field_invalid"

    def __init__(self, violations: Sequence[FieldInvalid], further: int = 0) -> None:
        super().__init__()
        self.violations = tuple(violations)
        self.further = further

    def sentence(self, language: Language = "en") -> str:
        """All of them, one after the other."""
        sentences = [violation.sentence(language) for violation in self.violations]
        if self.further:
            sentences.append(Phrase("part.further", count=self.further).sentence(language))
        return " ".join(sentences)


def answers(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The `responses=` of a route that may answer with problems of these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "headers": _HEADERS | (_LATER if status == HTTPStatus.TOO_MANY_REQUESTS else {}),
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(ChaparError, _on_chapar_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, _on_unexpected)


def problem_response(request: Request, error: ChaparError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that ended in `error`."""
    return answer_to(error, language_of(request), headers, password=may_ask_for_password(request))


def may_ask_for_password(request: Request) -> bool:
    """Return whether a browser is to ask for a password: it is taken to read only.

    It would ask as well where a script has sent a token; the script knows better what to do.
    """
    credential = first_headers(request.scope).get(b"authorization", b"")
    return request.method in SAFE and not credential.lower().startswith(b"bearer")


def answer_to(
    error: ChaparError, language: Language, headers: Mapping[str, str] | None = None, *, password: bool = False
) -> Response:
    """The answer that is a problem; `password` says whether a 401 asks for one."""
    every = {"Content-Language": language, "Vary": "Accept-Language", **(headers or {})}
    if isinstance(error, _BODY_UNREAD):
        every |= _CLOSE
    status = status_of(error)
    match error:
        case QueueFull() | RateLimited() | BodiesExhausted():
            every["Retry-After"] = str(error.retry_after)
        case AccessError() if status in _CHALLENGES:
            every["WWW-Authenticate"] = _challenge(error)
    answer = _response(status, problem(error, language), every)
    if password and status == HTTPStatus.UNAUTHORIZED:
        # In a header of its own: of several challenges in one, browsers see the first.
        answer.headers.append("WWW-Authenticate", _BASIC)
    return answer


def _challenge(error: AccessError) -> str:
    """Say how to do better (RFC 6750 §3)."""
    match error:
        case CredentialInvalid():
            return 'Bearer realm="Chapar", error="invalid_token"'
        case ScopeMissing(scope):
            return f'Bearer realm="Chapar", error="insufficient_scope", scope="{scope}"'
        case Unauthenticated():
            return 'Bearer realm="Chapar"'
        case _:
            return 'Bearer realm="Chapar", error="insufficient_scope"'


def problem(error: ChaparError, language: Language, line: int | None = None) -> dict[str, object]:
    """The problem document of an error; `line`: where in the body the message stands that it is about."""
    status = status_of(error)
    reason = error.sentence(language)
    if line is not None:
        reason = Phrase("part.line", line=line, reason=reason).sentence(language)
    body: dict[str, object] = {
        "type": f"urn:chapar:problem:{error.code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": NOT_SENT_DETAIL if status == HTTPStatus.NOT_ACCEPTABLE else reason,
        "code": error.code,
        "reason": reason,
    }
    if isinstance(error, NotSent):
        body["id"] = error.id
    if isinstance(error, EventsGone):
        body["oldest"] = error.oldest
    violations = error.violations if isinstance(error, Invalid) else (error,)
    errors = [
        {"field": violation.field, "rule": violation.rule.sentence(language)}
        for violation in violations
        if isinstance(violation, FieldInvalid)
    ]
    if errors:
        body["errors"] = errors
    if line is not None:
        body["line"] = line
    return body


def status_of(error: ChaparError) -> int:
    """The HTTP status of an error: its own, or that of its nearest ancestor."""
    if isinstance(error, Invalid):
        return STATUSES[FieldInvalid]
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def language_of(request: Request) -> Language:
    """The language the caller prefers to read."""
    return preferred_language(",".join(headers(request, b"accept-language")))


@lru_cache(maxsize=256)
def preferred_language(accept_language: str) -> Language:
    """Persian where `Accept-Language` ranks it above English (RFC 9110 §12.5.4), else English."""
    ranks = {"fa": 0.0, "en": 0.0}
    for item in accept_language.lower().split(","):
        tag, _, weight = map(str.strip, item.partition(";"))
        language = tag.split("-")[0]
        if language in ranks:
            try:
                ranks[language] = max(ranks[language], float(weight.removeprefix("q=") or 1))
            except ValueError:
                continue
    return "fa" if ranks["fa"] > ranks["en"] else "en"


def invalid_query(error: ValidationError) -> RequestError:
    """Return what pydantic found wrong with a path or a query, as an error of ours."""
    return _first_of(error.errors(include_url=False), "query")


def invalid(error: ValidationError) -> RequestError:
    """Return what pydantic found wrong with a body, as an error of ours."""
    details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return BodyMalformed(_syntax(str(details[0].get("ctx", {}).get("error", ""))))
    return _first_of(details, "body")


def _syntax(fault: str) -> Phrase:
    place = _PLACE.fullmatch(fault)
    if place is None:
        return Phrase("body.unreadable")
    return Phrase("body.syntax", problem=place[1], line=int(place[2]), column=int(place[3]))


def _first_of(details: Sequence[ErrorDetails], *where: str) -> Invalid:
    """The first violations; `where` they are (query, path, header, body), if their locations do not begin with it."""
    first = [_violation(detail, *where, *detail["loc"]) for detail in details[:MOST_VIOLATIONS]]
    return Invalid(first, len(details) - len(first))


def _violation(detail: ErrorDetails, where: int | str, *location: int | str) -> FieldInvalid:
    field = _in_body(location) if where == "body" else shown(str(location[0]))
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, TimeInvalid):
        return FieldInvalid(field, fault.rule)
    if where == "query" and _BLANK_OFFSET.search(str(detail["input"])):
        return FieldInvalid(field, Phrase("rule.plus"))
    return FieldInvalid(field, rule_of(detail["type"], detail.get("ctx", {}), detail["msg"]))


def _in_body(location: Sequence[int | str]) -> str:
    """Name a place in a body: `scopes[1]`, or `body` for all of it."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in location)
    return "".join(parts).removeprefix(".") or "body"


async def _on_chapar_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChaparError)  # noqa: S101 - Starlette's type of a handler is wider than its use
    return problem_response(request, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - see above
    return problem_response(request, _first_of(error.errors()))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - see above
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(request, PathUnknown())
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return problem_response(request, MethodNotAllowed(request.method), {"Allow": _methods_of(request, error)})
    phrase = HTTPStatus(error.status_code).phrase
    body = {
        "type": "about:blank",
        "title": phrase,
        "status": error.status_code,
        "detail": error.detail,
        "code": phrase.lower().replace(" ", "_"),
        "reason": error.detail,
    }
    return _response(error.status_code, body, {"Content-Language": "en", **_CLOSE, **(error.headers or {})})


def _methods_of(request: Request, error: HTTPException) -> str:
    """Return what the path takes (RFC 9110 §10.2.1): Starlette names the methods of one of its routes only."""
    methods = set(filter(None, (error.headers or {}).get("Allow", "").split(", ")))
    for route in iter_route_contexts(request.app.routes):
        pattern: re.Pattern[str] | None = getattr(route, "path_regex", None)
        if pattern is not None and pattern.match(request.url.path):
            methods |= route.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


async def _on_hang_up(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody receives it


async def _on_unexpected(request: Request, _error: Exception) -> Response:
    return problem_response(request, ChaparError())


def _response(status: int, body: Mapping[str, object], headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(body), status, headers, PROBLEM_TYPE)
