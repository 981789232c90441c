"""Every page of the console, in both languages, on a phone and on a desk, by day and by night."""

from typing import TYPE_CHECKING

import httpx
import pytest

from chapar.web.console.navigation import NAVIGATION
from support import chromium
from support.console import LOCALES, NARROW, WIDE, check_layout, faults_for_people, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = '"><script>alert(1)</script>\u202e{{7*7}}'


@pytest.fixture(scope="module")
def paths(api: httpx.Client) -> list[str]:
    """The pages, on which all that a caller or a device may write is hostile."""
    sent = api.post(
        "/messaging/send",
        json={
            "imei": "hostile",
            "micro_op": HOSTILE.replace("\u202e", ""),
            "params": {HOSTILE: HOSTILE * 9},
            "collapse_key": HOSTILE.replace("\u202e", ""),
            "deliver": "on_contact",
        },
    )
    assert sent.is_success, sent.text
    named = api.put("/devices/hostile", json={"name": '"><b>x</b>{{7*7}}', "labels": {"<i>": "'\"><u>"}})
    assert named.is_success, named.text
    return [*(entry.path for entry in NAVIGATION), f"/messages/{sent.json()['id']}", "/devices/hostile", "/nowhere"]


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_it_has_its_direction_and_words_fits_and_is_for_everybody(
    browser: "Browser", gateway: GatewayProcess, key: str, paths: list[str], language: str, width: int
) -> None:
    broken: dict[str, list[str]] = {}
    with opened(browser, gateway, language, width, excused=["404"]) as page:
        page.goto(f"{gateway.url}/console/sign-in")
        check_layout(page, language)
        broken["/sign-in"] = faults_for_people(page)
        sign_in(page, gateway, key)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for path in paths:
                page.goto(f"{gateway.url}/console{path}")
                check_layout(page, language)
                broken[f"{path} {scheme}"] = faults_for_people(page)
                assert page.locator("main script, main b, main i, main u").count() == 0
    assert {path: faults for path, faults in broken.items() if faults} == {}


def test_the_pages_work_with_the_keyboard_alone(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    with opened(browser, gateway) as page:
        page.goto(f"{gateway.url}/console/messages")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("#key").focus()
        page.keyboard.type(key)
        page.keyboard.press("Enter")
        page.locator(".filters").wait_for()
        page.locator("nav a[href$='/send']").focus()
        page.keyboard.press("Enter")
        page.locator("#imei").focus()
        page.keyboard.type("keyboard")
        page.keyboard.press("Tab")  # to what several devices have in common
        page.keyboard.press("Tab")
        page.keyboard.type("open")
        page.keyboard.press("Enter")
        page.wait_for_url("**/messages/*")


def test_without_scripts_the_pages_still_work(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    with chromium.page_of(browser, locale=LOCALES["fa"], java_script_enabled=False) as page:
        page.goto(f"{gateway.url}/console/send")
        page.locator("#key").fill(key)
        page.locator("main form button").click()
        page.locator("#imei").fill("plain")
        page.locator("#micro_op").fill("open")
        page.locator("main form button").first.click()
        page.wait_for_url("**/messages/*")
        assert page.locator("time").first.inner_text().endswith("UTC")
