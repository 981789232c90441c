"""The gateway under the rights on PostgreSQL that the page on security recommends, and under no others."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from chapar.model.principal import Scope
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer
from support.site import until, written

PAGES = Path(__file__).parents[2] / "docs"


def recommended(language: str) -> str:
    """The statements as they stand on the page."""
    [sql] = re.findall(r"```sql\n(GRANT .*?)```", (PAGES / language / "security.md").read_text(), re.DOTALL)
    return str(sql)


def test_both_pages_recommend_the_same_rights() -> None:
    assert recommended("en") == recommended("fa")


def chapar(database_url: str, *arguments: str) -> str:
    """What a command prints that ends well."""
    env = {"PATH": os.environ["PATH"], "CHAPAR_DATABASE_URL": database_url}
    command = [find_command(), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture
def narrow_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A migrated database, as the user who has the recommended rights alone."""
    url = postgres_server.create_database()
    name = url.rpartition("/")[2]
    for role in ("owner", "chapar"):
        postgres_server.execute(f"CREATE ROLE {role} LOGIN")
    try:
        postgres_server.execute(f"ALTER DATABASE {name} OWNER TO owner")
        owner = url.replace("postgres@", "owner@")
        chapar(owner, "migrate")
        with psycopg.connect(owner) as connection:
            for statement in recommended("en").split(";")[:-1]:
                connection.execute(statement)
        yield url.replace("postgres@", "chapar@")
    finally:
        postgres_server.drop_database(url)
        for role in ("owner", "chapar"):
            postgres_server.execute(f"DROP ROLE {role}")


def test_the_recommended_rights_suffice(
    narrow_url: str, mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess]
) -> None:
    key = chapar(narrow_url, "keys", "create", "--name", "owner", *(f"--scope={scope}" for scope in Scope))
    env = {**mosquitto.settings_env, "CHAPAR_DATABASE_URL": narrow_url, "CHAPAR_RETENTION_DAYS": "1000"}
    gateway = start_gateway(env, "--workers", "2")
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}, timeout=30.0) as api:

        def send(**fields: object) -> httpx.Response:
            headers = {"Idempotency-Key": f"{time.time_ns()}"}
            return api.post("/messaging/send", json={"imei": "861", "micro_op": "open", **fields}, headers=headers)

        assert [send().status_code for _ in range(4)] == [201] * 4
        waiting = send(deliver_at=written(time.time() + 3600)).json()["id"]
        assert api.post(f"/messaging/messages/{waiting}/cancel").status_code == 200
        later = send(wait="none", deliver_at=written(time.time() + 0.3)).json()["id"]
        until(lambda: api.get(f"/messaging/messages/{later}").json()["status"] == "published")
        asked = {"messages": [{"imei": f"{number}", "micro_op": "open"} for number in range(20)]}
        assert api.post("/messaging/bulk", json=asked).json()["summary"] == {"201": 20}
        made = api.post("/keys", json={"name": "farm", "scopes": ["messages:read"]}).json()
        assert api.post(f"/keys/{made['id']}/revoke").status_code == 200
        for path in ("/messaging/messages", "/reporting/all", "/reporting/summary", "/audit", "/keys", "/metrics"):
            assert api.get(path).status_code == 200, path
        assert api.get("/health/ready").json()["status"] == "ready"
        assert "messages removed" in chapar(narrow_url, "prune", "--days", "0")
        assert api.get("/messaging/messages").json()["messages"] == []
    assert "permission denied" not in gateway.program.output


def test_the_recommended_rights_allow_no_more(narrow_url: str) -> None:
    for forbidden in (
        "UPDATE audit SET name = 'mallory'",
        "DELETE FROM audit",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "UPDATE alembic_version SET version_num = '0000'",
        "DROP TABLE messages",
        "CREATE TABLE mine (id int)",
    ):
        with psycopg.connect(narrow_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(forbidden)
