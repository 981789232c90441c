"""Where the campaigns over HTTP take place: the installed command between a real broker and SQLite."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzz.campaign import Outcome
from support import mosquitto
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.site import HOLDS_NOTHING_BACK

# A full queue would answer everything else with 429.
_SETTINGS = {"CHAPAR_MAX_DEVICE_QUEUE": "10000000", "CHAPAR_MAX_QUEUE": "10000000"}


def missing() -> str | None:
    """What this machine lacks for it."""
    return None if mosquitto.installed() else "Mosquitto is not installed"


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway and its broker."""

    gateway: GatewayProcess
    broker: Mosquitto

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
            yield Stage(gateway, broker)
