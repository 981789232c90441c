"""The list of messages in Chromium, in both languages."""

from typing import TYPE_CHECKING

import httpx
import pytest

from support import console
from support.console import NARROW, WIDE, check_layout, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = '<img src=x onerror="alert(1)"> {{ 7 * 7 }} \u202eevil\u202c \u06f1\u06f2\u06f3 سلام'


@pytest.fixture(scope="module")
def sent(api: httpx.Client) -> list[str]:
    """The ids of 55 messages, the first of them hostile."""
    ids = [api.post("/messaging/send", json={"imei": "hostile", "micro_op": HOSTILE[:60], "params": {"x": HOSTILE}})]
    ids += [api.post("/messaging/send", json={"imei": f"D{n:02}", "micro_op": "push_down"}) for n in range(54)]
    return [answer.json()["id"] for answer in ids]


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.usefixtures("sent")
def test_who_signs_in_sees_the_messages_and_nothing_leaves_for_elsewhere(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str, width: int
) -> None:
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/messages")
        check_layout(page, language)
        assert page.locator("tbody tr").count() == 50
        page.locator("a[rel=next]").click()
        page.get_by_text("hostile", exact=True).wait_for()
        assert page.locator("tbody tr").count() == 5
        check_layout(page, language)
        time = page.locator("tbody time").first
        year = time.inner_text()[:4] if language == "fa" else time.inner_text()[6:10]
        assert year.startswith("۱۴" if language == "fa" else "20")
        assert (time.get_attribute("title") or "").startswith("20"), "Gregorian on hover"


@pytest.mark.usefixtures("sent")
def test_what_a_device_or_a_caller_writes_is_text(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    with opened(browser, gateway, "fa") as page:
        sign_in(page, gateway, key, "/messages?imei=hostile")
        shown = page.locator("tbody td").nth(2)
        assert '<img src=x onerror="alert(1)"> {{ 7 * 7 }} \\u202eevil' in (shown.text_content() or "")
        assert page.locator("tbody img").count() == 0


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.usefixtures("sent")
def test_messages_are_found_by_what_people_type(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str
) -> None:
    with opened(browser, gateway, language, excused=["422"]) as page:
        sign_in(page, gateway, key, "/messages")
        page.locator("#imei").fill("D۰۷")
        page.locator("#since").fill("۱۴۰۴/۰۱/۰۱" if language == "fa" else "2025-03-21")
        page.locator(".filters button").click()
        page.wait_for_url("**imei=*")
        assert page.locator("tbody tr").count() == 1
        page.locator("#until").fill("2025-04-01")
        page.locator(".filters button").click()
        page.locator("main .none").wait_for()
        page.locator("#until").fill("yesterday")
        page.locator(".filters button").click()
        assert "14:05" in page.locator("[role=alert]").inner_text()
        assert page.locator("#until").input_value() == "yesterday"


def test_the_list_is_live_and_says_when_the_gateway_is_away(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    with opened(browser, gateway, "en", excused=["Failed to load", "htmx", "ERR_"]) as page:
        sign_in(page, gateway, key, "/messages?imei=late")
        assert page.locator("tbody tr").count() == 0
        with page.expect_response("**/console/messages?imei=late"):  # as the stream asks for, or at least every 5 s
            assert api.post("/messaging/send", json={"imei": "late", "micro_op": "open"}).is_success
        page.locator("tbody tr").wait_for()
        gateway.terminate()
        page.locator("#away").wait_for(state="visible")
        gateway.start()
        page.locator("#away").wait_for(state="hidden")


@pytest.mark.usefixtures("sent")
def test_the_language_is_chosen_by_a_link_and_kept(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    with opened(browser, gateway, "en") as page:
        sign_in(page, gateway, key, "/messages?imei=D01")
        page.get_by_text("فارسی").click()
        page.wait_for_url("**lang=fa*")
        check_layout(page, "fa")
        page.goto(f"{gateway.url}/console/messages")
        check_layout(page, "fa")
        assert page.locator("#imei").input_value() == ""
        assert console.LOCALES["en"] == page.evaluate("navigator.language")


@pytest.mark.usefixtures("sent")
def test_the_first_page_is_small(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/messages")
    with opened(browser, gateway, "fa", NARROW) as page:
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        sizes: list[float] = []
        session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        sign_in(page, gateway, key, "/messages")
        page.wait_for_load_state("networkidle")
        assert sum(sizes) <= 150_000


@pytest.mark.usefixtures("sent")
def test_what_is_shown_is_saved_as_a_file_that_a_spreadsheet_opens(
    browser: "Browser", gateway: GatewayProcess, key: str
) -> None:
    with opened(browser, gateway, "fa") as page:
        sign_in(page, gateway, key, "/messages?imei=D07")
        with page.expect_download() as download:
            page.locator("a[download]").click()
        assert download.value.suggested_filename.startswith("chapar-messages-")
        rows = download.value.path().read_text("utf-8-sig").splitlines()
        assert [row.split(",")[1] for row in rows] == ['"imei"', '"D07"']
