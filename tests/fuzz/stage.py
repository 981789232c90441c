"""Where the campaigns over HTTP take place: the installed command between a real broker and SQLite."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chapar.model.principal import EVERY_SCOPE
from fuzz.campaign import Outcome
from support import mosquitto
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.site import HOLDS_NOTHING_BACK

# A full queue, or one refusal too many, would answer everything else with 429.
_SETTINGS = {
    "CHAPAR_MAX_DEVICE_QUEUE": "10000000",
    "CHAPAR_MAX_QUEUE": "10000000",
}


def missing() -> str | None:
    """What this machine lacks for it."""
    return None if mosquitto.installed() else "Mosquitto is not installed"


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway and its broker."""

    gateway: GatewayProcess
    broker: Mosquitto
    folder: Path

    def new_key(self) -> dict[str, str]:
        """Close the door; gives a key of all scopes as `chapar keys create` shows it."""
        command = [find_command(), "keys", "create", "--name=fuzz", "--json"]
        command += [f"--scope={scope}" for scope in EVERY_SCOPE]
        made = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        key: dict[str, str] = json.loads(made.stdout)
        return key

    @property
    def link_losses(self) -> int:
        """How often the broker ended the gateway's session, or saw it end."""
        return sum("disconnected" in line and " chapar-" in line for line in self.broker.program.lines) + sum(
            "broker_link_down" in line for line in self.gateway.lines
        )

    def judge(self, outcome: Outcome) -> None:
        """What must hold behind every campaign: the link stood, and nothing raised."""
        if self.link_losses:
            outcome.findings.append(f"the link fell {self.link_losses} times")
        tracebacks = [line for line in self.gateway.lines if "Traceback" in line or "Error:" in line]
        if tracebacks:
            outcome.findings.append(f"the gateway raised: {tracebacks[:3]}\n{self.gateway.program.output}")


@contextlib.contextmanager
def open_stage(**settings: str) -> Iterator[Stage]:
    """A gateway that is ready."""
    with tempfile.TemporaryDirectory(prefix="chapar-fuzz-") as folder, Mosquitto(*HOLDS_NOTHING_BACK) as broker:
        env = broker.settings_env | _SETTINGS | settings
        with GatewayProcess(Path(folder), env) as gateway:
            yield Stage(gateway, broker, Path(folder))
