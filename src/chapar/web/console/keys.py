"""API keys: the list, and one key with its end."""

import re
from collections import deque
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.access.keyring import Keyring
from chapar.delivery.cancellation import Cancellation
from chapar.errors import ChaparError, FieldInvalid, GrantTooWide, Phrase
from chapar.model.api_key import ApiKey
from chapar.model.principal import Caller, Scope
from chapar.runtime.clock import system_now
from chapar.web.console.fields import read_moment, read_offset
from chapar.web.console.routes import fields_of, form_of, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of, check
from chapar.web.http.problems import status_of

PAGE: Final = 50  # keys

_COUNT: Final = re.compile(r"[0-9]{1,9}")


def keys_router(site: Site, keyring: Keyring, cancellation: Cancellation) -> APIRouter:
    """The pages of the keys that there are."""
    router = routes()

    @router.get("/keys")
    @allow(Scope.KEYS)
    async def keys(request: Request) -> Response:
        """Show keys, newest first."""
        asked = fields_of(request)
        page, following = await _page(keyring, caller_of(request), asked)
        rows = [(key, state_of(key, system_now())) for key in page]
        return site.page(request, "keys.html", asked=asked, keys=rows, next=following, is_first="cursor" not in asked)

    @router.get("/keys/{id}")
    @allow(Scope.KEYS)
    async def key(request: Request) -> Response:
        """Show a key, but for the key itself."""
        return _one(site, request, await keyring.find(caller_of(request), request.path_params["id"]), None)

    @router.post("/keys/{id}/revoke")
    @allow(Scope.KEYS)
    async def revoke(request: Request) -> Response:
        """End a key at once and for good, and withdraw what it has waiting where that is asked for."""
        caller, cancels = caller_of(request), "cancel_waiting" in form_of(request)
        if cancels:
            check(caller, Scope.CANCEL)
        revoked = await keyring.revoke(caller, request.path_params["id"])
        path = f"/keys/{revoked.id}"
        if not cancels:
            return site.redirect(request, path)
        cancelled = await cancellation.cancel_all_of(caller, f"key:{revoked.id}")
        return site.redirect(request, path, cancelled=str(cancelled))

    @router.post("/keys/{id}/expire")
    @allow(Scope.KEYS)
    async def expire(request: Request) -> Response:
        """Give a key another end, or none where just that is asked for."""
        caller, key_id = caller_of(request), request.path_params["id"]
        try:
            changed = await keyring.expire(caller, key_id, _new_end(form_of(request)))
        except (FieldInvalid, GrantTooWide) as error:
            return _one(site, request, await keyring.find(caller, key_id), error)
        return site.redirect(request, f"/keys/{changed.id}")

    return router


def state_of(key: ApiKey, now: int) -> str:
    """The state of a key: `valid`, `ended` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "ended" if key.ended(now) else "valid"


def read_end(form: Mapping[str, str]) -> int | None:
    """The end of a key: the end of a day that names no time; None for an empty field. Raises FieldInvalid."""
    text = form.get("expires_at", "")
    return read_moment(text, "expires_at", offset=read_offset(form.get("offset", "")), end=True) if text else None


def _new_end(form: Mapping[str, str]) -> int | None:
    if "never" in form:
        return None
    expires_at = read_end(form)
    if expires_at is None:
        raise FieldInvalid("expires_at", Phrase("rule.empty"))
    return expires_at


def _one(site: Site, request: Request, key: ApiKey, error: ChaparError | None) -> Response:
    cancelled = request.query_params.get("cancelled", "")
    return site.page(
        request,
        "key.html",
        200 if error is None else status_of(error),
        key=key,
        state=state_of(key, system_now()),
        is_own=caller_of(request).principal.id == f"key:{key.id}",
        cancelled=int(cancelled) if _COUNT.fullmatch(cancelled) else None,
        problem=None if error is None else error.sentence(chosen_language(request)),
    )


async def _page(keyring: Keyring, caller: Caller, asked: Mapping[str, str]) -> tuple[list[ApiKey], str | None]:
    """Keys made before the one that `cursor` names, newest first, and the cursor of the page after."""
    last: deque[ApiKey] = deque(maxlen=PAGE + 1)
    now = system_now()
    async for keys in keyring.all(caller):  # oldest first
        for key in keys:
            if key.id == asked.get("cursor"):
                return _newest_first(last)
            if _fits(key, asked, now):
                last.append(key)
    return _newest_first(last)


def _fits(key: ApiKey, asked: Mapping[str, str], now: int) -> bool:
    name, state = asked.get("name", "").casefold(), state_of(key, now)
    return (name in key.name.casefold() or name == key.id) and asked.get("state", state) == state


def _newest_first(last: deque[ApiKey]) -> tuple[list[ApiKey], str | None]:
    page = list(reversed(last))[:PAGE]
    return page, page[-1].id if len(last) > PAGE else None
