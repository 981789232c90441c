"""What a page of the console is at first sight: a picture of each in either language, and how much is loaded for it."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from chapar.web.console.navigation import NAVIGATION
from support import chromium
from support.console import LOCALES, NARROW, PICTURES, WIDE, check_layout, faults_for_people, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LARGEST: Final = 150_000  # bytes that a page is, with all that it loads


@pytest.fixture(scope="module")
def paths(api: httpx.Client) -> Mapping[str, str]:
    """The path of each page, by its name, with something to be seen on it."""
    assert api.put("/devices/861234567890123", json={"name": "پمپ شمارهٔ ۱", "labels": {"farm": "1"}}).is_success
    messages = [
        {"imei": "861234567890123", "micro_op": "push_down", "params": {"minutes": minutes}} for minutes in range(9)
    ]
    messages += [{"imei": f"86123456789012{n}", "micro_op": "valve_open", "expires_in": 60} for n in range(9)]
    assert api.post("/messaging/bulk", json={"messages": messages}).is_success
    sent = api.post("/messaging/send", json=messages[0]).json()
    made = api.post("/keys", json={"name": "backend", "scopes": ["messages:send"], "devices": ["farm1-*"]}).json()
    entries = {entry.name: entry.path for entry in NAVIGATION}
    further = {"message": f"/messages/{sent['id']}", "device": "/devices/861234567890123"}
    return entries | further | {"key": f"/keys/{made['id']}", "key-new": "/keys/new"}


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_picture_of_each_page_is_kept(
    browser: "Browser", gateway: GatewayProcess, paths: Mapping[str, str], key: str, language: str
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with opened(browser, gateway, language) as page:
        sign_in(page, gateway, key, "/about")
        for name, path in paths.items():
            page.goto(f"{gateway.url}/console{path}")
            for width in (NARROW, WIDE):
                page.set_viewport_size({"width": width, "height": 800})
                check_layout(page, language)
                page.screenshot(path=PICTURES / f"{name}-{language}-{width}.png", full_page=True)


@pytest.mark.parametrize("language", ["en", "fa"])
def test_the_pages_of_a_key_are_for_everybody(
    browser: "Browser", gateway: GatewayProcess, paths: Mapping[str, str], key: str, language: str
) -> None:
    with opened(browser, gateway, language, NARROW, excused=["422"]) as page:
        sign_in(page, gateway, key, paths["key"])
        page.locator("details.ask summary").last.click()
        faults = {"key": faults_for_people(page)}
        page.goto(f"{gateway.url}/console{paths['key-new']}")
        page.locator("#name").fill("reader")
        page.locator("main form button").click()
        page.locator("[role=alert]").wait_for()
        faults["key-new"] = faults_for_people(page)
        page.locator("input[name='scope:messages:read']").check()
        page.locator("main form button").click()
        page.locator("pre.secret").wait_for()
        page.emulate_media(color_scheme="dark")
        faults["key-made"] = faults_for_people(page)
        assert faults == {"key": [], "key-new": [], "key-made": []}


def test_every_page_is_small_the_first_time(
    browser: "Browser", gateway: GatewayProcess, paths: Mapping[str, str], key: str
) -> None:
    with opened(browser, gateway, "fa") as page:
        sign_in(page, gateway, key, "/about")
        cookies = page.context.storage_state()
    sizes: dict[str, float] = defaultdict(float)
    for name, path in paths.items():
        with chromium.page_of(browser, locale=LOCALES["fa"], storage_state=cookies) as page:
            loaded: list[float] = []
            session = page.context.new_cdp_session(page)
            session.send("Network.enable")
            session.on("Network.loadingFinished", partial(_note_size, loaded))
            page.goto(f"{gateway.url}/console{path}")
            assert urlsplit(page.url).path == f"/console{path}", "signed in"
            page.evaluate("document.fonts.ready.then(() => 0)")
            sizes[name] = sum(loaded)
    assert {name: size for name, size in sizes.items() if not 50_000 < size <= LARGEST} == {}


def _note_size(loaded: list[float], event: dict[str, Any]) -> None:
    loaded.append(event["encodedDataLength"])


def test_what_is_wrong_with_a_page_is_found(browser: "Browser", gateway: GatewayProcess) -> None:
    with opened(browser, gateway) as page:
        page.goto(f"{gateway.url}/console/sign-in")
        page.evaluate("""() => {
          document.documentElement.removeAttribute("lang");
          document.querySelector("label").remove();
          document.querySelector("h1").style.color = "#ccc";
        }""")
        found = " ".join(faults_for_people(page))
        assert [rule for rule in ("html-has-lang", "label:", "color-contrast") if rule not in found] == []
