"""Load from wrk, and what it measured."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self

_SCRIPT = Path(__file__).with_name("send.lua")


@dataclass(frozen=True)
class Load:
    """One run of wrk: `connections` callers who each send again once they are answered."""

    connections: int
    created: int  #: answers 201
    failed: int  #: other answers, and requests without one
    seconds: float
    p50: float  #: ms
    p99: float  #: ms

    @property
    def rate(self) -> float:
        """Answers 201 a second."""
        return self.created / self.seconds

    @classmethod
    def run(cls, url: str, path: str, connections: int, seconds: int) -> Self:
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "10s",
            "-s",
            str(_SCRIPT),
            url,
            "--",
            path,
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
        return cls(
            connections,
            said["created"],
            said["other"] + said["broken"],
            said["microseconds"] / 1e6,
            said["p50"] / 1000,
            said["p99"] / 1000,
        )

    def as_json(self) -> dict[str, float]:
        return asdict(self) | {"rate": self.rate}


@dataclass(frozen=True)
class Processor:
    """Processor time, in seconds, or per message in µs."""

    gateway: float
    writer: float

    def per(self, messages: int) -> Self:
        return type(self)(self.gateway / messages * 1e6, self.writer / messages * 1e6)

    @classmethod
    def median(cls, processors: Sequence[Self]) -> Self:
        return cls(median(each.gateway for each in processors), median(each.writer for each in processors))


@dataclass(frozen=True)
class Row:
    """Runs of the gateway and of the empty endpoint, taken in turns."""

    connections: int
    sends: Sequence[Load]
    empty: Sequence[Load]
    processor: Processor  #: per send, µs

    @property
    def ratio(self) -> float:
        """Median of the ratios of neighbouring runs: what slowed the machine down slowed both."""
        return median(send.rate / empty.rate for send, empty in zip(self.sends, self.empty, strict=True))

    @property
    def failed(self) -> int:
        return sum(load.failed for load in (*self.sends, *self.empty))

    def as_json(self) -> dict[str, object]:
        return {
            "connections": self.connections,
            "ratio": self.ratio,
            "processor": asdict(self.processor),
            "sends": [load.as_json() for load in self.sends],
            "empty": [load.as_json() for load in self.empty],
        }


def rate_of(loads: Sequence[Load]) -> float:
    return median(load.rate for load in loads)


def p50_of(loads: Sequence[Load]) -> float:
    return median(load.p50 for load in loads)


def p99_of(loads: Sequence[Load]) -> float:
    return median(load.p99 for load in loads)
