"""Memory has a bound for whoever calls: what each attack adds to an idle gateway is small, whatever it sends."""

import contextlib
import json
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.certificates import Certificates
from support.gateway import GatewayProcess, find_command
from support.memory import forget_peak, peak_of, resident_of
from support.ports import LOOPBACK
from support.raw_http import RawConnection

LIMIT = 100 * 1024 * 1024  # bytes above those of the idle gateway
LIMIT_BULK = 150 * 1024 * 1024  # the same where messages are held too
SILENT = 600  # connections
LIMIT_SILENT = 20 * 1024  # bytes for each of them
FEW = 4
ASKED = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, str]]:
    """A gateway, and the line that shows it a key of few rights."""
    folder = tmp_path_factory.mktemp("gateway")
    command = [find_command(), "keys", "create", "--name=narrow", "--device=farm1-*", "--json"]
    command += [f"--scope={scope}" for scope in ("messages:send", "messages:cancel", "keys:write")]
    made = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with GatewayProcess(folder, BuiltinBroker().settings_env) as gateway:
        yield gateway, f"Authorization: Bearer {json.loads(made.stdout)['key']}\r\n"
        assert "Traceback" not in gateway.program.output


@contextlib.contextmanager
def little_more(
    gateway: GatewayProcess, figure: Callable[[str], None], what: str, limit: int = LIMIT
) -> Iterator[None]:
    forget_peak(gateway.pid)
    idle = peak_of(gateway.pid)
    yield
    grown = peak_of(gateway.pid) - idle
    figure(f"{what}: {idle >> 20} MiB idle, +{grown >> 20} MiB")
    assert grown < limit
    assert httpx.get(f"{gateway.url}/health/live", timeout=60.0).status_code == 200


def push(connection: socket.socket, data: bytes) -> None:
    """Send for as long as the other side takes it; reads nothing."""
    connection.settimeout(1.0)
    with contextlib.suppress(OSError):
        connection.sendall(data)


def answered(connection: socket.socket) -> bytes:
    """What has been answered so far."""
    connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
    with contextlib.suppress(OSError):
        return connection.recv(65536)
    return b""


def at_once(pushes: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in pushes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("count", [20, 200])
def test_requests_ahead_of_their_answers(
    narrow: tuple[GatewayProcess, str], figure: Callable[[str], None], count: int
) -> None:
    gateway, _ = narrow
    requests = ASKED * (1024 * 1024 // len(ASKED))
    with ExitStack() as stack, little_more(gateway, figure, f"{count} connections with 1 MiB of requests each"):
        crowd = [stack.enter_context(socket.create_connection((LOOPBACK, gateway.port))) for _ in range(count)]
        at_once([lambda connection=connection: push(connection, requests) for connection in crowd])


@pytest.mark.parametrize("count", [60, 200])
def test_bodies_that_are_not_finished(
    narrow: tuple[GatewayProcess, str], figure: Callable[[str], None], count: int
) -> None:
    gateway, key = narrow
    head = f"POST /messaging/bulk HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\n"
    body = f"{head}Content-Length: 16777216\r\n\r\n".encode() + b" " * (4 * 1024 * 1024)
    with ExitStack() as stack, little_more(gateway, figure, f"{count} unfinished bodies of one key"):
        crowd = [stack.enter_context(socket.create_connection((LOOPBACK, gateway.port))) for _ in range(count)]
        at_once([lambda connection=connection: push(connection, body) for connection in crowd])
        readable, _, _ = select.select(crowd, [], [], 10)
        answer = next(said for said in map(answered, readable) if said.startswith(b"HTTP/1.1 503 "))
        assert b"retry-after: " in answer.lower()
        assert b"CHAPAR_MAX_CALLER_BODIES_BYTES" in answer


def test_bulk_calls_that_are_complete(narrow: tuple[GatewayProcess, str], figure: Callable[[str], None]) -> None:
    gateway, key = narrow
    name, _, value = key.strip().partition(": ")
    call = {"messages": [{"imei": f"farm1-{n % 50}", "micro_op": "open", "wait": "none"} for n in range(10_000)]}
    statuses = []

    def send() -> None:
        answer = httpx.post(f"{gateway.url}/messaging/bulk", json=call, headers={name: value}, timeout=60.0)
        statuses.append(answer.status_code)

    with little_more(gateway, figure, "10 bulk calls of 10,000 messages at once", LIMIT_BULK):
        at_once([send] * 10)
    assert set(statuses) == {200, 503}


@pytest.mark.parametrize(
    "line",
    [
        "POST /keys",
        "POST /keys/abc/expire",
        "POST /keys/abc/revoke",
        "POST /messaging/send",
        "POST /messaging/bulk",
        "POST /messaging/messages/abc/cancel",
        "POST /messaging/messages/abc/resend",
        "GET /keys",
        "GET /health/live",
        "PUT /nowhere",
    ],
)
@pytest.mark.parametrize("caller", ["known", "unknown"])
def test_a_body_without_end(
    narrow: tuple[GatewayProcess, str], figure: Callable[[str], None], line: str, caller: str
) -> None:
    gateway, key = narrow
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key if caller == 'known' else ''}Content-Type: application/json\r\n"
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with RawConnection(gateway.port) as connection, little_more(gateway, figure, f"{line} with 400 MiB"):
        sent = connection.send([f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *[chunk] * 400])._sent
        assert sent < 100 * 1024 * 1024, "the connection has ended"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    (tmp_path / "tls").mkdir()
    files = Certificates(tmp_path / "tls")
    env = {
        "CHAPAR_TLS_CERT_FILE": str(files.server_cert_file),
        "CHAPAR_TLS_KEY_FILE": str(files.server_key_file),
        "CHAPAR_CA_FILE": str(files.ca_file),
    }
    return env, ssl.create_default_context(cafile=files.ca_file)


def test_a_connection_that_never_shakes_hands_costs_little(
    start_gateway: Callable[..., GatewayProcess],
    tls: tuple[dict[str, str], ssl.SSLContext],
    figure: Callable[[str], None],
) -> None:
    env, trust = tls
    gateway = start_gateway(BuiltinBroker().settings_env | env)
    with ExitStack() as stack, httpx.Client(base_url=gateway.url, verify=trust, timeout=60.0) as api:
        assert api.get("/health/live").status_code == 200
        idle = resident_of(gateway.pid)
        for _ in range(SILENT):
            stack.enter_context(socket.create_connection((LOOPBACK, gateway.port)))
        assert api.get("/health/live").status_code == 200
        assert httpx.get(f"{gateway.url}/health/live", verify=trust, timeout=60.0).status_code == 200, "a new one"
        grown = resident_of(gateway.pid) - idle
    figure(f"{SILENT} silent connections for TLS: +{grown >> 10} KiB")
    assert grown < SILENT * LIMIT_SILENT


def test_a_connection_counts_before_it_shakes_hands(
    start_gateway: Callable[..., GatewayProcess], tls: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    env, _ = tls
    gateway = start_gateway(
        BuiltinBroker().settings_env | env | {"CHAPAR_MAX_CONNECTIONS": str(FEW), "CHAPAR_HEAD_TIMEOUT": "300"}
    )
    with ExitStack() as stack:
        # The gateway's own look at whether it is ready may not have gone yet.
        crowd = [stack.enter_context(RawConnection(gateway.port)) for _ in range(2 * FEW)]
        assert crowd[-1].is_closed()
        for connection in crowd:
            connection.hang_up()
        gateway.wait_until("live")


def test_a_connection_that_does_not_begin_is_closed(
    start_gateway: Callable[..., GatewayProcess], tls: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    env, _ = tls
    gateway = start_gateway(BuiltinBroker().settings_env | env | {"CHAPAR_HEAD_TIMEOUT": "0.5"})
    with RawConnection(gateway.port) as silent:
        assert silent.is_closed()
    with RawConnection(gateway.port) as nonsense:
        assert nonsense.send([ASKED]).is_closed()
    assert "Traceback" not in gateway.program.output
