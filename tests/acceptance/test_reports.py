"""Lists, reports and counts of what was sent: complete, stable while more arrives, and safe to open."""

import csv
import html
import io
import json
import re
import socket
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from chapar.store.database import Role, open_engine
from support import mosquitto as mosquitto_support
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto

FORMULAS = ["=1+1", "+98", "-1", "@SUM(A1)", '=HYPERLINK("http://example.org")', " =1+1", "＝1+1", "\u200f@SUM(A1)"]
SEPARATED = {"stop;=1+1;": "stop;'=1+1;", 'stop; "+1"': 'stop;\' "+1"', ";＝1+1": ";'＝1+1"}
SEPARATED_PARAMS = {"text": ';=1+1;"', "list": ["a;b"]}
PERSIAN = "باز‌کردن شیر ۳، «باغ شمالی»"
OPERATIONS = ["push_down", "pull_up", PERSIAN, 'says "stop", then; goes', "tab\u00a0and `ticks`", *FORMULAS, *SEPARATED]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway with messages in several states, from several devices."""
    if not mosquitto_support.installed():
        pytest.skip("Mosquitto is not installed")
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(acl="topic deny devices/forbidden\ntopic readwrite devices/#\n"))
        env = {**broker.settings_env, "CHAPAR_AUTO_MIGRATE": "true"}
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_server")
            env["CHAPAR_DATABASE_URL"] = server.create_database()
            stack.callback(server.drop_database, env["CHAPAR_DATABASE_URL"])
        gateway = stack.enter_context(GatewayProcess(tmp_path_factory.mktemp("gateway"), env))
        client = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=30.0))
        for operation in OPERATIONS:
            assert send(client, "861", operation) == 201
            assert send(client, "862", operation, params={"متن": PERSIAN, "text": 'a,"b"\n=1', "n": 1.5}) == 201
            assert send(client, "forbidden", operation) == 406
        assert send(client, "863", "push_down", qos=0, params=SEPARATED_PARAMS) == 202
        yield client


def send(api: httpx.Client, imei: str, micro_op: str, **fields: Any) -> int:
    return api.post("/messaging/send", json={"imei": imei, "micro_op": micro_op, **fields}).status_code


def reported(api: httpx.Client, **filters: Any) -> list[dict[str, Any]]:
    answer = api.get("/reporting/all", params=filters)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()
    return found


def walked(api: httpx.Client, limit: int, **filters: Any) -> Iterator[list[dict[str, Any]]]:
    """Every page of the list, by its cursor."""
    cursor: dict[str, str] = {}
    while True:
        page = api.get("/messaging/messages", params={**filters, "limit": limit, **cursor}).json()
        yield page["messages"]
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


def test_each_format_says_the_same(api: httpx.Client) -> None:
    rows = reported(api)
    assert len(rows) == 3 * len(OPERATIONS) + 1
    assert {row["status"] for row in rows} == {"published", "rejected", "unconfirmed"}
    lines = api.get("/reporting/all", params={"format": "ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == rows
    table = api.get("/reporting/all", params={"format": "csv"})
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert list(csv.DictReader(io.StringIO(table.content.decode("utf-8"), newline=""))) == [
        as_cells(row) for row in rows
    ]


def as_cells(row: dict[str, Any]) -> dict[str, str]:
    """The row as CSV should have it."""
    cells = {name: "" if value is None else str(value) for name, value in row.items()}
    if row["params"] is not None:
        params = json.dumps(row["params"], ensure_ascii=False, separators=(",", ":"))
        cells["params"] = params.replace(";=", "\\u003b=")
    return {name: f"'{cell}" if cell in FORMULAS else SEPARATED.get(cell, cell) for name, cell in cells.items()}


def test_no_cell_is_a_formula(api: httpx.Client) -> None:
    table = csv.reader(io.StringIO(api.get("/reporting/all", params={"format": "csv"}).text, newline=""))
    cells = [cell for row in table for cell in row]
    assert {f"'{formula}" for formula in FORMULAS} <= set(cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_no_cell_is_a_formula_where_semicolons_separate(api: httpx.Client) -> None:
    table = api.get("/reporting/all", params={"format": "csv"}).text
    [row] = [row for row in csv.DictReader(io.StringIO(table, newline="")) if row["imei"] == "863"]
    assert json.loads(row["params"]) == SEPARATED_PARAMS
    cells = [cell.strip(' "') for row in csv.reader(io.StringIO(table, newline=""), delimiter=";") for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "＝"))]


def test_persian_text_comes_back_as_it_was(api: httpx.Client) -> None:
    rows = reported(api, micro_op=PERSIAN)
    assert [(row["micro_op"], row["imei"]) for row in rows] == [(PERSIAN, imei) for imei in ("861", "862", "forbidden")]
    assert rows[1]["params"] == {"متن": PERSIAN, "text": 'a,"b"\n=1', "n": 1.5}
    for form in ("json", "ndjson", "csv"):
        assert PERSIAN.encode() in api.get("/reporting/all", params={"format": form}).content


def test_the_report_is_oldest_first_and_the_list_newest_first(api: httpx.Client) -> None:
    ids = [row["id"] for row in reported(api)]
    assert ids == sorted(ids)
    assert [row["id"] for page in walked(api, 7) for row in page] == ids[::-1]
    assert [len(page) for page in walked(api, len(ids))] == [len(ids)]
    assert [len(page) for page in walked(api, len(ids) - 1)] == [len(ids) - 1, 1]


@pytest.mark.parametrize(
    "filters",
    [
        {"imei": "861"},
        {"imei": "۸۶۱"},
        {"imei": "nobody"},
        {"micro_op": "push_down"},
        {"micro_op": "=1+1"},
        {"status": ["rejected"]},
        {"status": ["rejected", "unconfirmed"]},
        {"imei": "862", "micro_op": PERSIAN, "status": ["published", "queued"]},
        {"imei": "863", "status": ["published"]},
    ],
    ids=str,
)
def test_list_report_and_summary_understand_filters_alike(api: httpx.Client, filters: dict[str, Any]) -> None:
    imei = filters.get("imei", "").replace("۸۶۱", "861")
    expected = [
        row
        for row in reported(api)
        if imei in {"", row["imei"]}
        and filters.get("micro_op") in {None, row["micro_op"]}
        and row["status"] in filters.get("status", [row["status"]])
    ]
    assert reported(api, **filters) == expected
    assert [row for page in walked(api, 4, **filters) for row in page] == expected[::-1]
    summary = api.get("/reporting/summary", params=filters).json()
    assert summary["total"] == len(expected)
    assert summary["statuses"] == Counter(row["status"] for row in expected)


def test_a_range_of_time_takes_its_beginning_and_not_its_end(api: httpx.Client) -> None:
    rows = reported(api)
    times = [datetime.fromisoformat(row["created_at"]) for row in rows]
    middle = next(
        at for at, before in zip(times[10:], times[9:], strict=False) if at - before > timedelta(milliseconds=2)
    )
    # The range is one of ids, whose time may be a millisecond off the message's own.
    border = (middle - timedelta(milliseconds=1)).isoformat()
    early, late = reported(api, until=border), reported(api, since=border)
    assert early + late == rows
    assert [row["id"] for row in late] == [row["id"] for row, at in zip(rows, times, strict=True) if at >= middle]
    assert reported(api, since=border, until=border) == []
    assert api.get("/reporting/summary", params={"since": border}).json()["total"] == len(late)
    tehran = datetime.fromisoformat(border).astimezone(datetime.fromisoformat("2026-01-01T00:00+03:30").tzinfo)
    assert reported(api, since=tehran.isoformat()) == late


def test_the_summary_counts_what_the_report_lists(api: httpx.Client) -> None:
    rows = reported(api)
    for bucket, digits in (("minute", 16), ("hour", 13), ("day", 10)):
        summary = api.get("/reporting/summary", params={"bucket": bucket}).json()
        assert summary["total"] == len(rows)
        assert summary["statuses"] == Counter(row["status"] for row in rows)
        assert summary["devices"] == {"counts": Counter(row["imei"] for row in rows), "others": 0}
        assert summary["operations"] == {"counts": Counter(row["micro_op"] for row in rows), "others": 0}
        times = {start[:digits]: count for start, count in summary["times"]["counts"].items()}
        assert times == Counter(row["created_at"][:digits] for row in rows)
        assert summary["times"]["others"] == 0
    assert list(summary["devices"]["counts"]) == ["861", "862", "forbidden", "863"], "largest first"


def test_pages_do_not_shift_while_messages_arrive(api: httpx.Client) -> None:
    before = [row["id"] for row in reported(api)]
    seen = []
    for page in walked(api, 5):
        seen += [row["id"] for row in page]
        assert [send(api, "864", "meanwhile") for _ in range(3)] == [201] * 3
    assert seen == before[::-1]
    assert len(reported(api, imei="864")) >= len(before) // 5 * 3


def test_a_report_under_way_has_every_older_message_once(api: httpx.Client) -> None:
    before = [row["id"] for row in reported(api)]
    with api.stream("GET", "/reporting/all", params={"format": "ndjson"}) as answer:
        assert send(api, "864", "meanwhile") == 201
        seen = [json.loads(line)["id"] for line in answer.iter_lines()]
    assert seen[: len(before)] == before
    assert len(set(seen)) == len(seen)


def test_an_empty_table_makes_empty_reports(api: httpx.Client) -> None:
    nobody = {"imei": "nobody"}
    assert reported(api, **nobody) == []
    assert api.get("/reporting/all", params={**nobody, "format": "ndjson"}).content == b""
    [header] = csv.reader(io.StringIO(api.get("/reporting/all", params={**nobody, "format": "csv"}).text))
    assert header[:3] == ["id", "imei", "micro_op"]
    assert api.get("/messaging/messages", params=nobody).json() == {"messages": [], "next": None}
    empty: dict[str, Any] = {"counts": {}, "others": 0}
    summary = api.get("/reporting/summary", params=nobody).json()
    assert summary == {"total": 0, "statuses": {}, "devices": empty, "operations": empty, "times": empty}


def test_a_report_that_fails_midway_does_not_look_whole(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    gateway = start_gateway({"CHAPAR_BROKER_URL": "mqtt://127.0.0.1:1"}, until="live")
    engine = open_engine(f"sqlite:///{tmp_path}/chapar.db", Role.ADMINISTRATOR)
    # Several pages, of which not one fits into the sockets' buffers.
    message = {"imei": "861", "micro_op": "push_down", "params": {"padding": "x" * 4000}, "wait": "none"}
    slow = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)])
    with httpx.Client(base_url=gateway.url, timeout=60.0, transport=slow) as client:
        asked = {"messages": [message] * 900}
        assert client.post("/messaging/bulk", json=asked).json()["summary"] == {"202": 900}
        for form in ("json", "ndjson", "csv"):
            with client.stream("GET", "/reporting/all", params={"format": form}) as answer:
                assert answer.status_code == 200
                rename(engine, "messages", "elsewhere")
                with pytest.raises(httpx.RemoteProtocolError):
                    answer.read()
            rename(engine, "elsewhere", "messages")


def rename(engine: Engine, table: str, name: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {name}")


@pytest.mark.parametrize(
    ("form", "kind", "media_type"),
    [
        ("json", "inline", "application/json"),
        ("ndjson", "attachment", "application/x-ndjson"),
        ("csv", "attachment", "text/csv; charset=utf-8"),
        ("xlsx", "attachment", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ],
)
def test_a_download_has_a_name(api: httpx.Client, form: str, kind: str, media_type: str) -> None:
    answer = api.get("/reporting/all", params={"format": form, "imei": "863"})
    assert answer.headers["content-type"] == media_type
    name = rf'{kind}; filename="chapar-messages-\d{{4}}-\d\d-\d\d\.{form}"'
    assert re.fullmatch(name, answer.headers["content-disposition"])


def test_csv_has_a_byte_order_mark_only_where_it_is_asked_for(api: httpx.Client) -> None:
    plain = api.get("/reporting/all", params={"format": "csv"}).content
    assert not plain.startswith(b"\xef\xbb\xbf")
    assert api.get("/reporting/all", params={"format": "csv", "bom": "true"}).content == b"\xef\xbb\xbf" + plain
    assert api.get("/reporting/all", params={"format": "json", "bom": "true"}).content.startswith(b"[")


def test_a_spreadsheet_holds_what_the_report_says_as_text(api: httpx.Client) -> None:
    answer = api.get("/reporting/all", params={"format": "xlsx"})
    assert answer.headers["content-length"] == str(len(answer.content))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    head, *rows = [cells_of(row) for row in sheet.split("</row>")[:-1]]
    expected = reported(api)
    assert len(rows) == len(expected)
    for cells, message in zip(rows, expected, strict=True):
        row = {name: cells.get(column) for column, name in head.items()}
        assert list(row) == list(message)
        assert (row["id"], row["imei"], row["micro_op"]) == (message["id"], message["imei"], message["micro_op"])
        assert (None if row["params"] is None else json.loads(row["params"])) == message["params"]
        assert row["retain"] == str(message["retain"]).lower()


def cells_of(row: str) -> dict[str, str]:
    """The texts of a row by their columns."""
    cells = re.findall(r'<c r="([A-Z]+)\d+" s="1" t="inlineStr"><is><t[^>]*>([^<]*)</t></is></c>', row)
    assert len(cells) == row.count("<c ")
    return {column: html.unescape(text) for column, text in cells}


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "xlsx"])
def test_the_head_of_a_download_alone_can_be_asked_for(api: httpx.Client, form: str) -> None:
    head = api.head("/reporting/all", params={"format": form})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-disposition"].endswith(f'.{form}"')
