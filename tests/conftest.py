"""The brokers and databases that every kind of test may ask for."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from chapar.runtime.garbage import collect_rarely, keep_what_is_loaded
from support import mosquitto as mosquitto_support
from support import postgres as postgres_support
from support.mosquitto import Mosquitto
from support.ports import free_port as find_free_port
from support.postgres import PostgresServer

# How long an example takes says how busy the machine is.
settings.register_profile("chapar", deadline=None)
settings.load_profile("chapar")

# What a test's own process logs is shown where it fails. Drawn as structlog does it by itself, with the locals of each
# frame, a traceback takes a second.
_plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _plain])

_FIGURE = "figure"  # among a test's properties, which reach the summary also from another process

collect_rarely()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; only -m long runs it, and so scripts/test --long")
    # A cancelled run ends as with Ctrl-C, so that the fixtures stop the servers they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A run in the background begins with Ctrl-C ignored, and so would every program that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and "long" not in config.getoption("markexpr"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; runs with -m long"))


def pytest_collection_finish() -> None:
    keep_what_is_loaded()  # thousands of tests, which every collection of garbage would walk through


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    figures = [text for report in reports for name, text in report.user_properties if name == _FIGURE]
    if figures:
        terminalreporter.section("figures")
    for text in figures:
        terminalreporter.write_line(text)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take a sentence with a measurement, which no test asserts, into the summary of the run."""
    return lambda text: request.node.user_properties.append((_FIGURE, text))


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
        # What it counts of a table by itself, at any moment, changes the plans that some tests look at.
        server.execute("ALTER SYSTEM SET autovacuum = off")
        server.execute("SELECT pg_reload_conf()")
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
