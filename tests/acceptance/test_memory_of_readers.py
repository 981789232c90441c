"""Memory has a bound for whoever reads: a client who asks for much and takes nothing holds one short page of it."""

import contextlib
import json
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess, find_command
from support.memory import forget_peak, peak_of
from support.ports import LOOPBACK

LIMIT = 150 * 1024 * 1024  # bytes above those of the idle gateway
CLIENTS = 60
ROUNDS = {  # in the short form, for each path
    "/messaging/messages?limit=1000": 2,
    "/messaging/messages?limit=1000&status=queued&status=scheduled": 2,
    "/reporting/all": 2,
    "/reporting/all?format=ndjson&status=scheduled": 2,
    "/reporting/all?format=csv": 2,
    "/reporting/all?format=xlsx&micro_op=tenth": 1,  # all rows take a processor six seconds for each client
    "/audit?limit=1000": 2,
    "/keys": 2,
}
MANY_ROUNDS = 5
PATHS = [*ROUNDS, "/reporting/all?format=xlsx"]  # in the long form
LONG = 60_000  # bytes of parameters; a single character beyond the basic plane makes them four times as much in memory
PATTERNS = [f"{number:0>256}" for number in range(100)]
KEYS = 60
MESSAGES = 500


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, dict[str, str]]]:
    """A gateway with 30 MB of messages that wait, and the header of a key with all rights."""
    folder = tmp_path_factory.mktemp("gateway")
    command = [find_command(), "keys", "create", "--name=admin", "--json"]
    scopes = ("messages:send", "messages:read", "keys:write", "audit:read")
    made = subprocess.run(
        command + [f"--scope={scope}" for scope in scopes], cwd=folder, check=True, capture_output=True
    )
    headers = {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    with GatewayProcess(folder, BuiltinBroker().settings_env) as gateway:
        fill(gateway.url, headers)
    with GatewayProcess(folder, BuiltinBroker().settings_env) as gateway:  # which has held none of it
        yield gateway, headers
        assert "Traceback" not in gateway.program.output


def fill(url: str, headers: dict[str, str]) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    message = {"micro_op": "o" * 1000, "params": {"text": "🚰" + "x" * LONG}, "deliver_at": later}
    key = {"name": "many", "scopes": ["messages:read"], "devices": PATTERNS, "operations": PATTERNS}
    with httpx.Client(base_url=url, headers=headers, timeout=60.0) as api:
        for _ in range(MESSAGES // 250):
            call = {"messages": [{"imei": f"device-{number}", "wait": "none", **message} for number in range(250)]}
            for each in call["messages"][::10]:
                each["micro_op"] = "tenth"
            assert api.post("/messaging/bulk", json=call).json()["summary"] == {"202": 250}
        for _ in range(KEYS):
            assert api.post("/keys", json=key).status_code == 201


@pytest.mark.parametrize(
    ("path", "rounds"),
    [*ROUNDS.items(), *(pytest.param(path, MANY_ROUNDS, marks=pytest.mark.long) for path in PATHS)],
)
def test_clients_who_ask_and_take_nothing(
    filled: tuple[GatewayProcess, dict[str, str]], figure: Callable[[str], None], path: str, rounds: int
) -> None:
    gateway, headers = filled
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    forget_peak(gateway.pid)
    idle = peak_of(gateway.pid)
    for _ in range(rounds):  # what the clients of one leave behind would add up
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                client = stack.enter_context(contextlib.closing(socket.socket()))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect((LOOPBACK, gateway.port))
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n{lines}\r\n".encode())
                assert select.select([client], [], [], 60.0)[0], "it begins to answer"
    grown = peak_of(gateway.pid) - idle
    figure(f"{rounds} x {CLIENTS} clients who do not read {path}: {idle >> 20} MiB idle, +{grown >> 20} MiB")
    assert grown < LIMIT


def test_whoever_follows_gets_each_message_once(filled: tuple[GatewayProcess, dict[str, str]], tmp_path: Path) -> None:
    gateway, headers = filled
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=60.0) as api:
        ids: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            answer = api.get("/messaging/messages", params={"limit": 1000, "status": "scheduled", **cursor})
            assert len(answer.content) < 512 * 1024
            page = answer.json()
            ids += [message["id"] for message in page["messages"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        report = [message["id"] for message in api.get("/reporting/all").json()]
    assert len(ids) == MESSAGES
    assert ids == report[::-1]
    command = [find_command(), "messages", f"--url={gateway.url}", f"--limit={MESSAGES - 1}", "--json"]
    env = {"CHAPAR_API_KEY": headers["Authorization"].removeprefix("Bearer "), "PATH": "/usr/bin:/bin"}
    shown = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == report[1:]
