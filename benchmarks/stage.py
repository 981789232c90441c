"""The programs that a benchmark needs, each on a free port, ended with its `with`."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import psycopg
import pysqlite3.dbapi2 as sqlite

from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK, free_port, wait_until_accepts
from support.postgres import PostgresServer, find_programs

__all__ = [
    "Mosquitto",
    "broker",
    "empty_endpoint",
    "gateway",
    "has_postgres",
    "listener",
    "missing_packages",
    "postgres",
    "statuses",
]

_EMPTY_ENDPOINT = Path(__file__).with_name("empty_endpoint.py")
_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
_PACKAGES = {"wrk": "wrk", "mosquitto": "mosquitto", "mosquitto_sub": "mosquitto-clients"}

Running = TypeVar("Running")


def missing_packages() -> list[str]:
    """Debian packages of the programs that are not installed."""
    return [package for program, package in _PACKAGES.items() if shutil.which(program, path=_SEARCHED) is None]


def broker() -> AbstractContextManager[Mosquitto]:
    """Mosquitto with its defaults, but for its log: writing down each packet costs more than passing it on."""
    return _quietly(Mosquitto("log_type none"))


def has_postgres() -> bool:
    return find_programs() is not None


def postgres() -> AbstractContextManager[PostgresServer]:
    """PostgreSQL with its defaults, durability included."""
    return _quietly(PostgresServer())


def gateway(folder: Path, broker_url: str, database_url: str) -> AbstractContextManager[GatewayProcess]:
    """The installed command `chapar serve`."""
    env = {"CHAPAR_BROKER_URL": broker_url, "CHAPAR_DATABASE_URL": database_url, "CHAPAR_AUTO_MIGRATE": "true"}
    return _quietly(GatewayProcess(folder, env))


@contextlib.contextmanager
def empty_endpoint() -> Iterator[str]:
    """The yardstick; gives its URL."""
    port = free_port()
    with _running([sys.executable, str(_EMPTY_ENDPOINT), str(port)]):
        wait_until_accepts(port)
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def listener(port: int) -> Iterator[None]:
    """A subscriber to every device's topic."""
    with _running(["mosquitto_sub", "-V", "mqttv5", "-p", str(port), "-t", "devices/#", "-q", "1"]):
        yield


def statuses(database_url: str) -> dict[str, int]:
    """Messages in the database by status, read past the gateway."""
    query = "SELECT status, count(*) FROM messages GROUP BY status"
    if database_url.startswith("sqlite:///"):
        with contextlib.closing(sqlite.connect(database_url.removeprefix("sqlite:///"))) as connection:
            return dict(connection.execute(query).fetchall())
    with psycopg.connect(database_url) as connection:
        return dict(connection.execute(query).fetchall())


@contextlib.contextmanager
def _quietly(program: AbstractContextManager[Running]) -> Iterator[Running]:
    """The test support prints what a program said when it closes; a report has no room for that."""
    running = program.__enter__()
    try:
        yield running
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            program.__exit__(*sys.exc_info())


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
