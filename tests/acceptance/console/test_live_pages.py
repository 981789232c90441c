"""Open pages while others act: two browsers at once, and a gateway that dies under a page."""

from typing import TYPE_CHECKING

import httpx
import pytest

from support.console import opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


def mark(page: "Page") -> None:
    page.evaluate("window.isTheSame = true")


def is_the_same(page: "Page") -> bool:
    """Whether the page has not been loaded anew since it was marked."""
    return page.evaluate("window.isTheSame === true") is True


def test_what_one_of_two_browsers_sends_both_see_without_a_reload(
    browser: "Browser", gateway: GatewayProcess, key: str
) -> None:
    with opened(browser, gateway, "fa") as one, opened(browser, gateway, "en") as other:
        for page in (one, other):
            sign_in(page, gateway, key, "/messages?imei=shared")
            assert page.locator("tbody tr").count() == 0
            mark(page)
        form = other.context.new_page()
        form.goto(f"{gateway.url}/console/send?imei=shared")
        form.locator("#micro_op").fill("open")
        form.locator("main form button").first.click()
        form.wait_for_url("**/messages/*")
        sent = form.url.rpartition("/")[2].partition("?")[0]
        for page in (one, other):
            page.locator(f"tbody a[href$='/messages/{sent}']").wait_for()
            assert is_the_same(page)


def test_what_changes_between_a_page_and_its_stream_is_seen(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    def send_first(route: "Route") -> None:
        assert api.post("/messaging/send", json={"imei": "raced", "micro_op": "open"}).is_success
        route.continue_()

    with opened(browser, gateway) as page:
        sign_in(page, gateway, key, "/about")
        page.route("**/console/changes*", send_first, times=1)
        page.goto(f"{gateway.url}/console/messages?imei=raced")
        # By itself it asks again too late to count.
        page.evaluate("document.querySelector('[data-every]').dataset.every = '1000'")
        page.locator("tbody tr").wait_for()


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_page_whose_gateway_is_killed_says_so_and_catches_up_once_it_is_back(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str
) -> None:
    away = {"en": "The gateway does not answer.", "fa": "دروازه پاسخ نمی‌دهد."}[language]
    with opened(browser, gateway, language, excused=["Failed to load", "htmx", "ERR_"]) as page:
        sign_in(page, gateway, key, f"/messages?imei=killed-{language}")
        mark(page)
        notice = page.locator("#away")
        assert not notice.is_visible()
        gateway.kill()
        try:
            notice.wait_for(state="visible")
            assert away in notice.inner_text()
        finally:
            gateway.start()
        sent = httpx.post(
            f"{gateway.url}/messaging/send",
            json={"imei": f"killed-{language}", "micro_op": "open"},
            headers={"Authorization": f"Bearer {key}"},
            timeout=30.0,
        )
        assert sent.is_success
        page.locator(f"tbody a[href$='/messages/{sent.json()['id']}']").wait_for()
        notice.wait_for(state="hidden")
        assert is_the_same(page)
