"""The list of devices in Chromium, in both languages."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.console import NARROW, WIDE, check_layout, opened, sign_in
from support.devices import Device
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = '<img src=x onerror="alert(1)"> {{ 7 * 7 }} سلام'
LONG = "<b>" + "w" * 125


@pytest.fixture(scope="module")
def known(api: httpx.Client) -> None:
    """52 devices: a hostile one, a pump for which something waits, and 50 that were only registered."""
    described = {"a-hostile": {"name": HOSTILE, "labels": {"<i>": LONG, "kind": HOSTILE}}}
    described["pump"] = {"name": "پمپ شمالی ۲", "labels": {"farm": "1", "kind": "pump"}, "profile": "chapar"}
    described |= {f"D{n:02}": {"labels": {"farm": str(n % 2)}} for n in range(50)}
    for imei, fields in described.items():
        assert api.put(f"/devices/{imei}", json=fields).status_code == 201
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    later = {"imei": "pump", "micro_op": "open", "deliver_at": tomorrow, "wait": "none"}
    assert api.post("/messaging/send", json=later).status_code == 202


@pytest.fixture(scope="module")
def pump(gateway: GatewayProcess, broker: BuiltinBroker) -> Iterator[Device]:
    assert gateway.url
    with broker.device("pump") as device:
        yield device


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.usefixtures("known")
def test_all_devices_are_listed_page_after_page(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str, width: int
) -> None:
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/devices")
        check_layout(page, language)
        assert page.locator("nav a[aria-current]").inner_text() == ("Devices" if language == "en" else "دستگاه‌ها")
        assert page.locator("tbody tr").count() == 50
        page.locator("a[rel=next]").click()
        page.get_by_text("pump", exact=True).wait_for()
        assert page.locator("tbody tr").count() == 2
        check_layout(page, language)
        assert ("JSON envelope" if language == "en" else "بستهٔ JSON") in page.locator("tbody").inner_text()
        page.locator(".pager a:not([download])").click()
        page.get_by_text("D00", exact=True).wait_for()


@pytest.mark.usefixtures("known")
def test_what_is_said_of_a_device_is_text_and_all_of_it_can_be_seen(
    browser: "Browser", gateway: GatewayProcess, key: str
) -> None:
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/devices?q=hostile")
        assert page.locator("tbody tr").count() == 1
        assert page.locator("tbody img").count() == page.locator("tbody b").count() == 0
        name = page.locator("tbody td").nth(0).locator("details")
        assert name.locator("> bdi").text_content() == HOSTILE
        label = page.locator("tbody td").nth(3).locator("details").first
        whole = label.get_by_text(f"<i>:{LONG}", exact=True)
        assert not whole.is_visible()
        label.locator("summary").focus()
        page.keyboard.press("Enter")
        whole.wait_for()
        check_layout(page, "fa")
        whole.click()
        page.wait_for_url("**label=*")
        assert page.locator("tbody tr").count() == 1
        assert page.locator("#label-1").input_value() == f"<i>:{LONG}"


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.usefixtures("known")
def test_devices_are_found_by_what_people_type(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str
) -> None:
    with opened(browser, gateway, language, excused=["422"]) as page:
        sign_in(page, gateway, key, "/devices")

        def found(**fields: str) -> int:
            for name, value in fields.items():
                field = page.locator(f"#{name}")
                field.select_option(value) if name in {"presence", "profile"} else field.fill(value)
            with page.expect_navigation():
                page.locator(".filters button").click()
            return page.locator("tbody tr").count()

        assert found(q="d۰۷") == 1
        assert found(q="شمالی") == 1
        assert found(q="", label="farm:1") == 26
        assert found(label="kind:pump") == 1
        assert found(profile="chapar") == 1
        assert found(profile="text") == 0
        assert found(profile="", presence="offline") == 0
        assert page.locator("main .none").inner_text()
        assert [page.locator(f"#label-{n}").input_value() for n in (1, 2)] == ["farm:1", "kind:pump"]
        page.get_by_text("فارسی" if language == "en" else "English").click()
        page.wait_for_url("**lang=*")
        assert page.locator("#label-2").input_value() == "kind:pump", "the other language keeps the question"
        assert found(label="nothing", presence="") == 0
        assert ":1" in page.locator("[role=alert]").inner_text()


@pytest.mark.usefixtures("known")
def test_presence_and_queue_are_live(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, pump: Device
) -> None:
    with opened(browser, gateway, "en") as page:
        sign_in(page, gateway, key, "/devices?q=pump")
        row = page.locator("tbody tr")
        assert "unknown" in row.inner_text()
        pump.publish("devices/pump/presence", "online")
        row.get_by_text("online", exact=True).wait_for()
        assert "said by the device" in row.inner_text()
        presence = api.get("/devices/pump").json()["presence"]
        assert row.locator("td").nth(1).locator("time").get_attribute("datetime") == presence["since"]
        row.get_by_text("1 waits").click()
        page.wait_for_url("**/messages?imei=pump&status=waiting")
        assert page.locator("tbody tr").count() == 1


@pytest.mark.usefixtures("known")
def test_what_a_key_may_not_see_is_not_shown(
    browser: "Browser", gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]]
) -> None:
    with opened(browser, gateway, "en", excused=["403"]) as page:
        sign_in(page, gateway, new_key("messages:read")[1], "/messages")
        assert "Devices" not in page.locator("nav a").all_inner_texts()
        page.goto(f"{gateway.url}/console/devices")
        assert "devices:read" in page.locator("[role=alert]").inner_text()
    with opened(browser, gateway, "en") as page:
        sign_in(page, gateway, new_key("devices:read")[1])
        page.goto(f"{gateway.url}/console/devices?q=pump")
        assert page.locator("td", has_text="1 waits").locator("a").count() == 0
