"""A start on a database that takes no commit is one sentence; a signal ends any start; a running gateway says so."""

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from chapar.store.migrations import migrate
from faults.disks import cannot_mount, fill_up, small_disk
from support.gateway import GatewayProcess, find_command
from support.ports import accepts, free_port
from support.postgres import PostgresServer
from support.site import until

PATIENCE = 60.0  # seconds
NO_BROKER = "mqtt://127.0.0.1:1"
MIGRATION_LOCK = 0x636861706172


def refused(folder: Path, database_url: str, *arguments: str) -> list[str]:
    """What `chapar serve` says where it does not start, which is with exit code 1 and without a traceback."""
    ended = subprocess.run(
        [find_command(), "serve", *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CHAPAR_PORT": str(free_port()),
            "CHAPAR_BROKER_URL": NO_BROKER,
            "CHAPAR_DATABASE_URL": database_url,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Within it nothing at `path` can be written: not by root either, who is stopped by no mode."""
    mounting = ["mount", "--bind", str(path), str(path)]
    subprocess.run(mounting, check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def mounts() -> None:
    if reason := cannot_mount():
        pytest.skip(reason)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite database in a folder of its own, with its tables."""
    folder = tmp_path / "data"
    folder.mkdir()
    migrate(f"sqlite:///{folder / 'chapar.db'}")
    return folder / "chapar.db"


@pytest.mark.usefixtures("mounts")
def test_a_database_file_or_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, file: Path) -> None:
    for protected in (file, file.parent):
        with read_only(protected):
            [line] = refused(tmp_path, f"sqlite:///{file}")
        assert line.startswith("chapar: ")
        assert "read" in line  # readonly database, read-only file system


@pytest.mark.usefixtures("mounts")
def test_a_disk_without_room_is_one_sentence(tmp_path: Path) -> None:
    with small_disk(4 << 20) as disk:
        migrate(f"sqlite:///{disk / 'chapar.db'}")
        fill_up(disk)
        [line] = refused(tmp_path, f"sqlite:///{disk / 'chapar.db'}")
    assert "its disk has room" in line


@pytest.fixture
def read_only_postgres(postgres_server: PostgresServer, postgres_url: str) -> str:
    migrate(postgres_url)
    postgres_server.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    return postgres_url


def test_a_read_only_postgresql_is_one_sentence(tmp_path: Path, read_only_postgres: str) -> None:
    [line] = refused(tmp_path, read_only_postgres)
    assert "read-only transaction" in line


def test_workers_on_a_read_only_postgresql_end_too(tmp_path: Path, read_only_postgres: str) -> None:
    *_, worker, last = refused(tmp_path, read_only_postgres, "--workers", "2")
    assert "read-only transaction" in worker
    assert "A worker ended at its start" in last


@pytest.fixture
def role(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """The database's URL for a user who owns nothing and may read and write everything."""
    migrate(postgres_url)
    postgres_server.execute("CREATE ROLE narrow LOGIN IN ROLE pg_read_all_data, pg_write_all_data")
    yield postgres_url.replace("//postgres@", "//narrow@")
    postgres_server.terminate_backends(postgres_url)
    postgres_server.execute("DROP ROLE narrow")


@pytest.mark.parametrize("limit", [0, 1])
def test_a_postgresql_with_no_connection_left_is_one_sentence(
    tmp_path: Path, postgres_server: PostgresServer, role: str, limit: int
) -> None:
    postgres_server.execute(f"ALTER ROLE narrow CONNECTION LIMIT {limit}")
    *_, line = refused(tmp_path, role)  # the log may say before that the writer has no connection
    assert line.startswith("chapar: ")
    assert "connections" in line


def ended_by(number: signal.Signals, gateway: GatewayProcess) -> None:
    """The start is under way, and the signal ends it."""
    until(lambda: accepts(gateway.port), PATIENCE)
    with pytest.raises(httpx.TimeoutException):
        httpx.get(f"{gateway.url}/health/live", timeout=0.5)
    assert gateway.program.end(number, 15.0) == 0
    assert "Traceback" not in gateway.program.output
    assert not accepts(gateway.port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_start_that_waits_for_a_locked_file(
    start_gateway: Callable[..., GatewayProcess], file: Path, number: signal.Signals
) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        env = {"CHAPAR_BROKER_URL": NO_BROKER, "CHAPAR_DATABASE_URL": f"sqlite:///{file}"}
        ended_by(number, start_gateway(env, until=None))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_a_start_that_waits_for_another_migration(
    start_gateway: Callable[..., GatewayProcess], postgres_url: str, workers: str
) -> None:
    import psycopg  # noqa: PLC0415 - the driver is PostgreSQL's

    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        env = {
            "CHAPAR_BROKER_URL": NO_BROKER,
            "CHAPAR_DATABASE_URL": postgres_url,
            "CHAPAR_AUTO_MIGRATE": "true",
            "CHAPAR_WORKERS": workers,
        }
        ended_by(signal.SIGTERM, start_gateway(env, until=None))


def test_a_database_that_becomes_read_only_makes_it_not_ready_and_it_lives_on(
    start_gateway: Callable[..., GatewayProcess], postgres_server: PostgresServer, postgres_url: str
) -> None:
    env = {"CHAPAR_BROKER_URL": NO_BROKER, "CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true"}
    gateway = start_gateway(env, until="live")

    def database() -> bool:
        ready: bool = httpx.get(f"{gateway.url}/health/ready", timeout=30.0).json()["database"]["ready"]
        return ready

    name = postgres_url.rpartition("/")[2]
    until(database, PATIENCE)
    for value, ready in (("on", False), ("off", True)):
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
        postgres_server.terminate_backends(postgres_url)
        until(lambda: database() is ready, PATIENCE)  # noqa: B023 - it is over before the next turn
        assert httpx.get(f"{gateway.url}/health/live", timeout=30.0).status_code == 200
    assert gateway.program.end(signal.SIGTERM, 15.0) == 0
