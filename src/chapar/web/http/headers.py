"""Headers of a request. Each is asked for several of them, most of which it does not have."""

from typing import Final

from fastapi import Request
from starlette.types import Scope

_FIRST: Final = "chapar.headers"  #: in the scope: the first header of each name


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
