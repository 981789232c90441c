"""What one would otherwise run, each started as its own documentation says, with what it needs installed apart."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import stage

from support.ports import free_port

NODE_RED: Final = "node-red@4.1.8"
SEND: Final = "/send"  #: where all of them take sends

_HERE: Final = Path(__file__).parent
INSTALLED: Final = _HERE / "installed"  #: a virtual environment and npm's folder, unknown to git
_PYTHON: Final = INSTALLED / "venv" / "bin" / "python"
_REQUIREMENTS: Final = _HERE / "requirements.txt"


class Comparator(NamedTuple):
    """Something that takes the same request."""

    name: str
    target: float  #: how many times as many sends a second Chapar is asked to do
    start: Callable[[int, str | None], AbstractContextManager[str]]
    """Takes the broker's port and an empty PostgreSQL database; gives the URL, and takes sends by then."""
    is_installed: Callable[[], bool]
    needs_postgres: bool = False


class _Installation(NamedTuple):
    """A folder of what is installed apart, renewed where `source` is no longer what it was installed from."""

    folder: Path
    source: str
    install: Callable[[], bool]  #: whether it could
    sentence: str  #: where it could not

    @property
    def _stamp(self) -> Path:
        return self.folder / "installed-from"

    def is_current(self) -> bool:
        return self._stamp.exists() and self._stamp.read_text() == self.source

    def renew(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.install():
            return False
        self._stamp.write_text(self.source)
        return True


def install() -> list[str]:
    """Install what is missing or out of date; gives a sentence for each that could not be installed."""
    return [each.sentence for each in (_PACKAGES, _NODE_RED) if not each.is_current() and not each.renew()]


def _install_packages() -> bool:
    pip = [str(_PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", str(_REQUIREMENTS)]
    return _succeeds(sys.executable, "-m", "venv", str(_PYTHON.parents[1])) and _succeeds(*pip)


def _install_node_red() -> bool:
    npm = shutil.which("npm")
    options = ("--silent", "--no-audit", "--no-fund", "--prefix", str(INSTALLED / "node"))
    return npm is not None and _succeeds(npm, "install", *options, NODE_RED)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode == 0


_PACKAGES: Final = _Installation(
    INSTALLED / "venv",
    hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest(),
    _install_packages,
    "fastapi-mqtt and the seed's pattern: pip could not install what they need.",
)
_NODE_RED: Final = _Installation(
    INSTALLED / "node", NODE_RED, _install_node_red, "Node-RED: npm is missing or could not install it."
)


def _python_app(module: str) -> Callable[[int, str | None], AbstractContextManager[str]]:
    def start(broker_port: int, database_url: str | None) -> AbstractContextManager[str]:
        port = free_port()
        command = [str(_PYTHON), "-m", "uvicorn", f"{module}:app", "--port", str(port), "--loop", "uvloop"]
        command += ["--http", "httptools", "--log-level", "error", "--no-access-log"]
        env = os.environ | {"BROKER_PORT": str(broker_port)}
        if database_url is not None:
            env["DATABASE_URL"] = database_url.replace("postgresql://", "postgresql+psycopg2://")
        return stage.server(command, port, SEND, _HERE, env)

    return start


@contextlib.contextmanager
def _node_red(broker_port: int, _database_url: str | None) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(_HERE / "node_red.json", Path(folder) / "flows.json")
        script = str(INSTALLED / "node" / "node_modules" / "node-red" / "red.js")
        command = ["node", script, "--userDir", folder, "--settings", str(_HERE / "node_red_settings.js")]
        env = os.environ | {"BROKER_PORT": str(broker_port), "NODE_RED_PORT": str(port)}
        with stage.server(command, port, SEND, Path(folder), env) as url:
            yield url


ALL: Final = (
    Comparator("fastapi-mqtt, neither saving nor waiting", 1.5, _python_app("fastapi_mqtt_app"), _PACKAGES.is_current),
    Comparator("Node-RED, neither saving nor waiting", 2, _node_red, _NODE_RED.is_current),
    Comparator(
        "the seed's pattern: publish, then save in PostgreSQL, blocking",
        18,
        _python_app("seed_app"),
        _PACKAGES.is_current,
        needs_postgres=True,
    ),
)
