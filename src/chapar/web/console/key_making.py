"""The form that makes an API key. The key itself is shown once, and kept nowhere."""

import re
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.access.keyring import MAX_NAME, Grant, Keyring
from chapar.errors import ChaparError, FieldInvalid, GrantTooWide
from chapar.model.api_key import ApiKey
from chapar.model.principal import EVERYTHING, Caller, Reach, Scope, check_patterns
from chapar.web.console.keys import read_end
from chapar.web.console.routes import FormExpired, form_of, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of

_SCOPE: Final = "scope:"  # the names of the boxes, each followed by its scope
_BETWEEN: Final = {  # patterns: no device's id holds a blank, and an operation's name may
    "devices": re.compile(r"[\s,\u060c]+"),
    "operations": re.compile(r"[\r\n]+"),
}


def key_making_router(site: Site, keyring: Keyring) -> APIRouter:
    """The page that makes a key; before those of the keys, of which none is named `new`."""
    router = routes()

    @router.get("/keys/new")
    @allow(Scope.KEYS)
    async def ask(request: Request) -> Response:
        """Ask what a new key may do; `?like=` begins with the rights of another."""
        caller, like = caller_of(request), request.query_params.get("like")
        key = None if like is None else await keyring.find(caller, like)
        return _form(site, request, _filled_in(caller, key), None)

    @router.post("/keys/new")
    @allow(Scope.KEYS)
    async def make(request: Request) -> Response:
        """Make a key, and show it. A form that comes again makes no other."""
        form = form_of(request)
        if not form.get("form"):
            raise FormExpired
        try:
            issued = await keyring.create_once(caller_of(request), _grant(form), form["form"])
        except (FieldInvalid, GrantTooWide) as error:
            return _form(site, request, form, error)
        if issued is None:
            return site.page(request, "key-made.html", 409, secret=None, key=None)
        response = site.page(request, "key-made.html", 201, secret=issued.secret, key=issued.key)
        response.headers["Cache-Control"] = "no-store"
        return response

    return router


def _form(site: Site, request: Request, form: Mapping[str, str], error: ChaparError | None) -> Response:
    rights = caller_of(request).principal.scopes
    return site.page(
        request,
        "key-new.html",
        200 if error is None else status_of(error),
        form=form,
        scopes=[scope for scope in Scope if scope in rights],
        longest=MAX_NAME,
        problem=None if error is None else error.sentence(chosen_language(request)),
    )


def _filled_in(caller: Caller, like: ApiKey | None) -> dict[str, str]:
    """The fields of the form before anybody has changed any."""
    reach = caller.principal.reach if like is None else like.reach
    return {
        "name": "" if like is None else like.name,
        "devices": "\n".join(reach.devices),
        "operations": "\n".join(reach.operations),
        **{f"{_SCOPE}{scope}": "on" for scope in (() if like is None else like.scopes)},
    }


def _grant(form: Mapping[str, str]) -> Grant:
    """The grant that the form asks for; raises FieldInvalid."""
    expires_at = read_end(form)
    return Grant(
        name=form.get("name", ""),
        scopes=frozenset(scope for scope in Scope if f"{_SCOPE}{scope}" in form),
        reach=Reach(_patterns(form, "devices"), _patterns(form, "operations")),
        expires_at=expires_at,
        ends_with_maker=expires_at is None,
    )


def _patterns(form: Mapping[str, str], field: str) -> tuple[str, ...]:
    given = [pattern.strip() for pattern in _BETWEEN[field].split(form.get(field, ""))]
    return check_patterns([pattern for pattern in given if pattern] or EVERYTHING, field)
