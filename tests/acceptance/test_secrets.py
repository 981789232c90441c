"""A secret goes into the gateway and never comes out: not in its log, its answers, its arguments or its sentences.

And what comes in with line breaks and escape sequences stays inside the line of its event.
"""

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import jwt
import mqtt5
import pytest

from support import postgres as postgres_support
from support.certificates import Certificates
from support.fake_broker import FakeBroker
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK, free_port, free_ports
from support.postgres import PostgresServer
from support.processes import children, describe

CANARY = "c4nary"
SECRET = f"{CANARY}/@?#:%,é {CANARY}"
WRITTEN = quote(SECRET, safe="")
HOSTILE = "x\r\n2026-11-24T00:00:00Z [info] forged\x1b[2J\u2028\u009b31m"
PAGES = ("/health/ready", "/health/live", "/docs", "/openapi.json", "/metrics", "/messaging/messages", "/nothing")

StartGateway = Callable[..., GatewayProcess]


def run(folder: Path, env: dict[str, str], *arguments: str) -> str:
    """All that a command that fails has to say, which is one line."""
    ours = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "CHAPAR_PORT": str(free_port())}
    done = subprocess.run(
        [find_command(), *arguments],
        env=ours | env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {1, 2}, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("chapar: ")
    return done.stdout + done.stderr


def events_of(gateway: GatewayProcess) -> list[str]:
    """The lines of its log, each of which is whole."""
    lines = [line for line in gateway.lines if line]
    start = lines.index("Ctrl-C stops it.") if "Ctrl-C stops it." in lines else len(lines)
    shape = re.compile(r"\d{4}-\d\d-\d\dT\S+ (\x1b\S+)?\[\w+ *\] .+")
    logged = lines[start + 1 :] + [line for line in lines[:start] if line[0] in "{2"]
    for line in logged:
        if gateway.env.get("CHAPAR_LOG_FORMAT") == "json":
            assert {"event", "level", "timestamp"} <= json.loads(line).keys()
        else:
            assert shape.fullmatch(line), line
        assert line.isprintable(), line
        assert "00:00:00Z" not in line[:25], line
    return logged


def shown_by(gateway: GatewayProcess) -> str:
    """All that anybody gets to see of a gateway: its output, its pages, its processes' arguments."""
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        pages = [client.get(page) for page in PAGES]
        pages.append(client.post("/messaging/send", json={"imei": "pump-7", "micro_op": "open"}))
        pages.append(client.post("/messaging/send", json={"imei": HOSTILE, "micro_op": "open"}))
    pids = [gateway.pid, *children(gateway.pid)]
    assert len(pids) > 1
    answers = [f"{page.headers} {page.text}" for page in pages]
    return "\n".join([*gateway.lines, *answers, *map(describe, pids)])


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[str], str]:
    def write(content: str) -> str:
        file = tmp_path / "secret"
        file.write_text(content + "\n")
        return str(file)

    return write


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_broker_that_refuses_the_password(
    start_gateway: StartGateway, secret_file: Callable[[str], str], log_format: str
) -> None:
    with Mosquitto(users={"gate": "another"}) as broker:
        url = f"mqtt://gate:{WRITTEN}@{LOOPBACK}:{broker.port}"
        env = {"CHAPAR_BROKER_URL_FILE": secret_file(url), "CHAPAR_LOG_FORMAT": log_format}
        gateway = start_gateway(env, until="live")
        gateway.program.wait_for_line("refused the session")
        assert CANARY not in shown_by(gateway)
        assert events_of(gateway)
        # The same secret is taken once the broker knows it: it arrived whole.
        broker.users = {"gate": SECRET}
        broker.restart()
        gateway.wait_until("ready")
        assert CANARY not in shown_by(gateway)


def test_a_broker_and_files_that_tls_does_not_work_with(
    start_gateway: StartGateway, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    files = Certificates(tmp_path)
    env = {"CHAPAR_BROKER_URL": f"mqtts://gate:{WRITTEN}@{LOOPBACK}:{mosquitto.port}"}
    gateway = start_gateway(env | {"CHAPAR_BROKER_CA_FILE": str(files.ca_file)}, until="live")
    gateway.program.wait_for_line("broker_link_down")
    assert CANARY not in shown_by(gateway)
    events_of(gateway)
    gateway.terminate()
    key = files.client_key_file
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n")
    gateway.env |= {"CHAPAR_BROKER_CERT_FILE": str(files.client_cert_file), "CHAPAR_BROKER_KEY_FILE": str(key)}
    gateway.start(until=None)
    gateway.program.wait_for_line("CHAPAR_BROKER_CERT_FILE cannot be used")
    assert gateway.program.wait() == 1
    assert CANARY not in gateway.program.output


def test_a_database_with_a_password(
    start_gateway: StartGateway, secret_file: Callable[[str], str], tmp_path: Path
) -> None:
    if postgres_support.find_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with PostgresServer(access=["host all gate all scram-sha-256"]) as server:
        server.execute(f"CREATE ROLE gate LOGIN PASSWORD '{SECRET}'")
        server.execute("CREATE DATABASE gate OWNER gate")
        url = f"postgresql://gate:{WRITTEN}@{LOOPBACK}:{server.port}/gate"
        env = {"CHAPAR_DATABASE_URL_FILE": secret_file(url), "CHAPAR_AUTO_MIGRATE": "true"}
        env |= {"CHAPAR_LOG_FORMAT": "json", "CHAPAR_EMBEDDED_PORT": str(free_ports(2))}
        gateway = start_gateway(env, "--workers", "2")
        assert len(children(gateway.pid)) >= 4  # two workers, each with its writer
        assert CANARY not in shown_by(gateway)
        server.execute("ALTER ROLE gate PASSWORD 'another'")
        server.terminate_backends(url)
        gateway.program.wait_for_line("database_down")
        assert CANARY not in shown_by(gateway)
        events_of(gateway)
        ports = {"CHAPAR_PORT": str(free_port()), "CHAPAR_EMBEDDED_PORT": str(free_ports(2))}
        for command in ("migrate", "serve"):
            said = run(tmp_path, env | ports, command)
            assert "password authentication failed" in said
            assert CANARY not in said
        server.execute(f"ALTER ROLE gate PASSWORD '{SECRET}'")  # so that it stops without losing anything
        gateway.wait_until("ready")


def commands() -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """What fails at once, each with a secret that it could repeat."""
    nobody = f"{LOOPBACK}:{free_port()}"
    for name, url in (
        ("DATABASE_URL", f"postgresql://gate:{WRITTEN}@{nobody}/gate"),
        ("DATABASE_URL", f"postgresql://gate:{CANARY}/{CANARY}@{CANARY}@{nobody}/gate"),
        ("DATABASE_URL", f"postgresql://gate:{WRITTEN}@{nobody}/gate?sslmode={quote(HOSTILE)}"),
        ("BROKER_URL", f"mqtt://gate:{CANARY}/{CANARY}@{nobody}"),
        ("BROKER_URL", f"mqtt://gate:{CANARY}\x1b[2J@{nobody}"),
    ):
        yield {f"CHAPAR_{name}": url}, ("serve",)
    yield {"CHAPAR_URL": f"http://me:{WRITTEN}@{nobody}"}, ("send", "pump-7", "open")
    yield {"CHAPAR_URL": f"https://me:{CANARY}@{nobody}:{CANARY}"}, ("messages",)
    for key in (f"chapar_{CANARY}\n", f"{CANARY}\r\n{CANARY}", f"{CANARY}\x1b[2J{CANARY}", f"{CANARY}é"):
        yield {"CHAPAR_API_KEY": key}, ("send", "pump-7", "open", "--url", f"http://{nobody}")
    yield {"CHAPAR_JWT_SECRET": f"{CANARY}\n" * 8}, ("serve",)
    yield {"CHAPAR_TLS_CERT_FILE": HOSTILE}, ("serve",)
    yield {}, ("send", HOSTILE, HOSTILE, "--url", f"http://{nobody}")
    yield {"CHAPAR_PORT": HOSTILE}, ("serve",)


def test_sentences_of_the_command_line(tmp_path: Path) -> None:
    for (env, arguments), language in zip(commands(), itertools.cycle(("en", "fa")), strict=False):
        said = run(tmp_path, env | {"CHAPAR_LANGUAGE": language}, *arguments)
        assert CANARY not in said, (env, arguments)
        assert "\x1b" not in said, (env, arguments)


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_what_comes_from_outside_stays_inside_one_line(start_gateway: StartGateway, log_format: str) -> None:
    goodbye = mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.UNSPECIFIED_ERROR, reason_str=HOSTILE)
    async with FakeBroker() as broker:
        broker.on_connect = lambda _: asyncio.get_running_loop().call_later(0.1, broker.send, goodbye.write())
        env = {"CHAPAR_BROKER_URL": broker.url, "CHAPAR_LOG_FORMAT": log_format, "CHAPAR_LOG_LEVEL": "debug"}
        gateway = await asyncio.to_thread(start_gateway, env, until="live")
        await asyncio.to_thread(gateway.program.wait_for_line, "forged")
        await asyncio.to_thread(be_hostile, gateway)
        logged = events_of(gateway)
    assert any("forged" in line for line in logged)


def be_hostile(gateway: GatewayProcess) -> None:
    """Put the text everywhere a request has room for it."""
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        for fields in (
            {"imei": HOSTILE, "micro_op": "open"},
            {"imei": "pump-7", "micro_op": HOSTILE},
            {"imei": "pump-7", "micro_op": "open", "params": {HOSTILE: [HOSTILE]}},
            {"imei": "pump-7", "micro_op": "open", HOSTILE: HOSTILE},
        ):
            for wait in ("none", "broker", HOSTILE):
                client.post("/messaging/send", json=fields | {"wait": wait, "timeout": 0.05})
        client.post("/messaging/bulk", json={"messages": [{"imei": HOSTILE, "micro_op": HOSTILE}]})
        for path in ("/messaging/messages", "/reporting/all", "/reporting/summary", f"/{quote(HOSTILE)}"):
            client.get(path, params={"imei": HOSTILE, "status": HOSTILE, "cursor": HOSTILE, HOSTILE: HOSTILE})
        client.get(f"/messaging/messages/{quote(HOSTILE, safe='')}")
    raw = HOSTILE.encode().replace(b"\r\n", b"\r\n ")
    for name in (
        b"Idempotency-Key",
        b"X-Request-Id",
        b"Prefer",
        b"Accept-Language",
        b"Host",
        b"Content-Type",
        b"X-Any",
    ):
        for value in (raw, HOSTILE.encode(), b"x\x1b[2J\x9b", b"x" * 100_000):
            send_raw(gateway, b"POST /messaging/send HTTP/1.1\r\n" + name + b": " + value + b"\r\n\r\n")
    send_raw(gateway, b"GET /" + HOSTILE.encode() + b" HTTP/1.1\r\n\r\n")
    send_raw(gateway, HOSTILE.encode() * 10)


def send_raw(gateway: GatewayProcess, data: bytes) -> None:
    with contextlib.suppress(ConnectionError), socket.create_connection((LOOPBACK, gateway.port), timeout=15) as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        while line.recv(64 * 1024):
            pass


def test_a_request_and_its_answer_have_one_id(start_gateway: StartGateway, mosquitto: Mosquitto) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        kept = client.get("/health/live", headers={"X-Request-Id": "shift-7.b_2"})
        assert kept.headers["x-request-id"] == "shift-7.b_2"
        made = {client.get(page).headers["x-request-id"] for page in PAGES}
        assert len(made) == len(PAGES)
        forged = client.get("/health/live", headers={"X-Request-Id": "a b"})
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", forged.headers["x-request-id"])


def test_the_secret_of_tokens_and_the_tokens(start_gateway: StartGateway, secret_file: Callable[[str], str]) -> None:
    secret = SECRET * 4
    token = {"iss": "hr", "aud": "chapar", "sub": "ali", "scope": "messages:read", "exp": 4_000_000_000}
    env = {"CHAPAR_JWT_SECRET_FILE": secret_file(secret), "CHAPAR_JWT_ISSUER": "hr", "CHAPAR_JWT_AUDIENCE": "chapar"}
    gateway = start_gateway(env | {"CHAPAR_LOG_LEVEL": "debug", "CHAPAR_EMBEDDED_PORT": str(free_ports(2))})
    good = jwt.encode(token, secret, "HS256")
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        for bearer in (good, jwt.encode(token, CANARY * 8, "HS256"), CANARY, f"{good}{CANARY}", f"{CANARY}.{CANARY}.x"):
            answer = client.get("/messaging/messages", headers={"Authorization": f"Bearer {bearer}"})
            assert (answer.status_code in {200, 403}) is (bearer is good), answer.text
            assert CANARY not in f"{answer.headers} {answer.text}"
        client.get(
            "/messaging/messages", params={"access_token": CANARY}, headers={"Cookie": CANARY, "X-API-Key": CANARY}
        )
    shown = shown_by(gateway)
    assert CANARY not in shown
    assert good.rpartition(".")[2] not in shown
