"""`chapar bulk` and `chapar report`: what they read, how they call, what they print. A scripted gateway answers."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from chapar.cli.command import run
from chapar.model.report import Format
from support.ports import LOOPBACK


class Gateway(BaseHTTPRequestHandler):
    """Accepts a message, but for those of the device `bad`; its report is cut off where that is asked for."""

    calls: ClassVar[list[tuple[str, str | None, list[dict[str, Any]]]]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        messages = json.loads(body)["messages"]
        self.calls.append((self.path, self.headers.get("Idempotency-Key"), messages))
        refused = {"status": 422, "body": {"code": "field_invalid", "reason": "`imei` is bad."}}
        answers = [refused if each["imei"] == "bad" else {"status": 201, "body": {"id": "x"}} for each in messages]
        self._answer(json.dumps({"summary": {}, "answers": answers}).encode())

    def do_GET(self) -> None:
        self.calls.append((self.path, None, []))
        form = Format(parse_qs(urlsplit(self.path).query)["format"][0])
        media_type = "text/html" if "login" in self.path else form.media_type
        self._answer(b"\xef\xbb\xbfid\r\n", media_type, more=7 if "cut" in self.path else 0)

    def _answer(self, body: bytes, media_type: str = "application/json", more: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body) + more))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Say nothing."""


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None, list[dict[str, Any]]]]]:
    with HTTPServer((LOOPBACK, 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("CHAPAR_URL", f"http://{LOOPBACK}:{server.server_port}")
        monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
        Gateway.calls.clear()
        yield Gateway.calls
        server.shutdown()
        thread.join()


MESSAGES = [{"imei": "0012", "micro_op": "open"}, {"imei": "a", "micro_op": "close", "params": {"n": 1}}]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffimei,micro_op,params.n\r\n0012,open,\r\na,close,1\r\n",
        "".join(json.dumps(message) + "\n\n" for message in MESSAGES),
        json.dumps(MESSAGES, indent=2),
        json.dumps({"messages": MESSAGES}),
    ],
    ids=["csv", "ndjson", "list", "json"],
)
def test_each_form_of_file_is_read(
    tmp_path: Path, content: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text(content, newline="")
    assert run(["bulk", str(tmp_path / "file"), "--idempotency-key", "k"]) == 0
    assert calls == [("/messaging/bulk", "k-0", MESSAGES)]
    assert capsys.readouterr().out == "Accepted: 2. Refused: 0. Not sent: 0.\n"


def test_a_lone_surrogate_is_left_to_the_gateway(tmp_path: Path, calls: list[Any]) -> None:
    message = {"imei": "a", "micro_op": "open", "params": {"x": "\ud800"}}
    for content in (json.dumps([message]), 'imei,micro_op,params.x\na,open,"""\\ud800"""\n'):
        (tmp_path / "file").write_text(content)
        assert run(["bulk", str(tmp_path / "file")]) == 0
    assert [messages for _, _, messages in calls] == [[message], [message]]


def test_one_message_alone_is_a_file_too(tmp_path: Path, calls: list[Any]) -> None:
    (tmp_path / "file").write_text(json.dumps(MESSAGES[0]))
    assert run(["bulk", str(tmp_path / "file")]) == 0
    assert calls == [("/messaging/bulk", None, MESSAGES[:1])]


def test_many_are_several_calls_and_what_failed_is_a_table(
    tmp_path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{'bad' if number in {700, 2400} else number},open\n" for number in range(2500)]
    (tmp_path / "file.csv").write_text("imei,micro_op\n" + "".join(rows))
    assert run(["bulk", str(tmp_path / "file.csv")]) == 1
    assert [(key, len(messages)) for _, key, messages in calls] == [(None, 1000), (None, 1000), (None, 500)]
    *table, end = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table[1:]] == [
        [line, "bad", "open", "field_invalid", "`imei`", "is", "bad."] for line in ("702", "2402")
    ]
    assert end == "Accepted: 2,498. Refused: 2. Not sent: 0."


def test_large_messages_are_few_in_a_call(tmp_path: Path, calls: list[Any]) -> None:
    lines = [json.dumps({"imei": "a", "micro_op": "x" * 60_000}) for _ in range(200)]
    (tmp_path / "file").write_text("\n".join(lines))
    assert run(["bulk", str(tmp_path / "file")]) == 0
    assert len(calls) == 3
    assert sum(len(messages) for _, _, messages in calls) == 200


def test_what_a_key_covers_keeps_its_place_however_long_the_others_are(tmp_path: Path, calls: list[Any]) -> None:
    messages = [{"imei": str(number), "micro_op": "x" * 20_000} for number in range(314)]
    for first in ("x", "x" * 40_000):
        messages[0]["micro_op"] = first
        (tmp_path / "file").write_text("\n".join(json.dumps(message) for message in messages))
        assert run(["bulk", str(tmp_path / "file"), "--idempotency-key", "k"]) == 0
    places = [(key, [message["imei"] for message in sent]) for _, key, sent in calls]
    assert places[:5] == places[5:]
    assert [(key, len(numbers)) for key, numbers in places[:5]] == [
        *((f"k-{number}", 64) for number in range(4)),
        ("k-4", 58),
    ]


def test_json_has_a_line_for_each_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.csv").write_text("imei,micro_op\nbad,open\na,open\n")
    assert run(["bulk", str(tmp_path / "file.csv"), "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["line"], each["status"]) for each in told] == [(2, 422), (3, 201)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("", "There is no message"),
        ("imei,micro_op\n", "There is no message"),
        ("[]", "There is no message"),
        ("imei,operation\na,open\n", "line 1: `operation` is no column"),
        ("imei,micro_op\na,open\n\n8.6E+14,open\n", "line 4: `imei` is a number that a spreadsheet has shortened"),
        ('{"imei": "a"}\n\n{"imei": }\n', "line 3: The body is not a JSON object"),
        ('{"imei": "a"}\n{"imei": "a", "imei": "b"}\n', "line 2: `imei` is given more than once"),
        ('[\n{"imei": "a",\n"imei": "b"}\n]\n', "file: `imei` is given more than once"),
        ('{"imei": "a", "imei": "b"}', "file: `imei` is given more than once"),
        ('{"imei": "a", "params": {"n": ' + "9" * 5000 + "}}", "a number is too long"),
        ('imei,micro_op\na,"open\n', "the quotation mark of a cell in line 2"),
    ],
)
@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_file_that_cannot_be_read_sends_nothing(
    tmp_path: Path,
    content: str | None,
    says: str,
    language: str,
    calls: list[Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", language)
    if content is not None:
        (tmp_path / "file").write_text(content)
    assert run(["bulk", str(tmp_path / "file")]) == 2
    assert calls == []
    said = capsys.readouterr().err
    assert (says in said) is (language == "en") or says == "No such file"


def test_a_report_is_written_into_a_file_in_the_form_of_its_name(tmp_path: Path, calls: list[Any]) -> None:
    assert run(["report", str(tmp_path / "all.xlsx"), "--device", "a", "--since", "2026-11-29T00:00Z"]) == 0
    assert (tmp_path / "all.xlsx").read_bytes() == b"\xef\xbb\xbfid\r\n"
    assert [file.name for file in tmp_path.iterdir()] == ["all.xlsx"]
    assert run(["report", str(tmp_path / "all"), "--format", "ndjson"]) == 0
    assert run(["report", str(tmp_path / "all.CSV"), "--bom", "--status", "expired"]) == 0
    assert [path for path, _, _ in calls] == [
        "/reporting/all?imei=a&since=2026-11-29T00%3A00%3A00%2B00%3A00&format=xlsx",
        "/reporting/all?format=ndjson",
        "/reporting/all?status=expired&format=csv&bom=true",
    ]


def test_a_report_that_is_cut_off_leaves_no_file_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.csv").write_text("the last one")
    assert run(["report", str(tmp_path / "all.csv"), "--operation", "cut"]) == 1
    assert (tmp_path / "all.csv").read_text() == "the last one"
    assert [file.name for file in tmp_path.iterdir()] == ["all.csv"]
    assert capsys.readouterr().err.startswith("chapar: The gateway at")


def test_a_report_cannot_be_written_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, why in [
        ("nowhere/all.csv", "No such file or directory"),
        (".", "Is a directory"),
        ("/", "Is a directory"),
        ("..", "Is a directory"),
        ("x" * 300, "File name too long"),
    ]:
        assert run(["report", file]) == 2
        assert f"{file} cannot be used: {why}" in capsys.readouterr().err


def test_a_report_goes_where_a_link_leads_and_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("the last one")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert run(["report", str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes() == b"\xef\xbb\xbfid\r\n"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run(["report", str(tmp_path / "pipe")]) == 0
    assert os.read(reader, 100) == b"\xef\xbb\xbfid\r\n"
    os.close(reader)
    assert {file.name for file in tmp_path.iterdir()} == {"real.csv", "link.csv", "pipe"}


def test_a_page_of_something_else_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path / "all.csv"), "--operation", "login"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "answers, but not as a Chapar gateway does (HTTP 200)" in capsys.readouterr().err
