"""Sign in with a key or token, and sign out."""

import re
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.access.door import Door
from chapar.errors import AccessError, AccessUnavailable, CredentialInvalid
from chapar.model.principal import NOBODY
from chapar.web.console.routes import form_of, routes
from chapar.web.console.session import Session, can_be_kept
from chapar.web.console.site import Site, start_of
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import Identity, allow, caller_of
from chapar.web.http.problems import status_of

REASONS: Final = ("idle", "ended", "out")
"""Why somebody is asked to sign in: the session was idle too long, the key counts no more, or they signed out."""

_PATH: Final = re.compile(r"/[a-z][!-~]*")


def signing_router(site: Site, door: Door) -> APIRouter:
    """The routes of signing in and out."""
    router = routes()

    @router.get("/")
    @allow(Identity.ANY)
    async def start(request: Request) -> Response:
        """Lead to the first page."""
        if caller_of(request).principal is NOBODY:
            return site.redirect(request, "/sign-in")
        return site.redirect(request, start_of(caller_of(request)))

    @router.get("/sign-in")
    @allow(Identity.ANY)
    async def ask(request: Request) -> Response:
        """Ask for a key."""
        if caller_of(request).principal is not NOBODY:
            return site.redirect(request, start_of(caller_of(request)))
        why = request.query_params.get("why")
        return site.page(
            request,
            "sign-in.html",
            why=why if why in REASONS else None,
            next=_next_of(request.query_params.get("next", "")),
            problem=None,
        )

    @router.post("/sign-in")
    @allow(Identity.ANY)
    async def sign_in(request: Request) -> Response:
        """Begin a session."""
        form = form_of(request)
        credential, following = form.get("key", ""), _next_of(form.get("next", ""))
        try:
            await door.admit(credential)
        except (CredentialInvalid, AccessUnavailable) as error:
            return _refused(request, error, following)
        if not can_be_kept(credential):
            return site.page(request, "sign-in.html", 400, why=None, next=following, problem="too_long")
        response = site.redirect(request, following or "/")
        site.set_session(request, response, Session.begin(credential))
        return response

    def _refused(request: Request, error: AccessError, following: str) -> Response:
        sentence = error.sentence(chosen_language(request))
        return site.page(request, "sign-in.html", status_of(error), why=None, next=following, problem=sentence)

    @router.post("/sign-out")
    @allow(Identity.ANY)
    async def sign_out(request: Request) -> Response:
        """End a session: the browser forgets the key."""
        response = site.redirect(request, "/sign-in", why="out")
        site.set_session(request, response, None)
        return response

    return router


def _next_of(path: str) -> str:
    """The page that was asked for before, below the console's path; empty for what is none."""
    return path if _PATH.fullmatch(path) and not path.startswith("/sign") else ""
