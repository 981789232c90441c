"""The `Prefer` header (RFC 7240)."""

from typing import Final

from fastapi import Request

from chapar.model.message import Command, Wait
from chapar.web.http.headers import headers

ASYNC: Final = "respond-async"

PREFER_PARAMETER: Final = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: the same as `wait: none`; the answer says `Preference-Applied`.",
    "schema": {"type": "string"},
    "example": ASYNC,
}


def prefers_async(request: Request) -> bool:
    """Whether the caller wants no more than the commit (RFC 7240 §4.1)."""
    preferences = ",".join(headers(request, b"prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == ASYNC for preference in preferences if preference)


def without_waiting(command: Command) -> Command:
    """The same command, answered once it is committed."""
    return command._replace(wait=Wait.NONE)
