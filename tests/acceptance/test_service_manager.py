"""A gateway that a service manager starts and watches, as systemd does it with `Type=notify` and `WatchdogSec=`."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.processes import children, describe
from support.systemd import Systemd


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def child(gateway: GatewayProcess, module: str) -> int:
    return next(pid for pid in children(gateway.pid) if module in describe(pid))


def speak_for_it(gateway: GatewayProcess) -> list[str]:
    """Children that could."""
    return [
        describe(pid) for pid in children(gateway.pid) if b"NOTIFY_SOCKET" in Path(f"/proc/{pid}/environ").read_bytes()
    ]


def check_watched(systemd: Systemd, gateway: GatewayProcess, module: str) -> int:
    """Stop the child that runs `module`, see the watchdog starve, and let the child go on. Gives its process id."""
    systemd.wait_for("WATCHDOG=1")
    assert not speak_for_it(gateway)
    pid = child(gateway, module)
    os.kill(pid, signal.SIGSTOP)
    systemd.wait_for_silence()
    os.kill(pid, signal.SIGCONT)
    systemd.wait_for("WATCHDOG=1")
    return pid


def test_a_gateway_is_watched_with_its_writer(start_gateway: Callable[..., GatewayProcess], systemd: Systemd) -> None:
    gateway = start_gateway(BuiltinBroker().settings_env | systemd.env)
    assert systemd.wait_for("READY=1") == f"READY=1\nSTATUS=Serving {gateway.url}"
    writer = check_watched(systemd, gateway, "chapar.store.writer")
    os.kill(writer, signal.SIGKILL)  # it is started anew: no reason to start everything
    gateway.program.wait_for_line("writer_died")
    systemd.forget()
    systemd.wait_for("WATCHDOG=1")
    gateway.program.send_signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert gateway.program.wait() == 0


def test_a_broker_or_database_that_is_away_is_no_reason_for_a_new_start(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, systemd: Systemd, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'data' / 'chapar.db'}"
    (tmp_path / "data").mkdir()
    gateway = start_gateway(mosquitto.settings_env | {"CHAPAR_DATABASE_URL": url} | systemd.env)
    systemd.wait_for("READY=1")
    mosquitto.stop()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    gateway.program.wait_for_line("database_file_gone")
    assert "\nchapar_database_up 0.0\n" in httpx.get(f"{gateway.url}/metrics").text
    systemd.forget()
    for _ in range(3):
        systemd.wait_for("WATCHDOG=1")
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    mosquitto.start()


def test_several_workers_are_watched_together(
    postgres_url: str, start_gateway: Callable[..., GatewayProcess], systemd: Systemd
) -> None:
    env = {"CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true", "CHAPAR_WORKERS": "2"}
    gateway = start_gateway(BuiltinBroker().settings_env | env | systemd.env)
    systemd.wait_for("READY=1")
    check_watched(systemd, gateway, "chapar.app.workers")
    gateway.program.send_signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
