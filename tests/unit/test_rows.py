"""CSV of a bulk call: where its rows begin and end, and what their cells mean."""

import json
from typing import Any

import pytest

from chapar.errors import FieldInvalid, RequestError, RowMalformed
from chapar.web.api.rows import Columns, in_rows


def messages_of(text: str | bytes) -> list[dict[str, Any]]:
    body = text.encode() if isinstance(text, str) else text
    rows = [body[place] for place in in_rows(body) if place is not None]
    columns = Columns(rows[0])
    return [json.loads(columns.message(row)) for row in rows[1:]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_columns_are_fields_and_an_empty_cell_is_an_absent_one(separator: str, end: str, mark: str) -> None:
    rows = [
        ["imei", "micro_op", "params.litres", "params.mode", "qos", "retain", "expires_in", "deliver_at"],
        ["0012", "set_flow", "20", "slow", "", "", "1.5", ""],
        ["pump-7", "باز کن", "", "", "2", "TRUE", "", "2026-11-29T06:30:00Z"],
    ]
    text = mark + end.join(separator.join(row) for row in rows) + end * 3
    assert messages_of(text) == [
        {"imei": "0012", "micro_op": "set_flow", "params": {"litres": 20, "mode": "slow"}, "expires_in": 1.5},
        {"imei": "pump-7", "micro_op": "باز کن", "qos": 2, "retain": True, "deliver_at": "2026-11-29T06:30:00Z"},
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("20", 20),
        ("-3.5", -3.5),
        ("0", 0),
        ("0012", "0012"),
        ("8998211000000000001", "8998211000000000001"),
        ("1.10", "1.10"),
        ("12e4", "12e4"),
        ("+98", "+98"),
        ("true", True),
        ("FALSE", False),
        ("=1+1", "=1+1"),
        ('"20"', "20"),
        ('{"a": [1]}', {"a": [1]}),
        ("[1, 2]", [1, 2]),
        ("[off]", "[off]"),
        (" two words ", " two words "),
        ("one\ntwo", "one\ntwo"),
    ],
)
def test_a_parameter_is_never_more_or_less_than_its_cell_says(cell: str, value: object) -> None:
    quoted = cell.replace('"', '""')
    [message] = messages_of(f'imei,micro_op,params.x\npump-7,open,"{quoted}"\n')
    assert message["params"] == {"x": value}


def test_params_may_be_one_object_beside_single_ones() -> None:
    [message] = messages_of('imei,micro_op,params,params.b\np,o,"{""a"": 1}",2\n')
    assert message["params"] == {"a": 1, "b": 2}


def test_rows_without_content_do_not_count() -> None:
    assert messages_of("imei,micro_op\n,\n  ,  \np,o\n;;\n\n") == [{"imei": "p", "micro_op": "o"}]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("imei,operation\np,o\n", FieldInvalid, "operation"),
        ("imei,imei\np,o\n", FieldInvalid, "imei"),
        ("imei,params.\np,o\n", FieldInvalid, "params."),
        ("imei,micro_op\np,o,x\n", RowMalformed, "3 cells"),
        ('imei,micro_op\np,"o\n', RowMalformed, "line 2"),
        ('imei,micro_op\np,a"b\nc"\n', RowMalformed, "quotation mark"),
        ('imei,micro_op\np,"a"b\n', RowMalformed, "follows the closing quotation mark"),
        ("imei,micro_op\np,a\rb\n", RowMalformed, "line end"),
        (f"imei,micro_op\np,{'x' * 140_000}\n", RowMalformed, "longer than 131,072 characters"),
        ("imei,params\np,litres=20\n", FieldInvalid, "`params` must be a JSON object"),
        (b"imei,micro_op\np,\xff\n", RowMalformed, "byte 3 is not UTF-8"),
        ('imei,params,params.a\np,"{""a"": 1}",2\n', FieldInvalid, "params"),
        ("imei,micro_op\n8.61234567890123E+14,o\n", FieldInvalid, "shortened"),
        ("imei,micro_op\n9E+18,o\n", FieldInvalid, "shortened"),
        ('imei;micro_op\n"8,61234567890123E+14";o\n', FieldInvalid, "shortened"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(
    text: str | bytes, error: type[RequestError], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        messages_of(text)
    assert raised.value.sentence("fa")


@pytest.mark.parametrize(
    "row",
    [r'p,o,"""\ud800"""', r'p,o,"{""\ud800"": ""\udfff""}"'],
    ids=["text", "object"],
)
def test_a_lone_surrogate_stays_an_escape_sequence(row: str) -> None:
    columns = Columns(b"imei,micro_op,params.x")
    message = columns.message(row.encode())
    assert rb"\ud800" in message
    assert json.loads(message)["params"]["x"] in ("\ud800", {"\ud800": "\udfff"})


def test_reading_takes_steps_that_grow_with_the_body_alone() -> None:
    """Whatever the body, a step is one line or a bounded part of what is blank."""
    for body in (b'"\n' * 100_001, b"\n" * 1_000_000, b'a"b\n' * 50_000, b",\n" * 100_000):
        steps = 0
        try:
            for _ in in_rows(body):
                steps += 1
        except RowMalformed:
            pass
        assert steps <= body.count(b"\n") + 1
