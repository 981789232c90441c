"""A log or an output that cannot be written ends nothing, and no command that did its work says that it failed."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.api import IMEI
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK, free_port
from support.processes import of_session, wait_until_gone
from support.site import until

PATIENCE = 60.0  # seconds
MESSAGE = {"imei": IMEI, "micro_op": "push_down"}


class Sink:
    """What a program's stream is connected to, with the other end of it where it is a pipe."""

    def __init__(self, kind: str) -> None:
        self.reader: int | None = None
        if kind in {"full disk", "closed"}:
            self.writer = os.open("/dev/full" if kind == "full disk" else os.devnull, os.O_WRONLY)
            return
        self.reader, self.writer = os.pipe()
        if kind == "full pipe":
            os.set_blocking(self.writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self.writer, bytes(1 << 16))
            os.set_blocking(self.writer, True)

    def hang_up(self) -> None:
        """The reader goes."""
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None

    def close(self) -> None:
        self.hang_up()
        os.close(self.writer)


@pytest.fixture
def sink() -> Iterator[Callable[[str], Sink]]:
    with ExitStack() as opened:

        def make(kind: str) -> Sink:
            made = Sink(kind)
            opened.callback(made.close)
            return made

        yield make


class Served:
    """`chapar serve` with its streams connected to something that does not take them."""

    def __init__(self, folder: Path, env: Mapping[str, str], sink: Sink, *, closed: bool) -> None:
        port = free_port()
        command = [str(find_command()), "serve", "--port", str(port)]
        if closed:
            command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
            stdin=subprocess.DEVNULL,
            stdout=sink.writer,
            stderr=sink.writer,
            start_new_session=True,
        )
        self.api = httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=30.0)

    def answers(self, path: str) -> int | None:
        assert self.process.poll() is None, "it has ended"
        try:
            return self.api.get(path).status_code
        except httpx.TransportError:
            return None

    def lines_lost(self) -> float:
        [value] = (
            line.split()[1]
            for line in self.api.get("/metrics").text.splitlines()
            if line.startswith("chapar_log_lines_lost_total ")
        )
        return float(value)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.api.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert wait_until_gone(of_session(self.process.pid)) == []


@pytest.mark.parametrize("kind", ["head", "full disk", "full pipe", "closed"])
def test_a_gateway_whose_log_cannot_be_written_goes_on(
    kind: str, tmp_path: Path, mosquitto: Mosquitto, sink: Callable[[str], Sink]
) -> None:
    output = sink(kind)
    env = {"CHAPAR_BROKER_URL": f"mqtt://{LOOPBACK}:{mosquitto.port}", "CHAPAR_LOG_LEVEL": "debug"}
    served = Served(tmp_path, env, output, closed=kind == "closed")
    try:
        until(lambda: served.answers("/health/ready") == 200, PATIENCE)
        output.hang_up()
        mosquitto.kill()  # the link's loss and its return are lines of the log
        until(lambda: served.answers("/health/ready") == 503, PATIENCE)
        mosquitto.start()
        until(lambda: served.answers("/health/ready") == 200, PATIENCE)
        assert served.api.post("/messaging/send", json=MESSAGE).status_code == 201
        if kind in {"head", "full disk"}:
            until(lambda: served.lines_lost() > 0, PATIENCE)
        assert served.end() == 0
    finally:
        served.close()


@pytest.fixture
def gateway(start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    return start_gateway(BuiltinBroker().settings_env)


def run(gateway: GatewayProcess, folder: Path, sink: Sink, stream: str, *arguments: str) -> tuple[int, str]:
    """Run a command with one stream that takes nothing; gives its exit code and what the other stream said."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: sink.writer}
    sink.hang_up()
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "CHAPAR_URL": gateway.url, **gateway.env}
    done = subprocess.run([find_command(), *arguments], cwd=folder, env=env, timeout=PATIENCE, check=False, **streams)
    return done.returncode, (done.stderr if stream == "stdout" else done.stdout).decode()


def test_a_command_that_did_its_work_does_not_say_that_it_failed(
    gateway: GatewayProcess, tmp_path: Path, sink: Callable[[str], Sink]
) -> None:
    send = ("send", IMEI, "open")
    assert run(gateway, tmp_path, sink("head"), "stdout", *send) == (0, "")
    ended, said = run(gateway, tmp_path, sink("full disk"), "stdout", *send, "--json")
    assert (ended, said.count("\n")) == (0, 1)
    assert "No space left on device" in said
    assert "stands" in said
    ended, said = run(gateway, tmp_path, sink("full disk"), "stderr", *send, "--qos", "0")
    assert ended == 3
    assert "whether it arrived is unknown" in said
    assert len(httpx.get(f"{gateway.url}/messaging/messages").json()["messages"]) == 3
    assert run(gateway, tmp_path, sink("head"), "stderr", *send, "--qos", "9") == (2, "")


def test_a_command_that_only_prints_ends_with_its_reader_and_names_a_full_disk(
    gateway: GatewayProcess, tmp_path: Path, sink: Callable[[str], Sink]
) -> None:
    assert httpx.post(f"{gateway.url}/messaging/send", json=MESSAGE).status_code == 201
    for arguments in (("messages",), ("messages", "--follow"), ("audit", "--json")):
        assert run(gateway, tmp_path, sink("head"), "stdout", *arguments) == (0, ""), arguments
    ended, said = run(gateway, tmp_path, sink("full disk"), "stdout", "messages")
    assert (ended, said.count("\n")) == (1, 1), said
    assert "No space left on device" in said


def test_a_key_that_was_made_is_not_called_a_failure(
    gateway: GatewayProcess, tmp_path: Path, sink: Callable[[str], Sink]
) -> None:
    create = ("keys", "create", "--name", "backend", "--scope", "messages:read")
    ended, said = run(gateway, tmp_path, sink("full disk"), "stdout", *create)
    assert ended == 0
    assert "This is the key" in said
    assert "No space left on device" in said
    ended, listed = run(gateway, tmp_path, sink("head"), "stderr", "keys", "list", "--json")
    assert ended == 0
    assert [json.loads(line)["name"] for line in listed.splitlines()] == ["backend"]
