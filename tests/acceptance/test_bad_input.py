"""Requests that break a rule: each gets a problem that says which, and neither table, device nor link notices."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from support import mosquitto as mosquitto_support
from support.api import problem_of
from support.devices import Device
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.raw_http import JSON, RawRequest

LIMIT = 64 * 1024  # bytes; the default of CHAPAR_MAX_BODY_BYTES
BODY_TIMEOUT = 0.5  # seconds
STOPS_WITHIN = 32 * 1024 * 1024  # bytes; what the sockets' buffers swallow, and more
GOOD = b'{"imei": "8612", "micro_op": "push_down"}'


@dataclass(frozen=True)
class Site:
    """A gateway with its broker, and a device that hears everything."""

    broker: Mosquitto
    gateway: GatewayProcess
    everything: Device
    api: httpx.Client

    def send(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.api.post(
            "/messaging/send",
            content=body,
            headers={"Content-Type": "application/json"} if headers is None else headers,
        )

    @property
    def stored(self) -> int:
        total: int = self.api.get("/reporting/summary").json()["total"]
        return total

    @property
    def connects(self) -> int:
        return sum("New client connected" in line for line in self.broker.program.lines)


@pytest.fixture(scope="module")
def everything_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not mosquitto_support.installed():
        pytest.skip("Mosquitto is not installed")
    with Mosquitto() as broker:
        env = {**broker.settings_env, "CHAPAR_BODY_TIMEOUT": str(BODY_TIMEOUT)}
        with (
            GatewayProcess(tmp_path_factory.mktemp("gateway"), env) as gateway,
            Device(broker.port, "everything", topics=["#"]) as everything,
            httpx.Client(base_url=gateway.url, timeout=30.0) as api,
        ):
            yield Site(broker, gateway, everything, api)


@pytest.fixture
def site(everything_runs: Site) -> Iterator[Site]:
    """Around each test: nothing is stored, nothing heard but a good message sent behind it, on the same connection."""
    site = everything_runs
    stored, connects, heard = site.stored, site.connects, len(site.everything.heard)
    yield site
    assert site.stored == stored
    assert site.send(GOOD).status_code == 201, "the next one works"
    new = site.everything.wait_for(heard + 1)[heard:]
    assert [(each.topic, each.payload) for each in new] == [("devices/8612", b"push_down")]
    assert site.connects == connects, "the link's session is untouched"
    assert "Traceback" not in site.gateway.program.output


def field(name: str, value: Any) -> bytes:
    """A good request but for this field."""
    return json.dumps({"imei": "8612", "micro_op": "push_down", name: value}).encode()


def raw(name: str, value: str | bytes) -> bytes:
    """Likewise, with the value as it stands."""
    text = value if isinstance(value, bytes) else value.encode()
    rest = {"imei": "8612", "micro_op": "push_down"}
    rest.pop(name, None)
    return json.dumps(rest).encode()[:-1] + f', "{name}": '.encode() + text + b"}"


CHARACTERS = "must be 1 to 64 characters out of A-Z a-z 0-9 . _ -"
CONTROL = "must not contain control characters or characters outside Unicode's text"
OBJECT = "must be a JSON object"
WHOLE = "must be a whole number"
NUMBER = "must be a number"
BOOLEAN = "must be true or false"
TWICE = "is given more than once"

FIELDS = {
    "a wildcard for one level as device id": (field("imei", "+"), "imei", CHARACTERS),
    "a wildcard for all levels as device id": (field("imei", "#"), "imei", CHARACTERS),
    "a wildcard inside a device id": (field("imei", "86+12"), "imei", CHARACTERS),
    "a slash inside a device id": (field("imei", "8612/reply"), "imei", CHARACTERS),
    "a way up in a device id": (field("imei", "../8612"), "imei", CHARACTERS),
    "a shared subscription as device id": (field("imei", "$share/group/8612"), "imei", CHARACTERS),
    "an empty device id": (field("imei", ""), "imei", CHARACTERS),
    "a blank device id": (field("imei", " "), "imei", CHARACTERS),
    "a device id with a space at its end": (field("imei", "8612 "), "imei", CHARACTERS),
    "a device id with a line feed at its end": (field("imei", "8612\n"), "imei", CHARACTERS),
    "a device id of 65 characters": (field("imei", "8" * 65), "imei", CHARACTERS),
    "a device id of 65 Persian digits": (field("imei", "۸" * 65), "imei", CHARACTERS),
    "NUL in a device id": (field("imei", "86\x0012"), "imei", CHARACTERS),
    "a control character in a device id": (field("imei", "86\x1b12"), "imei", CHARACTERS),
    "U+FFFF in a device id": (field("imei", "86\uffff12"), "imei", CHARACTERS),
    "digits of full width as device id": (field("imei", "８６１２"), "imei", CHARACTERS),
    "Persian letters as device id": (field("imei", "دستگاه"), "imei", CHARACTERS),
    "a zero-width joiner in a device id": (field("imei", "86\u200d12"), "imei", CHARACTERS),
    "a template as device id": (field("imei", "{imei}"), "imei", CHARACTERS),
    "a number as device id": (field("imei", 8612), "imei", "must be a string"),
    "null as device id": (field("imei", None), "imei", "must be a string"),
    "a list as device id": (field("imei", ["8612"]), "imei", "must be a string"),
    "no device id": (b'{"micro_op": "push_down"}', "imei", "is missing"),
    "no operation": (b'{"imei": "8612"}', "micro_op", "is missing"),
    "nothing in the object": (b"{}", "imei", "is missing"),
    "an empty operation": (field("micro_op", ""), "micro_op", "must not be empty"),
    "a blank operation": (field("micro_op", " \u3000"), "micro_op", "must not be empty"),
    "NUL in an operation": (field("micro_op", "push\0down"), "micro_op", CONTROL),
    "a line feed in an operation": (field("micro_op", "push\ndown"), "micro_op", CONTROL),
    "an escape in an operation": (field("micro_op", "\x1b[2J"), "micro_op", CONTROL),
    "a C1 control character in an operation": (field("micro_op", "push\x85down"), "micro_op", CONTROL),
    "U+FFFF in an operation": (field("micro_op", "push\uffff"), "micro_op", CONTROL),
    "U+FDD0 in an operation": (field("micro_op", "push\ufdd0"), "micro_op", CONTROL),
    "U+1FFFE in an operation": (field("micro_op", "push\U0001fffe"), "micro_op", CONTROL),
    "an operation of 1025 bytes": (field("micro_op", "x" * 1025), "micro_op", "must be at most 1024 bytes"),
    "an operation of 513 Persian letters": (field("micro_op", "پ" * 513), "micro_op", "must be at most 1024 bytes"),
    "a number as operation": (field("micro_op", 1), "micro_op", "must be a string"),
    "true as operation": (field("micro_op", value=True), "micro_op", "must be a string"),
    "an unknown field": (field("microop", "push_down"), "microop", "is not a field of this request"),
    "a field in capitals": (field("IMEI", "8612"), "IMEI", "is not a field of this request"),
    "a device id given twice": (b'{"imei": "8612", "micro_op": "a", "imei": "8613"}', "imei", TWICE),
    "an operation given twice": (b'{"imei": "8612", "micro_op": "a", "micro_op": "a"}', "micro_op", TWICE),
    "a device id given twice, once in escapes": (b'{"imei": "8", "micro_op": "a", "im\\u0065i": "9"}', "imei", TWICE),
    "a parameter given twice": (raw("params", '{"zone": 1, "zone": 2}'), "zone", TWICE),
    "a parameter given twice deep inside": (raw("params", '{"zones": [{"id": 1, "id": 2}]}'), "id", TWICE),
    "text as quality of service": (field("qos", "1"), "qos", WHOLE),
    "true as quality of service": (field("qos", value=True), "qos", WHOLE),
    "a fraction as quality of service": (raw("qos", "1.0"), "qos", WHOLE),
    "3 as quality of service": (field("qos", 3), "qos", "must be one of 0, 1, 2"),
    "a negative quality of service": (field("qos", -1), "qos", "must be one of 0, 1, 2"),
    "null as quality of service": (field("qos", None), "qos", WHOLE),
    "1 as retain": (field("retain", 1), "retain", BOOLEAN),
    "text as retain": (field("retain", "true"), "retain", BOOLEAN),
    "0 as at_most_once": (field("at_most_once", 0), "at_most_once", BOOLEAN),
    "text as timeout": (field("timeout", "1"), "timeout", NUMBER),
    "true as timeout": (field("timeout", value=True), "timeout", NUMBER),
    "0 as timeout": (field("timeout", 0), "timeout", "must be greater than 0"),
    "a negative timeout": (field("timeout", -1), "timeout", "must be greater than 0"),
    "301 as timeout": (field("timeout", 301), "timeout", "must be at most 300"),
    "NaN as timeout": (raw("timeout", "NaN"), "timeout", "must be"),
    "Infinity as timeout": (raw("timeout", "Infinity"), "timeout", "must be at most 300"),
    "text as parameters": (field("params", "30"), "params", OBJECT),
    "a list as parameters": (field("params", [30]), "params", OBJECT),
    "NaN in parameters": (raw("params", '{"seconds": NaN}'), "params", "must not hold NaN or Infinity"),
    "a number beyond all numbers in parameters": (raw("params", '{"s": -1e999}'), "params", "must not hold NaN"),
    "parameters of 33 levels": (raw("params", '{"a":' * 33 + "1" + "}" * 33), "params", "must be at most 32 levels"),
    "lists of 33 levels": (raw("params", '{"a":' + "[" * 33 + "]" * 33 + "}"), "params", "must be at most 32 levels"),
    "an array instead of an object": (b'[{"imei": "8612", "micro_op": "push_down"}]', "body", OBJECT),
    "text instead of an object": (b'"push_down"', "body", OBJECT),
    "a number instead of an object": (b"8612", "body", OBJECT),
    "null instead of an object": (b"null", "body", OBJECT),
}

MALFORMED = {
    "no body": b"",
    "blanks for a body": b" \r\n\t",
    "a body cut off": GOOD[:-1],
    "a body cut off inside text": GOOD[:-4],
    "something behind the object": GOOD + b" x",
    "a second object": GOOD + GOOD,
    "a comma too many": b'{"imei": "8612", "micro_op": "push_down",}',
    "single quotes": b"{'imei': '8612', 'micro_op': 'push_down'}",
    "a comment": b'{"imei": "8612", /* now */ "micro_op": "push_down"}',
    "a form": b"imei=8612&micro_op=push_down",
    "a lone leading surrogate": raw("micro_op", r'"push\ud800"'),
    "a lone trailing surrogate": raw("micro_op", r'"\udc00push"'),
    "a lone surrogate in a device id": raw("imei", r'"86\ud800"'),
    "a lone surrogate in parameters": raw("params", r'{"text": "\udfff."}'),
    "a surrogate in UTF-8": raw("micro_op", b'"\xed\xa0\x80"'),
    "a byte that is not UTF-8": raw("micro_op", b'"push\xff"'),
    "an overlong slash": raw("imei", b'"86\xc0\xaf12"'),
    "Latin-1 text": raw("micro_op", "مدير".encode("iso-8859-6")),
    "UTF-16 that does not say so": GOOD.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "a control character as it is": raw("micro_op", b'"push\x01down"'),
    "a number of 5,000 digits": raw("params", b'{"n":' + b"9" * 5000 + b"}"),
}

MEDIA = {
    "no content type": {},
    "plain text": {"Content-Type": "text/plain"},
    "what a form of another site may send": {"Content-Type": "text/plain; application/json"},
    "a form's content type": {"Content-Type": "application/x-www-form-urlencoded"},
    "several parts": {"Content-Type": "multipart/form-data; boundary=x"},
    "JSON with another name": {"Content-Type": "application/vnd.api+json"},
    "UTF-16": {"Content-Type": "application/json; charset=utf-16"},
    "Latin-1": {"Content-Type": "application/json; charset=iso-8859-1"},
    "gzip": {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    "an unknown encoding": {"Content-Type": "application/json", "Content-Encoding": "zstd, gzip"},
}


@pytest.mark.parametrize(("body", "name", "rule"), FIELDS.values(), ids=FIELDS.keys())
def test_a_field_that_breaks_a_rule_is_named_with_it(site: Site, body: bytes, name: str, rule: str) -> None:
    answer = site.send(body)
    problem = problem_of(answer)
    assert (answer.status_code, problem["code"]) == (422, "field_invalid")
    assert problem["errors"][0]["field"] == name
    assert problem["errors"][0]["rule"].startswith(rule)
    assert f"`{name}` {rule}" in problem["reason"]
    assert problem["detail"] == problem["reason"]
    assert problem["type"] == "urn:chapar:problem:field_invalid"


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_no_json_in_utf_8_is_malformed(site: Site, body: bytes) -> None:
    answer = site.send(body)
    assert (answer.status_code, problem_of(answer)["code"]) == (400, "body_malformed")


@pytest.mark.parametrize("headers", MEDIA.values(), ids=MEDIA.keys())
def test_another_media_type_than_json_in_utf_8_is_unsupported(site: Site, headers: dict[str, str]) -> None:
    answer = site.send(GOOD, headers)
    assert (answer.status_code, problem_of(answer)["code"]) == (415, "media_type_unsupported")
    assert "(application/json)" in problem_of(answer)["reason"]


def test_the_media_types_that_a_route_takes_are_named(site: Site) -> None:
    answer = site.api.post("/messaging/bulk", content="x", headers={"Content-Type": "text/plain"})
    assert "(application/json, application/x-ndjson, text/csv)" in problem_of(answer)["reason"]


def test_every_broken_rule_is_named_at_once(site: Site) -> None:
    problem = problem_of(site.send(b'{"imei": 1, "micro_op": 2, "qos": "1", "colour": "red"}'))
    assert [error["field"] for error in problem["errors"]] == ["imei", "micro_op", "qos", "colour"]


@pytest.mark.parametrize(
    ("language", "more"), [("en", "There are 6990 more."), ("fa", "۶۹۹۰ خطای دیگر هم هست.")], ids=["en", "fa"]
)
def test_of_thousands_of_broken_rules_the_first_are_named(site: Site, language: str, more: str) -> None:
    body = b"{" + b",".join(b'"%s%d":0' % (b"a" * 60 if number == 5 else b"", number) for number in range(6998)) + b"}"
    answer = site.send(body, {"Content-Type": "application/json", "Accept-Language": language})
    problem = problem_of(answer)
    assert [error["field"] for error in problem["errors"]][:4] == ["imei", "micro_op", "0", "1"]
    assert [error["field"] for error in problem["errors"]][7] == f"{'a' * 50}…"
    assert len(problem["errors"]) == 10
    assert problem["reason"].endswith(more)


@pytest.mark.parametrize(
    ("language", "persian"),
    [
        ("fa", True),
        ("en;q=0.5, fa-IR", True),
        ("fa;q=0.1, en", False),
        ("fa; q=0.9", True),
        ("en ; q=0.5 , fa\t;\tq=0.9", True),
        ("fa; q=0.1, en", False),
        ("fa;q=?, en", False),
    ],
)
def test_a_reason_is_persian_for_whoever_asks_for_it(site: Site, language: str, *, persian: bool) -> None:
    bodies = [field("imei", "#"), field("qos", "1"), b"{}", field("colour", "red"), GOOD[:-1]]
    headers = {"Content-Type": "application/json", "Accept-Language": language}
    for body in bodies:
        answer = site.send(body, headers)
        problem = problem_of(answer)
        assert any("ا" <= letter <= "ی" for letter in problem["reason"]) is persian, problem
        assert answer.headers["content-language"] == ("fa" if persian else "en")


def test_a_body_of_one_byte_too_many_is_too_large(site: Site) -> None:
    too_large = GOOD + b" " * (LIMIT + 1 - len(GOOD))
    answer = site.send(too_large)
    assert (answer.status_code, problem_of(answer)["code"]) == (413, "body_too_large")
    assert str(LIMIT) in problem_of(answer)["reason"]


def test_a_body_of_one_byte_too_many_in_chunks_is_too_large(site: Site) -> None:
    def chunks() -> Iterator[bytes]:
        yield GOOD
        yield b" " * (LIMIT + 1 - len(GOOD))

    answer = site.api.post("/messaging/send", content=chunks(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, problem_of(answer)["code"]) == (413, "body_too_large")


ENDLESS = {
    "in chunks": ([*JSON, "Transfer-Encoding: chunked"], b"10000\r\n" + b" " * 0x10000 + b"\r\n", 413),
    "with a length": ([*JSON, "Content-Length: 99999999999999"], b" " * 0x10000, 413),
    "compressed": ([*JSON, "Content-Encoding: gzip", "Transfer-Encoding: chunked"], b"4\r\nxxxx\r\n" * 9999, 415),
    "of another type": (["Content-Type: text/csv", "Transfer-Encoding: chunked"], b"4\r\nxxxx\r\n" * 9999, 415),
}


@pytest.mark.parametrize(("headers", "piece", "status"), ENDLESS.values(), ids=ENDLESS.keys())
def test_reading_an_endless_body_stops(site: Site, headers: list[str], piece: bytes, status: int) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(2 * STOPS_WITHIN // len(piece)):
            yield piece

    with RawRequest(site.gateway.port, *headers) as request:
        answer = request.send(pieces()).answer()
        assert (answer.status, answer.media_type) == (status, "application/problem+json")
        assert request.is_closed()
    assert answer.sent < STOPS_WITHIN


@pytest.mark.parametrize("path", ["/nowhere", "/messaging/messages", "/health/live"])
def test_an_endless_body_where_none_belongs_is_not_read_either(site: Site, path: str) -> None:
    pieces = [b"10000\r\n" + b" " * 0x10000 + b"\r\n"] * (2 * STOPS_WITHIN // 0x10000)
    with RawRequest(site.gateway.port, "Transfer-Encoding: chunked", path=path) as request:
        answer = request.send(pieces).answer()
        assert answer.status in {404, 405}
        assert answer.sent < STOPS_WITHIN


def test_a_slow_body_is_given_up(site: Site) -> None:
    with RawRequest(site.gateway.port, *JSON, f"Content-Length: {len(GOOD)}") as request:
        answer = request.send([GOOD[:5]]).answer()
        assert (answer.status, answer.media_type) == (408, "application/problem+json")
        assert (answer.problem["code"], answer.problem["title"]) == ("body_too_slow", "Request Timeout")
        assert request.is_closed()


@pytest.mark.parametrize("length", ["-1", "+41", "4 1", "0x29", "41, 42", "41abc", "۴۱"])
def test_a_length_that_is_none_is_refused(site: Site, length: str) -> None:
    header = f"Content-Length: {length}".encode().decode("latin-1")
    with RawRequest(site.gateway.port, *JSON, header) as request:
        assert request.send([GOOD]).answer().status == 400
        assert request.is_closed()


def test_two_ways_to_tell_a_body_s_end_are_refused(site: Site) -> None:
    """Request smuggling (RFC 9112 §6.3)."""
    both = "Transfer-Encoding: chunked", f"Content-Length: {len(GOOD)}"
    with RawRequest(site.gateway.port, *JSON, *both) as request:
        assert request.send([b"0\r\n\r\n"]).answer().status == 400


QUERIES = {
    "/messaging/messages?colour=red": ("colour", "is not a field"),
    "/messaging/messages?limit=0": ("limit", "must be at least 1"),
    "/messaging/messages?limit=1001": ("limit", "must be at most 1000"),
    "/messaging/messages?limit=many": ("limit", WHOLE),
    "/messaging/messages?cursor=first": ("cursor", "must be `next` of an earlier answer"),
    "/messaging/messages?cursor=%00": ("cursor", "must be `next` of an earlier answer"),
    "/messaging/messages?imei=86%2F12": ("imei", CHARACTERS),
    "/messaging/messages?micro_op=%00": ("micro_op", CONTROL),
    "/messaging/messages?since=yesterday": ("since", "must be an RFC 3339 time"),
    "/messaging/messages?since=2026-11-24": ("since", "must be an RFC 3339 time"),
    "/messaging/messages?until=2026-11-24T06:30:00": ("until", "must be an RFC 3339 time with an offset"),
    "/messaging/messages?until=0.5": ("until", "must be an RFC 3339 time with an offset"),
    f"/messaging/messages?{'&'.join(['status=queued'] * 560)}": ("status", "must have at most 12 values"),
    f"/reporting/all?{'&'.join(['status=queued'] * 560)}": ("status", "must have at most 12 values"),
    f"/reporting/summary?{'&'.join(['status='] * 560)}": ("status", "must have at most 12 values"),
    "/messaging/messages?since=2026-11-24T06:30:00+03:30": ("since", "has a blank before its offset: in a URL write +"),
    "/audit?until=2026-11-24T06:30:00.5+0330": ("until", "has a blank before its offset"),
    "/messaging/messages?status=queued&status=lost": ("status", "must be one of scheduled, queued, publishing"),
    f"/audit?cursor={'9' * 7000}": ("cursor", "must be a smaller number"),
    "/reporting/all?since=20261124": ("since", "must be an RFC 3339 time with an offset"),
    "/reporting/all?colour=red": ("colour", "is not a field"),
    "/reporting/all?format=xml": ("format", "must be one of"),
    "/reporting/all?limit=5": ("limit", "is not a field"),
    "/reporting/summary?bucket=week": ("bucket", "must be one of"),
    "/reporting/summary?=": ('""', "is not a field"),
    "/reporting/summary?colour=red": ("colour", "is not a field"),
    f"/messaging/messages/{'x' * 65}": ("id", "must be at most 64 characters"),
    "/messaging/messages/x?id=y": ("id", "is not a field"),
    "/messaging/messages/x?wait=": ("wait", "must be one of"),
    "/messaging/messages/x?wait=Device": ("wait", "must be one of"),
    "/messaging/messages/x?wait=device&timeout=": ("timeout", NUMBER),
    "/messaging/messages/x?wait=device&timeout=0": ("timeout", "must be greater than 0"),
    "/messaging/messages/x?wait=device&timeout=nan": ("timeout", "must be"),
    "/messaging/messages/x?timeout=300.5": ("timeout", "must be at most 300"),
    "/messaging/messages/x?timeout=soon": ("timeout", NUMBER),
    "/devices?presence=away": ("presence", "must be one of"),
    "/devices?label=farm": ("label", "must be"),
    "/devices?q=": ("q", "must"),
    "/devices?limit=0": ("limit", "must be at least 1"),
    "/devices?cursor=%2F": ("cursor", "must be `next` of an earlier answer"),
    "/devices/x%00": ("imei", CHARACTERS),
    "/replies?matched=true": ("matched", ""),
    "/replies?imei=86%2F12": ("imei", CHARACTERS),
    "/replies?cursor=first": ("cursor", "must be `next` of an earlier answer"),
    "/replies?limit=1001": ("limit", "must be at most 1000"),
}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"name":"a","scopes":["audit:read"],"name":"b"}', 422, "field_invalid"),
        (b'{"name":"a"', 400, "body_malformed"),
        (b"[" * 60_000, 400, "body_malformed"),
        (b"\xff", 400, "body_malformed"),
    ],
    ids=["a field twice", "cut off", "deep", "no UTF-8"],
)
@pytest.mark.parametrize("path", ["/keys", "/keys/abc/expire"])
def test_the_body_of_every_route_is_read_alike(site: Site, path: str, body: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json", "Accept-Language": "fa"}
    answer = site.api.post(path, content=body, headers=headers)
    assert (answer.status_code, problem_of(answer)["code"]) == (status, code)
    assert answer.headers["content-language"] == "fa"


def test_an_item_of_a_list_is_named_by_its_place(site: Site) -> None:
    answer = site.api.post("/keys", json={"name": "a", "scopes": ["audit:read", 5], "devices": ["x", {}]})
    assert [error["field"] for error in problem_of(answer)["errors"]] == ["scopes[1]", "devices[1]"]


@pytest.mark.parametrize(("path", "expected"), QUERIES.items(), ids=lambda each: str(each)[:60])
def test_a_query_that_breaks_a_rule_is_named_with_it(site: Site, path: str, expected: tuple[str, str]) -> None:
    answer = site.api.get(path)
    problem = problem_of(answer)
    name, rule = expected
    assert (answer.status_code, problem["code"]) == (422, "field_invalid")
    assert problem["errors"][0]["field"] == name
    assert problem["errors"][0]["rule"].startswith(rule)


def test_every_route_takes_its_own_parameters_only_and_each_once(site: Site) -> None:
    checked = 0
    for path, methods in site.api.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            taken = [each for each in operation.get("parameters", []) if each["in"] == "query"]
            if method == "get" and not taken:
                continue
            once = [each["name"] for each in taken if each["schema"].get("type") != "array"]
            faults = {"unknown": ("unknown", "از فیلدهای این درخواست نیست")}
            faults |= {f"{name}=1&{name}=1": (name, "بیش از یک بار آمده است") for name in once}
            for query, (field, rule) in faults.items():
                target = f"{path.format(id='x', imei='x')}?{query}"
                answer = site.api.request(method, target, headers={"Accept-Language": "fa", "Content-Type": "a/b"})
                assert answer.status_code == 422, (method, path, query)
                assert problem_of(answer)["errors"] == [{"field": field, "rule": rule}]
                checked += 1
    assert checked > 30
    assert site.api.get("/messaging/messages?status=queued&status=expired").status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/health/live?_=17",
        "/health/ready?verbose",
        "/metrics?a=1&a=2",
        "/docs?utm_source=mail",
        "/openapi.json?=",
        "/keys?_=17",
    ],
)
def test_a_read_that_takes_no_parameters_passes_over_them(site: Site, target: str) -> None:
    assert site.api.get(target).status_code == 200


def test_many_wrong_parameters_are_counted(site: Site) -> None:
    answer = site.api.get("/reporting/summary?" + "&".join(f"a{number}" for number in range(1000)))
    assert len(problem_of(answer)["errors"]) == 10
    assert "990" in problem_of(answer)["reason"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/messaging/messages/nobody", 404, "message_not_found"),
        ("GET", "/messaging/messages/%00", 404, "message_not_found"),
        ("GET", "/messaging/messages/%FF", 404, "message_not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/docs/assets/../../pyproject.toml", 404, "not_found"),
        ("GET", "/docs/assets/%2e%2e/%2e%2e/problems.py", 404, "not_found"),
        ("GET", "/messaging/send", 405, "method_not_allowed"),
        ("DELETE", "/messaging/messages", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_a_problem_too(site: Site, method: str, path: str, status: int, code: str) -> None:
    answer = site.api.request(method, path)
    assert (answer.status_code, problem_of(answer)["code"]) == (status, code)
