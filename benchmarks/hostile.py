"""`python -m benchmarks.hostile`: paced senders without and with hostile clients beside them, in turns."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from benchmarks import stage

from support.gateway import find_command

_SCRIPT = Path(__file__).with_name("paced.lua")
_SENDERS, _PACE = 64, 320  # connections, and ms between two requests of one: 200 a second
_GARBAGE, _GARBAGE_PACE = 1000, 100  # likewise: 10,000 a second, or as many as the machine can make


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench hostile", description=__doc__)
    parser.add_argument(
        "kind", choices=["slow", "garbage"], help="clients that hold connections, or that make tokens up"
    )
    parser.add_argument("--crowd", type=int, default=2000, help="slow clients (2000)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind, taken in turns (3)")
    parser.add_argument("--seconds", type=int, default=10, help="of one run (10)")
    parser.add_argument("--token", help="`Authorization` of the senders, where the gateway asks for one")
    parser.add_argument("--url", help="a gateway that runs already; else one is started, open to everybody")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _gateway(Path(folder), asked.url) as url:
        if asked.kind == "garbage" and asked.url is None:
            asked.token = f"Bearer {_key(Path(folder))}"
        _paced(url, _SENDERS, 20, 2, asked.token)  # caches and pools are full by then
        runs: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
        garbage: list[dict[str, Any]] = []
        for _ in range(asked.pairs):
            runs["without"].append(_paced(url, _SENDERS, _PACE, asked.seconds, asked.token))
            beside = _crowd(url, asked.crowd) if asked.kind == "slow" else _garbage(url, asked.seconds + 2, garbage)
            with beside:
                runs["with"].append(_paced(url, _SENDERS, _PACE, asked.seconds, asked.token))
    rates = {name: median(run["created"] / run["microseconds"] * 1e6 for run in of) for name, of in runs.items()}
    p99s = {name: median(run["p99"] / 1000 for run in of) for name, of in runs.items()}
    for name, of in runs.items():
        failed = sum(run["other"] + run["broken"] for run in of)
        each = ", ".join(f"{run['p99'] / 1000:.1f}" for run in of)
        print(f"{name:8} {rates[name]:7.1f} sends/s, p99 {p99s[name]:7.1f} ms (of each run: {each}), {failed} failed")
    print(f"ratio: rate {rates['with'] / rates['without']:.2f}, p99 {p99s['with'] / p99s['without']:.2f}")
    for run in garbage:
        rate = (run["created"] + run["other"]) / run["microseconds"] * 1e6
        print(f"garbage: {rate:.0f} answers/s, {run['succeeded']} of them 2xx, {run['broken']} without an answer")
    return 1 if any(run["succeeded"] for run in garbage) else 0


def _key(folder: Path) -> str:
    """A key for the senders; from the first one on, the gateway asks for one."""
    command = [str(find_command()), "keys", "create", "--name", "senders", "--scope", "messages:send", "--json"]
    env = {"PATH": os.environ["PATH"], "CHAPAR_DATABASE_URL": _database(folder)}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    key: str = json.loads(done.stdout)["key"]
    return key


def _database(folder: Path) -> str:
    return f"sqlite:///{folder}/benchmark.db"


@contextlib.contextmanager
def _gateway(folder: Path, url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with stage.broker() as broker, stage.gateway(folder, broker.url, _database(folder)) as gateway:
        yield gateway.url


def _paced(url: str, connections: int, pace: int, seconds: int, token: str | None) -> dict[str, Any]:
    done = subprocess.run(_wrk(url, connections, pace, seconds, token), check=True, capture_output=True, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _wrk(url: str, connections: int, pace: int, seconds: int, token: str | None) -> list[str]:
    said = ["/messaging/send", str(pace), *([token] if token else [])]
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(_SCRIPT), url, "--", *said]


@contextlib.contextmanager
def _crowd(url: str, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "support.crowd", url.rpartition(":")[2], str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            httpx.get(f"{url}/health/live", timeout=60)  # by when all who came before were let in
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _garbage(url: str, seconds: int, into: list[dict[str, Any]]) -> Iterator[None]:
    command = _wrk(url, _GARBAGE, _GARBAGE_PACE, seconds, "Bearer garbage")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield
        said, _ = process.communicate()
        into.append(json.loads(said.splitlines()[-1]))


if __name__ == "__main__":
    raise SystemExit(main())
