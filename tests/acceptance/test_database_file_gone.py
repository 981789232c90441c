"""The database file of SQLite goes away under a running gateway, or a second gateway finds it under another name."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from support.api import IMEI, problem_of
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.ports import free_port


def send(api: httpx.Client, micro_op: str, **headers: str) -> httpx.Response:
    return api.post("/messaging/send", json={"imei": IMEI, "micro_op": micro_op}, headers=headers)


def reported(api: httpx.Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = api.get("/reporting/all").json()
    return rows


def test_a_database_file_that_is_gone_is_noticed_at_once_and_taken_again_when_it_is_back(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, tmp_path: Path
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    file, elsewhere = tmp_path / "chapar.db", tmp_path / "elsewhere.db"
    with mosquitto.device(IMEI) as device, httpx.Client(base_url=gateway.url, timeout=30.0) as api:
        assert send(api, "before").status_code == 201
        file.rename(elsewhere)
        ready = api.get("/health/ready")
        assert (ready.status_code, ready.json()["broker"]["ready"]) == (503, True)
        assert f"{file} was deleted, moved, replaced or overwritten" in ready.json()["database"]["reason"]
        assert api.get("/health/live").status_code == 200
        for language, said in (("en", "Move the same file back"), ("fa", "همان فایل را به جای خود برگردانید")):
            refused = send(api, "meanwhile", **{"Accept-Language": language})
            problem = problem_of(refused)
            assert (refused.status_code, problem["code"]) == (406, "not_saved")
            assert said in problem["reason"]
            assert str(file) in problem["reason"]
        assert problem_of(api.get("/reporting/all"))["code"] == "store_unavailable"
        assert not file.exists(), "no other file was made in its place"
        elsewhere.rename(file)
        gateway.wait_until("ready")
        assert send(api, "afterwards").status_code == 201
        device.wait_for(lambda heard: heard[-1].payload == b"afterwards")
        gateway.restart()
        assert [(row["micro_op"], row["status"]) for row in reported(api)] == [
            ("before", "published"),
            ("afterwards", "published"),
        ]
    assert [heard.payload for heard in device.heard] == [b"before", b"afterwards"]
    assert "Traceback" not in gateway.program.output


def test_another_database_in_its_place_is_served_after_a_restart(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A copy restored under a running gateway has nothing of what that one wrote."""
    file, copy = tmp_path / "chapar.db", tmp_path / "copy.db"
    gateway = start_gateway(mosquitto.settings_env)
    with httpx.Client(base_url=gateway.url, timeout=30.0) as api:
        assert send(api, "kept").status_code == 201
        gateway.terminate()
        copy.write_bytes(file.read_bytes())
        gateway.start()
        assert send(api, "lost").status_code == 201
        copy.rename(file)
        assert api.get("/health/ready").status_code == 503
        assert send(api, "refused").status_code == 406
        gateway.terminate()
        gateway.start()
        assert send(api, "new").status_code == 201
        assert [row["micro_op"] for row in reported(api)] == ["kept", "new"]


def test_a_second_gateway_is_refused_whatever_it_calls_the_file(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, tmp_path: Path
) -> None:
    first = start_gateway(mosquitto.settings_env)
    (tmp_path / "symbolic.db").symlink_to("chapar.db")
    (tmp_path / "hard.db").hardlink_to(tmp_path / "chapar.db")
    (tmp_path / "chapar.db.lock").unlink()
    started = [
        subprocess.Popen(
            [find_command(), "serve"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                **mosquitto.settings_env,
                "CHAPAR_DATABASE_URL": f"sqlite:///{name}",
                "CHAPAR_PORT": str(free_port()),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("chapar.db", "symbolic.db", "hard.db")
    ]
    for second in started:
        try:
            _, said = second.communicate(timeout=90)
        finally:
            second.kill()
        assert second.returncode == 1
        assert "Another Chapar already serves" in said
    assert httpx.get(f"{first.url}/health/ready").status_code == 200
