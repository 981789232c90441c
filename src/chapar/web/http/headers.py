"""Headers of a request: the one and all of a name, and what `Prefer` asks for (RFC 7240)."""

from typing import Final

from fastapi import Request
from starlette.types import Scope

from chapar.errors import HeadMalformed, Phrase
from chapar.model.message import Command, Wait

SAFE: Final = frozenset({"GET", "HEAD"})
"""Methods that change nothing (RFC 9110 §9.2.1); without CORS no other site can read their answer."""

ASYNC: Final = "respond-async"

PREFER_PARAMETER: Final = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: the same as `wait: none`; the answer says `Preference-Applied`.",
    "schema": {"type": "string"},
}

_FIRST: Final = "chapar.headers"  # in the scope: the first header of each name, as most that is asked for is not there

_SINGLE: Final = (b"Host", b"Authorization", b"Content-Type", b"Idempotency-Key", b"Origin", b"Sec-Fetch-Site")
"""Headers that are no lists: of two, a proxy in front may have read the other one (RFC 9110 §5.3)."""


def check_single(scope: Scope) -> None:
    """Raise HeadMalformed where a header is given twice of which there can be one."""
    if len(first_headers(scope)) < len(scope["headers"]):
        names = [name for name, _ in scope["headers"]]
        for name in _SINGLE:
            if names.count(name.lower()) > 1:
                raise HeadMalformed(Phrase("head.repeated", name=name.decode()))


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """The first header of each name, in lower case."""
    first: dict[bytes, bytes] | None = scope.get(_FIRST)
    if first is None:
        first = scope[_FIRST] = dict(reversed(scope["headers"]))
    return first


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, in lower case, as text; None where there is none."""
    value = first_headers(request.scope).get(name)
    return None if value is None else value.decode("latin-1")


def headers(request: Request, name: bytes) -> list[str]:
    """Every header of this name, in lower case."""
    if name not in first_headers(request.scope):
        return []
    return [value.decode("latin-1") for found, value in request.scope["headers"] if found == name]


def prefers_async(request: Request) -> bool:
    """Return whether the caller wants no more than the commit (RFC 7240 §4.1)."""
    if b"prefer" not in first_headers(request.scope):
        return False
    preferences = ",".join(headers(request, b"prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == ASYNC for preference in preferences)


def without_waiting(command: Command) -> Command:
    """The same command, answered once it is committed."""
    return command._replace(wait=Wait.NONE, reply_within=command.reply_awaited)
