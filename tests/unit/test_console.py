"""The console's parts that need no browser: catalogs, templates, sessions, days as people write them, assets."""

import ast
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from fastapi import Request

from chapar.errors import FieldInvalid, PathUnknown
from chapar.model.api_key import ApiKey
from chapar.model.audit import Action
from chapar.model.device import Ground, State
from chapar.model.message import Profile, Status
from chapar.model.principal import ANYBODY, EVERYWHERE, NOBODY, Caller, Principal, Reach, Scope
from chapar.model.reason import Reason
from chapar.model.reply import Unmatched
from chapar.runtime.settings import Settings
from chapar.web.console import site as console_site
from chapar.web.console.about import BACKUPS, sees_settings
from chapar.web.console.assets import Assets
from chapar.web.console.fields import read_moment, read_offset
from chapar.web.console.keys import state_of
from chapar.web.console.messages import GROUPS
from chapar.web.console.navigation import NAVIGATION
from chapar.web.console.session import Session, can_be_kept, session_of
from chapar.web.console.words import WORDS, chosen_language, code_in_words, isolated, words_of

ROOM = Path(console_site.__file__).parent
TEMPLATES = sorted((ROOM / "templates").glob("*.html"))
TEHRAN = 210  # minutes ahead of UTC


def used_keys() -> Iterator[str]:
    """The keys that templates and modules name, as expressions: `*` for what a family fills in."""
    for template in TEMPLATES:
        text = template.read_text()
        for key, more in re.findall(r"""\bt\("([a-z_.]+)"( ~)?""", text):
            yield re.escape(key) + (r"\w+" if more else "")
        for kind in re.findall(r"""\bword\("([a-z_]+)",""", text):
            yield rf"{kind}\.\w+"
    for module in ROOM.glob("*.py"):
        for call in ast.walk(ast.parse(module.read_text())):
            if (
                isinstance(call, ast.Call)
                and getattr(call.func, "id", "") == "words_of"
                and isinstance(call.args[0], ast.Constant)
            ):
                yield re.escape(call.args[0].value)


def test_every_word_that_a_page_names_is_in_the_catalogs_and_every_word_there_is_used() -> None:
    used = set(used_keys())
    assert [key for key in used if not any(re.fullmatch(key, known) for known in WORDS["en"])] == []
    assert [known for known in WORDS["en"] if not any(re.fullmatch(key, known) for key in used)] == []


def test_every_code_that_is_shown_has_words() -> None:
    families: list[tuple[str, Iterable[str]]] = [
        ("status", Status),
        ("reason", Reason),
        ("presence", State),
        ("evidence", Ground),
        ("profile", Profile),
        ("action", Action),
        ("scope", [scope.replace(":", "_") for scope in Scope]),
        ("key_state", ["valid", "ended", "revoked"]),
        ("unmatched", Unmatched),
    ]
    for kind, codes in families:
        assert [code for code in codes if f"{kind}.{code}" not in WORDS["en"]] == []
    assert code_in_words("reason", "reason_0xc1", "fa") == "reason_0xc1"
    for key in [*(f"nav.{entry.name}" for entry in NAVIGATION), *(f"messages.{name}" for name in GROUPS)]:
        assert key in WORDS["en"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_template_holds_no_words_no_scripts_and_no_styles_of_its_own(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=|javascript:|\|safe\b|https?://", text)
    bare = re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}|<[^>]*>|<!doctype html>", " ", re.sub(r"{{.*?}}|{%.*?%}", " ", text))
    assert re.findall(r"[^\W\d_]{2,}", bare) == []


def test_text_among_words_keeps_its_own_direction() -> None:
    assert words_of("site.sign_out", "fa", name="pump-1") == "خروج (\u2068pump-1\u2069)"
    assert words_of("part.number", "fa", value=12345) == "۱۲٬۳۴۵"


def test_code_in_a_sentence_keeps_its_order() -> None:
    assert isolated("پیام 01a2-7e در /health/live است.") == (
        "پیام \u206601a2-7e\u2069 در \u2066/health/live\u2069 است."
    )
    assert isolated("در ۱۴۰۵-۰۹-۰۹، ۳ پیام") == "در \u2066۱۴۰۵-۰۹-۰۹\u2069، ۳ پیام"
    assert isolated("؟ 7") == "؟ \u20667\u2069"


def test_a_session_is_read_as_it_was_written() -> None:
    session = Session.begin("chapar_x.y~z")
    assert session_of({"chapar_session": session.cookie}) == session
    assert session_of({}) is None
    for cookie in ("", "1.2.3", f"x{session.cookie}", session.cookie + ";", session.cookie.replace("chapar", "چاپار")):
        assert session_of({"chapar_session": cookie}) is None


def test_the_token_of_forms_is_another_with_each_session_and_each_key() -> None:
    session = Session.begin("a")
    tokens = {session.token, Session.begin("a").token, session._replace(credential="b").token}
    assert len(tokens) == 3
    assert session.token == session._replace(used_at=0).token


@pytest.mark.parametrize(("ago", "is_over"), [(0, False), (99, False), (101, True), (-30, False), (-100, True)])
def test_a_session_is_over_when_nobody_used_it(ago: int, *, is_over: bool) -> None:
    assert Session("", "0" * 32, int(time.time()) - ago).is_over(100) is is_over


def test_a_browser_keeps_a_key_that_fits_into_a_cookie() -> None:
    assert can_be_kept("chapar_abc")
    assert not can_be_kept("a" * 4000)
    assert not can_be_kept("a;b")


@pytest.mark.parametrize(
    ("text", "end", "moment"),
    [
        ("2026-11-30", False, "2026-11-29T20:30:00"),
        ("2026-11-30", True, "2026-11-30T20:30:00"),
        ("1405-09-09", False, "2026-11-29T20:30:00"),
        ("۱۴۰۵/۹/۹", True, "2026-11-30T20:30:00"),
        ("١٤٠٥/٠٩/٠٩ ١٤:٠٥", True, "2026-11-30T10:35:00"),
        ("2026/11/30، 14:05:09", False, "2026-11-30T10:35:09"),
        ("1403.12.30", False, "2025-03-19T20:30:00"),
    ],
)
def test_a_day_is_read_in_either_calendar_and_any_digits(text: str, *, end: bool, moment: str) -> None:
    at = read_moment(text, "since", offset=TEHRAN, end=end)
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at / 1000)) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "1404-12-30", "1969-01-01", "2026-11-30 25:00"])
def test_what_is_no_day_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        read_moment(text, "since", offset=0)
    assert caught.value.field == "since"


def test_a_clock_s_offset_is_taken_where_it_can_be_one() -> None:
    assert [read_offset(text) for text in ("210", "-480", "", "x", "9999")] == [210, -480, 0, 0, 0]


def request_of(query: str = "", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "query_string": query.encode(), "headers": raw, "method": "GET", "path": "/"})


@pytest.mark.parametrize(
    ("query", "headers", "language"),
    [
        ("", {}, "en"),
        ("", {"accept_language": "fa-IR,en;q=0.8"}, "fa"),
        ("", {"accept_language": "en", "cookie": "chapar_language=fa"}, "fa"),
        ("lang=en", {"accept_language": "fa", "cookie": "chapar_language=fa"}, "en"),
        ("lang=de", {"cookie": "chapar_language=xx"}, "en"),
    ],
)
def test_the_language_is_the_address_s_or_the_cookie_s_or_the_browser_s(
    query: str, headers: dict[str, str], language: str
) -> None:
    assert chosen_language(request_of(query, **headers)) == language


def test_assets_are_served_by_the_version_of_them_all() -> None:
    assets = Assets()
    path = assets.path("console.css")
    assert path == f"/static/{assets.version}/console.css"
    style = assets.answer(request_of(accept_encoding="gzip"), assets.version, "console.css")
    assert style.headers["content-encoding"] == "gzip"
    assert bytes(assets.answer(request_of(), "0", "console.css").body).startswith(b"/*")
    with pytest.raises(PathUnknown):
        assets.answer(request_of(), assets.version, "htmx.LICENSE")
    for name in re.findall(r'url\("([^"]+)"\)', (ROOM / "static" / "console.css").read_text()):
        assert assets.path(name)


def test_each_vendored_file_has_its_licence_beside_it() -> None:
    names = {file.name for file in (ROOM / "static").iterdir()}
    ours = {"chart.js", "console.css", "console.js", "icon.svg"}
    for name in names - ours:
        assert f"{re.split('[.-]', name)[0]}.LICENSE" in names, name


def test_every_setting_is_shown_and_no_secret_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHAPAR_DATABASE_URL", "CHAPAR_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings.load(
        broker_url="mqtt://me:hidden-1@broker.example",
        proxy="http://me:hidden-2@proxy.example:3128",
        jwt_secret="hidden-3" * 8,
        jwt_jwks_url="https://me:hidden-4@issuer.example/keys?key=hidden-5",
        max_queue=7,
    )
    shown = {setting.variable: setting for setting in settings.shown()}
    assert {variable.removeprefix("CHAPAR_").lower() for variable in shown} == set(Settings.model_fields)
    assert "hidden" not in str(shown)
    assert shown["CHAPAR_JWT_JWKS_URL"].value == "https://…issuer.example/keys?…"
    assert shown["CHAPAR_BROKER_URL"][1:] == (None, True, True)
    assert shown["CHAPAR_DATABASE_URL"][1:] == (None, True, False)
    assert shown["CHAPAR_MAX_QUEUE"][1:] == ("7", False, True)
    assert shown["CHAPAR_AUTO_MIGRATE"][1:] == ("false", False, False)
    assert shown["CHAPAR_ROOT_PATH"].value is None


@pytest.mark.parametrize(
    ("principal", "sees"),
    [
        (ANYBODY, True),
        (NOBODY, False),
        (Principal("key:a", "a", frozenset(Scope) - {Scope.KEYS}), False),
        (Principal("key:a", "a", frozenset({Scope.KEYS})), True),
        (Principal("key:a", "a", frozenset(Scope), Reach(("farm1-*",))), False),
    ],
)
def test_settings_are_for_who_may_make_keys_and_reaches_everything(principal: Principal, *, sees: bool) -> None:
    assert sees_settings(Caller(principal, "192.0.2.7")) is sees


def test_how_to_back_up_is_what_the_documentation_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "en" / "backup.md").read_text().replace(r"\%u", "%u")
    assert [command for command in BACKUPS.values() if command not in text] == []


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "state"),
    [(None, None, "valid"), (11, None, "valid"), (10, None, "ended"), (None, 1, "revoked"), (5, 1, "revoked")],
)
def test_a_key_is_valid_until_it_has_ended_or_is_revoked(
    expires_at: int | None, revoked_at: int | None, state: str
) -> None:
    assert state_of(ApiKey("a", "", "a", frozenset(), EVERYWHERE, 0, "", expires_at, revoked_at), 10) == state
