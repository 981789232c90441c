"""Hostile texts in every field that a person, a program or a device can fill in, and every page that shows them."""

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.console import NARROW, check_layout, opened, sign_in
from support.devices import Device
from support.gateway import GatewayProcess
from support.site import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMEI: Final = "hostile"
LARGE: Final = 64_000  # characters
LONG: Final = "<b>" + "w" * LARGE
TEXTS: Final = {
    "script": '"><script>alert(1)</script>',
    "event": "<img src=x onerror=alert(1)>",
    "attribute": "' autofocus onfocus=alert(1) x=\"",
    "link": "javascript:alert(1)//",
    "template": "{{7*7}}{% raw %}${7*7}",
    "turned": "\u202e\u2067evil\u2069",
    "invisible": "a\u200b\u200d\ufeff\u00ad\u2060b",
    "marks": "z" + "\u0301\u0489" * 40,
    "quotes": "'\"`\\&<>&lt;&#x27;",
    "lines": "a\r\nb\tc\x1b[31m\x07\x85\u2028",
    "nul": "a\0b",
    "noncharacter": "\ufdd0\uffff",
    "long": LONG,
}


EACH_ALONE: Final = {"script", "nul"}  # come into each field of a form alone as well: one that is refused hides others


class Stage:
    """What a field needs to be filled in."""

    def __init__(self, api: httpx.Client, device: Device) -> None:
        self.api = api
        self.device = device
        self.ids: dict[str, str] = {}  # of what the pages show, by the field and the name of its text
        self.taken: dict[str, set[str]] = {}  # the texts that each field has taken

    def take(self, field: str, name: str, answer: httpx.Response) -> Any:
        """Note that a field has taken a text, or that it has refused it in words; gives what was made."""
        assert answer.is_success or answer.status_code in {400, 413, 422}, (
            field,
            name,
            answer.status_code,
            answer.text,
        )
        if answer.is_success:
            self.taken.setdefault(field, set()).add(name)
        return answer.json() if answer.is_success else {}

    def send(self, field: str, name: str, **fields: Any) -> str:
        asked = {"imei": IMEI, "micro_op": "push_down", "wait": "none", **fields}
        return str(self.take(field, name, self.api.post("/messaging/send", json=asked)).get("id", ""))


class Field(NamedTuple):
    """A field, how a text comes into it, and the pages that show it."""

    name: str
    fill: Callable[[Stage, str, str], object]  #: with the name of the text, and the text
    pages: tuple[str, ...]
    limit: int = 100  #: characters of the long text


def named(stage: Stage, name: str, text: str) -> None:
    stage.take("name", name, stage.api.put(f"/devices/{IMEI}-{name}", json={"name": text}))


def labelled(stage: Stage, name: str, text: str) -> None:
    labels = {text[:64].replace(":", "."): text}
    stage.take("label", name, stage.api.put(f"/devices/{IMEI}-label-{name}", json={"labels": labels}))


def operated(stage: Stage, name: str, text: str) -> None:
    stage.send("operation", name, micro_op=text, deliver="on_contact")


def parametrised(stage: Stage, name: str, text: str) -> None:
    if made := stage.send("params", name, params={text[:100]: [text]}, collapse_key=f"k{name}"):
        stage.ids[f"params-{name}"] = made


def collapsed(stage: Stage, name: str, text: str) -> None:
    if made := stage.send("collapse_key", name, collapse_key=text, deliver="on_contact"):
        stage.ids[f"collapse-{name}"] = made


def key_named(stage: Stage, name: str, text: str) -> None:
    asked = {"name": text, "scopes": ["messages:read"], "operations": [text[:250]]}
    if made := stage.take("key", name, stage.api.post("/keys", json=asked)):
        stage.ids[f"key-{name}"] = made["id"]


def replied(stage: Stage, _: str, text: str) -> None:
    stage.device.publish(f"devices/{IMEI}/reply", json.dumps({"status": "ok", "result": text, text[:100]: text}))
    stage.device.publish(f"devices/{IMEI}/reply", text.encode() + b"\xff\xfe")
    stage.device.publish(f"devices/{IMEI}/reply", text)


def announced(stage: Stage, _: str, text: str) -> None:
    stage.device.publish(f"devices/{IMEI}/presence", text)


MESSAGES: Final = ("/overview", f"/messages?imei={IMEI}", f"/devices/{IMEI}", f"/audit?imei={IMEI}")
FIELDS: Final = (
    Field("device name", named, ("/devices?q=hostile", "/devices/hostile-script", "/devices/hostile-event")),
    Field("label", labelled, ("/devices?q=hostile-label", "/devices/hostile-label-script"), limit=128),
    Field("operation", operated, MESSAGES, limit=1000),
    Field(
        "parameters", parametrised, (MESSAGES[1], "/messages/{params-script}", "/messages/{params-long}"), limit=LARGE
    ),
    Field("collapse key", collapsed, ("/messages/{collapse-script}", "/messages/{collapse-turned}"), limit=64),
    Field("key", key_named, ("/keys", "/keys/{key-script}", "/keys/new?like={key-event}", "/audit?action=key_created")),
    Field("reply", replied, (f"/devices/{IMEI}", f"/messages?imei={IMEI}"), limit=LARGE),
    Field("presence", announced, (f"/devices/{IMEI}", "/devices?q=hostile")),
)
"""A new field or page joins by a line."""

ADDRESSES: Final = {
    "/overview": ("lang",),
    "/messages": ("imei", "micro_op", "status", "since", "until", "offset", "cursor"),
    "/devices": ("q", "presence", "profile", "label", "cursor", "done"),
    f"/devices/{IMEI}": ("done", "count"),
    "/send": ("imei", "micro_op", "labels", "presence", "profile", "q"),
    "/audit": ("action", "principal", "imei", "subject", "since", "until", "offset", "cursor"),
    "/keys": ("name", "state", "cursor"),
    "/keys/new": ("like",),
    "/import": ("done", "made", "changed"),
    "/about": ("x",),
}
"""The pages whose address takes something, and the fields in it."""

FORMS: Final = {
    "/send": ("imei", "micro_op", "params", "labels", "q", "expires_in", "deliver_at", "collapse_key", "key", "step"),
    "/devices": ("imei",),
    f"/devices/{IMEI}": ("name", "profile", "labels", "version"),
    "/keys/new": ("name", "devices", "operations", "expires_at", "form"),
}
"""The forms that show again what was typed, and their fields."""


class Dangers(HTMLParser):
    """Whatever of a page would run, or load something, that is not ours."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, object]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in {"img", "b", "iframe", "object", "style", "base"} or (tag == "script" and "src" not in values):
            self.found.append((tag, attrs))
        for name, value in attrs:
            links_elsewhere = name in {"href", "src", "action", "hx-get"} and not (value or "").startswith(("/", "#"))
            if name.startswith("on") or name in {"autofocus", "style"} or links_elsewhere:
                self.found.append((tag, (name, value)))


@pytest.fixture(scope="module")
def stage(gateway: GatewayProcess, api: httpx.Client, broker: BuiltinBroker) -> Iterator[Stage]:
    """All fields are filled in with all texts."""
    assert gateway.url
    with broker.device(IMEI) as device:
        stage = Stage(api, device)
        assert api.put(f"/devices/{IMEI}", json={}).is_success
        device.on_heard = lambda _: device.reply(f"push_down ok {TEXTS['script']}{LONG[:300]}")
        sent = api.post("/messaging/send", json={"imei": IMEI, "micro_op": "push_down", "wait": "device"}).json()
        assert sent["status"] == "succeeded"
        for field in FIELDS:
            for name, text in TEXTS.items():
                field.fill(stage, name, text[: field.limit])
        device.publish(f"devices/{IMEI}/reply", "the last of all")
        until(lambda: "the last of all" in api.get("/replies", params={"matched": "false", "imei": IMEI}).text)
        yield stage


def paths(stage: Stage) -> list[str]:
    """Each page once."""
    return list(dict.fromkeys(page.format_map(stage.ids) for field in FIELDS for page in field.pages))


@pytest.fixture
def visitor(gateway: GatewayProcess, key: str) -> Iterator[httpx.Client]:
    """Somebody who has signed in without a browser."""
    with httpx.Client(base_url=f"{gateway.url}/console", timeout=30.0) as client:
        form = {"token": token_in(client.get("/sign-in")), "key": key}
        assert client.post("/sign-in", data=form).status_code == 303
        yield client


def token_in(page: httpx.Response) -> str:
    found = re.search('name="token" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


def check_answer(answer: httpx.Response, of: object) -> None:
    """The page is one of ours, whatever it was asked, and has nothing in it that would run."""
    assert answer.status_code < 500, (of, answer.text)
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert Dangers(answer.text).found == [], of


def test_what_is_dangerous_is_found() -> None:
    assert len(Dangers("<p onclick=x><a href='javascript:1'>x</a><img src=/x><script>1</script>").found) == 4


def test_every_field_takes_hostile_texts_or_says_no(stage: Stage) -> None:
    harmless = {"script", "event", "attribute", "link", "template", "quotes", "marks"}
    for field in ("name", "label", "operation", "params", "collapse_key", "key"):
        assert harmless - stage.taken[field] <= {"marks"}, field
    assert {"nul", "lines", "long"} <= stage.taken["params"]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_no_page_runs_breaks_or_hides_what_others_wrote(
    browser: "Browser", gateway: GatewayProcess, key: str, stage: Stage, language: str
) -> None:
    said: list[str] = []
    with opened(browser, gateway, language, NARROW) as page:
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        sign_in(page, gateway, key, "/about")
        cut = 0
        for path in paths(stage):
            answer = page.goto(f"{gateway.url}/console{path}")
            assert answer is not None
            assert answer.status == 200, path
            check_layout(page, language)
            assert page.locator("main script, main img, main b, main [onfocus]").count() == 0, path
            # What is cut can be seen, and then it fits as well.
            cut += page.evaluate(
                "[...document.querySelectorAll('main details.cut')].map((each) => { each.open = true; }).length"
            )
            check_layout(page, language)
        assert cut > len(FIELDS)
        page.goto(f"{gateway.url}/console/messages/{stage.ids['params-long']}")
        whole = page.locator("dl details.cut > bdi").text_content() or ""
        assert TEXTS["long"][:LARGE] in whole
    assert said == []


def test_no_address_form_or_cookie_makes_a_page_run_what_it_says(
    gateway: GatewayProcess, visitor: httpx.Client, stage: Stage
) -> None:
    assert stage.ids
    for name, text in TEXTS.items():
        short = text[:2000]  # a longer target is refused before it is a page's
        for path, fields in ADDRESSES.items():
            for filled in (fields, *(zip(fields) if name in EACH_ALONE else ())):
                check_answer(visitor.get(path, params=dict.fromkeys(filled, short)), (path, filled, name))
        for path in ("/", "/messages/", "/devices/", "/keys/"):
            check_answer(visitor.get(path + quote(short, safe="")), (path, name))
        for path, fields in FORMS.items():
            token = token_in(visitor.get(path))
            for filled in (fields, *(zip(fields) if name in EACH_ALONE else ())):
                form = {"token": token, "imei": "", "micro_op": "open", **dict.fromkeys(filled, text)}
                check_answer(visitor.post(path, data=form), (path, filled, name))
        rows = "\r\n".join(f'"{cell}"' for cell in ("imei", text[:200].replace('"', '""')))
        file = {"file": (quote(short), rows.encode(), "text/csv")}
        check_answer(visitor.post("/import", data={"token": token_in(visitor.get("/import"))}, files=file), name)
        quoted = quote(text[:1000], safe="")
        for cookie in ("chapar_language", "chapar_session"):
            with httpx.Client(base_url=f"{gateway.url}/console", timeout=30.0) as stranger:
                headers = {"Cookie": f"{cookie}={quoted}", "Accept-Language": quoted}
                check_answer(stranger.get("/sign-in", headers=headers), (cookie, name))
                check_answer(stranger.get("/sign-in", params={"why": short, "next": short}), (cookie, name))
