"""Whether the process serves, and which part is missing where it cannot deliver."""

from collections.abc import Callable
from pathlib import Path

import httpx

from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer
from support.site import until

READY = {"ready": True, "reason": None}


def test_ready_names_the_broker_while_it_is_away(
    mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    until(lambda: _replies(gateway) == "up")
    ready = httpx.get(f"{gateway.url}/health/ready")
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ready", "database": READY, "broker": READY, "replies": "up", "held": 0},
    )
    mosquitto.kill()
    gateway.program.wait_for_line("broker_link_down")
    until(lambda: _replies(gateway) == "down")
    ready = httpx.get(f"{gateway.url}/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert ready.json()["database"] == READY
    assert ready.json()["broker"]["ready"] is False
    assert f"mqtt://127.0.0.1:{mosquitto.port}" in ready.json()["broker"]["reason"]
    persian = httpx.get(f"{gateway.url}/health/ready", headers={"Accept-Language": "fa"})
    assert persian.headers["Content-Language"] == "fa"
    assert "اتصال" in persian.json()["broker"]["reason"]
    live = httpx.get(f"{gateway.url}/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    mosquitto.start()
    gateway.wait_until("ready")


def _replies(gateway: GatewayProcess) -> str:
    state: str = httpx.get(f"{gateway.url}/health/ready").json()["replies"]
    return state


def test_ready_names_the_database_while_it_is_away(
    postgres_server: PostgresServer,
    postgres_url: str,
    mosquitto: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    env = {**mosquitto.settings_env, "CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true"}
    gateway = start_gateway(env)
    postgres_server.stop("immediate")
    ready = httpx.get(f"{gateway.url}/health/ready", timeout=30.0)
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert ready.json()["broker"] == READY
    assert ready.json()["database"]["ready"] is False
    assert ready.json()["database"]["reason"]
    assert httpx.get(f"{gateway.url}/health/live").status_code == 200
    postgres_server.start()
    gateway.wait_until("ready")


def test_neither_says_a_secret(start_gateway: Callable[..., GatewayProcess], tmp_path: Path, free_port: int) -> None:
    env = {
        "CHAPAR_BROKER_URL": f"mqtt://gateway:hunter2@127.0.0.1:{free_port}",
        "CHAPAR_DATABASE_URL": f"sqlite:///{tmp_path / 'chapar.db'}",
    }
    gateway = start_gateway(env, until="live")
    ready = httpx.get(f"{gateway.url}/health/ready")
    assert ready.status_code == 503
    assert "hunter2" not in ready.text
    gateway.program.wait_for_line("broker_link_down")
    assert "hunter2" not in gateway.program.output
