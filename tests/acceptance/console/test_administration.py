"""The audit trail, the keys and the page about the gateway in Chromium, in both languages."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.console import NARROW, WIDE, check_layout, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '<img src=x onerror="alert(1)"> {{ 7 * 7 }} سلام'
BOTH = pytest.mark.parametrize("language", ["en", "fa"])
WIDTHS = pytest.mark.parametrize("width", [NARROW, WIDE])


def make_key(page: "Page", gateway: GatewayProcess, name: str, *scopes: str) -> str:
    """Fill in the form of a new key; gives the key."""
    page.goto(f"{gateway.url}/console/keys/new")
    page.locator("#name").fill(name)
    for scope in scopes:
        page.locator(f"input[name='scope:{scope}']").check()
    page.locator("main form button").click()
    return page.locator("pre.secret").inner_text()


@BOTH
@WIDTHS
def test_a_key_is_made_shown_once_used_given_an_end_and_revoked(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str, width: int
) -> None:
    with opened(browser, gateway, language, width, excused=["422", "409"]) as page:
        sign_in(page, gateway, key, "/keys")
        check_layout(page, language)
        page.locator("a[href$='/keys/new']").click()
        page.locator("#name").fill(HOSTILE)
        page.locator("main form button").click()
        page.locator("[role=alert]").wait_for()
        assert page.locator("#name").input_value() == HOSTILE
        page.locator("input[name='scope:messages:read']").check()
        page.locator("#devices").fill("farm1-* farm2-*")
        check_layout(page, language)
        page.locator("main form button").click()
        secret = page.locator("pre.secret").inner_text()
        assert secret.startswith("chapar_")
        check_layout(page, language)
        with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {secret}"}) as client:
            assert client.get("/messaging/messages").status_code == 200
            page.reload()  # the form is sent again
            page.locator("[role=alert]").wait_for()
            page.goto(f"{gateway.url}/console/keys?name=onerror&state=valid")
            assert page.locator("tbody tr").count() == 1
            assert secret not in page.content()
            page.locator("tbody a").first.click()
            page.locator("dl.facts").first.wait_for()
            assert HOSTILE in page.locator("dl.facts").inner_text()
            assert "farm1-* farm2-*" in page.locator("dl.facts").inner_text()
            check_layout(page, language)
            page.locator("#expires_at").fill("۱۴۹۰/۰۱/۰۱" if language == "fa" else "2111-03-21")
            page.locator("form[action$=expire] button").first.click()
            page.locator("form[action$=expire] input[name=never]").wait_for(state="attached")
            page.locator("#expires_at").fill("2020-01-01")
            page.locator("form[action$=expire] button").first.click()
            page.locator("[role=alert]").wait_for()
            page.locator("details.ask summary").last.click()
            check_layout(page, language)
            page.locator("input[name=cancel_waiting]").check()
            page.locator("form[action$=revoke] button").click()
            page.locator("main [role=status]").wait_for()
            assert client.get("/messaging/messages").status_code == 401
            assert page.locator("form[action$=revoke]").count() == 0


@BOTH
@WIDTHS
def test_the_audit_trail_is_found_by_what_people_type_and_goes_on_page_after_page(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    device = f"audited-{language}-{width}"
    messages = [{"imei": device, "micro_op": f"{HOSTILE[:40]}{n}"} for n in range(55)]
    assert api.post("/messaging/bulk", json={"messages": messages}).is_success
    with opened(browser, gateway, language, width, excused=["422"]) as page:
        sign_in(page, gateway, key, "/audit")
        check_layout(page, language)
        page.locator("#imei").fill(device)
        page.locator("#action").select_option("message_sent")
        page.locator("#since").fill("۱۴۰۴/۰۱/۰۱" if language == "fa" else "2025-03-21")
        page.locator(".filters button").click()
        page.wait_for_url("**imei=*")
        assert page.locator("tbody tr").count() == 50
        assert page.locator("tbody img").count() == 0
        check_layout(page, language)
        page.locator("a[rel=next]").click()
        page.wait_for_url("**cursor=*")
        assert page.locator("tbody tr").count() == 5
        page.locator("#since").fill("yesterday")
        page.locator(".filters button").click()
        page.locator("[role=alert]").wait_for()
        assert page.locator("#since").input_value() == "yesterday"


@BOTH
@WIDTHS
def test_about_shows_settings_without_secrets_and_how_to_back_up(
    browser: "Browser", gateway: GatewayProcess, key: str, language: str, width: int
) -> None:
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/about")
        check_layout(page, language)
        assert "chapar backup" in page.locator("main").inner_text()
        row = page.locator("tr", has_text="CHAPAR_BROKER_URL")
        assert ("secret" in row.inner_text()) == (language == "en")
        page.locator("summary", has_text="htmx").click()
        check_layout(page, language)


def test_what_a_key_may_not_do_is_not_shown(
    browser: "Browser", gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]]
) -> None:
    _, clerk = new_key("messages:read")
    with opened(browser, gateway, excused=["403"]) as page:
        sign_in(page, gateway, clerk, "/about")
        assert page.locator("nav a[href$='/audit'], nav a[href$='/keys']").count() == 0
        assert "CHAPAR_" not in page.locator("table, main").first.inner_text().replace("CHAPAR_DATABASE_URL", "")
        for path in ("audit", "keys", "keys/new"):
            page.goto(f"{gateway.url}/console/{path}")
            page.locator("[role=alert]").wait_for()
    _, keeper = new_key("keys:write", "messages:read")
    with opened(browser, gateway, excused=["404"]) as page:
        sign_in(page, gateway, keeper, "/keys/new")
        offered = page.locator("input[type=checkbox]")
        assert [offered.nth(n).get_attribute("name") for n in range(offered.count())] == [
            "scope:messages:read",
            "scope:keys:write",
        ]
        page.goto(f"{gateway.url}/console/keys?state=valid")
        assert page.get_by_text("operator", exact=True).count() == 0, "a key with more rights"
        page.goto(f"{gateway.url}/console/keys/{'0' * 10}")
        page.locator("[role=alert]").wait_for()


def test_a_key_is_made_with_the_keyboard_alone(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    with opened(browser, gateway, "fa") as page:
        sign_in(page, gateway, key, "/keys/new")
        page.locator("#name").focus()
        page.keyboard.type("keyboard")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        assert page.locator("pre.secret").inner_text().startswith("chapar_")


def test_who_revokes_the_key_that_they_use_is_signed_out(
    browser: "Browser", gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]]
) -> None:
    key_id, secret = new_key("keys:write")
    with opened(browser, gateway) as page:
        sign_in(page, gateway, secret, f"/keys/{key_id}")
        page.locator("details.ask summary").last.click()
        assert page.locator("form[action$=revoke] strong").count() == 1
        page.locator("form[action$=revoke] button").click()
        page.locator("#key").wait_for()


def test_the_first_key_is_made_here_and_closes_the_door(
    browser: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        GatewayProcess(tmp_path_factory.mktemp("open"), BuiltinBroker().settings_env) as gateway,
        opened(browser, gateway) as page,
    ):
        secret = make_key(page, gateway, "me", "keys:write", "messages:read")
        page.locator("main .actions a").click()
        page.locator("#key").fill(secret)
        page.locator("main form button").click()
        page.locator("form[action$=sign-out]").wait_for()
        assert page.locator("tbody tr").count() == 1


def test_keys_go_on_page_after_page(browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client) -> None:
    for number in range(52):
        assert api.post("/keys", json={"name": f"many-{number:02}", "scopes": ["messages:read"]}).is_success
    with opened(browser, gateway) as page:
        sign_in(page, gateway, key, "/keys?name=MANY-")
        assert page.locator("tbody a").first.inner_text() == "many-51"
        assert page.locator("tbody tr").count() == 50
        page.locator("a[rel=next]").click()
        page.wait_for_url("**cursor=*")
        assert [page.locator("tbody a").nth(n).inner_text() for n in range(2)] == ["many-01", "many-00"]
        assert page.locator("a[rel=next]").count() == 0
