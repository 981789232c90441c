"""A start that cannot work says why in one sentence; a stop is clean, whatever is under way."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.api import IMEI, client_of, eventually, report, send, settled
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK, free_port, free_ports
from support.processes import children, wait_until_gone
from support.raw_http import RawRequest
from support.senders import Senders

PATIENCE = 90  # seconds
NO_BROKER = "mqtt://127.0.0.1:1"  # nobody listens there; the gateway starts all the same


def refused(folder: Path, env: dict[str, str], *arguments: str) -> str:
    """What `chapar serve` says where it does not start: one sentence on standard error, and exit code 1."""
    ended = subprocess.run(
        [find_command(), "serve", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "CHAPAR_PORT": str(free_port()), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("chapar: ")
    return line


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_names_the_setting(tmp_path: Path, taken_port: int) -> None:
    said = refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER, "CHAPAR_PORT": str(taken_port)})
    assert f"Port {taken_port}" in said
    assert "CHAPAR_PORT" in said
    assert not (tmp_path / "chapar.db").exists(), "nothing was begun"


@pytest.mark.parametrize("offset", [0, 1])
def test_a_taken_port_of_the_built_in_broker_names_the_setting(tmp_path: Path, offset: int) -> None:
    first = free_ports(2)
    with socket.create_server((LOOPBACK, first + offset)):
        said = refused(tmp_path, {"CHAPAR_EMBEDDED_PORT": str(first)})
    assert f"{first + offset}" in said
    assert "CHAPAR_EMBEDDED_PORT" in said


def test_several_workers_on_sqlite_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER}, "--workers", "2")
    assert "CHAPAR_WORKERS" in said
    assert "PostgreSQL" in said


def test_a_second_gateway_on_one_sqlite_file_is_refused(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    first = start_gateway({"CHAPAR_BROKER_URL": NO_BROKER}, until="live")
    said = refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER})
    assert "chapar.db" in said
    assert "PostgreSQL" in said
    assert httpx.get(f"{first.url}/messaging/messages").status_code == 200, "the first goes on"
    assert first.terminate() == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("CHAPAR_PORT", "70000"),
        ("CHAPAR_PUBLISH_TIMEOUT", "0"),
        ("CHAPAR_BROKER_URL", "http://127.0.0.1:1883"),
        ("CHAPAR_DATABASE_URL", "mysql://localhost/chapar"),
        ("CHAPAR_DATABASE_URL", "sqlite:///nowhere/chapar.db"),
        ("CHAPAR_COMMAND_TOPIC", "devices/#/{imei}"),
        ("CHAPAR_EMBEDDED_PORT", "65535"),
        ("CHAPAR_HOST", "::"),
        ("CHAPAR_HOST", "no such host"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, setting: str, value: str) -> None:
    assert setting in refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER, setting: value})


def test_an_address_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER}, "--host", "0.0.0.0")  # noqa: S104 - refused
    assert "CHAPAR_HOST" in said
    assert "other machines" in said


def test_a_bad_setting_is_explained_in_persian_too(tmp_path: Path, taken_port: int) -> None:
    said = refused(tmp_path, {"CHAPAR_LANGUAGE": "fa", "CHAPAR_BROKER_URL": NO_BROKER, "CHAPAR_PORT": str(taken_port)})
    assert "در حال استفاده است" in said
    assert "CHAPAR_PORT" in said


def test_a_secret_in_a_bad_setting_is_not_repeated(tmp_path: Path) -> None:
    for setting, value in (
        ("CHAPAR_BROKER_URL", "http://gateway:hunter2@127.0.0.1"),
        ("CHAPAR_DATABASE_URL", "mysql://gateway:hunter2@localhost/chapar"),
    ):
        assert "hunter2" not in refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER, setting: value})


def test_postgresql_that_is_away_or_empty_is_named(tmp_path: Path, free_port: int, postgres_url: str) -> None:
    away = refused(
        tmp_path,
        {"CHAPAR_BROKER_URL": NO_BROKER, "CHAPAR_DATABASE_URL": f"postgresql://me:hunter2@127.0.0.1:{free_port}/x"},
    )
    assert "database" in away
    assert "hunter2" not in away
    empty = refused(tmp_path, {"CHAPAR_BROKER_URL": NO_BROKER, "CHAPAR_DATABASE_URL": postgres_url})
    assert "chapar migrate" in empty


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_while_much_is_under_way_and_nothing_promised_is_lost(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, number: signal.Signals
) -> None:
    gateway = await asyncio.to_thread(start_gateway, mosquitto.settings_env)
    started = children(gateway.pid)
    async with client_of(gateway.url) as client:
        for operation in range(40):  # so that a report does not fit into the sockets' buffers
            assert (await send(client, micro_op=str(operation), params={"padding": "x" * 60_000})).status_code == 201
        with (
            RawRequest(gateway.port, method="GET", path="/reporting/all"),
            socket.create_connection((LOOPBACK, gateway.port)),
        ):
            async with Senders(gateway.url, 20) as senders:
                await senders.answered(201, times=40)
                await asyncio.to_thread(gateway.program.end, number, 15.0)
                await senders.answered(None)
    assert gateway.program.wait() == 0
    assert await asyncio.to_thread(wait_until_gone, started) == []
    await asyncio.to_thread(gateway.terminate)
    await asyncio.to_thread(gateway.start)
    async with client_of(gateway.url) as client:
        rows = await settled(client)
    promised = {answer.id for answer in senders.answers if answer.status in {201, 202}}
    assert promised <= rows.keys()
    assert {answer.status for answer in senders.answers} <= {201, 202, 406, None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_answers_whoever_waits_for_the_broker_that_the_delivery_goes_on(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, number: signal.Signals
) -> None:
    gateway = await asyncio.to_thread(start_gateway, {**mosquitto.settings_env, "CHAPAR_PUBLISH_TIMEOUT": "60"})
    async with client_of(gateway.url) as client:
        mosquitto.pause()
        waiting = [asyncio.create_task(send(client)) for _ in range(5)]

        async def all_saved() -> bool:
            return len(await report(client, status="publishing")) == len(waiting)

        await eventually(all_saved)
        code = await asyncio.to_thread(gateway.program.end, number, 15.0)
        answers = [await answer for answer in waiting]
    mosquitto.resume()
    assert code == 0
    assert "Traceback" not in gateway.program.output
    assert [answer.status_code for answer in answers] == [202] * len(waiting)
    await asyncio.to_thread(gateway.terminate)
    await asyncio.to_thread(gateway.start)
    async with client_of(gateway.url) as client:
        rows = await settled(client)
    assert {row["status"] for row in rows.values()} == {"published"}
    assert rows.keys() == {answer.json()["id"] for answer in answers}


async def test_a_stop_in_the_middle_of_a_report_is_quiet(start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = await asyncio.to_thread(start_gateway, BuiltinBroker().settings_env)
    async with client_of(gateway.url) as client:
        for operation in range(120):  # so that a report does not fit into the sockets' buffers
            assert (await send(client, micro_op=str(operation), params={"padding": "x" * 60_000})).status_code == 201
        async with client.stream("GET", "/reporting/all") as reading:
            assert reading.status_code == 200
            assert await asyncio.to_thread(gateway.program.end, signal.SIGTERM, 15.0) == 0
    assert "Traceback" not in gateway.program.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_built_in_broker_and_the_writer_too(
    start_gateway: Callable[..., GatewayProcess], number: signal.Signals
) -> None:
    gateway = start_gateway(BuiltinBroker().settings_env)
    started = children(gateway.pid)
    assert len(started) == 2
    assert gateway.program.end(number, 15.0) == 0
    assert wait_until_gone(started) == []
    assert "Traceback" not in gateway.program.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_ends_it_cleanly(
    start_gateway: Callable[..., GatewayProcess], number: signal.Signals
) -> None:
    """Ctrl-C in a terminal, and its end, reach the children too."""
    gateway = start_gateway(BuiltinBroker().settings_env)
    started = children(gateway.pid)
    os.killpg(gateway.pid, number)
    assert gateway.program.wait(15.0) == 0
    assert wait_until_gone(started) == []
    assert "Traceback" not in gateway.program.output


def test_what_is_in_the_environment_for_other_programs_changes_nothing(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for_others = {"PROMETHEUS_MULTIPROC_DIR": str(foreign), "WEB_CONCURRENCY": "many", "FORWARDED_ALLOW_IPS": "*"}
    gateway = start_gateway({"CHAPAR_BROKER_URL": NO_BROKER, **for_others}, until="live")
    assert "chapar_link_up 0.0" in httpx.get(f"{gateway.url}/metrics").text
    assert list(foreign.iterdir()) == []


def test_a_broker_that_is_away_does_not_hold_up_a_stop(start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = start_gateway({"CHAPAR_BROKER_URL": NO_BROKER}, until="live")
    assert gateway.terminate() == 0


def test_a_folder_with_files_named_like_modules_does_not_matter(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    for name in ("queue", "mqtt5", "iotcore", "sqlalchemy", "uvicorn", "select", "json", "chapar", "logging", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    gateway = start_gateway(BuiltinBroker().settings_env)
    answer = httpx.post(f"{gateway.url}/messaging/send", json={"imei": IMEI, "micro_op": "push_down"})
    assert answer.status_code == 201
    assert gateway.terminate() == 0


def test_it_starts_from_nothing_and_says_where_it_is(start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = start_gateway(BuiltinBroker().settings_env)
    gateway.program.wait_for_line("Ctrl-C stops it.")
    said = gateway.program.output
    assert f"API       {gateway.url}" in said
    assert f"{gateway.url}/docs" in said
    assert "open to everybody on this machine" in said
