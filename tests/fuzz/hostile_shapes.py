"""The largest request that each route takes, in shapes that make parsers work: none keeps the others waiting."""

import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from fuzz.campaign import Outcome
from support.builtin import BuiltinBroker
from support.turns import MeasuredGateway

LONGEST_TURN: Final = 0.050  # seconds of processor time; what is promised
_HEAD: Final = 15_000  # bytes; CHAPAR_MAX_HEAD_BYTES is 16 KiB
_QUERY: Final = 7_900
_BODY: Final = 64 * 1024  # CHAPAR_MAX_BODY_BYTES
_BULK: Final = 16 * 1024 * 1024  # CHAPAR_MAX_BULK_BYTES
_DEAR: Final = 512 * 1024  # bytes of a bulk call that holds nothing but work, in continuous integration
_TABLE: Final = 1024 * 1024  # bytes of a table that does
_MOST: Final = 10_000  # messages of a bulk call
_TRIES: Final = 6  # of a shape, because a busy machine makes processors slower too
_MAX_FINDINGS: Final = 5
SHORT: Final = 150  # cases in continuous integration

_JSON: Final = {"Content-Type": "application/json"}
_NDJSON: Final = {"Content-Type": "application/x-ndjson"}
_CSV: Final = {"Content-Type": "text/csv"}
_LIST: Final = b'{"messages":['
_ITEM: Final = b'{"imei":"8612","micro_op":"push_down","params":{"x":'
_KEY: Final = b'{"name":"a","scopes":["messages:read"],'

_TOKENS: Final = (
    *(b"{", b"}", b"[", b"]", b"{}", b"[]", b",", b":", b'"', b'""', b'"":', b"\\", b'\\"', b"\\u0001", b"\n", b"\r"),
    *(b" ", b"0", b"9", b"1e9", b"-", b"null", b"a", "۱".encode(), b"\xff", b"\0"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A request, and what it is made of."""

    name: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


def run(wanted: int) -> Outcome:
    """The fixed shapes, and generated ones until there are `wanted` cases; with more than SHORT, all at full size."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="chapar-fuzz-") as folder:
        gateway = MeasuredGateway(Path(folder), BuiltinBroker().settings_env)
        with gateway, httpx.Client(base_url=gateway.url, timeout=600.0) as api:
            gateway.longest()
            fixed = list(fixed_shapes(_DEAR if wanted <= SHORT else _BULK))
            for shape in [*fixed, *generated_shapes(wanted - len(fixed))]:
                _try(shape, gateway, api, outcome)
                if len(outcome.findings) == _MAX_FINDINGS:
                    break
    return outcome


def _try(shape: Shape, gateway: MeasuredGateway, api: httpx.Client, outcome: Outcome) -> None:
    seconds = float("inf")
    for _ in range(_TRIES):
        gateway.forget()
        answer = api.request(shape.method, shape.path, content=shape.body, headers=shape.headers)
        seconds = min(seconds, gateway.longest())
        if seconds <= LONGEST_TURN:
            break
    outcome.cases += 1
    outcome.said["ms in the longest turn"] = max(outcome.said.get("ms in the longest turn", 0), round(seconds * 1000))
    if seconds > LONGEST_TURN:
        outcome.findings.append(f"{shape.name} held the event loop for {seconds * 1000:.0f} ms")
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        outcome.findings.append(f"{shape.name} was answered with {answer.status_code}: {answer.text[:200]}")


def fixed_shapes(dear: int) -> Iterator[Shape]:
    """What is known to be dear; the dearest of it in bulk calls of `dear` bytes."""
    yield from _bulk_shapes(dear)
    for name, body in _command_shapes():
        yield Shape(f"send {name}", "/messaging/send", body, _JSON)
    yield from _table_shapes(whole=dear == _BULK)
    yield from _reading_shapes()  # of what the shapes before have left in the database
    yield from _key_shapes()
    yield from _head_shapes()


def generated_shapes(number: int) -> Iterator[Shape]:
    """Bodies that repeat something short, within a message, among messages, or anywhere."""
    source = random.Random(0)
    for _ in range(number):
        opening = source.choice([b"", _LIST, _LIST + _ITEM, _LIST + _ITEM + b"[", _ITEM, _KEY])
        unit = b"".join(source.choices(_TOKENS, k=source.randrange(1, 5)))
        path, largest, headers = source.choice(
            [
                ("/messaging/bulk", _BULK, _JSON),
                ("/messaging/bulk", _BULK, _NDJSON),
                ("/messaging/send", _BODY, _JSON),
                ("/keys", _BODY, _JSON),
            ]
        )
        closing = source.choice([b"", b"]}}]}", b'"}}]}'])
        name = f"{path} of {opening!r}, {unit!r} × n, {closing!r}"
        yield Shape(name, path, _filled(opening, unit, closing, largest), headers)


def _filled(opening: bytes, unit: bytes, closing: bytes = b"", largest: int = _BODY) -> bytes:
    return opening + unit * ((largest - len(opening) - len(closing)) // len(unit)) + closing


def _names(number: int, *more: bytes) -> bytes:
    """Fields with different names."""
    return b",".join([*(b'"%d":0' % name for name in range(number)), *more])


def _command_shapes() -> Iterator[tuple[str, bytes]]:
    """Single messages."""
    yield "objects", _filled(_ITEM + b"[", b"{},", b"0]}}")
    yield "objects with a name", _filled(_ITEM + b"[", b'{"":0},', b"0]}}")
    yield "lists", _filled(_ITEM + b"[", b"[],", b"0]}}")
    yield "deep lists", _filled(_ITEM + b"[", b"[" * 30 + b"]" * 30 + b",", b"0]}}")
    yield "too deep", _filled(_ITEM, b"[")
    yield "numbers", _filled(_ITEM + b"[", b"1e15,", b"0]}}")
    yield "a number", _filled(_ITEM, b"9", b"}}")
    yield "a fraction", _filled(_ITEM + b"0.", b"9", b"}}")
    yield "names", _ITEM + b"{" + _names(6_500) + b"}}}"
    yield "a name twice", _ITEM + b"{" + _names(6_500, b'"6499":0') + b"}}}"
    yield "unknown fields", b"{" + _names(7_000) + b"}"
    yield "an operation", _filled(b'{"imei":"8612","micro_op":"', "\u200b".encode(), b'"}')
    yield "escapes", _filled(_ITEM + b'"', b"\\u0001", b'"}}')
    yield "a time", _filled(b'{"imei":"8612","micro_op":"a","deliver_at":"2100-01-01T00:00:00.', b"9", b'Z"}')


def _bulk_shapes(dear: int) -> Iterator[Shape]:
    def bulk(name: str, body: bytes) -> Shape:
        return Shape(f"bulk {name}", "/messaging/bulk", body, _JSON)

    def lines(name: str, body: bytes) -> Shape:
        return Shape(f"lines {name}", "/messaging/bulk", body, _NDJSON)

    for name, body in _command_shapes():
        yield bulk(f"of {name}", _LIST + b",".join([body] * (dear // _BODY - 1)) + b"]}")
    for unit in (b"{},", b"0,", b"[", b"{", b" ", b",", b'"', b":", b"]", b"\xff", b"\\", b"{}{"):
        yield bulk(f"of {unit!r}", _filled(_LIST, unit, b"0]}", _BULK))
    yield bulk("of b'{}'", _filled(_LIST, b"{}", b"0]}", dear))
    for unit in (b"[],", b'{"":0},', b"{}"):
        yield bulk(f"of one message of {unit!r}", _filled(_LIST + _ITEM + b"[", unit, b"0]}}]}", dear))
    for unit in (b'"",', b"1e999999,", b"\\n"):
        yield bulk(f"of one message of {unit!r}", _filled(_LIST + _ITEM + b"[", unit, b"0]}}]}", _BULK))
    for unit in (b"[", b"{", b'{"a":', b" ", b'"messages":[],'):
        yield bulk(f"without a list: {unit!r}", _filled(b"{", unit, b"", _BULK))
    yield bulk("of one text", _filled(_LIST + b'"', b"\\u0041", b'"]}', _BULK))
    yield bulk("of one number", _filled(_LIST, b"9", b"]}", _BULK))
    yield bulk("of nothing", _LIST + b",".join([b"{}"] * _MOST) + b"]}")
    message = b"{" + _names(dear // 10 // _MOST) + b"}"
    yield bulk("of unknown fields", _LIST + b",".join([message] * _MOST) + b"]}")
    yield bulk(
        "of what is taken", _LIST + b",".join(b'{"imei":"%d","micro_op":"a"}' % each for each in range(_MOST)) + b"]}"
    )
    for unit in (b"\n", b"\r", b" \n", b"{}\n", b" ", b"x", b"\xff\n"):
        yield lines(f"of {unit!r}", _filled(b"", unit, b"", _BULK))
    yield lines("of nothing", b"{}\n" * _MOST)
    yield from _row_shapes(dear)


def _row_shapes(dear: int) -> Iterator[Shape]:
    def rows(name: str, body: bytes) -> Shape:
        return Shape(f"rows {name}", "/messaging/bulk", body, _CSV)

    for unit in (b"\n", b",\n", b'"', b'"\n', b",", b'"",', b" ", b"\r", b"x", b"\xff\n"):
        yield rows(f"of {unit!r}", _filled(b"imei,micro_op\n", unit, b"", _BULK))
    columns = b",".join(b"params.%d" % number for number in range(998)) + b",imei,micro_op\n"
    yield rows("of a header", _filled(b"imei,micro_op,", b"params.0,", b"\n", _BODY))
    for cell in (b"[x]", b'"""', b"1", b"-0.1", b"=", b'"{""a"":1}"'):
        row = b",".join([cell] * 998) + b",8612,a\n"
        yield rows(f"of many cells {cell!r}", columns + row * (dear // len(row)))


def _table_shapes(*, whole: bool) -> Iterator[Shape]:
    """Tables; where it need not be the `whole`, each cell stands in one of the columns, and one table is shorter."""

    def table(name: str, body: bytes) -> Shape:
        return Shape(f"table {name}", "/devices/import?dry_run=true", body, _CSV)

    header = b"imei,name,labels\n"
    columns = (b"%b\n", b"p,%b\n", b"p,,%b\n")
    for number, cell in enumerate((b"\\", b";", b":", b" ", b"'", b'"', b"a:1;", b"\\ ", "\u06f1".encode())):
        for column in columns if whole else columns[number % 3 :][:1]:
            row = column % _filled(b"", cell, b"", 16_000)
            yield table(f"of {cell!r} as {column!r}", header + row * (_TABLE // len(row)))
    yield table(
        "of columns", b"imei," + b",".join(b"labels.%d" % number for number in range(99)) + b"\n" + b"p\n" * 9_000
    )
    yield table("of one device", header + b"p,x,a:1\n" * (100_000 if whole else 20_000))
    for unit, size in (
        (b"p\n", _BULK),
        (b'"', _BULK),
        (b"\0", _BULK),
        (b"PK\3\4", _BULK),
        (b"\n", _TABLE),
        (b"\xff", _TABLE),
    ):
        yield table(f"of {unit!r}", _filled(header, unit, b"", size))


def _reading_shapes() -> Iterator[Shape]:
    for path in ("/messaging/messages?limit=1000", "/reporting/summary", *_reports()):
        yield Shape(path, path, method="GET")


def _reports() -> Iterator[str]:
    for form in ("json", "ndjson", "csv", "xlsx"):
        yield f"/reporting/all?format={form}"


def _key_shapes() -> Iterator[Shape]:
    def key(name: str, body: bytes) -> Shape:
        return Shape(f"key {name}", "/keys", body, _JSON)

    for name in (b"scopes", b"devices", b"operations"):
        for unit in (b"0,", b'"",', b"{},", b"[],"):
            yield key(f"{name.decode()} of {unit!r}", _filled(b'{"name":"a","%b":[' % name, unit, b"0]}"))
    yield key("unknown fields", b"{" + _names(7_000) + b"}")
    yield key("a field twice", b"{" + _names(6_500, b'"6499":0') + b"}")
    yield key("deep", _filled(b"", b"["))
    yield key("a name", _filled(b'{"name":"', b"\\u0001", b'","scopes":[]}'))
    yield key("a number", _filled(b'{"name":', b"9", b"}"))
    yield Shape("end unknown fields", "/keys/abc/expire", b"{" + _names(7_000) + b"}", _JSON)


def _head_shapes() -> Iterator[Shape]:
    def query(name: str, text: str) -> Shape:
        return Shape(f"query {name}", f"/messaging/messages?{text[:_QUERY]}", method="GET")

    def head(name: str, value: str) -> Shape:
        headers = {**_JSON, name: (value * (_HEAD // len(value))).strip()}
        return Shape(f"{name} of {value}", "/messaging/send", b'{"imei":"8612","micro_op":"a"}', headers)

    yield query("status", "&".join(["status="] * 560))
    yield query("good status", "&".join(["status=queued"] * 550))
    yield query("unknown", "&".join(f"{name:x}=" for name in range(2_000)))
    yield query("escapes", "micro_op=" + "%e2%80%8b" * 870)
    yield query("separators", "&" * _QUERY)
    yield query("a number", "limit=" + "9" * _QUERY)
    yield query("a cursor", "cursor=" + "f" * _QUERY)
    yield query("a time", "since=2026-01-01T00:00:00." + "9" * 7_800)
    for name, value in (
        *(
            ("Accept-Language", "fa;q=0.1,"),
            ("Accept-Language", "fa-"),
            ("Prefer", "a,"),
            ("Prefer", 'a="'),
            ("Cookie", "a=b;"),
        ),
        *(("Authorization", "Bearer "), ("Authorization", "a."), ("Origin", "http://"), ("X-Request-ID", "a-")),
        *(("Idempotency-Key", '"'), ("X-Forwarded-For", "::,"), ("Content-Type", "application/json;")),
    ):
        yield head(name, value)
