"""The brokers and databases that every kind of test may ask for."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import mosquitto as mosquitto_support
from support import postgres as postgres_support
from support.mosquitto import Mosquitto
from support.ports import free_port as find_free_port
from support.postgres import PostgresServer


def pytest_configure() -> None:
    # A cancelled run ends as with Ctrl-C, so that the fixtures stop the servers they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A run in the background begins with Ctrl-C ignored, and so would every program that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    """A running Mosquitto; a test that needs options writes `with Mosquitto("…") as broker` itself."""
    if not mosquitto_support.installed():
        pytest.skip("Mosquitto is not installed")
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run. A test that stops or kills it starts it again."""
    if postgres_support.find_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'chapar.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs once with each database, new and empty."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url
