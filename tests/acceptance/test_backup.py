"""A backup made and restored with the installed command, under a gateway whose device listens."""

import os
import pty
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from support.api import IMEI
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto

LATER = {"expires_in": 3600, "wait": "none"}


def chapar(folder: Path, *arguments: str, language: str = "en") -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "CHAPAR_LANGUAGE": language}
    command = [find_command(), *arguments]
    return subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def send(api: httpx.Client, micro_op: str, **fields: object) -> str:
    return str(api.post("/messaging/send", json={"imei": IMEI, "micro_op": micro_op, **fields}).json()["id"])


def shown(api: httpx.Client, message_id: str) -> dict[str, object]:
    message: dict[str, object] = api.get(f"/messaging/messages/{message_id}").json()
    return message


def test_what_was_sent_after_the_backup_is_not_sent_again_until_its_owner_says_so(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, tmp_path: Path
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    with mosquitto.device(IMEI) as device, httpx.Client(base_url=gateway.url, timeout=30.0) as api:
        mosquitto.stop()
        sent, once = send(api, "open", **LATER), send(api, "once", **LATER, at_most_once=True)
        made = chapar(tmp_path, "backup", "monday.db")
        assert (made.returncode, made.stderr) == (0, "")
        assert made.stdout == "monday.db is a backup of sqlite:///chapar.db. Messages that it has unsent: 2.\n"
        mosquitto.start()
        device.wait_for(2)
        refused = chapar(tmp_path, "restore", "monday.db", language="fa")
        assert refused.returncode == 1
        assert "چاپار دیگری هم‌اکنون" in refused.stderr

        gateway.terminate()
        restored = chapar(tmp_path, "restore", "monday.db")
        assert (restored.returncode, restored.stderr) == (0, "")
        assert "Messages that are held: 2." in restored.stdout
        gateway.start()
        ready = api.get("/health/ready")
        assert (ready.status_code, ready.json()["held"]) == (200, 2)
        assert [line for line in gateway.lines if "messages_held" in line]
        new = send(api, "new")
        assert shown(api, new)["status"] == "published"
        held = shown(api, sent)
        assert (held["status"], held["reason"], held["possible_duplicate"]) == ("queued", "held", True)
        assert "chapar_queue_held_messages 2.0" in api.get("/metrics").text
        assert "Messages that are held: 2." in chapar(tmp_path, "queue", "show").stdout
        assert "پیام‌های نگه‌داشته: ۲." in chapar(tmp_path, "queue", "show", language="fa").stdout

        released = chapar(tmp_path, "queue", "release")
        assert (released.returncode, released.stderr) == (0, "")
        device.wait_for(4)
        assert [heard.payload for heard in device.heard] == [b"open", b"once", b"new", b"open"]
        again, ended = shown(api, sent), shown(api, once)
        assert (again["possible_duplicate"], again["reason"]) == (True, None)
        assert (ended["status"], ended["reason"]) == ("unconfirmed", "held")
    assert "Traceback" not in gateway.program.output


@pytest.fixture
def backup(start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, tmp_path: Path) -> Path:
    """A backup with one message that waits."""
    gateway = start_gateway(mosquitto.settings_env)
    with httpx.Client(base_url=gateway.url, timeout=30.0) as api:
        send(api, "later", deliver_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    assert chapar(tmp_path, "backup", "monday.db").returncode == 0
    gateway.terminate()
    return tmp_path / "monday.db"


def on_a_terminal(folder: Path, answers: str, *arguments: str) -> str:
    """What a command prints whose input is a terminal on which somebody types."""
    keyboard, terminal = pty.openpty()
    env: Mapping[str, str] = {"PATH": os.environ["PATH"], "HOME": str(folder), "CHAPAR_LANGUAGE": "en"}
    try:
        os.write(keyboard, answers.encode())
        done = subprocess.run(
            [find_command(), *arguments],
            env=env,
            cwd=folder,
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
    return done.stdout


def test_a_terminal_is_asked_what_becomes_of_the_unsent(backup: Path, tmp_path: Path) -> None:
    for answers, said in (
        ("\n", "that are held: 1"),
        ("what?\nCancel\n", "were cancelled: 1"),
        ("keep\n", "leave when"),
    ):
        assert said in on_a_terminal(tmp_path, answers, "restore", backup.name)
        for kept in tmp_path.glob("chapar.db.replaced-*"):
            kept.unlink()
    assert "were cancelled: 1" in chapar(tmp_path, "restore", backup.name, "--unsent", "cancel").stdout
    assert "Nothing is held." in chapar(tmp_path, "queue", "cancel").stdout
    os.truncate(tmp_path / "chapar.db", 0)
    stopped = chapar(tmp_path, "restore", backup.name)
    assert "kept as" not in stopped.stdout, "there was nothing to keep"
    misused = chapar(tmp_path, "restore", backup.name, "--unsent", "perhaps")
    assert misused.returncode == 2


def test_a_name_that_is_taken_is_a_sentence_in_both_languages(tmp_path: Path) -> None:
    (tmp_path / "taken.db").touch()
    assert chapar(tmp_path, "backup", "new.db").returncode == 1
    assert chapar(tmp_path, "keys", "list").returncode == 0
    for language, said in (("en", "exists already"), ("fa", "از پیش هست")):
        refused = chapar(tmp_path, "backup", "taken.db", language=language)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert said in refused.stderr
        assert "--force" in refused.stderr
    assert chapar(tmp_path, "backup", "--force", "taken.db").returncode == 0
