"""The programs that a benchmark needs, each on a free port, ended with its `with`."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
import pysqlite3.dbapi2 as sqlite
from benchmarks.load import imei

from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK, free_port
from support.postgres import PostgresServer, find_programs

__all__ = [
    "Mosquitto",
    "broker",
    "database",
    "empty_endpoint",
    "gateway",
    "has_postgres",
    "last_row",
    "listener",
    "missing_packages",
    "postgres",
    "server",
    "statuses",
]

_EMPTY_ENDPOINT = Path(__file__).with_name("empty_endpoint.py")
_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
_PACKAGES = {"wrk": "wrk", "mosquitto": "mosquitto", "mosquitto_sub": "mosquitto-clients"}

_STARTS_WITHIN = 60.0  # seconds
_LOOK_EVERY = 0.05  # seconds

Running = TypeVar("Running")


class NeverAnswered(Exception):
    """A server ended, or did not answer a send with 2xx in time."""


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
def database(*, wanted: bool) -> Iterator[str | None]:
    """An empty PostgreSQL database, where one is wanted; gives its URL."""
    if not wanted:
        yield None
        return
    with postgres() as running:
        yield running.create_database()


@contextlib.contextmanager
def empty_endpoint() -> Iterator[str]:
    """The yardstick; gives its URL."""
    port = free_port()
    with server([sys.executable, str(_EMPTY_ENDPOINT), str(port)], port, "/noop") as url:
        yield url


@contextlib.contextmanager
def server(
    command: list[str], port: int, path: str, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server that takes sends at `path`; gives its URL once it has answered one with 2xx.

    Raises NeverAnswered.
    """
    url = f"http://{LOOPBACK}:{port}"
    with _running(command, folder, env) as process:
        _wait_until_answers(process, url + path)
        yield url


def _wait_until_answers(process: subprocess.Popen[bytes], url: str) -> None:
    answer = "no answer"
    deadline = time.monotonic() + _STARTS_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        try:
            said = httpx.post(url, json={"imei": imei(0), "micro_op": "push_down"}, timeout=_STARTS_WITHIN)
        except httpx.TransportError as error:
            answer = repr(error)
        else:
            if said.is_success:
                return
            answer = f"{said.status_code} {said.text}"
        time.sleep(_LOOK_EVERY)
    raise NeverAnswered(f"{url} did not answer a send with 2xx; the last answer: {answer}")


@contextlib.contextmanager
def listener(port: int) -> Iterator[None]:
    """A subscriber to every device's topic."""
    with _running(["mosquitto_sub", "-V", "mqttv5", "-p", str(port), "-t", "devices/+", "-q", "1"]):
        yield


def last_row(database_url: str) -> int:
    """The number of the newest message in the database, 0 where there is none."""
    [(last,)] = _read(database_url, "SELECT coalesce(max(seq), 0) FROM messages")
    return int(last)


def statuses(database_url: str, *, behind: int) -> dict[str, int]:
    """Messages in the database by status, read past the gateway; only those with higher numbers than `behind`."""
    return dict(_read(database_url, f"SELECT status, count(*) FROM messages WHERE seq > {behind} GROUP BY status"))  # noqa: S608 - a number


def _read(database_url: str, query: str) -> list[Any]:
    if database_url.startswith("sqlite:///"):
        with contextlib.closing(sqlite.connect(database_url.removeprefix("sqlite:///"))) as connection:
            return list(connection.execute(query))
    with psycopg.connect(database_url) as connection:
        return list(connection.execute(query.encode()))


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
def _running(
    command: list[str], folder: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
