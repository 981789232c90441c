"""A browser, and a gateway that needs a key."""

import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from support import chromium
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess, find_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVERYTHING = (
    "messages:send",
    "messages:read",
    "messages:cancel",
    "messages:urgent",
    "devices:read",
    "devices:write",
    "keys:write",
    "audit:read",
    "metrics:read",
)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    if reason := chromium.missing():
        pytest.skip(reason)
    with chromium.launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def broker() -> BuiltinBroker:
    return BuiltinBroker()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: BuiltinBroker) -> Iterator[tuple[GatewayProcess, str]]:
    """A gateway, and a key that may do everything."""
    folder = tmp_path_factory.mktemp("console")
    scopes = [f"--scope={scope}" for scope in EVERYTHING]
    command = [find_command(), "keys", "create", "--name=operator", *scopes]
    key = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with GatewayProcess(folder, broker.settings_env) as gateway:
        yield gateway, key


@pytest.fixture(scope="module")
def gateway(site: tuple[GatewayProcess, str]) -> GatewayProcess:
    return site[0]


@pytest.fixture(scope="module")
def key(site: tuple[GatewayProcess, str]) -> str:
    return site[1]


@pytest.fixture(scope="module")
def api(gateway: GatewayProcess, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30.0, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def new_key(api: httpx.Client) -> Callable[..., tuple[str, str]]:
    """Make a key with these scopes; gives its id and the key."""

    def make(*scopes: str) -> tuple[str, str]:
        made = api.post("/keys", json={"name": "clerk", "scopes": list(scopes)}).json()
        return made["id"], made["key"]

    return make
