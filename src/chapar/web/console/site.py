"""The site: what all pages have in common, from the language to the cookie."""

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from chapar import __version__
from chapar.errors import ChaparError, Language, persian_date, persian_digits
from chapar.model.lines import plain
from chapar.model.principal import ANYBODY, NOBODY, Caller, Scope
from chapar.model.times import datetime_of, rfc3339
from chapar.web.console.assets import Assets
from chapar.web.console.navigation import NAVIGATION, entries_for
from chapar.web.console.routes import ROOT, SESSION
from chapar.web.console.session import COOKIE, RENEW_AFTER, Session
from chapar.web.console.words import (
    LANGUAGE_COOKIE,
    NAMES,
    asked_language,
    chosen_language,
    code_in_words,
    isolated,
    words_of,
)
from chapar.web.http.entrance import caller_of
from chapar.web.http.headers import header
from chapar.web.http.problems import status_of
from chapar.web.http.proxies import root_path_of

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""A page loads what is ours, and runs nothing that stands in it."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # without any, a form's origin would be `null`, which is nobody's
    "Vary": "Accept-Language, Cookie, HX-Request",
}
"""Of every page."""

_LANGUAGE_KEPT: Final = 365 * 86_400  # seconds
_LIVE: Final = "live"  # the block of a template that the page asks for again and again
_OTHER: Final[Mapping[Language, Language]] = {"en": "fa", "fa": "en"}


class Site:
    """Makes pages of templates."""

    def __init__(self, idle_timeout: int) -> None:
        """`idle_timeout`: seconds after which a session that nobody used is over."""
        self.idle_timeout = idle_timeout
        self.assets = Assets()
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals |= {
            "rfc3339": rfc3339,
            "plain": plain,
            "new_key": secrets.token_urlsafe,
        }

    def page(self, request: Request, template: str, status: int = 200, **facts: object) -> Response:
        """A page. A request of htmx is answered with what lives on it alone: the template's block `live`.

        A template has `t(key, …)` for words, `word(kind, code)` for codes, `isolated(sentence)` for sentences
        of elsewhere, `url(path)` for addresses, `may(scope)` for the caller's rights, and the `token` of forms.
        """
        language = chosen_language(request)
        session: Session | None = request.scope[SESSION]
        fresh = None if is_live(request) else self._renewed(session)
        used = fresh or session or Session.begin()
        caller = caller_of(request)
        context = {
            **facts,
            "language": language,
            "t": partial(_words, language),
            "word": partial(_word, language),
            "isolated": isolated if language == "fa" else str,
            "moment": partial(_moment, language),
            "number": partial(_number, language),
            "url": partial(_url, request),
            "asset": lambda name: _url(request, self.assets.path(name)),
            "may": lambda scope: Scope(scope) in caller.principal.scopes,
            "caller": caller,
            "is_open": caller.principal is ANYBODY,
            "signed_in": caller.principal not in (ANYBODY, NOBODY),
            "navigation": entries_for(caller),
            "other_language": _OTHER[language],
            "other_language_name": NAMES[_OTHER[language]],
            "in_other_language": _here(request, lang=_OTHER[language]),
            "here": partial(_here, request),
            "path": request.scope["path"].removeprefix(ROOT),
            "token": used.token,
            "version": __version__,
            "made_at": time.time_ns() // 1_000_000,
        }
        found = self._templates.get_template(template)
        if is_live(request) and _LIVE in found.blocks:
            text = "".join(found.blocks[_LIVE](found.new_context(context)))
        else:
            text = found.render(context)
        response = HTMLResponse(text, status, {**HEADERS, "Content-Language": language})
        if fresh is not None:
            self.set_session(request, response, fresh)
        if asked_language(request) is not None:
            response.set_cookie(
                LANGUAGE_COOKIE,
                language,
                max_age=_LANGUAGE_KEPT,
                path=_url(request, ""),
                secure=request.url.scheme == "https",
                httponly=True,
                samesite="lax",
            )
        return response

    def problem(self, request: Request, error: ChaparError) -> Response:
        """The page of an error."""
        sentence = error.sentence(chosen_language(request))
        return self.page(request, "problem.html", status_of(error), sentence=sentence)

    def redirect(self, request: Request, path: str, **query: str) -> Response:
        """Lead to a page of the console; htmx, which asked for a part of one, leaves that one."""
        language = asked_language(request)
        target = _url(request, path, **query, **({} if language is None else {"lang": language}))
        if is_live(request):
            return Response(status_code=401, headers={"HX-Redirect": target})
        return Response(status_code=303, headers={"Location": target})

    def set_session(self, request: Request, response: Response, session: Session | None) -> None:
        """Have the browser keep a session until it is closed, or forget the one it has."""
        response.set_cookie(
            COOKIE,
            "" if session is None else session.cookie,
            max_age=0 if session is None else None,
            path=_url(request, ""),
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def _renewed(self, session: Session | None) -> Session | None:
        """The session whose cookie is to be set; None where the browser's will do."""
        if session is None:
            return Session.begin()
        now = int(time.time())
        return session._replace(used_at=now) if now - session.used_at > RENEW_AFTER else None


def is_live(request: Request) -> bool:
    """Return whether a page asks, by itself, for what lives on it."""
    return header(request, b"hx-request") is not None


def start_of(caller: Caller) -> str:
    """The first page that a caller may see, below the console's path; the first of all where it may see none."""
    return (entries_for(caller) or NAVIGATION)[0].path


def _words(language: Language, key: str, /, **facts: object) -> str:
    return words_of(key, language, **facts)


def _word(language: Language, kind: str, code: str) -> str:
    return code_in_words(kind, code, language)


def _moment(language: Language, milliseconds: int) -> str:
    """A time for who has no scripts."""
    time = datetime_of(milliseconds).astimezone(UTC)
    return _date(time, language) + " UTC"


def _date(time: datetime, language: Language) -> str:
    if language == "fa":
        return f"{persian_date(time)} {persian_digits(f'{time:%H:%M:%S}')}"
    return f"{time:%Y-%m-%d %H:%M:%S}"


def _number(language: Language, value: float) -> str:
    return words_of("part.number", language, value=value)


def _url(request: Request, path: str, /, **query: str | Sequence[str]) -> str:
    """The address of a page of the console, below whatever path that stands; a list is given one by one."""
    asked = f"?{text}" if (text := urlencode(query, doseq=True)) else ""
    return f"{root_path_of(request.scope)}{ROOT}{path}{asked}"


def _here(request: Request, /, **changed: str | None) -> str:
    """The address of this page, with these parameters changed; None takes one away."""
    query = [(name, value) for name, value in request.query_params.multi_items() if name not in changed]
    asked = urlencode(query + [(name, value) for name, value in changed.items() if value is not None])
    return f"{root_path_of(request.scope)}{request.scope['path']}" + (f"?{asked}" if asked else "")
