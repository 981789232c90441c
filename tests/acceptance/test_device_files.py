"""Devices as tables: imported, seen beforehand in a dry run, exported, and imported again as they were exported."""

import csv
import io
import json
import os
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import xlsxwriter

from support.api import problem_of
from support.gateway import GatewayProcess, find_command
from support.memory import forget_peak, peak_of
from support.site import Site

CSV, XLSX = "text/csv", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ROOM = 60
MANY = 10_000
LIMIT = 60 * 1024 * 1024  # bytes above those of the idle gateway, for a table of 1 MB and its answer of 2 MB
HOSTILE = [
    ("-1", '=HYPERLINK("http://example.org","x")', {"+a": "@b", "=c": " =d "}),
    ("-2", "'=1+1", {'quoted ""': "a;b;=c", " blank ": " ", "\\": "\\;"}),
    ("a.1", "x;=1+1", {"empty": "", "پمپ": "شمالی\u200cها", "colon": "a:b"}),
    ("a.2", '"', {"'": "'", "''": "''=x"}),
    ("0012", "۱۲٬۰۰۰ ٫ ،", {}),
    ("1E5", "1E5", {"001": "TRUE"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), max_devices=ROOM) as site:
        yield site


@pytest.fixture(autouse=True)
def empty(site: Site) -> None:
    for device in site.api.get("/devices").json()["devices"]:
        site.api.delete(f"/devices/{device['imei']}")


def imported(site: Site, content: str | bytes, kind: str = CSV, **query: Any) -> dict[str, Any]:
    answer = site.api.post("/devices/import", content=content, params=query, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def outcomes(answer: dict[str, Any]) -> list[tuple[int, str]]:
    return [(row["row"], row["outcome"]) for row in answer["rows"]]


def workbook(*rows: list[Any], **sheets: Any) -> bytes:
    content = io.BytesIO()
    with xlsxwriter.Workbook(content) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            for column, cell in enumerate(row):
                if callable(cell):
                    cell(sheet, number, column)
                elif cell is not None:
                    sheet.write(number, column, cell)
        for name, cell in sheets.items():
            book.add_worksheet(name).write(0, 0, cell)
    return content.getvalue()


def device(site: Site, imei: str) -> tuple[Any, ...]:
    found = site.api.get(f"/devices/{imei}").json()
    return found["name"], found["profile"], found["labels"]


def test_what_a_dry_run_shows_is_what_the_import_does_and_doing_it_again_changes_nothing(site: Site) -> None:
    site.api.put("/devices/known", json={"name": "before", "labels": {"farm": "1", "kept": "yes"}})
    site.api.put("/devices/same", json={"name": "same"})
    table = (
        "imei,name,profile,labels.farm\n"
        "new,پمپ,chapar,2\n"
        "known,after,,\n"
        "\n"
        "same,same,default,\n"
        "a/b,x,,\n"
        "new,again,,\n"
        "bad-profile,x,zigbee,\n"
        "8.61E+14,x,,\n"
        "۸۶۱,۱۲,,\n"
    )
    seen = imported(site, table, dry_run="true")
    assert seen["dry_run"] is True
    assert site.api.get("/devices/new").status_code == 404, "a dry run changes nothing"
    assert device(site, "known")[0] == "before"
    done = imported(site, table)
    assert done == seen | {"dry_run": False}
    assert outcomes(done) == [
        (2, "created"),
        (3, "changed"),
        (5, "unchanged"),
        (6, "refused"),
        (7, "refused"),
        (8, "refused"),
        (9, "refused"),
        (10, "created"),
    ]
    assert done["summary"] == {"created": 2, "changed": 1, "unchanged": 1, "refused": 4}
    reasons = {row["row"]: (row["code"], row["reason"]) for row in done["rows"] if row["outcome"] == "refused"}
    assert {code for code, _ in reasons.values()} == {"field_invalid"}
    for row, words in ((6, "A-Z a-z 0-9"), (7, "row 2"), (8, "text, chapar, default"), (9, "last digits")):
        assert words in reasons[row][1]
    assert device(site, "new") == ("پمپ", "chapar", {"farm": "2"})
    assert device(site, "known") == ("after", None, {"kept": "yes"}), "an empty cell empties, no column keeps"
    assert device(site, "861")[0] == "۱۲"
    again = imported(site, table)
    assert again["summary"] == {"created": 0, "changed": 0, "unchanged": 4, "refused": 4}
    for imei, puts in (("new", 1), ("known", 2), ("same", 1), ("861", 1)):
        entries = site.api.get("/audit", params={"imei": imei, "action": "device_put"}).json()["entries"]
        assert len(entries) == puts, "what changes nothing is in no trail"


def test_a_refusal_reads_on_in_persian(site: Site) -> None:
    answer = site.api.post(
        "/devices/import", content="شناسه,نام\na/b,x\n".encode(), headers={"Content-Type": CSV, "Accept-Language": "fa"}
    )
    [row] = answer.json()["rows"]
    assert "باید ۱ تا ۶۴ نویسه" in row["reason"]


def test_no_more_are_made_than_may_be_and_the_dry_run_says_so_before(site: Site) -> None:
    table = "imei\n" + "".join(f"room-{number}\n" for number in range(ROOM + 5))
    seen = imported(site, table, dry_run="true")
    done = imported(site, table)
    assert seen["rows"] == done["rows"]
    assert done["summary"] == {"created": ROOM, "changed": 0, "unchanged": 0, "refused": 5}
    assert {row["code"] for row in done["rows"] if row["outcome"] == "refused"} == {"too_many_devices"}


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_an_export_is_imported_unchanged_whatever_devices_are_called(site: Site, form: str) -> None:
    for imei, name, labels in HOSTILE:
        put = site.api.put(f"/devices/{imei}", json={"name": name, "labels": labels, "profile": "chapar"})
        assert put.status_code == 201, put.text
    site.api.put("/devices/plain", json={})
    before = site.api.get("/devices").json()
    export = site.api.get("/devices/export", params={"format": form, "bom": "true" if form == "csv" else "false"})
    assert export.headers["Content-Disposition"].startswith('attachment; filename="chapar-devices-')
    kind = CSV if form == "csv" else XLSX
    again = imported(site, export.content, kind)
    assert again["summary"] == {"created": 0, "changed": 0, "unchanged": len(HOSTILE) + 1, "refused": 0}, again
    for imei, *_ in HOSTILE:
        site.api.delete(f"/devices/{imei}")
    assert imported(site, export.content, kind)["summary"]["created"] == len(HOSTILE)
    after = site.api.get("/devices").json()
    assert [{**one, "presence": None} for one in after["devices"]] == [
        {**one, "presence": None} for one in before["devices"]
    ]


def test_an_export_in_csv_holds_no_formula_and_has_the_filters_of_the_list(site: Site) -> None:
    for imei, name, labels in HOSTILE:
        site.api.put(f"/devices/{imei}", json={"name": name, "labels": labels})
    export = site.api.get("/devices/export")
    assert export.headers["Content-Type"].startswith(CSV)
    rows = list(csv.reader(io.StringIO(export.text)))
    assert rows[0] == ["imei", "name", "profile", "labels"]
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))] == []
    assert ";=" not in export.text
    found = site.api.get("/devices/export", params={"label": "empty:", "q": "a."}).text
    assert [row[0] for row in csv.reader(io.StringIO(found))] == ["imei", "a.1"]
    assert site.api.get("/devices/export", params={"format": "json"}).status_code == 422
    assert site.api.get("/devices/export", params={"limit": "1"}).status_code == 422


@pytest.mark.parametrize(
    "table",
    [
        "imei;name\r\nleft;شمالی\r\n".encode("utf-8-sig"),
        "imei\tname\r\nleft\tشمالی\r\n".encode("utf-16"),
        "sep=;\r\nIMEI;Name\r\n'left;شمالی\r\n".encode(),
        "شناسه,نام\nleft,شمالي\n".encode("cp1256"),
    ],
)
def test_tables_are_read_as_spreadsheets_of_all_countries_write_them(site: Site, table: bytes) -> None:
    assert outcomes(imported(site, table))[0][1] == "created"
    assert device(site, "left")[0] == "شمالی"


def test_a_workbook_is_read_with_what_a_spreadsheet_has_made_of_ids(site: Site) -> None:
    table = workbook(
        [None, "imei", "name", "labels.n", "labels.day"],
        [None, 861234567890123, "number", 7, True],
        [None, 8612345678901234567, "shortened"],
        [],
        [None, lambda sheet, row, column: sheet.write_formula(row, column, '="p"&1', value="p1"), 1.5],
        [None, "0012", lambda sheet, row, column: sheet.write_string(row, column, "=1+1")],
        [None, None, "no id"],
        ["note", "p2"],
        other="imei",
    )
    done = imported(site, table, XLSX)
    assert outcomes(done) == [
        (2, "created"),
        (3, "refused"),
        (5, "created"),
        (6, "created"),
        (7, "refused"),
        (8, "refused"),
    ]
    assert device(site, "861234567890123") == ("number", None, {"n": "7", "day": "true"})
    assert device(site, "p1")[0] == "1.5"
    assert device(site, "0012")[0] == "=1+1"
    assert "last digits" in done["rows"][1]["reason"]
    assert "no heading" in done["rows"][5]["reason"]


def bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("[Content_Types].xml", "xl/workbook.xml", "xl/worksheets/sheet1.xml"):
            archive.writestr(part, b"<x>" + b" " * (40 << 20))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "status", "code", "words"),
    [
        (b"", CSV, 400, "table_malformed", "no row below"),
        (b"imei\n", CSV, 400, "table_malformed", "no row below"),
        (b'imei,name\nx,"a\n', CSV, 400, "table_malformed", "line 2"),
        (b"\x00\x01\x02", CSV, 400, "table_malformed", "neither text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", XLSX, 400, "table_malformed", "password"),
        (b"PK\x03\x04", XLSX, 400, "table_malformed", "damaged"),
        (bomb, XLSX, 400, "table_malformed", "67,108,864"),
        (lambda: workbook(["imei"], *[[]] * 1_048_574, [*[None] * 16_383, 1]), XLSX, 400, "table_malformed", "memory"),
        (b"imei\n" + b"x" * 40_000, CSV, 400, "table_malformed", "16,384"),
        (b"imei" + b",x" * 1100 + b"\n", CSV, 400, "table_malformed", "100 columns"),
        (b"imei\n" + b"x\n" * 100_001, CSV, 400, "table_malformed", "100,000 rows"),
        (b"name\nx\n", CSV, 422, "field_invalid", "must be imei"),
        (b"imei,imei\nx,y\n", CSV, 422, "field_invalid", "more than once"),
        (b"imei,colour\nx,y\n", CSV, 422, "field_invalid", "`colour` is no column"),
        (b"imei,labels.\nx,y\n", CSV, 422, "field_invalid", "no column"),
        (b"imei\nx\n", "application/json", 415, "media_type_unsupported", "text/csv"),
        (b"imei\nx\n", "multipart/form-data; boundary=x", 415, "media_type_unsupported", "text/csv"),
        (b"imei\n" + b"\n" * (17 << 20), CSV, 413, "body_too_large", "CHAPAR_MAX_BULK_BYTES"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_with_a_sentence(
    site: Site, content: bytes | Callable[[], bytes], kind: str, status: int, code: str, words: str
) -> None:
    sent = content() if callable(content) else content
    answer = site.api.post("/devices/import", content=sent, headers={"Content-Type": kind})
    problem = problem_of(answer)
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert words in problem["reason"]
    assert site.api.get("/devices").json()["devices"] == []


def test_a_key_sees_and_changes_the_devices_that_it_reaches(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Any
) -> None:
    command = [find_command(), "keys", "create", "--name=one", "--device=farm1-*"]
    keys = [
        subprocess.run([*command, f"--scope={scope}"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        for scope in ("devices:write", "devices:read")
    ]
    writing, reading = ({"Authorization": f"Bearer {key.split()[-1]}"} for key in keys)
    gateway = start_gateway({"CHAPAR_BROKER_URL": "mqtt://127.0.0.1:1"}, until="live")
    with httpx.Client(base_url=gateway.url) as api:
        sent = {"content": "imei\nfarm1-a\nfarm2-a\n", "headers": writing | {"Content-Type": CSV}}
        for query in ("?dry_run=true", ""):
            rows = api.post(f"/devices/import{query}", **sent).json()["rows"]
            assert [row["outcome"] for row in rows] == ["created", "refused"]
            assert rows[1]["code"] == "device_not_found"
        assert (
            api.post("/devices/import", content="imei\nx\n", headers=reading | {"Content-Type": CSV}).status_code == 403
        )
        assert api.get("/devices/export", headers=writing).status_code == 403
        assert api.get("/devices/export", headers=reading).text.count("\n") == 2


def run(site: Site, *arguments: str, language: str = "en", **options: Any) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "CHAPAR_URL": site.gateway.url, "CHAPAR_LANGUAGE": language}
    command = [find_command(), "devices", *arguments]
    return subprocess.run(command, env=env, capture_output=True, timeout=60, check=False, **options)


def test_the_command_line_exports_shows_and_imports(site: Site, tmp_path: Path) -> None:
    for imei, name, labels in HOSTILE:
        site.api.put(f"/devices/{imei}", json={"name": name, "labels": labels})
    for form in ("xlsx", "csv"):
        file = tmp_path / f"devices.{form}"
        assert run(site, "export", str(file)).returncode == 0
        done = run(site, "import", str(file))
        assert (done.returncode, done.stdout.decode().strip()) == (
            0,
            f"Created: 0. Changed: 0. Unchanged: {len(HOSTILE)}. Refused: 0.",
        )
    one = run(site, "export", "--search", "a.1", "--label", "empty:", "--bom").stdout
    assert one.startswith(b"\xef\xbb\xbf")
    assert one.count(b"\n") == 2
    table = b"imei,name\na.1,after\nnew,x\na/b,\n"
    seen = run(site, "import", "-", "--dry-run", input=table)
    assert seen.returncode == 1
    lines = seen.stdout.decode().splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["2", "a.1", "changed"],
        ["3", "new", "created"],
        ["4", "a/b", "refused"],
    ]
    assert "A-Z a-z" in lines[3]
    assert lines[4].startswith("Nothing is changed.")
    assert site.api.get("/devices/new").status_code == 404
    done = run(site, "import", "-", input=table, language="fa")
    assert done.returncode == 1
    assert "تازه: ۱. تغییریافته: ۱. بدون تغییر: ۰. ردشده: ۱." in done.stdout.decode()
    assert "ردشده" in done.stdout.decode().splitlines()[1]
    again = run(site, "import", "-", "--json", input=table)
    assert [json.loads(line)["outcome"] for line in again.stdout.splitlines()] == ["unchanged", "unchanged", "refused"]


def test_the_command_line_says_what_is_wrong_with_a_file(site: Site, tmp_path: Path) -> None:
    for language, words in (("en", "no xlsx workbook"), ("fa", "آسیب دیده")):
        done = run(site, "import", "-", input=b"PK\3\4", language=language)
        assert done.returncode == 1
        assert words in done.stderr.decode()
    gone = run(site, "import", str(tmp_path / "gone.csv"))
    assert (gone.returncode, b"gone.csv" in gone.stderr) == (2, True)
    assert run(site, "export", "--format", "json").returncode == 2


def test_ten_thousand_rows_take_little_memory_and_nobody_waits_for_them(
    start_gateway: Callable[..., GatewayProcess], figure: Callable[[str], None]
) -> None:
    gateway = start_gateway({"CHAPAR_BROKER_URL": "mqtt://127.0.0.1:1"}, until="live")
    table = "imei,name,labels\n" + "".join(f"{861 * 10**12 + n},پمپ {n},farm:{n};zone:شمال\n" for n in range(MANY))
    with httpx.Client(base_url=gateway.url, timeout=120.0) as api:
        assert api.get("/devices").status_code == 200
        forget_peak(gateway.pid)
        idle = peak_of(gateway.pid)
        answers: list[dict[str, Any]] = []

        def run() -> None:
            for query in ("?dry_run=true", "", ""):
                answer = httpx.post(
                    f"{gateway.url}/devices/import{query}",
                    content=table.encode(),
                    headers={"Content-Type": CSV},
                    timeout=120.0,
                )
                answers.append(answer.json()["summary"])

        work = threading.Thread(target=run)
        work.start()
        waits = []
        while work.is_alive():
            began = time.perf_counter()
            assert api.get("/devices/nobody").status_code == 404
            waits.append(time.perf_counter() - began)
        work.join()
        grown = peak_of(gateway.pid) - idle
    waits.sort()
    figure(
        f"import of {MANY} rows three times: +{grown >> 20} MiB; {len(waits)} other calls meanwhile, "
        f"median {waits[len(waits) // 2] * 1000:.1f} ms, longest {waits[-1] * 1000:.0f} ms"
    )
    none = {"created": 0, "changed": 0, "unchanged": 0, "refused": 0}
    assert answers == [none | {"created": MANY}, none | {"created": MANY}, none | {"unchanged": MANY}]
    assert grown < LIMIT
    # Each of some hundred pieces of the work lets all others have their turn: these calls came between them.
    assert len(waits) > 2 * MANY // 100


@pytest.mark.parametrize(("path", "takes"), [("import", "POST"), ("export", "GET, HEAD")])
def test_what_has_its_own_place_beside_the_devices_is_no_device(site: Site, path: str, takes: str) -> None:
    for method in ("PUT", "DELETE", "OPTIONS"):
        answer = site.api.request(method, f"/devices/{path}", json={})
        assert answer.status_code == 405
        assert problem_of(answer)["code"] == "method_not_allowed"
        assert answer.headers["Allow"] == takes
    assert site.api.put(f"/devices/{path}s", json={}).status_code == 201
