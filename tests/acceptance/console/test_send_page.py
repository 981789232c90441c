"""The form of an operation of the catalog, a dry run, and a question that is asked first."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.console import NARROW, PICTURES, WIDE, check_layout, faults_for_people, opened, sign_in
from support.gateway import GatewayProcess, find_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXAMPLE: Final = Path(__file__).parents[3] / "deploy" / "catalog.toml"
HOSTILE: Final = """
[operations."<b>&\\"'{{7*7}}"]
title = "</option><script>alert(1)</script>"
title_fa = "</۱>&{{7*7}}"
question = "<img src=x onerror=alert(1)>"
question_fa = "<۱>"
[operations."<b>&\\"'{{7*7}}".params.properties."\\"><i>"]
title_fa = "<۱>"
unit = "<u>"
unit_fa = "<۲>"
enum = ["</option>", "\\"><b>"]
names_fa = { "</option>" = "۱", "\\"><b>" = "۲" }
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, str]]:
    """A gateway with a catalog, and a key that may send and see devices."""
    folder = tmp_path_factory.mktemp("send")
    (folder / "catalog.toml").write_text(EXAMPLE.read_text() + HOSTILE)
    scopes = ["--scope=messages:send", "--scope=messages:read", "--scope=devices:read", "--scope=devices:write"]
    command = [find_command(), "keys", "create", "--name=operator", "--device=farm*", *scopes]
    key = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with GatewayProcess(folder, BuiltinBroker().settings_env | {"CHAPAR_CATALOG": "catalog.toml"}) as gateway:
        yield gateway, key


def messages(api: httpx.Client, **filters: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/messaging/messages", params=filters).json()["messages"]
    return found


def register(api: httpx.Client, label: str, *imeis: str) -> None:
    for imei in imeis:
        assert api.put(f"/devices/{imei}", json={"labels": {"row": label}}).is_success


def keep_picture(page: "Page", name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def submit(page: "Page", step: str | None = None) -> None:
    page.locator("main form[method=post] button" + ("[name=step]" if step else ":not([name=step])")).click()


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_an_operation_of_the_catalog_is_chosen_filled_in_and_sent_once(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    imei = f"farm1-{language}-{width}"
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, f"/send?imei={imei}")
        check_layout(page, language)
        page.locator("#choice").select_option(label="آبیاری" if language == "fa" else "Irrigate")
        page.locator("form[method=get] button").click()
        page.locator("h2").wait_for()
        check_layout(page, language)
        assert faults_for_people(page) == []
        page.emulate_media(color_scheme="dark")
        assert faults_for_people(page) == []
        page.emulate_media(color_scheme="light")
        keep_picture(page, f"send-irrigate-{language}-{width}")
        assert page.locator("#imei").input_value() == imei
        values = [page.locator(each).input_value() for each in ("#param-2", "#expires_in")]
        assert values == (["۲۰", "۱۰"] if language == "fa" else ["20", "10"])
        hint = page.locator("#param-2-hint").inner_text()
        assert ("از ۵ تا ۱۲۰. مضربی از ۵." if language == "fa" else "From 5 to 120. A multiple of 5.") in hint
        page.locator("#param-1").select_option(label="شمالی" if language == "fa" else "northern")
        page.locator("#param-2").fill("۴۵")
        page.locator("main form[method=post] button").first.dblclick()
        page.wait_for_url("**/messages/*")
    [message] = messages(api, imei=imei)
    assert message["params"] == {"valve": "north", "minutes": 45}


@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_breaks_a_rule_is_said_at_its_field_and_what_was_typed_stays(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str
) -> None:
    with opened(browser, gateway, language, NARROW, excused=["422"]) as page:
        sign_in(page, gateway, key, "/send?micro_op=irrigate&imei=farm1-wrong")
        page.locator("#param-1").select_option('"south"')
        for typed, rule in (("121", "حداکثر ۱۲۰" if language == "fa" else "at most 120"), ("ten", "")):
            page.locator("#param-2").fill(typed)
            submit(page)
            page.locator("[role=alert]").wait_for()
            check_layout(page, language)
            assert rule in page.locator("#param-2-hint .wrong").inner_text()
            assert page.locator("#param-2[aria-invalid=true]").input_value() == typed
            assert page.locator("#param-1").input_value() == '"south"'
        assert faults_for_people(page) == []
    assert messages(api, imei="farm1-wrong") == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_selector_shows_its_devices_first_and_sends_to_exactly_those(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    label = f"{language}{width}"
    devices = [f"farm1-{label}-{number}" for number in (1, 2)]
    register(api, label, *devices)
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, f"/devices?label=row:{label}")
        page.locator(".pager a[href*='/send']").click()
        page.locator("#choice").select_option("irrigate")
        page.locator("form[method=get] button").click()
        page.locator("#param-1").select_option(index=1)
        check_layout(page, language)
        assert page.locator("#labels").input_value() == f"row:{label}"
        submit(page)
        page.locator("table").wait_for()
        check_layout(page, language)
        assert faults_for_people(page) == []
        assert [text.split()[0] for text in page.locator("tbody td:first-child").all_inner_texts()] == devices
        keep_picture(page, f"send-first-{language}-{width}")
        facts = page.locator("dl.facts").inner_text()
        assert ("۲۰ دقیقه" if language == "fa" else "20 min") in facts
        assert ("۱۰ دقیقه" if language == "fa" else "10 minutes") in facts
        assert messages(api, micro_op="irrigate", imei=devices[0]) == []
        register(api, label, f"farm1-{label}-3")  # too late: it was not shown
        page.locator("main form[method=post] button").first.dblclick()
        page.get_by_text("۲ پیام پذیرفته شد" if language == "fa" else "2 messages were accepted").wait_for()
        assert page.locator("tbody tr").count() == 2
        page.reload()  # the browser posts again
        assert page.locator("tbody tr").count() == 2
    assert [len(messages(api, imei=f"farm1-{label}-{number}")) for number in (1, 2, 3)] == [1, 1, 0]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_the_catalog_asks_about_is_asked_before_it_is_sent(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str
) -> None:
    imei = f"farm1-asked-{language}"
    with opened(browser, gateway, language, NARROW) as page:
        sign_in(page, gateway, key, f"/send?micro_op=pump_on&imei={imei}")
        assert page.locator("#deliver").input_value() == "online"
        page.locator("#deliver").select_option("now")
        page.locator("#param-1").fill("۳۵٫۵")
        submit(page)
        question = "لولهٔ مکش پر از آب است؟" if language == "fa" else "Is the suction line full?"
        assert question in page.locator(".question").inner_text()
        check_layout(page, language)
        assert faults_for_people(page) == []
        assert messages(api, imei=imei) == []
        submit(page, "change")
        assert (page.locator("#imei").input_value(), page.locator("#param-1").input_value()) == (imei, "۳۵٫۵")
        page.locator("#param-1").fill("40")
        submit(page)
        page.locator(".question").wait_for()
        submit(page)
        page.wait_for_url("**/messages/*")
    [message] = messages(api, imei=imei)
    assert message["params"] == {"frequency": 40, "soft_start": True}


def test_a_dry_run_says_who_would_get_it_and_why_others_would_not(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    register(api, "dry", "farm1-dry")
    assert api.post("/devices/farm1-dry/queue/pause", json={}).is_success
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/send?micro_op=*")
        page.locator("#imei").fill("farm1-dry farm1-new forest-7")
        page.locator("#micro_op").fill("ping")
        page.locator("#deliver").select_option("online")
        submit(page, "try")
        rows = page.locator("tbody tr").all_inner_texts()
        check_layout(page, "fa")
        assert len(rows) == 3
        assert "اجازهٔ عملیات" in rows[0], "what is to be noted stands first"
        assert "آنلاین باشد" in rows[1]
        assert "متوقف" in rows[1]
        assert "ثبت نشده" in rows[2]
        assert page.locator("[name=to]").input_value() == "farm1-dry farm1-new"
    assert messages(api, micro_op="ping") == []


def test_of_very_many_devices_the_ids_are_shown(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    devices = [f"farm3-{number:04}" for number in range(1000)]
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/send?micro_op=stop")
        page.locator("#imei").fill("\n".join(devices))
        submit(page)
        page.locator("main details summary").click()
        check_layout(page, "fa")
        shown = page.locator("tbody td:first-child").all_inner_texts()
        assert [*shown, *page.locator("main details .code").inner_text().split()] == devices
        submit(page)
        page.get_by_text("۱٬۰۰۰ پیام پذیرفته شد").wait_for()
    assert len(api.get("/reporting/all", params={"micro_op": "stop"}).json()) == 1000


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"imei": "farm1-a", "labels": "row:1"}, "leave one of the two empty"),
        ({"labels": "row:nowhere"}, "none fits"),
        ({"labels": "row"}, "the name of a label"),
        ({"imei": ""}, "1 to 64 characters"),
    ],
)
def test_a_selection_that_cannot_be_is_said_and_sends_nothing(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, asked: dict[str, str], said: str
) -> None:
    with opened(browser, gateway, excused=["422"]) as page:
        sign_in(page, gateway, key, "/send?micro_op=stop&labels=x")
        for name in ("imei", "labels"):
            page.locator(f"#{name}").fill(asked.get(name, ""))
        submit(page)
        assert said in page.locator("[role=alert]").inner_text()
        assert page.locator("#labels").input_value() == asked.get("labels", "")
    assert messages(api, imei="farm1-a") == []


@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_a_catalog_says_is_text(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str
) -> None:
    name = "<b>&\"'{{7*7}}"
    with opened(browser, gateway, language, NARROW) as page:
        sign_in(page, gateway, key, "/send")
        page.locator("#choice").select_option(name)
        page.locator("form[method=get] button").click()
        page.locator("#imei").fill(f"farm1-text-{language}")
        page.locator("#param-1").select_option(index=2)
        for _ in range(2):
            check_layout(page, language)
            assert page.locator("main script, main b, main i, main u, main img").count() == 0
            submit(page)
        page.wait_for_url("**/messages/*")
    [message] = messages(api, imei=f"farm1-text-{language}")
    assert (message["micro_op"], message["params"]) == (name, {'"><i>': '"><b>'})


def test_without_scripts_it_works_as_well(browser: "Browser", gateway: GatewayProcess, key: str) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"{gateway.url}/console/send")
    page.locator("#key").fill(key)
    page.locator("main form button").click()
    page.locator("#choice").select_option("stop")
    page.locator("form[method=get] button").click()
    page.locator("#imei").fill("farm1-plain")
    submit(page)
    page.locator(".question").wait_for()
    submit(page)
    page.wait_for_url("**/messages/*")
    page.close()


def test_a_key_that_sees_no_devices_sends_to_a_list_alone(browser: "Browser", gateway: GatewayProcess) -> None:
    folder = gateway._folder
    command = [find_command(), "keys", "create", "--name=clerk", "--scope=messages:send"]
    key = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with opened(browser, gateway, excused=["403"]) as page:
        sign_in(page, gateway, key, "/send?micro_op=stop&imei=farm1-blind")
        assert page.locator("#selector").count() == 0
        submit(page)
        assert page.locator("thead th").count() == 2
        page.evaluate("document.querySelector('[name=to]').name = 'labels'")
        submit(page)
        assert "devices:read" in page.locator("[role=alert]").inner_text()
