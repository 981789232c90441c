"""What one would otherwise run, each started as its own documentation says, with what it needs installed apart."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from support.ports import LOOPBACK, free_port, wait_until_accepts

NODE_RED: Final = "node-red@4.1.8"

_HERE: Final = Path(__file__).parent
INSTALLED: Final = _HERE / "installed"  #: a virtual environment and npm's folder, unknown to git
_PYTHON: Final = INSTALLED / "venv" / "bin" / "python"
_NODE_RED: Final = INSTALLED / "node" / "node_modules" / "node-red" / "red.js"
_STARTS_WITHIN: Final = 60.0  # seconds


class Comparator(NamedTuple):
    """Something that takes the same request."""

    name: str
    target: float  #: how many times as many sends a second Chapar is asked to do
    start: Callable[[int, str | None], AbstractContextManager[str]]
    """Takes the broker's port and an empty PostgreSQL database; gives the URL."""
    is_installed: Callable[[], bool]
    needs_postgres: bool = False


def install() -> list[str]:
    """Install what is missing; gives a sentence for each that could not be installed."""
    missing = []
    if not _PYTHON.exists():
        requirements = str(_HERE / "requirements.txt")
        done = _succeeds(sys.executable, "-m", "venv", str(INSTALLED / "venv")) and _succeeds(
            str(_PYTHON), "-m", "pip", "install", "--quiet", "--requirement", requirements
        )
        if not done:
            shutil.rmtree(INSTALLED / "venv", ignore_errors=True)
            missing.append("fastapi-mqtt and the seed's pattern: pip could not install what they need.")
    if not _NODE_RED.exists():
        npm = shutil.which("npm")
        folder = str(INSTALLED / "node")
        if npm is None or not _succeeds(
            npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, NODE_RED
        ):
            missing.append("Node-RED: npm is missing or could not install it.")
    return missing


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode == 0


def _python_app(module: str) -> Callable[[int, str | None], AbstractContextManager[str]]:
    @contextlib.contextmanager
    def start(broker_port: int, database_url: str | None) -> Iterator[str]:
        port = free_port()
        command = [str(_PYTHON), "-m", "uvicorn", f"{module}:app", "--port", str(port), "--loop", "uvloop"]
        env = os.environ | {"BROKER_PORT": str(broker_port)}
        if database_url is not None:
            env["DATABASE_URL"] = database_url.replace("postgresql://", "postgresql+psycopg2://")
        with _running([*command, "--http", "httptools", "--log-level", "error", "--no-access-log"], _HERE, env):
            wait_until_accepts(port, timeout=_STARTS_WITHIN)
            yield f"http://{LOOPBACK}:{port}"

    return start


@contextlib.contextmanager
def _node_red(broker_port: int, _database_url: str | None) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(_HERE / "node_red.json", Path(folder) / "flows.json")
        command = ["node", str(_NODE_RED), "--userDir", folder, "--settings", str(_HERE / "node_red_settings.js")]
        env = os.environ | {"BROKER_PORT": str(broker_port), "NODE_RED_PORT": str(port)}
        with _running(command, Path(folder), env):
            wait_until_accepts(port, timeout=_STARTS_WITHIN)
            yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def _running(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


ALL: Final = (
    Comparator("fastapi-mqtt, neither saving nor waiting", 1.5, _python_app("fastapi_mqtt_app"), _PYTHON.exists),
    Comparator("Node-RED, neither saving nor waiting", 2, _node_red, _NODE_RED.exists),
    Comparator(
        "the seed's pattern: publish, then save in PostgreSQL, blocking",
        18,
        _python_app("seed_app"),
        _PYTHON.exists,
        needs_postgres=True,
    ),
)
