"""A documented route whose endpoint takes the request as it is."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class RequestRoute(APIRoute):
    """Calls its endpoint with the request and nothing else.

    FastAPI's own handling of a body costs more than all the rest of a send, and reads it without bounds.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself (FastAPI, "Custom Request and APIRoute class")."""
        return self.endpoint
