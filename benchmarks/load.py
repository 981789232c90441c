"""Load from wrk, and what it measured."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, Self

_SCRIPT = Path(__file__).with_name("ask.lua")


class Requests(NamedTuple):
    """What is asked for, one after the other and from the first again, by whichever caller is free."""

    lines: Sequence[str]  #: "METHOD PATH BODY"
    wanted: int  #: status of a good answer


def sends_to(path: str, devices: Iterable[int]) -> Requests:
    """One operation for each device in turn."""
    return Requests([f'POST {path} {{"imei":"{imei(device)}","micro_op":"push_down"}}' for device in devices], 201)


def imei(device: int) -> str:
    """The IMEI of the device with this number."""
    return f"86{device:013d}"


@dataclass(frozen=True)
class Load:
    """One run of wrk: `connections` callers who each ask again once they are answered."""

    connections: int
    good: int  #: answers with the wanted status
    failed: int  #: other answers, and requests without one
    seconds: float
    p50: float  #: ms
    p99: float  #: ms

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds

    @classmethod
    def run(cls, url: str, requests: Requests, connections: int, seconds: int) -> Self:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("".join(f"{line}\n" for line in requests.lines))
            file.flush()
            wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(_SCRIPT), url]
            command = [*wrk, "--", file.name, str(requests.wanted)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
        return cls(
            connections,
            said["good"],
            said["other"] + said["broken"],
            said["microseconds"] / 1e6,
            said["p50"] / 1000,
            said["p99"] / 1000,
        )


@dataclass(frozen=True)
class Pairs:
    """Runs of two, in turns."""

    first: Sequence[Load]
    second: Sequence[Load]

    @property
    def ratio(self) -> float:
        """How many times the second's rate the first has.

        The median of the ratios of neighbouring runs: what slowed the machine down slowed both.
        """
        return median(first.rate / second.rate for first, second in zip(self.first, self.second, strict=True))

    @property
    def failed(self) -> int:
        return sum(load.failed for load in (*self.first, *self.second))


def rate_of(loads: Sequence[Load]) -> float:
    return median(load.rate for load in loads)


def p50_of(loads: Sequence[Load]) -> float:
    return median(load.p50 for load in loads)


def p99_of(loads: Sequence[Load]) -> float:
    return median(load.p99 for load in loads)
