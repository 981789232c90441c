"""`/docs` in Chromium: who opens it can log in, and what is tried out there does what it says."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from support import chromium, proxies
from support.builtin import BuiltinBroker
from support.certificates import Certificates
from support.gateway import GatewayProcess, find_command
from support.ports import LOOPBACK
from support.proxies import Proxy

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Response


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    if reason := chromium.missing():
        pytest.skip(reason)
    with chromium.launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    env = BuiltinBroker().settings_env | {"CHAPAR_TRUSTED_PROXIES": LOOPBACK}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), env) as gateway:
        yield gateway


def operation(page: "Page", method: str, path: str) -> "Locator":
    """An operation, opened to be tried out."""
    block = page.locator(f".opblock-{method}", has=page.locator(f'[data-path="{path}"]'))
    block.locator(".opblock-summary").click()
    block.get_by_role("button", name="Try it out").click()
    return block


def executed(page: "Page", block: "Locator") -> "Response":
    """Press Execute; gives the answer that the browser got."""
    with page.expect_response(lambda answer: answer.request.resource_type == "fetch") as answered:
        block.get_by_role("button", name="Execute").click()
    return answered.value


def rows(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{url}/reporting/all").json()
    return found


def test_without_internet_it_shows_every_operation(browser: "Browser", gateway: GatewayProcess) -> None:
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    with chromium.page_of(browser) as page:
        page.goto(f"{gateway.url}/docs")
        page.locator(".opblock").first.wait_for()
        shown = page.content()
    assert set(re.findall(r'data-path="([^"]+)"', shown)) == set(document["paths"])
    for methods in document["paths"].values():
        for each in methods.values():
            assert each["summary"] in shown
    assert "Failed to load" not in shown


def test_what_is_executed_twice_is_sent_twice(browser: "Browser", gateway: GatewayProcess) -> None:
    before = len(rows(gateway.url))
    with chromium.page_of(browser) as page:
        page.goto(f"{gateway.url}/docs")
        send = operation(page, "post", "/messaging/send")
        for name in ("Idempotency-Key", "Prefer"):
            assert send.locator(f'tr[data-param-name="{name}"] input').input_value() == ""
        answers = [executed(page, send).json() for _ in range(2)]
        body = json.loads(send.locator("textarea").input_value())
        send.locator("textarea").fill(json.dumps(body | {"micro_op": "edited"}))
        answers.append(executed(page, send).json())
    assert len({answer["id"] for answer in answers}) == 3
    assert [row["micro_op"] for row in rows(gateway.url)[before:]] == ["push_down", "push_down", "edited"]


def test_below_a_path_of_a_proxy_it_sends_there(
    browser: "Browser", gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not proxies.installed("nginx"):
        pytest.skip("nginx is not installed")
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    with (
        Proxy("nginx", gateway.port, certificates) as proxy,
        chromium.page_of(browser, ignore_https_errors=True) as page,
    ):
        url = f"https://localhost:{proxy.port}/chapar"
        page.goto(f"{url}/docs")
        answer = executed(page, operation(page, "post", "/messaging/send"))
        assert (answer.status, answer.url) == (201, f"{url}/messaging/send")
        assert answer.headers["location"] == f"/chapar/messaging/messages/{answer.json()['id']}"


def test_where_a_key_is_needed_it_asks_for_a_password_until_it_is_right(
    browser: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("closed")
    command = [find_command(), "keys", "create", "--name=me", "--scope=messages:send", "--scope=messages:read"]
    key = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with (
        GatewayProcess(folder, BuiltinBroker().settings_env) as gateway,
        chromium.page_of(browser) as page,
        chromium.asked_for_passwords(page, ["wrong", key[:-1], key]) as asked,
    ):
        page.goto(f"{gateway.url}/docs")
        page.locator(".opblock").first.wait_for()
        assert asked == [f"{gateway.url}/docs"] * 3
        assert executed(page, operation(page, "get", "/messaging/messages")).status == 200
        send = operation(page, "post", "/messaging/send")
        assert executed(page, send).status == 401, "a password is taken to read only"
        for token, status in (("wrong", 401), (key, 201)):
            authorize(page, token)
            assert executed(page, send).status == status
        assert len(asked) == 3, "it asks for no password again"


def authorize(page: "Page", token: str) -> None:
    """Fill in the page's own form for a key, in place of what stands there."""
    page.locator(".btn.authorize").click()
    form = page.locator(".auth-container")
    form.locator("button.btn-done").wait_for()
    if (logout := form.get_by_text("Logout")).count():
        logout.click()
    form.locator("input").fill(token)
    form.locator("button.authorize").first.click()
    page.locator(".modal-ux .close-modal").click()
