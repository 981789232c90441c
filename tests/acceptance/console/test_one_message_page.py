"""Sending in the console, and the page of one message, in both languages."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from support.console import NARROW, WIDE, check_layout, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOKEN = re.compile('name="token" value="([0-9a-f]{64})"')
KEY = re.compile('name="key" value="([^"]+)"')


@pytest.fixture
def visitor(gateway: GatewayProcess, key: str) -> Iterator[httpx.Client]:
    """Somebody who has signed in without a browser."""
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        enter(client, key)
        yield client


def enter(client: httpx.Client, key: str) -> None:
    page = client.get("/console/sign-in")
    client.post("/console/sign-in", data={"token": found(TOKEN, page), "key": key})


def found(pattern: re.Pattern[str], page: httpx.Response) -> str:
    match = pattern.search(page.text)
    assert match, page.text
    return match[1]


def messages_of(api: httpx.Client, imei: str) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = api.get("/messaging/messages", params={"imei": imei}).json()["messages"]
    return messages


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_an_operation_is_sent_once_however_often_the_button_is_tapped(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    imei = f"tap-{language}-{width}"
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/send")
        check_layout(page, language)
        page.locator("details summary").first.click()
        check_layout(page, language)
        page.locator("#imei").fill(imei.replace("360", "۳۶۰"))
        page.locator("#micro_op").fill("باز کن" if language == "fa" else "open")
        page.locator("#params").fill('{"liters": 12}')
        page.locator("#expires_in").fill("۱۰")
        page.locator("main form button").first.dblclick()
        page.wait_for_url("**/messages/*")
        page.locator(".timeline li").nth(1).wait_for()
        check_layout(page, language)
        assert '{"liters":12}' in page.locator("dl").inner_text()
    [message] = messages_of(api, imei)
    assert message["params"] == {"liters": 12}
    assert message["expires_at"] is not None


def test_a_form_that_comes_again_leads_to_the_same_message(visitor: httpx.Client, api: httpx.Client) -> None:
    page = visitor.get("/console/send?imei=twice")
    form = {"token": found(TOKEN, page), "key": found(KEY, page), "imei": "twice", "micro_op": "open", "queue": "on"}
    places = {visitor.post("/console/send", data=form).headers["location"] for _ in range(3)}
    assert len(places) == len(messages_of(api, "twice")) == 1
    other = visitor.post("/console/send", data=form | {"micro_op": "close"})
    assert (other.status_code, found(KEY, other) == form["key"]) == (422, False)


def test_a_list_of_devices_gets_a_message_each(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/send")
        page.locator("#imei").fill("list-1، list-2\nlist-3 list-1")
        page.locator("#micro_op").fill("open")
        page.locator("main form button").first.click()
        page.locator("tbody tr").nth(2).wait_for()
        check_layout(page, "fa")
        assert page.locator("tbody tr").count() == 3
    assert [len(messages_of(api, f"list-{n}")) for n in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"params": "[1]"},
        {"params": '{"a": 1, "a": 2}'},
        {"params": "{"},
        {"imei": "a/b"},
        {"expires_in": "soon"},
        {"reply_within": "100", "reply_within_unit": "days"},
        {"deliver_at": "tomorrow"},
        {"micro_op": " "},
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_said_and_what_was_typed_stays(
    visitor: httpx.Client, wrong: dict[str, str], language: str
) -> None:
    page = visitor.get("/console/send", headers={"Accept-Language": language})
    form = {"token": found(TOKEN, page), "key": found(KEY, page), "imei": "wrong", "micro_op": "open", **wrong}
    answer = visitor.post("/console/send", data=form, headers={"Accept-Language": language})
    assert answer.status_code == 422
    [problem] = re.findall('role="alert">(.*?)</p>', answer.text)
    assert bool(re.search("[\u0600-\u06ff]", problem)) == (language == "fa")
    [typed] = [value for name, value in wrong.items() if not name.endswith("_unit")]
    assert typed.strip().replace('"', "&#34;") in answer.text


@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_waits_is_withdrawn_once_it_is_confirmed(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str
) -> None:
    sent = api.post("/messaging/send", json={"imei": "waits", "micro_op": "open", "deliver": "on_contact"}).json()
    with opened(browser, gateway, language, NARROW) as page:
        sign_in(page, gateway, key, f"/messages/{sent['id']}")
        check_layout(page, language)
        headers = {"Accept-Language": language}
        why = api.get(f"/messaging/messages/{sent['id']}/explain", headers=headers).json()
        shown = re.sub("[\u2066\u2069]", "", page.locator(".why").inner_text())
        assert why["sentence"].split(".")[0] in shown
        expiry = page.locator(".why time").last
        assert expiry.get_attribute("datetime") == why["facts"]["expires_at"], "in the zone and calendar of the reader"
        assert expiry.inner_text() == page.locator(f"dl time[datetime='{why['facts']['expires_at']}']").inner_text()
        assert "UTC" not in shown
        page.locator(".ask summary").first.click()
        check_layout(page, language)
        page.locator(".ask[open] button").click()
        page.locator("#live > p .status.cancelled").wait_for()
        assert page.locator(".timeline .status.cancelled").count() == 1
    assert api.get(f"/messaging/messages/{sent['id']}").json()["status"] == "cancelled"


def test_a_page_follows_its_message_to_the_end(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    sent = api.post("/messaging/send", json={"imei": "followed", "micro_op": "open", "deliver": "on_contact"}).json()
    with opened(browser, gateway) as page:
        sign_in(page, gateway, key, f"/messages/{sent['id']}")
        page.locator("#live > p .status.queued").wait_for()
        api.post(f"/messaging/messages/{sent['id']}/cancel").raise_for_status()
        with page.expect_response(lambda answer: answer.status == 286):
            page.locator("#live > p .status.cancelled").wait_for()


def test_sending_again_makes_a_new_message_that_names_the_first(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    sent = api.post("/messaging/send", json={"imei": "again", "micro_op": "open"}).json()
    with opened(browser, gateway) as page:
        sign_in(page, gateway, key, f"/messages/{sent['id']}")
        page.locator(".ask summary").last.click()
        page.locator(".ask[open] button").dblclick()
        page.wait_for_url(lambda url: "/messages/" in url and sent["id"] not in url)
        page.locator(f'dl a[href$="{sent["id"]}"]').wait_for()
    assert len(messages_of(api, "again")) == 2


def test_what_is_gone_cannot_be_withdrawn_and_what_a_key_may_not_is_not_offered(
    gateway: GatewayProcess, visitor: httpx.Client, api: httpx.Client, new_key: Callable[..., tuple[str, str]]
) -> None:
    sent = api.post("/messaging/send", json={"imei": "gone", "micro_op": "open"}).json()
    page = visitor.get(f"/console/messages/{sent['id']}")
    token = found(TOKEN, page)
    assert "/cancel" not in page.text
    late = visitor.post(f"/console/messages/{sent['id']}/cancel", data={"token": token})
    assert (late.status_code, 'role="alert"' in late.text) == (409, True)
    assert visitor.get("/console/messages/0193b3f2-0000-7000-8000-000000000000").status_code == 404
    with httpx.Client(base_url=gateway.url, timeout=30.0) as clerk:
        enter(clerk, new_key("messages:read")[1])
        seen = clerk.get(f"/console/messages/{sent['id']}")
        assert seen.status_code == 200
        assert "/resend" not in seen.text
        assert 'href="/console/send"' not in seen.text
        again = clerk.post(f"/console/messages/{sent['id']}/resend", data={"token": found(TOKEN, seen), "key": "k"})
        assert (again.status_code, clerk.get("/console/send").status_code) == (403, 403)
    assert len(messages_of(api, "gone")) == 1
