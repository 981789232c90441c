"""Request smuggling: where one request ends and the next begins, on the real port and behind real proxies."""

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator

import httpx
import pytest

from support import proxies
from support.builtin import BuiltinBroker
from support.framing import DOUBTFUL, FRAMED, GOODBYE, LAST, NEXT, to_messaging
from support.gateway import GatewayProcess, find_command
from support.ports import LOOPBACK
from support.proxies import Proxy

GOOD = '{"imei": "8612", "micro_op": "push_down"}'
ATTACKS = 10
PADDING = b"\r\n" * 6000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env) as gateway:
        yield gateway
        assert "Traceback" not in gateway.program.output


def codes(port: int, pieces: Iterable[bytes]) -> list[str]:
    """The answers until the connection ends: the code of each problem, and `live`."""
    received = b""
    with socket.create_connection((LOOPBACK, port), timeout=30.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # it may be closed before all is sent
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
        body = json.loads(received[:length])
        found.append(str(body.get("code") or body["status"]))
        received = received[length:]
    return found


@pytest.mark.parametrize("name", [name for name, stream in FRAMED.items() if b"POST / HTTP" in stream])
def test_a_body_is_no_request(gateway: GatewayProcess, name: str) -> None:
    stream = to_messaging(FRAMED[name]) + GOODBYE
    for pieces in ([stream], [bytes([byte]) for byte in stream]):
        assert codes(gateway.port, pieces) == ["body_malformed", "live"]


@pytest.mark.parametrize("name", LAST)
def test_behind_the_last_request_nothing_is_parsed(gateway: GatewayProcess, name: str) -> None:
    stream = to_messaging(LAST[name]) + NEXT
    for pieces in ([stream], [bytes([byte]) for byte in stream]):
        assert codes(gateway.port, pieces) == ["body_malformed"]


@pytest.mark.parametrize("name", DOUBTFUL)
def test_where_framing_is_in_doubt_there_is_one_answer(gateway: GatewayProcess, name: str) -> None:
    stream = to_messaging(DOUBTFUL[name]) + GOODBYE
    for pieces in ([stream], [bytes([byte]) for byte in stream]):
        assert codes(gateway.port, pieces) == ["head_malformed"]


def test_clients_that_offer_http_2_are_served(gateway: GatewayProcess) -> None:
    """curl does with --http2, and the HTTP client of Java's library always, with these headers."""
    java = (
        "POST /messaging/send HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Content-Length: {len(GOOD)}\r\nHost: 127.0.0.1\r\n"
        "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA\r\n"
        f"Upgrade: h2c\r\nUser-Agent: Java-http-client/21\r\nContent-Type: application/json\r\n\r\n{GOOD}"
    ).encode()
    with socket.create_connection((LOOPBACK, gateway.port), timeout=30.0) as connection:
        for _ in range(2):
            connection.sendall(java)
            assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    if curl := shutil.which("curl"):
        command = [curl, "--silent", "--http2", "--json", GOOD, "--write-out", "\n%{http_code} %{http_version}"]
        done = subprocess.run([*command, f"{gateway.url}/messaging/send"], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "201 1.1"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, dict[str, str]]]:
    """A gateway with a key, and the headers that show it."""
    folder = tmp_path_factory.mktemp("closed")
    command = [find_command(), "keys", "create", "--name=owner", "--scope=keys:write", "--json"]
    made = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with GatewayProcess(folder, BuiltinBroker().settings_env) as gateway:
        yield gateway, {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_no_request_is_smuggled_past_a_proxy(
    closed: tuple[GatewayProcess, dict[str, str]], kind: str, offer: str
) -> None:
    """The proxy reads one request; were it two here, the second would begin with what an attacker wrote, and go on
    with the next caller's request and credential."""
    if not proxies.installed(kind):
        pytest.skip(f"{kind} is not installed")
    gateway, owner = closed
    with Proxy(kind, gateway.port) as proxy, httpx.Client(base_url=f"http://{LOOPBACK}:{proxy.port}") as api:
        key = api.post("/keys", json={"name": "target", "scopes": ["keys:write"]}, headers=owner).json()
        # The empty lines, which may stand before a request, make the body arrive in pieces of its own.
        smuggled = PADDING + f"POST /keys/{key['id']}/revoke HTTP/1.1\r\nX-Swallowed: ".encode()
        head = (
            f"POST /messaging/send HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: {offer}\r\n"
            f"Content-Length: {len(smuggled)}\r\n\r\n"
        ).encode()
        for _ in range(ATTACKS):
            with socket.create_connection((LOOPBACK, proxy.port), timeout=30.0) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in (head, smuggled[: len(PADDING) // 2], smuggled[len(PADDING) // 2 :]):
                    connection.sendall(piece)
                assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
            answer = api.get("/keys", headers=owner)
            assert answer.status_code == 200
            assert {each["revoked_at"] for each in answer.json()["keys"]} == {None}
