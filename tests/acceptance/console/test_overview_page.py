"""The overview in Chromium, in both languages."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.console import NARROW, WIDE, check_layout, faults_for_people, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_it_is_the_first_page_and_shows_what_was_sent_and_what_waits(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    for deliver in ("now", "on_contact"):
        sent = api.post(
            "/messaging/send", json={"imei": "seen", "micro_op": "open", "deliver": deliver, "wait": "none"}
        )
        assert sent.is_success
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key)
        page.wait_for_url("**/overview")
        page.locator(".chart canvas").wait_for()
        check_layout(page, language)
        assert page.locator("dl .status.succeeded").count() == 3
        oldest = page.locator("dl dd", has=page.locator("a[href*='/messages/0']"))
        assert "seen" in oldest.inner_text()
        page.locator("dl a[href$='status=queued']").click()
        page.get_by_text("seen", exact=True).first.wait_for()


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_it_counts_failures_by_reason_and_devices_by_presence_and_leads_to_them(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    asked = {"imei": "never-met", "micro_op": "open", "only_if_online": True}
    assert api.post("/messaging/send", json=asked).status_code == 406
    assert api.put("/devices/registered", json={}).is_success
    unknown = len(api.get("/devices", params={"presence": "unknown"}).json()["devices"])
    reason, words = {
        "en": ("whether the device is online was not known", f"unknown: {unknown}"),
        "fa": ("معلوم نبود دستگاه آنلاین است یا نه", f"نامعلوم: {'۰۱۲۳۴۵۶۷۸۹'[unknown]}"),
    }[language]
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/overview")
        check_layout(page, language)
        assert faults_for_people(page) == []
        page.get_by_text(words, exact=True).click()
        page.wait_for_url("**/devices?presence=unknown")
        page.get_by_text("registered", exact=True).wait_for()
        page.goto(f"{gateway.url}/console/overview")
        page.locator("tr", has_text=reason).locator("a").click()
        page.wait_for_url("**/messages?status=rejected")
        page.get_by_text("never-met", exact=True).first.wait_for()


def test_replies_are_counted_as_they_come_beside_what_was_sent(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, broker: BuiltinBroker
) -> None:
    with broker.device("answering") as device, opened(browser, gateway, "fa", NARROW) as page:
        device.on_heard = lambda _: device.reply("open ok")
        sign_in(page, gateway, key, "/overview")
        assert page.locator(".legend .line").count() == 2
        assert "از این زمان شمرده" in page.locator("main").inner_text(), "this gateway has not run for an hour"
        page.evaluate("window.isTheSame = true")
        asked = {"imei": "answering", "micro_op": "open", "wait": "device"}
        assert api.post("/messaging/send", json=asked).json()["status"] == "succeeded"
        counts = page.locator(".chart[data-answered$=', 1]'], .chart[data-answered$=', 1, 0]']")
        counts.wait_for()
        assert "null" in (counts.get_attribute("data-answered") or "")
        page.locator(".chart canvas").wait_for()
        assert page.evaluate("window.isTheSame") is True
        check_layout(page, "fa")
        made = api.post("/keys", json={"name": "narrow", "scopes": ["messages:read"], "devices": ["farm1-*"]}).json()
    with opened(browser, gateway) as page:
        sign_in(page, gateway, made["key"], "/overview")
        assert page.locator(".chart:not([data-answered])").count() == page.locator(".legend .line").count() == 1


def test_devices_are_counted_for_who_may_see_them(
    browser: "Browser", gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]]
) -> None:
    for scopes, links in ((("messages:read",), 0), (("messages:read", "devices:read"), 3)):
        with opened(browser, gateway) as page:
            sign_in(page, gateway, new_key(*scopes)[1], "/overview")
            assert page.locator("dl a[href*='presence=']").count() == links
