"""Headers of a request, found without making a mapping of all of them."""

from fastapi import Request


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, in lower case; None where there is none."""
    for found, value in request.scope["headers"]:
        if found == name:
            text: str = value.decode("latin-1")
            return text
    return None


def headers(request: Request, name: bytes) -> list[str]:
    """Every header of this name, in lower case."""
    return [value.decode("latin-1") for found, value in request.scope["headers"] if found == name]
