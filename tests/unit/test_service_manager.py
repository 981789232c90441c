"""What the service manager is notified of, over a socket of its own."""

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chapar.runtime.service_manager import ServiceManager

ENVIRONMENT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever takes it out
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, environment: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@chapar-{secrets.token_hex(8)}"
    environment.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        receiver.settimeout(0)
        yield receiver


def test_the_start_and_the_end_are_notified(systemd: socket.socket) -> None:
    manager = ServiceManager.of_environment()
    manager.ready("Serving http://127.0.0.1:8000")
    manager.stopping()
    assert systemd.recv(1024) == b"READY=1\nSTATUS=Serving http://127.0.0.1:8000"
    assert systemd.recv(1024) == b"STOPPING=1"


def test_no_child_speaks_for_this_process(systemd: socket.socket, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WATCHDOG_PID", str(os.getpid()))
    environment.setenv("WATCHDOG_USEC", "30000000")
    assert ServiceManager.of_environment().patience == 30
    assert not [name for name in ENVIRONMENT if name in os.environ]
    assert systemd.fileno() >= 0


@pytest.mark.parametrize(
    ("pid", "microseconds"), [("1", "30000000"), (None, None), (None, "soon"), (None, ""), (None, "0")]
)
async def test_nobody_watches_this_process(
    pid: str | None, microseconds: str | None, systemd: socket.socket, environment: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_PID", pid), ("WATCHDOG_USEC", microseconds)):
        if value is not None:
            environment.setenv(name, value)
    manager = ServiceManager.of_environment()
    assert manager.patience is None

    async def is_well(_patience: float) -> bool:
        raise AssertionError

    await manager.watch(is_well)
    with pytest.raises(BlockingIOError):
        systemd.recv(1024)


async def test_the_watchdog_is_fed_while_all_is_well(systemd: socket.socket, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WATCHDOG_USEC", "20000")
    manager = ServiceManager.of_environment()
    answers = iter([True, False, False, True])
    given: list[float] = []

    async def is_well(patience: float) -> bool:
        given.append(patience)
        return next(answers)

    with pytest.raises(RuntimeError, match="StopIteration"):
        await manager.watch(is_well)
    assert given == [0.005] * 5  # so that three quarters are left when an answer has taken all its time
    assert [systemd.recv(1024), systemd.recv(1024)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        systemd.recv(1024)


async def test_without_a_service_manager_nothing_is_sent() -> None:
    manager = ServiceManager.of_environment()
    manager.ready("Serving")
    manager.stopping()
    await asyncio.wait_for(manager.watch(lambda _patience: asyncio.sleep(0, result=True)), 60)


def test_a_service_manager_that_is_gone_is_no_reason_to_stop(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    ServiceManager.of_environment().ready("Serving")
