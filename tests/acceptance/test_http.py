"""HTTP as other programs speak it: HEAD, HTTP/1.0, media types, headers given twice, ids in capitals."""

import json
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from support.api import problem_of
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess
from support.ports import LOOPBACK
from support.raw_http import RawRequest

GOOD: Final = {"imei": "8612", "micro_op": "push_down"}
KEY: Final = "8e03978e-40d5-43dd-bc93-6894a57f9324"
TOMORROW: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()
CHANGING: Final = {"date", "x-request-id"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env) as gateway:
        yield gateway
        assert "Traceback" not in gateway.program.output


@pytest.fixture(scope="module")
def api(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        yield client


@pytest.fixture(scope="module")
def message_id(api: httpx.Client) -> str:
    sent: str = api.post("/messaging/send", json=GOOD).json()["id"]
    return sent


def total(api: httpx.Client) -> int:
    count: int = api.get("/reporting/summary").json()["total"]
    return count


def raw(gateway: GatewayProcess, head: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """The head and the body of the answer, read to the end of the connection."""
    with socket.create_connection((LOOPBACK, gateway.port), timeout=30.0) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        received = b""
        while data := connection.recv(65536):
            received += data
    answer_head, _, answer_body = received.partition(b"\r\n\r\n")
    return answer_head, answer_body


def test_head_is_answered_wherever_get_is(gateway: GatewayProcess, api: httpx.Client, message_id: str) -> None:
    paths = [path for path, methods in api.get("/openapi.json").json()["paths"].items() if "get" in methods]
    assert len(paths) >= 8
    unlisted = ["/docs", "/openapi.json", "/docs/assets/swagger-ui.css", "/docs/assets/nothing", "/nowhere"]
    queries = ["/reporting/all?format=csv", "/messaging/messages?limit=0", "/messaging/messages?limit=1"]
    before = total(api)
    paths[paths.index("/events")] += "?follow=false"  # else it has no end
    for path in [each.replace("{id}", message_id) for each in (*paths, *unlisted, *queries)]:
        got, head = api.get(path), api.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        expected = got.headers.multi_items()
        if path == "/metrics":  # measures itself
            expected = [item for item in expected if item[0] != "content-length"]
        shown = {item for item in expected if item[0] not in CHANGING | {"transfer-encoding"}}
        assert shown <= set(head.headers.multi_items()), path
    assert total(api) == before
    answer_head, body = raw(gateway, "HEAD /reporting/all HTTP/1.1\nHost: localhost\nConnection: close")
    assert (answer_head.partition(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"")
    _, body = raw(gateway, "HEAD /health/live HTTP/3.0\nHost: localhost")
    assert body == b"", "nor has what cannot become a request one"


def test_head_is_not_answered_where_get_is_not(api: httpx.Client, message_id: str) -> None:
    for path in ("/messaging/send", "/messaging/bulk", f"/messaging/messages/{message_id}/resend"):
        answer = api.head(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_a_method_that_is_not_allowed_is_told_head_too(api: httpx.Client) -> None:
    assert api.delete("/keys").headers["allow"] == "GET, HEAD, POST"
    assert api.post("/docs/assets/swagger-ui.css").headers["allow"] == "GET, HEAD"


LEGAL: Final = [
    "application/json",
    "Application/JSON",
    "application/json; v=1",
    "application/json;charset=utf-8;v=1",
    'application/json; charset="utf-8"',
    'application/json; charset="UTF\\-8"',
    "application/json \t; \tCharset=UTF-8",
    "application/json;",
    "application/json;; v=1 ;",
    'application/json; profile="https://example.org/a;b\\"c"',
]
ILLEGAL: Final = [
    "application/json; v",
    "application/json; v=",
    "application/json; v= 1",
    "application/json v=1",
    'application/json; charset="utf-8',
    "application/json; charset=latin-1",
    'application/json; charset="latin-1"',
    "application/json; charset=utf-8; charset=latin-1",
    "application/json; v=1; charset=utf-16",
    "application/json, application/json",
    "application/json; charset='utf-8'",
    "application/; v=1",
    "text/plain; v=application/json",
]


@pytest.mark.parametrize("path", ["/messaging/send", "/messaging/bulk", "/keys/x/expire"])
def test_legal_parameters_of_a_media_type_are_taken(api: httpx.Client, path: str) -> None:
    body: Any = {"/messaging/send": GOOD, "/messaging/bulk": {"messages": [GOOD]}}.get(path, {"expires_at": None})
    expected = {"/messaging/send": 201, "/messaging/bulk": 200}.get(path, 404)
    for media_type in LEGAL:
        answer = api.post(path, content=json.dumps(body), headers={"Content-Type": media_type})
        assert answer.status_code == expected, (media_type, answer.text)
    for media_type in ILLEGAL:
        answer = api.post(path, content=json.dumps(body), headers={"Content-Type": media_type})
        assert (answer.status_code, problem_of(answer)["code"]) == (415, "media_type_unsupported"), media_type


def test_a_list_of_lines_may_have_parameters_too(api: httpx.Client) -> None:
    headers = {"Content-Type": 'application/x-ndjson; charset="utf-8"; v=1'}
    assert api.post("/messaging/bulk", content=json.dumps(GOOD), headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/reporting/all", "/reporting/all?format=ndjson", "/keys", "/messaging/messages"])
def test_a_stream_to_http_1_0_ends_with_the_connection(gateway: GatewayProcess, api: httpx.Client, path: str) -> None:
    whole = api.get(path)
    for head in (f"GET {path} HTTP/1.0", f"GET {path} HTTP/1.0\nConnection: keep-alive\nHost: localhost"):
        answer_head, body = raw(gateway, head)
        assert b"transfer-encoding" not in answer_head.lower()
        assert b"connection: close" in answer_head.lower()
        assert body == whole.content


def test_a_bulk_call_in_http_1_0_is_answered_without_chunks(gateway: GatewayProcess) -> None:
    body = json.dumps({"messages": [GOOD, GOOD]}).encode()
    head = f"POST /messaging/bulk HTTP/1.0\nContent-Type: application/json\nContent-Length: {len(body)}"
    answer_head, answer_body = raw(gateway, head, body)
    assert b"transfer-encoding" not in answer_head.lower()
    assert json.loads(answer_body)["summary"] == {"201": 2}


REPEATED: Final[Mapping[str, tuple[str, ...]]] = {
    "Idempotency-Key": (f"Idempotency-Key: {KEY}", "Idempotency-Key: another"),
    "Idempotency-Key, twice the same": (f"Idempotency-Key: {KEY}", f"idempotency-key: {KEY}"),
    "Authorization": ("Authorization: Bearer one", "Authorization: Bearer two"),
    "Content-Type": ("Content-Type: application/json",),
    "Origin": ("Origin: https://evil.example", "Origin: http://localhost"),
    "Sec-Fetch-Site": ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: none"),
    "Host": ("Host: localhost",),
}


@pytest.mark.parametrize("headers", REPEATED.values(), ids=REPEATED.keys())
@pytest.mark.parametrize("path", ["/messaging/send", "/keys"])
def test_a_header_that_may_stand_once_is_not_taken_twice(
    gateway: GatewayProcess, api: httpx.Client, headers: tuple[str, ...], path: str
) -> None:
    before = total(api)
    body = json.dumps(GOOD).encode()
    with RawRequest(gateway.port, "Content-Type: application/json", *headers, path=path, body=body) as request:
        answer = request.answer()
    name = headers[0].partition(":")[0]
    assert (answer.status, answer.problem["code"]) == (400, "head_malformed")
    assert f"more than one {name}" in answer.problem["reason"]
    assert total(api) == before


def test_a_header_that_is_a_list_may_come_in_lines(gateway: GatewayProcess) -> None:
    body = json.dumps(GOOD).encode()
    lines = ["Content-Type: application/json", "Prefer: wait=1", "Prefer: respond-async"]
    with RawRequest(gateway.port, *lines, body=body) as request:
        answer = request.answer()
        assert (answer.status, answer.headers["preference-applied"]) == (202, "respond-async")
    languages = ["Accept-Language: en;q=0.5", "Accept-Language: fa"]
    with RawRequest(gateway.port, *lines[:1], *languages, body=b"[") as request:
        assert request.answer().headers["content-language"] == "fa"
    encodings = ["Content-Encoding: identity", "Content-Encoding: gzip"]
    with RawRequest(gateway.port, *lines[:1], *encodings, body=body) as request:
        assert request.answer().status == 415


def test_ids_are_found_in_capitals(api: httpx.Client, message_id: str) -> None:
    shown = api.get(f"/messaging/messages/{message_id.upper()}")
    assert (shown.status_code, shown.json()["id"]) == (200, message_id)
    again = api.post(f"/messaging/messages/{message_id.upper()}/resend")
    assert (again.status_code, api.get(again.headers["location"]).json()["origin"]) == (201, message_id)
    waiting = api.post("/messaging/send", json=GOOD | {"deliver_at": TOMORROW}).json()["id"]
    cancelled = api.post(f"/messaging/messages/{waiting.upper()}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    cursor = api.get("/messaging/messages?limit=1").json()["next"]
    pages = [api.get("/messaging/messages", params={"limit": 1, "cursor": each}) for each in (cursor, cursor.upper())]
    assert pages[0].json() == pages[1].json()
    for query in ({"subject": waiting}, {"subject": waiting.upper()}):
        assert len(api.get("/audit", params=query).json()["entries"]) == 2
