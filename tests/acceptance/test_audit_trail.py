"""What commands leave in the audit trail, and under whose name."""

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from support.gateway import find_command

ME = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
CREATE = ("keys", "create", "--name", "backend", "--scope", "messages:read", "--json")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "chapar.db"


def chapar(database: Path, *arguments: str, **variables: str) -> str:
    env = {"PATH": os.environ["PATH"], "CHAPAR_DATABASE_URL": f"sqlite:///{database}", **variables}
    done = subprocess.run(
        [find_command(), *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def trail(database: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in chapar(database, "audit", "--json").splitlines()]


def test_a_command_is_signed_by_the_real_user_whatever_the_environment_says(database: Path) -> None:
    forged = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"), "mallory")
    key = json.loads(chapar(database, *CREATE, **forged))["id"]
    chapar(database, "keys", "expire", key, "--at", "7d", **forged)
    chapar(database, "keys", "revoke", key, **forged)
    entries = trail(database)
    assert [entry["action"] for entry in entries] == ["key_created", "key_expires", "key_revoked"]
    assert {entry["principal"] for entry in entries} == {ME}
    assert {str(entry["name"]).partition("uid ")[2] for entry in entries} == {f"{os.getuid()})"}


def test_commands_that_change_the_database_say_so(database: Path) -> None:
    chapar(database, "migrate")
    chapar(database, "migrate")
    chapar(database, "prune", "--days", "1.5")
    entries = trail(database)
    assert [(entry["action"], entry["principal"]) for entry in entries] == [
        ("schema_migrated", ME),
        ("messages_pruned", ME),
        ("messages_pruned", ME),
    ]
    migrated, begun, ended = (str(entry["detail"]) for entry in entries)
    assert migrated.startswith("nothing → ")
    assert begun == "accepted longer ago than 1.5 days: begun"
    assert ended == "accepted longer ago than 1.5 days: 0 removed"
