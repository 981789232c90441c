"""The page of one device in Chromium, in both languages."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.console import NARROW, WIDE, check_layout, opened, sign_in
from support.devices import Device, Heard
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '<img src=x onerror="alert(1)"> {{ 7 * 7 }} \u202eevil\u202c سلام'
LONG = "w" * 300


@pytest.fixture(scope="module")
def pump(gateway: GatewayProcess, broker: BuiltinBroker) -> Iterator[Device]:
    """A device that answers `push_down`, with something hostile beside its word."""

    def answer(heard: Heard) -> None:
        if heard.payload.startswith(b"push_down"):
            device.reply(f"push_down ok {HOSTILE} {LONG}")

    assert gateway.url
    with broker.device("pump") as device:
        device.on_heard = answer
        yield device


@pytest.fixture(scope="module")
def story(api: httpx.Client, pump: Device) -> None:
    """A message that the device answered, one that waits, a reply to nothing, and a presence."""
    labels = {"farm": "1", "<b>": HOSTILE.replace("\u202e", "").replace("\u202c", "")}
    assert api.put("/devices/pump", json={"name": "پمپ شمالی", "labels": labels}).is_success
    sent = api.post("/messaging/send", json={"imei": "pump", "micro_op": "push_down", "wait": "device"}).json()
    assert sent["status"] == "succeeded"
    send_later(api, "pump")
    pump.reply("nobody asked")
    pump.publish("devices/pump/presence", "online")


def send_later(api: httpx.Client, imei: str, operation: str = "open") -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    later = {"imei": imei, "micro_op": operation, "deliver_at": tomorrow, "wait": "none"}
    assert api.post("/messaging/send", json=later).status_code == 202


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.usefixtures("story")
def test_a_device_shows_presence_queue_and_story(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str, width: int
) -> None:
    unmatched = "A reply that belongs to no message" if language == "en" else "پاسخی که به پیامی تعلق ندارد"
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/devices?q=pump")
        page.get_by_text("pump", exact=True).click()
        page.wait_for_url("**/devices/pump")
        page.get_by_text("online" if language == "en" else "آنلاین", exact=True).first.wait_for()
        page.get_by_text(unmatched).wait_for()
        check_layout(page, language)
        assert page.locator("h1").inner_text().startswith("Device" if language == "en" else "دستگاه")
        assert "پمپ شمالی" in page.locator("dl.facts").inner_text()
        waiting = page.locator("tbody tr")
        assert waiting.count() == 1
        assert "open" in waiting.inner_text()
        assert waiting.locator("time").count() >= 2, "accepted, and not sent before"
        steps = page.locator("ol.timeline li")
        assert steps.count() == 6
        times = [steps.nth(n).locator("time").first.get_attribute("datetime") or "" for n in range(6)]
        assert times == sorted(times, reverse=True)
        page.locator(".actions a").first.click()
        page.wait_for_url("**/send?imei=pump")
        assert page.locator("#imei").input_value() == "pump"


@pytest.mark.usefixtures("story")
def test_what_a_device_says_is_text_and_all_of_it_can_be_seen(
    browser: "Browser", gateway: GatewayProcess, key: str
) -> None:
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/devices/pump")
        assert page.locator("main img").count() == page.locator("main b").count() == 0
        reply = page.locator("ol.timeline details").first
        assert "\\u202eevil" in (reply.text_content() or "")
        whole = reply.get_by_text(LONG)
        assert not whole.is_visible()
        reply.locator("summary").focus()
        page.keyboard.press("Enter")
        whole.wait_for()
        check_layout(page, "fa")


def open_form(page: "Page", gateway: GatewayProcess, imei: str) -> None:
    page.goto(f"{gateway.url}/console/devices/{imei}")
    page.locator(".change summary").focus()
    page.keyboard.press("Enter")


def save(page: "Page") -> None:
    with page.expect_navigation():
        page.locator(".change form button").click()


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_device_is_registered_described_emptied_and_forgotten(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str
) -> None:
    with opened(browser, gateway, language, NARROW, excused=["404", "422"]) as page:
        sign_in(page, gateway, key, "/devices")
        page.locator(".change summary").click()
        page.locator("#imei").fill(f"new-{language}-۲")
        page.locator(".change form button").click()
        imei = f"new-{language}-2"
        page.wait_for_url(f"**/devices/{imei}?done=registered")
        check_layout(page, language)
        page.locator("#name").fill("پمپ ۲")
        page.locator("#profile").select_option("chapar")
        page.locator("#labels").fill("farm: 1\nno colon")
        save(page)
        assert page.locator("[role=alert]").inner_text()
        assert page.locator("#labels").input_value() == "farm: 1\nno colon", "what was typed is not lost"
        page.locator("#labels").fill("farm: 1\nجای: شمال")
        save(page)
        page.wait_for_url("**done=described")
        known = api.get(f"/devices/{imei}").json()
        assert (known["name"], known["profile"]) == ("پمپ ۲", "chapar")
        assert known["labels"] == {"farm": "1", "جای": "شمال"}
        for operation in ("open", "close"):
            send_later(api, imei, operation)
        page.reload()
        assert page.locator("tbody tr").count() == 2
        purge, forget = page.locator(".ask").nth(1), page.locator(".ask").nth(2)
        assert not purge.locator("button").is_visible(), "it asks first"
        purge.locator("summary").click()
        purge.locator("button").click()
        page.wait_for_url("**done=purged&count=2")
        assert ("2" if language == "en" else "۲") in page.locator(".notice[role=status]").last.inner_text()
        assert page.locator("tbody tr").count() == 0
        assert api.get(f"/devices/{imei}").json()["queue"]["depth"] == 0
        forget.locator("summary").click()
        forget.locator("button").click()
        page.wait_for_url("**/devices?done=forgotten")
        check_layout(page, language)
        assert api.get(f"/devices/{imei}").status_code == 404
        page.goto(f"{gateway.url}/console/devices/{imei}")
        assert imei in page.locator("[role=alert]").inner_text()


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_queue_is_paused_and_resumed_and_every_page_says_so(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str
) -> None:
    imei, note = f"valve-{language}", "شیر باز است <b>"
    assert api.put(f"/devices/{imei}", json={}).is_success
    with opened(browser, gateway, language, NARROW) as page, opened(browser, gateway, language) as other:
        for each in (page, other):
            sign_in(each, gateway, key)
            each.goto(f"{gateway.url}/console/devices/{imei}")
        pause = page.locator(".ask").first
        assert not pause.locator("button").is_visible(), "it asks first"
        pause.locator("summary").click()
        pause.locator("#reason").fill(note)
        check_layout(page, language)
        pause.locator("button").click()
        page.wait_for_url("**done=paused&count=0")
        assert note in page.locator(".notice.paused").inner_text()
        check_layout(page, language)
        other.locator(".notice.paused", has_text=note).wait_for()
        sent = api.post("/messaging/send", json={"imei": imei, "micro_op": "open"}).json()
        assert (sent["status"], sent["reason"]) == ("queued", "paused")
        page.locator("tbody .reason[title=paused]").wait_for()
        page.goto(f"{gateway.url}/console/messages/{sent['id']}")
        assert "شیر باز است" in page.locator("main").inner_text(), "the sentence names it"
        page.goto(f"{gateway.url}/console/devices?q={imei}")
        assert page.locator("tbody .note").count() == 1
        check_layout(page, language)
        page.goto(f"{gateway.url}/console/devices/{imei}")
        resume = page.locator(".ask").first
        resume.locator("summary").click()
        resume.locator("button").click()
        page.wait_for_url("**done=resumed**")
        assert page.locator(".notice.paused").count() == 0
        assert api.get(f"/devices/{imei}").json()["queue"]["paused"] is None


def test_nobody_s_description_is_lost_to_somebody_else_s(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    assert api.put("/devices/shared", json={"name": "first"}).is_success
    with opened(browser, gateway, "en", excused=["409"]) as page:
        sign_in(page, gateway, key)
        open_form(page, gateway, "shared")
        page.locator("#name").fill("mine")
        assert api.put("/devices/shared", json={"name": "theirs", "labels": {"a": "b"}}).is_success
        save(page)
        assert "somebody else" in page.locator("[role=alert]").inner_text()
        assert "theirs" in page.locator("dl.facts").inner_text()
        assert api.get("/devices/shared").json()["name"] == "theirs"
        save(page)
        page.wait_for_url("**done=described")
        assert api.get("/devices/shared").json()["name"] == "mine"


def test_an_open_page_says_when_its_device_was_forgotten(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    assert api.put("/devices/leaving", json={}).is_success
    with opened(browser, gateway, "en", excused=["401", "404", "htmx"]) as page:
        sign_in(page, gateway, key)
        page.goto(f"{gateway.url}/console/devices/leaving")
        assert api.delete("/devices/leaving").status_code == 204
        page.locator("[role=alert]", has_text="leaving").wait_for()


@pytest.mark.usefixtures("story")
def test_what_a_key_may_not_do_is_neither_shown_nor_done(
    browser: "Browser", gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]]
) -> None:
    with opened(browser, gateway, "en", excused=["403"]) as page:
        sign_in(page, gateway, new_key("devices:read")[1])
        page.goto(f"{gateway.url}/console/devices/pump")
        assert page.locator("dl.facts").count() == 1
        assert page.locator("main form").count() == page.locator(".actions a").count() == 0
        assert page.locator("ol.timeline").count() == page.locator("tbody").count() == 0
        token = page.locator("input[name=token]").get_attribute("value") or ""
        for path in ("", "/pump", "/pump/pause", "/pump/resume", "/pump/purge", "/pump/forget"):
            address = f"{gateway.url}/console/devices{path}"
            headers = {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
            answer = page.request.post(address, form={"token": token, "imei": "x"}, headers=headers)
            assert (answer.status, "devices:write" in answer.text()) == (403, True), path


def test_a_long_reply_is_shown_in_part_and_leads_to_its_message(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, broker: BuiltinBroker
) -> None:
    with broker.device("meter") as meter:
        meter.on_heard = lambda heard: meter.reply(
            json.dumps({"id": json.loads(heard.payload)["id"], "status": "ok", "result": "9" * 5000})
        )
        assert api.put("/devices/meter", json={}).is_success
        asked = {"imei": "meter", "micro_op": "read", "params": {"all": True}, "wait": "device"}
        sent = api.post("/messaging/send", json=asked).json()
        assert sent["status"] == "succeeded"
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key)
        page.goto(f"{gateway.url}/console/devices/meter")
        check_layout(page, "fa")
        assert 900 < len(page.locator("ol.timeline details > bdi").text_content() or "") < 1100
        page.locator("ol.timeline").get_by_text("همهٔ پاسخ").click()
        page.wait_for_url(f"**/messages/{sent['id']}")
        page.locator("dl.facts").get_by_text("meter", exact=True).click()
        page.wait_for_url("**/devices/meter")
        page.goto(f"{gateway.url}/console/messages?imei=meter")
        assert page.locator("tbody td a", has_text="meter").get_attribute("href") == "/console/devices/meter"


def test_devices_out_of_reach_are_not_there(browser: "Browser", gateway: GatewayProcess, api: httpx.Client) -> None:
    for imei in ("farm1-a", "farm2-a"):
        assert api.put(f"/devices/{imei}", json={}).is_success
    scopes = ["devices:read", "devices:write", "messages:read"]
    narrow = api.post("/keys", json={"name": "narrow", "scopes": scopes, "devices": ["farm1-*"]}).json()["key"]
    with opened(browser, gateway, "en", excused=["404"]) as page:
        sign_in(page, gateway, narrow)
        page.goto(f"{gateway.url}/console/devices")
        assert page.locator("tbody tr").count() == 1
        token = page.locator("input[name=token]").first.get_attribute("value") or ""
        headers = {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
        for path in ("", "/farm2-a", "/farm2-a/pause", "/farm2-a/resume", "/farm2-a/purge", "/farm2-a/forget"):
            address = f"{gateway.url}/console/devices{path}"
            form = {"token": token, "imei": "farm2-a"}
            assert page.request.post(address, form=form, headers=headers).status == 404, path
        page.goto(f"{gateway.url}/console/devices/farm2-a")
        assert "farm2-a" in page.locator("[role=alert]").inner_text()
    assert api.get("/devices/farm2-a").is_success
