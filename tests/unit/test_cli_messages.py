"""Messages as a person and as a program reads them, and times as a person writes them."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.main import get_command

from chapar.cli import messages, send
from chapar.cli.client import GatewayClient, ShownMessage
from chapar.cli.command import cli_of, run
from chapar.cli.options import ascii_numbers, moment
from chapar.cli.table import MessageTable, note, print_table
from chapar.cli.terminal import local_time
from chapar.errors import Language, UsageInvalid


def message(**fields: object) -> ShownMessage:
    return ShownMessage.model_validate(
        {
            "id": "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55",
            "imei": "pump-7",
            "micro_op": "open",
            "status": "published",
            "created_at": "2026-11-24T06:30:00.004Z",
            **fields,
        }
    )


def printed(shown: list[ShownMessage], language: Language = "en", *, terminal: int | None = None) -> str:
    file = io.StringIO()
    table = MessageTable(language, Console(file=file, force_terminal=terminal is not None, width=terminal))
    table.print(shown, headings=True)
    return file.getvalue()


def test_the_table_has_a_row_for_each_message() -> None:
    heading, first, second = printed([message(), message(status="rejected", reason="broker_unreachable")]).splitlines()
    assert heading.split() == ["accepted", "device", "operation", "status", "id", "note"]
    assert first.split()[2:] == ["pump-7", "open", "published", "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"]
    assert second.endswith("the broker could not be reached")


def test_an_empty_table_has_its_headings() -> None:
    assert len(printed([]).splitlines()) == 1


def test_the_persian_table_has_persian_headings_and_digits() -> None:
    heading, row = printed([message()], "fa").splitlines()
    assert "دستگاه" in heading
    assert "۱۴۰۵-۰۹-۰۳" in row
    assert "تحویل کارگزار" in row


def test_later_batches_stand_in_line_with_the_first() -> None:
    file = io.StringIO()
    table = MessageTable("en", Console(file=file))
    table.print([message(imei="a" * 30)], headings=True)
    table.print([message(imei="b")])
    lines = file.getvalue().splitlines()
    assert len({line.index("published") for line in lines[1:]}) == 1


def test_without_a_terminal_a_message_is_one_line() -> None:
    assert len(printed([message(micro_op="x" * 1000)]).splitlines()) == 2


@pytest.mark.parametrize("terminal", [20, 40, 80, 119, 120, 160])
def test_an_id_is_whole_however_narrow_the_terminal_is(terminal: int) -> None:
    shown = message()
    lines = printed([shown, shown], terminal=terminal).splitlines()
    assert sum(shown.id in line for line in lines) == 2
    if 80 <= terminal < 120:
        assert [line.strip() for line in lines[2::2]] == [shown.id, shown.id]


HOSTILE = "[red]a[/red] \x1b[2J\x9b31m\u202e:smile:\nb"


@pytest.mark.parametrize("field", ["imei", "micro_op", "status", "id", "reason"])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_nothing_in_a_message_can_command_the_terminal(field: str, language: Language) -> None:
    text = printed([message(**{field: HOSTILE})], language, terminal=300)
    assert r"[red]a[/red] \x1b[2J\x9b31m\u202e:smile:\nb" in text
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text


def test_the_note_says_what_is_unusual() -> None:
    assert note(message(attempts=1), "en") == ""
    told = message(reason="quota_exceeded", attempts=2, possible_duplicate=True, subscribers=False)
    assert note(told, "en") == "a limit of the broker is reached, attempt 2, possible duplicate, nobody listening"
    assert note(told, "fa") == "به سقفی در کارگزار رسیده است، تلاش ۲، شاید تکراری، شنونده نداشت"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("2 h", 7200), ("7d", 604_800), ("۱۵m", 900), ("0s", 0)]
)
def test_a_time_may_be_how_long_ago(text: str, seconds: int) -> None:
    before = datetime.now(UTC)
    meant = moment("--since", text)
    assert meant is not None
    assert before <= meant + timedelta(seconds=seconds) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["2026-11-24T06:30:00Z", "2026-11-24T10:00+03:30", "2026-11-24 07:30+01:00"])
def test_a_time_may_be_a_date_and_time(text: str) -> None:
    assert moment("--since", text) == datetime(2026, 11, 24, 6, 30, tzinfo=UTC)


def test_a_time_without_a_zone_is_local() -> None:
    assert moment("--since", "2026-11-24T06:30") == datetime(2026, 11, 24, 6, 30).astimezone()


@pytest.mark.parametrize(
    "text",
    [
        "1405-09-03",
        "۱۴۰۵-۰۹-۰۳",
        "١٤٠٥-٠٩-٠٣",
        "۱۴۰۵/۹/۳",
        "1405/09/03T00:00",
        "2026/11/24",
        "۲۰۲۶-۱۱-۲۴",
        "۱۴۰۵-۰۹-۰۳ ۰۰:۰۰:۰۰",
    ],
)
def test_a_date_may_be_jalali_and_have_any_digits(text: str) -> None:
    assert moment("--since", text) == datetime(2026, 11, 24).astimezone()


@given(st.integers(86_400, 2_840_000_000))
def test_a_time_shown_in_persian_can_be_typed_again(seconds: int) -> None:
    time = datetime.fromtimestamp(seconds, UTC)
    typed = moment("--since", local_time(time, "fa"))
    assert typed is not None
    assert abs(typed - time) <= timedelta(hours=1), "more than the hour that a zone repeats in autumn"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1404-12-30",
        "1405-07-31",
        "1405-13-01",
        "1405-00-10",
        "2026-02-30",
        "yesterday",
        "5 weeks",
        "-1d",
        "99999999999d",
    ],
)
def test_another_text_is_no_time(text: str) -> None:
    with pytest.raises(UsageInvalid, match="--since"):
        moment("--since", text)


@pytest.mark.parametrize(
    ("text", "rule", "persian_rule"),
    [
        ("1448-06-19", "--since is in the year 1448, which looks like the Jalali", "--since در سال ۱۴۴۸ است"),
        ("۱۳۲۰-۰۱-۰۱", "lunar Hijri", "قمری"),
        ("1969-12-31T23:59:59Z", "1970 to 9999", "۱۹۷۰ تا ۹۹۹۹"),
        ("9999-12-31T23:59:59-14:00", "1970 to 9999", "۱۹۷۰ تا ۹۹۹۹"),
        ("30000d", "1970 to 9999", "۱۹۷۰ تا ۹۹۹۹"),
    ],
)
def test_a_time_of_another_calendar_or_out_of_range_is_none(text: str, rule: str, persian_rule: str) -> None:
    with pytest.raises(UsageInvalid) as refused:
        moment("--since", text)
    assert rule in refused.value.sentence("en")
    assert persian_rule in refused.value.sentence("fa")


Serve = Callable[[httpx.Response], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Let every call of the command get this answer."""
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")

    def serve(answer: httpx.Response) -> None:
        client = partial(GatewayClient, transport=httpx.MockTransport(lambda _: answer))
        monkeypatch.setattr(messages, "GatewayClient", client)
        monkeypatch.setattr(send, "GatewayClient", client)

    return serve


def test_json_is_one_object_a_line_the_newest_last(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    page = [message(id=id_).model_dump(mode="json") for id_ in ("new", "old")]
    serve(httpx.Response(200, json={"messages": page, "next": None}))
    assert run(["messages", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == list(reversed(page))


SENT = {"detail": "Send `open` to topic `devices/pump-7`", "id": "0193b3f2", "status": "published"}
SENT |= {"topic": "devices/pump-7"}
LOCATION = {"Location": "/messaging/messages/0193b3f2"}
REFUSED = {"detail": "Something went wrong", "code": "broker_unreachable", "reason": "The broker cannot be reached."}


def test_201_is_exit_code_0(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(201, json=SENT | {"subscribers": None}, headers=LOCATION))
    assert run(["send", "pump-7", "open"]) == 0
    assert capsys.readouterr().out == "Send `open` to topic `devices/pump-7`\nid 0193b3f2\n"


def test_nobody_listening_is_said(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(201, json=SENT | {"subscribers": False}, headers=LOCATION))
    assert run(["send", "pump-7", "open"]) == 0
    assert "nobody listening" in capsys.readouterr().out


def test_202_is_exit_code_3_and_says_where_to_look(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(202, json=SENT | {"status": "publishing"}, headers=LOCATION))
    assert run(["send", "pump-7", "open", "--url", "http://gateway.example"]) == 3
    told = capsys.readouterr().out
    assert "not acknowledged it yet" in told
    assert "http://gateway.example/messaging/messages/0193b3f2" in told


def test_unconfirmed_is_not_called_accepted(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(202, json=SENT | {"status": "unconfirmed"}, headers=LOCATION))
    assert run(["send", "pump-7", "open", "--qos", "0"]) == 3
    assert "whether it arrived is unknown" in capsys.readouterr().out


@pytest.mark.parametrize("status", [406, 422, 500, 503])
def test_an_error_is_exit_code_1_and_its_reason(status: int, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(status, json=REFUSED))
    assert run(["send", "pump-7", "open"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "chapar: The gateway says: The broker cannot be reached.\n"


@pytest.mark.parametrize(("status", "code"), [(201, 0), (202, 3), (406, 1)])
def test_json_is_the_body_of_the_answer(
    status: int, code: int, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    body = SENT if status < 300 else REFUSED
    serve(httpx.Response(status, json=body, headers=LOCATION))
    assert run(["send", "pump-7", "open", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == body


def test_a_gateways_sentence_cannot_command_the_terminal(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(406, json=REFUSED | {"reason": HOSTILE}))
    assert run(["send", "pump-7", "open", "--json"]) == 1
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert text.count("\n") == 1


def test_success_is_told_in_persian(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(httpx.Response(201, json=SENT | {"subscribers": False}, headers=LOCATION))
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")
    assert run(["send", "pump-7", "open"]) == 0
    sent, unheard, identity = capsys.readouterr().out.splitlines()
    assert sent == "فرمان `open` به تاپیک `devices/pump-7` فرستاده شد."
    assert "گوش نمی‌داد" in unheard
    assert identity == "شناسه 0193b3f2"


def test_numbers_and_device_ids_may_have_persian_digits(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(httpx.Response(200, json={"messages": [], "next": None}))
    assert run(["messages", "--limit", "۱٬۰۰۰", "--device", "۸۶۱", "--since=۷d"]) == 0
    assert run(["messages", "--limit=٢٠"]) == 0
    assert run(["messages", "--limit=۲۰۰۰۰"]) == 2
    serve(httpx.Response(201, json=SENT, headers=LOCATION))
    assert run(["send", "۸۶۱", "open", "--qos", "۱", "--timeout", "۲٫۵"]) == 0
    assert capsys.readouterr().out


def test_a_text_keeps_its_digits() -> None:
    command = get_command(cli_of())
    texts = ["keys", "create", "--name", "پمپ ۷", "--scope=keys:write", "--operation", "۱"]
    assert ascii_numbers(command, texts) == texts
    assert ascii_numbers(command, ["send", "۷", "۱", "--params", "۱", "--qos", "۱"])[2:] == [
        "۱",
        "--params",
        "۱",
        "--qos",
        "1",
    ]


@pytest.mark.parametrize(("terminal", "lines"), [(200, 2), (30, 5)])
def test_a_table_that_does_not_fit_stands_one_cell_below_the_other(
    terminal: int, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id that is broken over two lines cannot be copied."""
    monkeypatch.setenv("COLUMNS", str(terminal))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    row = ("0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55", "pump-7", "", "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a56", "x")
    print_table(("id", "device", "operation", "subject", "note"), [row], "en")
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == lines
    assert row[0] in printed
    assert row[3] in printed
