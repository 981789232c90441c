"""The installed command, with each broker and each database."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import httpx
import pytest
from httpx._transports import default

from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto

# Each client would read the system's authorities anew, which takes longer than most requests.
default.create_ssl_context = cache(default.create_ssl_context)


@pytest.fixture(params=["mosquitto", "builtin"])
def broker(request: pytest.FixtureRequest) -> Mosquitto | BuiltinBroker:
    """The test runs once with each broker. The built-in one runs only while a gateway does."""
    if request.param == "builtin":
        return BuiltinBroker()
    mosquitto: Mosquitto = request.getfixturevalue("mosquitto")
    return mosquitto


@pytest.fixture
def database_env(database_url: str) -> dict[str, str]:
    """The gateway's variables for a new, empty database; it runs once with each kind."""
    return {"CHAPAR_DATABASE_URL": database_url, "CHAPAR_AUTO_MIGRATE": "true"}


@pytest.fixture
def start_gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Start a gateway with these variables; the test's end stops it and checks that nothing is left of it."""
    # Fixtures end in the reverse order, and a gateway whose database is gone stops only when its patience ends.
    for name in {"database_url", "postgres_url", "mosquitto"}.intersection(request.fixturenames):
        request.getfixturevalue(name)
    with ExitStack() as running:

        def start(env: Mapping[str, str] | None = None, *arguments: str, until: str | None = "ready") -> GatewayProcess:
            gateway = GatewayProcess(tmp_path, env, *arguments)
            running.callback(gateway.close)
            return gateway.start(until=until)

        yield start


@pytest.fixture
def gateway(
    database_env: dict[str, str], broker: Mosquitto | BuiltinBroker, start_gateway: Callable[..., GatewayProcess]
) -> GatewayProcess:
    """A ready gateway, once with each broker and each database."""
    return start_gateway(broker.settings_env | database_env)


@pytest.fixture
def api(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    """An HTTP client of that gateway."""
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        yield client
