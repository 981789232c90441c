"""Clients that are slow, greedy or make no sense: each is told so or cut off, and everybody else is served."""

import json
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.api import problem_of
from support.builtin import BuiltinBroker
from support.crowd import Crowd
from support.gateway import GatewayProcess
from support.ports import LOOPBACK
from support.raw_http import JSON, RawConnection, RawRequest
from support.senders import Senders

CONNECTIONS = 40
HEAD_SIZE = 4096  # bytes
GOOD = b'{"imei": "8612", "micro_op": "push_down"}'
BOUNDS = {
    "CHAPAR_HEAD_TIMEOUT": "0.5",
    "CHAPAR_BODY_TIMEOUT": "0.5",
    "CHAPAR_WRITE_TIMEOUT": "1",
    "CHAPAR_IDLE_TIMEOUT": "1",
    "CHAPAR_MAX_HEAD_BYTES": str(HEAD_SIZE),
    "CHAPAR_MAX_CONNECTIONS": str(CONNECTIONS),
}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env | BOUNDS) as gateway:
        yield gateway


@pytest.fixture
def gateway(bounded: GatewayProcess) -> Iterator[GatewayProcess]:
    """Around each test: the next caller is served."""
    yield bounded
    answer = httpx.post(f"{bounded.url}/messaging/send", json=json.loads(GOOD))
    assert answer.status_code == 201
    assert "Traceback" not in bounded.program.output


def head(*headers: str, target: str = "/health/live", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


NO_HTTP = {
    "noise": b"\x00\x01\x02\x03\r\n\r\n",
    "the beginning of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "MQTT": b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03dot",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\x00b\r\n\r\n",
    "no version that there is": b"GET / HTTP/7.3\r\n\r\n",
    "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "no Host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two Hosts": head("Host: 127.0.0.1"),
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_request_is_a_problem(gateway: GatewayProcess, sent: bytes) -> None:
    with RawConnection(gateway.port) as connection:
        answer = connection.send([sent]).answer()
        assert (answer.status, answer.problem["code"]) == (400, "head_malformed")
        assert answer.problem["reason"].startswith("This is not a request in HTTP/1.1: ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert connection.is_closed()


HEADS = {
    "one header that never ends": ([b"GET / HTTP/1.1\r\nX: ", *[b"x" * 1024] * 64], 431, "head_too_large"),
    "headers that never end": ([b"GET / HTTP/1.1\r\n", *[b"X: y\r\n" * 64] * 64], 431, "too_many_headers"),
    "line feeds that never end": ([b"\r\n" * 1024] * 64, 431, "head_too_large"),
    "a target that never ends": ([b"GET /", *[b"x" * 1024] * 64], 431, "head_too_large"),
    "a large head at once": ([head(f"X: {'x' * HEAD_SIZE}")], 431, "head_too_large"),
    "a large head with its body": (
        [head(f"X: {'x' * HEAD_SIZE}", "Content-Length: 2", method="POST"), b"{}"],
        431,
        "head_too_large",
    ),
    "101 headers": ([head(*["X: y"] * 100)], 431, "too_many_headers"),
}


@pytest.mark.parametrize(("pieces", "status", "code"), HEADS.values(), ids=HEADS.keys())
def test_a_head_past_a_bound_is_refused(gateway: GatewayProcess, pieces: list[bytes], status: int, code: str) -> None:
    with RawConnection(gateway.port) as connection:
        answer = connection.send(pieces).answer()
        assert (answer.status, answer.media_type) == (status, "application/problem+json")
        assert answer.problem["code"] == code
        assert connection.is_closed()


def test_a_head_just_within_the_bounds_is_heard(gateway: GatewayProcess) -> None:
    filling = "x" * (HEAD_SIZE - len(head("X: ")) - 16)
    with RawConnection(gateway.port) as connection:
        assert connection.send([head(f"X: {filling}")]).answer().status == 200


def test_a_body_as_large_as_a_head_may_be_is_none(gateway: GatewayProcess) -> None:
    body = GOOD + b" " * 8 * HEAD_SIZE
    sent = head(*JSON, f"Content-Length: {len(body)}", target="/messaging/send", method="POST") + body
    with RawConnection(gateway.port) as connection:
        assert connection.send([sent]).answer().status == 201


def test_a_target_past_the_bound_is_too_long(start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = start_gateway(BuiltinBroker().settings_env)
    for target in (f"/{'x' * 8000}", f"/messaging/messages?imei={'8' * 8000}"):
        answer = httpx.get(f"{gateway.url}{target}", headers={"Accept-Language": "fa"})
        problem = problem_of(answer)
        assert (answer.status_code, problem["code"]) == (414, "target_too_long")
        assert "بلندتر" in problem["reason"]


def test_trailers_that_never_end_are_not_kept(gateway: GatewayProcess) -> None:
    with RawRequest(gateway.port, *JSON, "Transfer-Encoding: chunked") as request:
        pieces = [b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD), *[b"X: y\r\n" * 64] * 64]
        answer = request.send(pieces).answer()
        assert (answer.status, answer.problem["code"]) == (431, "head_too_large")


def test_a_trailer_is_no_header(gateway: GatewayProcess) -> None:
    """Else whoever checks headers before the body would have checked other ones than those that count."""
    chunks = b"%x\r\n%b\r\n0\r\nAccept-Language: fa\r\n\r\n" % (2, b"{}")
    with RawRequest(gateway.port, *JSON, "Transfer-Encoding: chunked") as request:
        answer = request.send([chunks]).answer()
        assert (answer.status, answer.headers["content-language"]) == (422, "en")


SLOW = {
    "half a request line": (b"GET /hea", 408, "head_too_slow"),
    "half a header": (b"GET /health/live HTTP/1.1\r\nHo", 408, "head_too_slow"),
    "no end of the headers": (head()[:-2], 408, "head_too_slow"),
    "half a body": (
        head(*JSON, "Content-Length: 9", target="/messaging/send", method="POST") + b"{",
        408,
        "body_too_slow",
    ),
    "no body at all": (head(*JSON, "Content-Length: 9", target="/messaging/send", method="POST"), 408, "body_too_slow"),
}


@pytest.mark.parametrize(("sent", "status", "code"), SLOW.values(), ids=SLOW.keys())
def test_a_slow_request_is_given_up(gateway: GatewayProcess, sent: bytes, status: int, code: str) -> None:
    with RawConnection(gateway.port) as connection:
        answer = connection.send([sent]).answer()
        assert (answer.status, answer.problem["code"]) == (status, code)
        assert connection.is_closed()


def test_a_slow_head_is_told_so_in_its_language(gateway: GatewayProcess) -> None:
    with RawConnection(gateway.port) as connection:
        answer = connection.send([b"GET / HTTP/1.1\r\nAccept-Language: fa\r\nX: "]).answer()
        assert answer.headers["content-language"] == "fa"
        assert "سرآیندها" in answer.problem["reason"]


def test_a_silent_connection_is_closed(gateway: GatewayProcess) -> None:
    with RawConnection(gateway.port) as connection:
        assert connection.is_closed()


def test_an_idle_connection_is_closed_whatever_trickles_in(gateway: GatewayProcess) -> None:
    with RawConnection(gateway.port) as connection:
        assert connection.send([head()]).answer().status == 200
        assert connection.send([b"\r\n"]).is_closed()


def test_a_body_that_nobody_reads_does_not_keep_its_connection_open(gateway: GatewayProcess) -> None:
    with RawConnection(gateway.port) as connection:
        assert connection.send([head("Content-Length: 1000"), b"x"]).answer().status == 200
        assert connection.is_closed()


def test_a_client_that_takes_nothing_of_its_answers_is_cut_off(gateway: GatewayProcess) -> None:
    with socket.create_connection((LOOPBACK, gateway.port), timeout=15.0) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_for_ever(connection)


def ask_for_ever(connection: socket.socket) -> None:
    """The answers fill the buffers, so that at last not even a request gets through."""
    while True:
        connection.sendall(head(target="/openapi.json") * 16)


def test_requests_that_came_before_nonsense_are_answered_first(gateway: GatewayProcess) -> None:
    sent = head(*JSON, f"Content-Length: {len(GOOD)}", target="/messaging/send", method="POST") + GOOD
    with RawConnection(gateway.port) as connection:
        assert connection.send([sent + b"\x00\x01\r\n\r\n"]).answer().status == 201
        assert connection.is_closed()


def test_an_offer_to_speak_something_else_is_ignored(gateway: GatewayProcess) -> None:
    """The HTTP client of Java's library makes it with every request."""
    for offer in ("h2c", "websocket"):
        with RawConnection(gateway.port) as connection:
            for _ in range(2):
                asked = head("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}", "HTTP2-Settings: AAMAAABk")
                assert connection.send([asked]).answer().status == 200


def test_a_connection_too_many_is_told_so_and_the_others_are_served(gateway: GatewayProcess) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(RawConnection(gateway.port))
        last = first
        for _ in range(CONNECTIONS):
            last = stack.enter_context(RawConnection(gateway.port))
        answer = last.answer()
        assert (answer.status, answer.problem["code"]) == (503, "too_many_connections")
        assert str(CONNECTIONS) in answer.problem["reason"]
        assert last.is_closed()
        assert first.send([head()]).answer().status == 200


def test_no_descriptors_are_no_end(start_gateway: Callable[..., GatewayProcess]) -> None:
    """What cannot be accepted is refused; the next one, when there is room, is served."""
    gateway = start_gateway(BuiltinBroker().settings_env)
    used = len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))
    soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    assert soft == hard, "raised at the start"
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (used + 10, hard))
    with ExitStack() as stack:
        crowd = [stack.enter_context(RawConnection(gateway.port)) for _ in range(30)]
        assert crowd[-1].is_closed()
    gateway.wait_until("ready")
    assert httpx.post(f"{gateway.url}/messaging/send", json=json.loads(GOOD)).status_code == 201


DEEP = 64 * 1024 // 8  # with its end, within what one message may have


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [65, 1000, DEEP])
def test_json_past_the_bound_of_depth_is_refused(gateway: GatewayProcess, opening: bytes, depth: int) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    nested = b'{"imei": "8612", "micro_op": "a", "params": {"a": %b1%b}}' % (opening * depth, closing * depth)
    for path, body, media_type in (
        ("/messaging/send", nested[:65536], "application/json"),
        ("/messaging/bulk", b'{"messages": [%b, %b]}' % (nested, GOOD), "application/json"),
        ("/messaging/bulk", nested + b"\n" + GOOD + b"\n", "application/x-ndjson"),
    ):
        answer = httpx.post(f"{gateway.url}{path}", content=body, headers={"Content-Type": media_type})
        if answer.status_code == 200:  # of many messages, this one is refused alone
            refused, accepted = answer.json()["answers"]
            assert accepted["status"] == 201
            problem = refused["body"]
        else:
            assert answer.status_code == 400
            problem = problem_of(answer)
        assert problem["code"] == "body_too_deep"
        assert "levels deep" in problem["reason"]


def test_brackets_in_text_are_not_levels(gateway: GatewayProcess) -> None:
    text = '"[[[' * 40 + "\\"
    answer = httpx.post(
        f"{gateway.url}/messaging/send",
        json={"imei": "8612", "micro_op": "a", "params": {"text": text, "more": [[text]] * 70}},
    )
    assert answer.status_code == 201


async def test_senders_are_served_beside_a_crowd_of_slow_clients(start_gateway: Callable[..., GatewayProcess]) -> None:
    bounds = {name: value for name, value in BOUNDS.items() if name != "CHAPAR_MAX_CONNECTIONS"}
    gateway = start_gateway(BuiltinBroker().settings_env | bounds)
    async with Crowd(gateway.port, 200) as crowd, Senders(gateway.url, 4) as senders:
        while crowd.arrived < 400:  # each has been cut off once
            await senders.answered(times=10)
    assert {answer.status for answer in senders.answers} == {201}
    assert "Traceback" not in gateway.program.output
