"""The overview in Chromium, in both languages."""

from typing import TYPE_CHECKING

import httpx
import pytest

from support.console import NARROW, WIDE, check_layout, opened, sign_in
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
        page.locator("dl a[href$='status=queued']").click()
        page.get_by_text("seen", exact=True).first.wait_for()
