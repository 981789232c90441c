"""Routes of pages, and forms: what is posted is read within bounds, and its token is checked first."""

import hmac
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from chapar.web.console.session import Session
from chapar.web.http.body import read_body
from chapar.web.http.entrance import RequestRoute
from chapar.web.http.headers import SAFE
from chapar.web.http.rates import BodyShare

ROOT: Final = "/console"
SESSION: Final = "console.session"
"""The key of the session in the scope; None: the browser has none that counts."""
IS_IDLE: Final = "console.is_idle"
"""The key in the scope that says whether there was a session, which nobody has used for too long."""

TOKEN: Final = "token"  # noqa: S105 - the name of a field

_FORM: Final = "console.form"
_URLENCODED: Final = "application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 1000


class FormExpired(Exception):
    """A form of another session, or of a page of another site. Nothing was done."""


class PageRoute(RequestRoute):
    """A page, or what a form of a page asks for."""

    def _handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = super()._handler()
        if SAFE.issuperset(self.methods or ()):
            return endpoint

        async def posted(request: Request) -> Response:
            request.scope[_FORM] = await self._form(request)
            return await endpoint(request)

        return posted

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields that were posted; raises FormExpired."""
        share: BodyShare = request.scope["body_share"]
        _, body = await read_body(request, {_URLENCODED}, limit=share.largest, setting="CHAPAR_MAX_BODY_BYTES")
        try:
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        except ValueError:
            raise FormExpired from None
        check_token(request, fields.pop(TOKEN, ""))
        return {name: value.strip() for name, value in fields.items()}


def routes() -> APIRouter:
    """A router for pages."""
    return APIRouter(prefix=ROOT, route_class=PageRoute, include_in_schema=False)


def form_of(request: Request) -> Mapping[str, str]:
    """The fields of the form that was posted, without blanks around them."""
    form: Mapping[str, str] = request.scope[_FORM]
    return form


def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form that is a part of the address, without blanks around them, as far as they were filled in."""
    return {name: value.strip() for name, value in request.query_params.items() if value.strip()}


def check_token(request: Request, token: str) -> None:
    """Raise FormExpired unless this is the token of the session that the browser has."""
    session: Session | None = request.scope[SESSION]
    if session is None or not hmac.compare_digest(token.encode(), session.token.encode()):
        raise FormExpired
