"""Devices from a file in Chromium, in both languages: seen first, then imported, once."""

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest
import xlsxwriter

from support import chromium
from support.console import LOCALES, NARROW, WIDE, check_layout, faults_for_people, opened, sign_in
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FilePayload, Page

HOSTILE = '<img src=x onerror="alert(1)"> {{ 7 * 7 }}'
CSV, XLSX = "text/csv", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@pytest.fixture(autouse=True)
def empty(api: httpx.Client) -> None:
    for device in api.get("/devices", params={"limit": 1000}).json()["devices"]:
        api.delete(f"/devices/{device['imei']}")


def table(*rows: tuple[str, ...]) -> "FilePayload":
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return {"name": "devices.csv", "mimeType": CSV, "buffer": text.getvalue().encode()}


def check(page: "Page", file: "FilePayload") -> None:
    page.locator("#file").set_input_files(file)
    with page.expect_navigation():
        page.locator("main form button").click()


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_is_shown_is_what_is_imported(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client, language: str, width: int
) -> None:
    api.put("/devices/known", json={"name": "before", "labels": {"farm": "1"}})
    api.put("/devices/same", json={"name": "same"})
    file = table(
        ("imei", "name", "labels.farm"),
        ("new", "پمپ ۱", "=1+1"),
        ("known", "after", "1"),
        ("same", "same", ""),
        (HOSTILE, HOSTILE, HOSTILE),
        ("8.61E+14", "x", ""),
    )
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key, "/import")
        check_layout(page, language)
        check(page, file)
        check_layout(page, language)
        assert faults_for_people(page) == []
        rows = page.locator("tbody tr")
        assert [rows.nth(n).locator("td").nth(1).inner_text() for n in range(5)][2:] == ["known", "new", "same"]
        assert rows.nth(0).locator("td").nth(1).locator("bdi").inner_text().startswith("<img src=x"), (
            "refused ones first"
        )
        assert page.locator("main img").count() == 0
        assert rows.nth(0).locator("td").nth(3).inner_text() != "–"
        assert api.get("/devices/new").status_code == 404, "nothing has changed yet"
        assert page.locator(".actions button").inner_text() == (
            "Import these 2 rows" if language == "en" else "وارد کردن این ۲ سطر"
        )
        with page.expect_navigation():
            page.locator(".actions button").click()
        assert page.locator("[role=status]:visible").first.inner_text() == (
            "That was done. Of the rows, 1 changes a device; 1 registers a new device"
            if language == "en"
            else "انجام شد. از سطرها ۱ سطر دستگاهی را تغییر می‌دهد؛ ۱ سطر دستگاه تازه ثبت می‌کند"
        )
        check_layout(page, language)
        assert api.get("/devices/new").json()["labels"] == {"farm": "=1+1"}
        assert api.get("/devices/known").json()["name"] == "after"
        api.put("/devices/new", json={"name": "later"})
        page.reload()
        assert api.get("/devices/new").json()["name"] == "later", "a reload imports nothing again"
        assert len(api.get("/devices").json()["devices"]) == 3
        page.goto(f"{gateway.url}/console/import")
        check(page, table(("imei", "name"), ("known", "after")))
        assert page.locator(".actions button").count() == 0, "there is nothing to import"


def test_a_workbook_with_many_rows_is_cut_and_its_totals_are_true(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    content = io.BytesIO()
    with xlsxwriter.Workbook(content) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["شناسه", "نام"])
        for number in range(1, 1201):
            sheet.write_row(number, 0, [f"many-{number}" if number % 4 else "a/b", "پمپ"])
    with opened(browser, gateway, "fa", NARROW) as page:
        sign_in(page, gateway, key, "/import")
        check(page, {"name": "devices.xlsx", "mimeType": XLSX, "buffer": content.getvalue()})
        assert page.locator("tbody tr").count() == 200
        assert "۱٬۰۰۰ سطر دیگر" in page.locator("main").inner_text()
        assert page.locator(".status.refused").count() == 200
        with page.expect_navigation():
            page.locator(".actions button").dblclick()
        assert "۹۰۰ سطر" in page.locator("[role=status]:visible").first.inner_text()
        assert api.get("/devices", params={"limit": 1000, "q": "many-"}).json()["devices"][-1]["name"] == "پمپ"
        entries = api.get("/audit", params={"imei": "many-1", "action": "device_put"}).json()["entries"]
        assert len(entries) == 1, "a double tap imports once"


def test_what_is_no_table_is_a_sentence_and_the_form_is_there_again(
    browser: "Browser", gateway: GatewayProcess, key: str
) -> None:
    with opened(browser, gateway, "fa", NARROW, excused=["400", "422"]) as page:
        sign_in(page, gateway, key, "/import")
        for file in (table(("name",), ("x",)), table(("imei", "رنگ"), ("x", "y")), table(("imei",))):
            check(page, file)
            assert page.locator("[role=alert]").inner_text()
            check_layout(page, "fa")
            assert faults_for_people(page) == []
        check(page, {"name": "x.xlsx", "mimeType": XLSX, "buffer": b"PK\3\4 no workbook"})
        assert "آسیب" in page.locator("[role=alert]").inner_text()


def test_devices_are_exported_as_they_are_listed_and_come_back_without_scripts_too(
    browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> None:
    for imei, farm in (("p1", "1"), ("p2", "2"), ("x", "1")):
        api.put(f"/devices/{imei}", json={"name": "=1+1", "labels": {"farm": farm}})
    with chromium.page_of(browser, locale=LOCALES["en"], java_script_enabled=False) as page:
        sign_in(page, gateway, key, "/devices?q=p&label=farm:1")
        with page.expect_download() as downloading:
            page.locator("a[download]").click()
        download = downloading.value
        assert download.suggested_filename.startswith("chapar-devices-")
        content = download.path().read_bytes()
        for imei in ("p1", "p2", "x"):
            api.delete(f"/devices/{imei}")
        page.goto(f"{gateway.url}/console/import")
        check(page, {"name": "devices.xlsx", "mimeType": XLSX, "buffer": content})
        with page.expect_navigation():
            page.locator(".actions button").click()
        assert [(each["imei"], each["name"]) for each in api.get("/devices").json()["devices"]] == [("p1", "=1+1")]


def test_the_keyboard_alone_will_do(browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client) -> None:
    with opened(browser, gateway) as page:
        sign_in(page, gateway, key, "/devices")
        page.locator("nav a[href$='/import']").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/import")
        page.locator("#file").set_input_files(table(("imei",), ("typed",)))
        page.locator("#file").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator(".actions button").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/import?*")
        assert api.get("/devices/typed").is_success


def test_who_may_not_change_devices_sees_no_import(
    browser: "Browser", gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]], api: httpx.Client
) -> None:
    api.put("/devices/p", json={})
    with opened(browser, gateway, "en", excused=["403"]) as page:
        sign_in(page, gateway, new_key("devices:read")[1], "/devices")
        assert page.locator("a[href*='/import']").count() == 0
        assert page.locator("a[download]").count() == 1
        page.goto(f"{gateway.url}/console/import")
        assert "devices:write" in page.locator("[role=alert]").inner_text()
    with opened(browser, gateway, "en") as page:
        sign_in(page, gateway, new_key("devices:write")[1], "/import")
        assert page.locator("a[download]").count() == 0
        check(page, table(("imei",), ("q",)))
        with page.expect_navigation():
            page.locator(".actions button").click()
    assert api.get("/devices/q").is_success


def test_forms_of_others_and_of_no_page_import_nothing(gateway: GatewayProcess, key: str, api: httpx.Client) -> None:
    with httpx.Client(base_url=gateway.url, follow_redirects=False) as client:
        page = client.get("/console/sign-in").text
        token = page.split('name="token" value="')[1].split('"')[0]
        signed = client.post("/console/sign-in", data={"token": token, "key": key})
        assert signed.status_code == 303
        token = client.get("/console/import").text.split('name="token" value="')[1].split('"')[0]
        file = {"file": ("x.csv", b"imei\nforged\n", CSV)}
        assert client.post("/console/import", data={"token": token}, files=file).status_code == 200
        for fields in ({"token": "0" * 64}, {}):
            assert client.post("/console/import", data=fields, files=file).status_code == 403
        for carried in ("", "x", "eA==", "eNoDAAAAAAE"):
            sent = client.post("/console/import/apply", data={"token": token}, files={"table": (None, carried)})
            assert sent.status_code == 403, carried
        for body in (b"", b"--x", b"--x\r\n", b"--x\r\n\r\n--x--", b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n", b"x" * 1000):
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            assert client.post("/console/import", content=body, headers=headers).status_code == 403, body
        assert client.post("/console/import", data={"token": token}).status_code == 415
    assert api.get("/devices/forged").status_code == 404
