"""The installed commands against a running gateway, as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.builtin import BuiltinBroker
from support.devices import Device
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.processes import Program

Spawn = Callable[..., Program]
Start = Callable[..., Program]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), **env}


def call(folder: Path, env: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [find_command(), *arguments],
        env=environment(folder, env),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a command that goes on until it is interrupted."""
    with ExitStack() as running:

        def spawn(env: Mapping[str, str], *arguments: str) -> Program:
            program = Program([find_command(), *arguments], folder=tmp_path, env=environment(tmp_path, env))
            running.callback(program.close)
            return program

        yield spawn


@pytest.fixture(scope="module")
def broker() -> BuiltinBroker:
    return BuiltinBroker()


@pytest.fixture(scope="module")
def gateway(broker: BuiltinBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A ready gateway as it is without any setting: the command line sees neither its broker nor its database.

    All tests share it, so each has devices of its own.
    """
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), broker.settings_env) as running:
        yield running


@pytest.fixture
def env(gateway: GatewayProcess) -> dict[str, str]:
    """What the commands need to find the gateway and its broker."""
    return gateway.env | {"CHAPAR_URL": gateway.url}


@pytest.fixture
def run(tmp_path: Path, env: dict[str, str]) -> Run:
    """Run a command that calls the gateway to its end."""
    return lambda *arguments, **more: call(tmp_path, env | more, *arguments)


@pytest.fixture
def start(spawn: Spawn, env: dict[str, str]) -> Start:
    """Start a command that belongs to the gateway and goes on until it is interrupted."""
    return lambda *arguments: spawn(env, *arguments)


def test_a_sent_operation_reaches_the_simulated_device(start: Start, run: Run) -> None:
    device = start("simulate", "pump-7")
    device.wait_for_line("Connected: 1 of 1 device ")
    sent = run("send", "pump-7", "push_down")
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr == ""
    told, identity = sent.stdout.splitlines()
    assert told == "Send `push_down` to topic `devices/pump-7`"
    assert re.fullmatch(f"id {UUID}", identity)
    assert device.wait_for_line("push_down").split()[2:] == ["pump-7", "push_down"]
    assert device.end(signal.SIGINT) == 0
    assert device.wait_for_line("Messages received") == "Messages received: 1, by 1 device."


def test_what_the_start_offers_to_try_works_as_it_is_printed(gateway: GatewayProcess, tmp_path: Path) -> None:
    gateway.program.wait_for_line("Ctrl-C stops it.")
    printed = "\n".join(gateway.lines)
    [simulate] = re.findall(r"^  (\S*chapar simulate .*)$", printed, re.MULTILINE)
    [curl] = re.findall(r"^  (curl .*\n.*)$", printed, re.MULTILINE)
    bare = environment(tmp_path, {})  # a terminal in which nothing is set
    device = Program(["bash", "-c", f"exec {simulate}"], folder=tmp_path, env=bare)
    try:
        device.wait_for_line("Connected: 1 of 1 device ")
        sent = subprocess.run(["bash", "-c", curl], env=bare, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "Send `push_down` to topic `devices/861234567890123`" in sent.stdout
        device.wait_for_line("861234567890123  push_down")
    finally:
        device.close()


def test_a_device_of_a_full_broker_is_told_the_message_id(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, spawn: Spawn, tmp_path: Path
) -> None:
    env = mosquitto.settings_env | {"CHAPAR_COMMAND_TOPIC": "farm/{imei}/commands"}
    gateway = start_gateway(env)
    device = spawn(env, "simulate", "pump-7")
    device.wait_for_line("Connected")
    sent = call(tmp_path, {}, "send", "pump-7", "push_down", "--json", "--url", gateway.url)
    assert device.wait_for_line("push_down").split()[2:] == ["pump-7", "push_down", json.loads(sent.stdout)["id"]]
    unheard = call(tmp_path, {"CHAPAR_LANGUAGE": "fa"}, "send", "pump-8", "push_down", "--url", gateway.url)
    assert unheard.returncode == 0
    assert "گوش نمی‌داد" in unheard.stdout


def test_parameters_reach_the_device_as_json(start: Start, run: Run) -> None:
    device = start("simulate", "pump-7")
    device.wait_for_line("Connected")
    assert run("send", "pump-7", "set_flow", "--params", '{"note": "آب\\u001b[2J", "litres": 20}').returncode == 0
    heard = device.wait_for_line("set_flow")
    assert '"params":{"note":"آب\\u001b[2J","litres":20}' in heard


def test_what_a_device_is_told_cannot_command_the_terminal(start: Start, broker: Mosquitto | BuiltinBroker) -> None:
    device = start("simulate", "pump-7")
    device.wait_for_line("Connected")
    with broker.device("stranger") as stranger:
        stranger.publish("devices/pump-7", b"\x1b[2J\xff[red]\n")
    assert r"pump-7  \x1b[2J\xff[red]\n" in device.wait_for_line("[red]")


def test_a_retained_operation_is_heard_later(start: Start, run: Run) -> None:
    assert run("send", "valve-7", "open", "--retain").returncode == 0
    device = start("simulate", "valve-7")
    assert device.wait_for_line("open").endswith("(retained)")


def test_a_stopped_gateway_is_exit_code_1_and_a_sentence(tmp_path: Path, free_port: int) -> None:
    env = {"CHAPAR_URL": f"http://127.0.0.1:{free_port}"}
    sent = call(tmp_path, env, "send", "pump-7", "push_down")
    assert sent.returncode == 1
    assert sent.stdout == ""
    assert re.fullmatch(r"chapar: No gateway answers at http://.*chapar serve.*\n", sent.stderr)
    persian = call(tmp_path, env | {"CHAPAR_LANGUAGE": "fa"}, "send", "pump-7", "push_down")
    assert persian.returncode == 1
    assert "پاسخ نمی‌دهد" in persian.stderr


def test_a_refused_request_is_exit_code_1_and_the_gateways_sentence(run: Run) -> None:
    sent = run("send", "pump/7", "push_down", LANG="fa_IR.UTF-8")
    assert sent.returncode == 1
    assert "باید ۱ تا ۶۴ نویسه" in sent.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
def test_an_output_that_cannot_show_a_letter_is_no_failure(run: Run, encoding: str) -> None:
    for command in (["send", "p1", "باز"], ["messages"], ["messages", "--json"], ["messages", "--help"]):
        for language in ("en", "fa"):
            done = run(*command, PYTHONIOENCODING=encoding, CHAPAR_LANGUAGE=language)
            assert (done.returncode, done.stderr) == (0, ""), command
            assert done.stdout


def test_misuse_is_exit_code_2(tmp_path: Path) -> None:
    assert call(tmp_path, {}, "send", "pump-7").returncode == 2


def test_a_table_and_json_show_what_was_sent(run: Run) -> None:
    for operation in ("first", "second", "third"):
        assert run("send", "tank-7", operation).returncode == 0
    assert run("send", "tank-8", "other").returncode == 0
    table = run("messages", "--device", "tank-7", "--limit", "2")
    assert table.returncode == 0, table.stderr
    heading, *rows = table.stdout.splitlines()
    assert heading.split()[:3] == ["accepted", "device", "operation"]
    assert [row.split()[2:5] for row in rows] == [["tank-7", "second", "published"], ["tank-7", "third", "published"]]
    lines = run("messages", "--json", "--since", "1h", "--status", "published").stdout.splitlines()
    assert [json.loads(line)["micro_op"] for line in lines if "tank-" in line] == ["first", "second", "third", "other"]
    assert run("messages", "--until", "1h", "--json").stdout == ""
    persian = run("messages", CHAPAR_LANGUAGE="fa").stdout.splitlines()
    assert "دستگاه" in persian[0]
    assert re.search("[۰-۹]{4}-[۰-۹]{2}-[۰-۹]{2}", persian[1])


def test_following_goes_on_over_a_restart_of_the_gateway(gateway: GatewayProcess, start: Start, run: Run) -> None:
    assert run("send", "well-7", "before").returncode == 0
    follower = start("messages", "--follow")
    follower.wait_for_line("before")
    assert run("send", "well-7", "between").returncode == 0
    follower.wait_for_line("between")
    gateway.terminate()
    follower.wait_for_line("chapar: ")
    gateway.start()
    assert run("send", "well-7", "after").returncode == 0
    follower.wait_for_line("after")
    assert follower.end(signal.SIGINT) == 0
    shown = [line.split() for line in follower.lines]
    assert [words[3] for words in shown if "well-7" in words] == ["before", "between", "after"]
    assert sum(words[0] == "chapar:" for words in shown) == 1


def test_what_the_broker_has_not_acknowledged_is_exit_code_3_and_its_change_is_followed(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, spawn: Spawn, tmp_path: Path
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    env = {"CHAPAR_URL": gateway.url}
    follower = spawn(env, "messages", "--follow", "--json")
    mosquitto.pause()
    sent = call(tmp_path, env, "send", "pump-7", "push_down", "--timeout", "2")
    assert sent.returncode == 3, sent.stderr
    location = re.search(f"See {gateway.url}/messaging/messages/({UUID})", sent.stdout)
    assert location is not None
    first = json.loads(follower.wait_for_line(location[1]))
    assert first["status"] == "publishing"
    mosquitto.resume()
    second = json.loads(follower.wait_for_line('"status": "published"'))
    assert second["id"] == first["id"]
    assert follower.end(signal.SIGINT) == 0
    assert len(follower.lines) == len({*follower.lines}), "a line is a change"
    assert sum('"status": "published"' in line for line in follower.lines) == 1


def test_a_simulated_device_replies_as_it_is_asked_to_and_logs_it(
    start: Start, run: Run, broker: BuiltinBroker, tmp_path: Path
) -> None:
    options = ("--profile", "chapar", "--failures", "100", "--progress", "1", "--delay", "0.1", "--log", "pump.log")
    with Device(broker.port + 1, "listener", topics=["devices/pump-9/+"], mqtt5=True) as listener:
        url = f"mqtt://127.0.0.1:{broker.port}"
        device = start("simulate", "pump-9", "--mqtt", "3", "--broker", url, *options)
        device.wait_for_line("Connected: 1 of 1 device ")
        sent = run("send", "pump-9", "open", "--params", "{}", "--json")
        message_id = json.loads(sent.stdout)["id"]
        device.wait_for_line('failed"')
        said = [each.payload.decode() for each in listener.wait_for(3)]
        assert device.end(signal.SIGINT) == 0
        assert listener.wait_for(4)[-1].payload == b"offline"
    [final] = [text for text in device.lines if 'failed"' in text]
    assert final.endswith(f"pump-9  {said[2]}  {message_id}  (reply)")
    assert said == [
        "online",
        json.dumps({"id": message_id, "status": "running", "micro_op": "open"}),
        json.dumps({"id": message_id, "status": "failed", "micro_op": "open", "result": "simulated"}),
    ]
    log = [json.loads(text) for text in (tmp_path / "pump.log").read_text().splitlines()]
    assert [entry.pop("event") for entry in log] == ["online", "received", "replied", "replied", "offline"]
    assert {entry.pop("device") for entry in log} == {"pump-9"}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("at")) for entry in log)
    assert log[1] == {"id": message_id, "micro_op": "open", "did": "failed"}
    assert log[3] == {"id": message_id, "word": "failed", "payload": said[2]}


@pytest.mark.parametrize(("failures", "code", "word"), [("0", 0, "succeeded"), ("100", 4, "failed")])
def test_a_command_ends_by_the_devices_word(start: Start, run: Run, failures: str, code: int, word: str) -> None:
    device = start("simulate", f"pump-{word}", "--profile", "text", "--failures", failures)
    device.wait_for_line("Connected: 1 of 1 device ")
    sent = run("send", f"pump-{word}", "open", "--wait", "device")
    assert (sent.returncode, sent.stderr) == (code, "")
    assert f"The device: {word}: open " in sent.stdout
    message_id = sent.stdout.splitlines()[-1].removeprefix("id ")
    shown = run("show", message_id, "--wait", "device")
    assert shown.returncode == code
    assert re.search(rf"^reply +{word}: open ", shown.stdout, re.MULTILINE)
    assert re.search(r"^matched by +order$", shown.stdout, re.MULTILINE)
    assert "reply: open " in run("messages", "--device", f"pump-{word}").stdout
    assert device.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("file", "cause"), [("no/such/folder.log", "No such file or directory"), ("/dev/full", "No space left on device")]
)
def test_a_log_of_devices_that_cannot_be_written_is_a_sentence(start: Start, file: str, cause: str) -> None:
    device = start("simulate", "pump-9", "--log", file)
    device.wait_for_line(f"chapar: {file} cannot be used: {cause}.")
    assert device.wait() == 2


def test_a_simulated_device_comes_back_when_its_broker_does(mosquitto: Mosquitto, spawn: Spawn) -> None:
    device = spawn(mosquitto.settings_env, "simulate", "pump-7", "pump-8")
    device.wait_for_line("Connected: 2 of 2 devices")
    mosquitto.stop()
    device.wait_for_line("chapar: ")
    mosquitto.start()
    with mosquitto.device("sender") as sender:
        sender.publish("devices/pump-7", b"welcome", retain=True)
    device.wait_for_line("welcome")
    assert device.end(signal.SIGINT) == 0


def test_simulated_devices_wait_for_a_broker_and_say_once_why(free_port: int, spawn: Spawn) -> None:
    url = f"mqtt://127.0.0.1:{free_port}"
    fleet = spawn({"CHAPAR_LANGUAGE": "fa"}, "simulate", "--count", "50", "--broker", url)
    fleet.wait_for_line("برقرار نشد")
    with Mosquitto(port=free_port):
        fleet.wait_for_line("متصل شد: ۵۰ از ۵۰ دستگاه")
        assert fleet.end(signal.SIGINT) == 0
    assert len(fleet.lines) == 3


def test_a_thousand_devices_are_told(start: Start, run: Run) -> None:
    fleet = start("simulate", "--count", "1000", "--prefix", "gate-")
    fleet.wait_for_line("Connected: 1000 of 1000 devices", timeout=60.0)
    assert run("send", "gate-1", "open").returncode == 0
    assert run("send", "gate-1000", "close").returncode == 0
    assert "gate-1 " in fleet.wait_for_line("open")
    assert "gate-1000 " in fleet.wait_for_line("close")
    assert fleet.end(signal.SIGINT, timeout=30.0) == 0
    assert fleet.wait_for_line("Messages received") == "Messages received: 2, by 1000 devices."


def test_a_message_is_shown_cancelled_sent_again_and_reported(
    run: Run, gateway: GatewayProcess, tmp_path: Path
) -> None:
    at_home = {"CHAPAR_URL": ""}  # then CHAPAR_PORT says where the gateway is
    due = (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="seconds")
    options = ("--deliver-at", due, "--expires-in", "10m", "--idempotency-key", "evening", "--json")
    first = run("send", "pump-7", "open", "--params", '{"n": 1}', *options)
    again = run("send", "pump-7", "open", "--params", '{"n": 1}', *options, CHAPAR_PORT=str(gateway.port), **at_home)
    assert (first.returncode, again.returncode) == (3, 3), first.stderr + again.stderr
    message_id = json.loads(first.stdout)["id"]
    assert json.loads(again.stdout)["id"] == message_id, "the key made one message of both"
    shown = run("show", message_id)
    assert re.search(rf"^id +{message_id}$", shown.stdout, re.MULTILINE)
    assert re.search(r'^parameters +\{"n": ?1\}$', shown.stdout, re.MULTILINE)
    assert "scheduled" in shown.stdout
    assert json.loads(run("show", message_id, "--json").stdout)["history"] == []
    cancelled = run("cancel", message_id)
    assert (cancelled.returncode, cancelled.stdout) == (0, f"The message {message_id} is cancelled.\n")
    assert "withdrawn before it was sent" in run("show", message_id.upper()).stdout
    assert run("cancel", message_id).returncode == 0, "and stays so"
    sent = run("resend", message_id, "--wait", "none", "--idempotency-key", "again")
    assert sent.returncode == 3
    assert sent.stdout.startswith("Accepted again for topic `devices/pump-7`")
    assert run("show", "no/such?id").returncode == 1

    (tmp_path / "valves.csv").write_text("imei,micro_op,wait\n0012,open,none\na/b,open,none\n")
    bulk = run("bulk", "valves.csv")
    assert bulk.returncode == 1
    assert bulk.stdout.splitlines()[-1] == "Accepted: 1. Refused: 1. Not sent: 0."
    assert re.search(r"^3 +a/b +open +field_invalid +`imei` must be ", bulk.stdout, re.MULTILINE), bulk.stdout

    report = run("report", "--format", "csv", "--device", "0012")
    assert report.stdout.splitlines()[1].split(",")[1] == '"0012"'
    assert run("report", "all.xlsx").returncode == 0
    assert (tmp_path / "all.xlsx").read_bytes().startswith(b"PK")


def test_the_package_can_be_run_and_the_shell_completes_it(tmp_path: Path) -> None:
    env = environment(tmp_path, {"CHAPAR_CONFIG": "nowhere.toml"})
    version = subprocess.run(
        [sys.executable, "-m", "chapar", "--version"], env=environment(tmp_path, {}), capture_output=True, check=True
    )
    assert version.stdout.startswith(b"chapar ")
    asked = {"_CHAPAR_COMPLETE": "complete_bash", "COMP_WORDS": "chapar re", "COMP_CWORD": "1"}
    completed = subprocess.run([find_command()], env=env | asked, capture_output=True, text=True, check=True)
    assert {"report", "resend"} <= set(completed.stdout.split())
    installed = subprocess.run(
        ["bash", "-c", f"{find_command()} --install-completion; true"],
        env=environment(tmp_path, {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "completion installed" in installed.stdout, installed.stderr
    assert "_CHAPAR_COMPLETE" in (tmp_path / ".bash_completions" / "chapar.sh").read_text()


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert re.fullmatch(r"chapar \d+\.\d+\.\d+\n", call(tmp_path, {}, "--version").stdout)
