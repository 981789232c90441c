"""Settings from files, as the installed command reads them, and what it says of names and values that are wrong."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.gateway import GatewayProcess, find_command

PATIENCE = 90  # seconds
NO_BROKER = "mqtt://127.0.0.1:1"  # nobody listens there; the gateway starts all the same


def chapar(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_command(), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_every_command_reads_the_files_and_the_banner_names_them(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    (tmp_path / "chapar.toml").write_text(
        f'broker_url = "{NO_BROKER}"\nallowed_hosts = ["gateway.example.org"]\nlog_format = "JSON"\nworker = 2\n'
        'database_url_file = "url"\npublish_timeout = 0.2\n'
    )
    (tmp_path / "url").write_text("sqlite:///farm.db\n")
    (tmp_path / ".env").write_text("CHAPAR_PORT=1\n")
    gateway = start_gateway({"CHAPAR_LOG_LEVEL": "", "CHAPAR_PROT": "2"}, until="live")
    answer = httpx.get(f"{gateway.url}/health/live", headers={"Host": "gateway.example.org"})
    assert answer.status_code == 200, "the list of the file counts"
    assert (tmp_path / "farm.db").exists(), "and so does the file with the secret"
    files = [str(tmp_path / ".env"), str(tmp_path / "chapar.toml")]
    gateway.program.wait_for_line(f"settings  {', '.join(files)}, environment")
    events = [json.loads(line) for line in gateway.lines if line.startswith("{")]
    assert [event["files"] for event in events if event["event"] == "settings_read"] == [files]
    reasons = {event["setting"]: event["reason"] for event in events if event["event"] == "setting_unknown"}
    assert reasons.keys() == {"CHAPAR_PROT", "worker"}
    assert "Did you mean CHAPAR_PORT?" in reasons["CHAPAR_PROT"]
    assert "Did you mean workers?" in reasons["worker"]

    key = chapar(tmp_path, "keys", "create", "--name", "farm", "--scope", "messages:send")
    assert key.returncode == 0, key.stderr
    assert "farm.db" in key.stderr, "it opens the same database"
    (tmp_path / "key").write_text(key.stdout)
    with (tmp_path / ".env").open("a") as dotenv:
        dotenv.write("CHAPAR_API_KEY_FILE=key\nCHAPAR_LANGUAGE=fa\n")
    sent = chapar(tmp_path, "send", "pump-7", "open", CHAPAR_URL=gateway.url)
    assert "فرستاده نشد" in sent.stderr, "the key of the file is sent along, and the language counts"
    assert "شاید منظورتان workers بوده است" in sent.stderr
    assert gateway.terminate() == 0


@pytest.mark.parametrize("command", [["serve"], ["migrate"], ["keys", "list"], ["send", "a", "b"], ["messages"]])
def test_a_file_that_cannot_be_read_stops_every_command(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "chapar.toml").write_text("port = = 3\n")
    ended = chapar(tmp_path, *command)
    assert ended.returncode == 1
    assert ended.stderr.startswith("chapar: chapar.toml cannot be used: it is not TOML: Invalid value (at line 1")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('port = "high"', "CHAPAR_PORT (`port` in chapar.toml) cannot be used"),
        ("port = [1, 2]", "CHAPAR_PORT (`port` in chapar.toml) cannot be used"),
        ("[host]\nname = 1", "CHAPAR_HOST (`host` in chapar.toml) cannot be used: write it as text"),
        ('broker_ca_file = "no.pem"', "CHAPAR_BROKER_CA_FILE (`broker_ca_file` in chapar.toml) cannot be used: no.pem"),
        ('broker_url_file = "no"', "CHAPAR_BROKER_URL_FILE (`broker_url_file` in chapar.toml) cannot be used: no "),
    ],
)
def test_a_wrong_value_is_named_with_file_and_key(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "chapar.toml").write_text(content)
    env = {"CHAPAR_BROKER_URL": "mqtts://127.0.0.1:1", "CHAPAR_PORT": "0"}
    ended = chapar(tmp_path, "serve", **{name: value for name, value in env.items() if name[7:].lower() not in content})
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"chapar: {says}")
