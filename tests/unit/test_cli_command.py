"""The command as it is written: its help, its usage errors, its exit codes. No gateway runs here."""

import os
import re
import subprocess
import sys
import time

import pytest

from chapar import __version__
from chapar.cli.command import cli_of, run
from chapar.model.audit import Action
from chapar.model.message import Status
from chapar.model.principal import Scope
from chapar.runtime.streams import LineWriter
from support.ports import LOOPBACK, free_port

COMMANDS = [command.callback.__name__ for command in cli_of().registered_commands if command.callback is not None]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
    monkeypatch.delenv("CHAPAR_URL", raising=False)


def test_the_command_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_a_group_of_commands_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys"]) == 0
    printed = capsys.readouterr()
    assert all(command in printed.out for command in ("create", "list", "revoke", "expire"))
    assert printed.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Example:" in capsys.readouterr().out


def test_send_documents_its_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["send", "--help"]) == 0
    assert "Exit code 0" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"chapar {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["fly"], "fly"),
        (["send"], "DEVICE"),
        (["send", "pump-7"], "OPERATION"),
        (["send", "pump-7", "open", "--valve"], "--valve"),
        (["send", "pump-7", "open", "--qos", "3"], "--qos"),
        (["send", "pump-7", "open", "--timeout", "0"], "--timeout"),
        (["send", "pump-7", "open", "--params", "{"], "--params"),
        (["send", "pump-7", "open", "--params", "[1]"], "--params"),
        (["send", "pump-7", "open", "--params", '{"x": NaN}'], "--params"),
        (["send", "pump-7", "open", "--params", '{"x": 1e999}'], "--params"),
        (["send", "pump-7", "open", "--params", '{"x": "\udcff"}'], "--params"),
        (["send", "pump-7", "open", "--params", '{"x": 1, "x": 2}'], "--params: `x`"),
        (["send", "pump-7", "open", "--url", "localhost:8000"], "--url"),
        (["send", "pump-7", "open", "--url", "http://[::"], "--url"),
        (["messages", "--status", "lost"], "--status"),
        (["messages", "--since", "yesterday"], "--since"),
        (["messages", "--until", "999999999999999d"], "--until"),
        (["messages", "--device", "a/b"], "--device"),
        (["messages", "--operation", "\x1b"], "--operation"),
        (["messages", "--limit", "0"], "--limit"),
        (["messages", "--follow", "--until", "1m"], "--until"),
        (["simulate", "a/b"], "DEVICE"),
        (["simulate", "--count", "2", "--prefix", "#"], "DEVICE"),
        (["simulate", "--count", "0"], "--count"),
        (["simulate", "--broker", "broker.example"], "--broker"),
        (["keys", "create", "--name", "farm"], "messages:send"),
        (["keys", "create", "--name", "farm", "--scope", "moon:land"], "moon:land"),
        (["keys", "revoke"], "ID"),
        (["audit", "--principal", "\udcff"], "--principal"),
        (["audit", "--subject", "a\0"], "--subject"),
        (["audit", "--action", "moon_landed"], "--action"),
        (["sent"], "send"),
        (["send", "pump-7", "open", "--timeou", "3"], "--timeout"),
        (["send", "pump-7", "open", "--qos"], "--qos"),
        (["send", "pump-7", "open", "--retain=1"], "--retain"),
        (["send", "pump-7", "open", "--qos", "one"], "--qos"),
        (["send", "pump-7", "open", "now"], "now"),
        (["prune"], "--days"),
        (["prune", "--days", "nan"], "--days"),
        (["keys", "create", "--scope", "keys:write"], "--name"),
        (["keys", "make"], "make"),
    ],
)
@pytest.mark.parametrize("language", ["en", "fa"])
def test_misuse_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    names: str,
    language: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", language)
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("chapar: ")
    assert names in printed.err
    assert any("\u0600" <= letter <= "\u06ff" for letter in printed.err) is (language == "fa")
    known = " ".join(
        [
            "chapar resend events --help --scope http litres mqtt mqtts host user secret",
            *Status,
            *Action,
            *Scope,
            *arguments,
            names,
        ]
    )
    strange = [word for word in re.findall("[a-z]{2,}", printed.err) if word not in known]
    assert language == "en" or strange == [], "words of the option parser"


@pytest.mark.parametrize("arguments", [["send", "pump-7", "open"], ["messages"], ["messages", "--follow"]])
def test_a_gateway_that_does_not_run_is_one_sentence_that_says_how_to_start_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://{LOOPBACK}:{free_port()}"
    assert run([*arguments, "--url", url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"chapar: No gateway answers at {url} (Connection refused). "
        "Start one with `chapar serve`, or name another with --url or CHAPAR_URL.\n"
    )


def test_a_gateway_that_does_not_run_is_a_persian_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")
    monkeypatch.setenv("CHAPAR_URL", f"http://{LOOPBACK}:{free_port()}")
    assert run(["send", "pump-7", "open"]) == 1
    assert "پاسخ نمی‌دهد" in capsys.readouterr().err


def test_what_was_typed_cannot_reach_the_terminal_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["messages", "\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loaded", "unneeded"),
    [
        ("cli_of(['serve']); import chapar.app.server", {"httpx", "jwt", "alembic", "chapar.cli.client"}),
        ("cli_of(['keys', 'create'])", {"httpx", "sqlalchemy", "fastapi"}),
    ],
)
def test_what_a_command_does_not_need_is_not_loaded(loaded: str, unneeded: set[str]) -> None:
    code = f"import sys; from chapar.cli.command import cli_of; {loaded}; print(*sys.modules)"
    run_apart = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert not unneeded & set(run_apart.stdout.split())


def test_what_ends_a_command_stands_behind_what_was_logged(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def write_slowly(descriptor: int, data: memoryview) -> int:
        time.sleep(0.05)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_slowly)
    lines = LineWriter(2)
    lines.write("first")
    lines.write("second")
    assert run(["fly"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert said[:2] == ["first", "second"]
    assert said[2].startswith("chapar: ")
