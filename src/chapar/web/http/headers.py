"""Headers of a request: the first and all of a name, and what `Prefer` asks for (RFC 7240)."""

from typing import Final

from fastapi import Request
from starlette.types import Scope

from chapar.model.message import Command, Wait

ASYNC: Final = "respond-async"

PREFER_PARAMETER: Final = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: the same as `wait: none`; the answer says `Preference-Applied`.",
    "schema": {"type": "string"},
    "example": ASYNC,
}

_FIRST: Final = "chapar.headers"  # in the scope: the first header of each name, as most that is asked for is not there


def raw_header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this name, in lower case; None where there is none."""
    first: dict[bytes, bytes] | None = scope.get(_FIRST)
    if first is None:
        first = scope[_FIRST] = dict(reversed(scope["headers"]))
    return first.get(name)


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, in lower case, as text; None where there is none."""
    value = raw_header(request.scope, name)
    return None if value is None else value.decode("latin-1")


def headers(request: Request, name: bytes) -> list[str]:
    """Every header of this name, in lower case."""
    if raw_header(request.scope, name) is None:
        return []
    return [value.decode("latin-1") for found, value in request.scope["headers"] if found == name]


def prefers_async(request: Request) -> bool:
    """Return whether the caller wants no more than the commit (RFC 7240 §4.1)."""
    preferences = ",".join(headers(request, b"prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == ASYNC for preference in preferences if preference)


def without_waiting(command: Command) -> Command:
    """The same command, answered once it is committed."""
    return command._replace(wait=Wait.NONE)
