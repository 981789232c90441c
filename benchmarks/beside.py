"""The gateway beside others, and beside itself in other circumstances: always in turns, A B A B A B."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import httpx
from benchmarks import comparators, stage
from benchmarks.filling import fill, some_ids
from benchmarks.load import Load
from benchmarks.measuring import CONNECTIONS, Caller, note
from benchmarks.plan import Plan

READERS = 200
_ASKED = 1000  # pages, and messages by their id
_DEVICES_ASKED = 500


@dataclass(frozen=True)
class Pairs:
    """Runs of two, in turns."""

    first: Sequence[Load]
    second: Sequence[Load]

    @property
    def ratio(self) -> float:
        """How many times the second's rate the first has; the median of the pairs."""
        return median(first.rate / second.rate for first, second in zip(self.first, self.second, strict=True))

    def as_json(self) -> dict[str, object]:
        return {
            "ratio": self.ratio,
            "first": [load.as_json() for load in self.first],
            "second": [load.as_json() for load in self.second],
        }


@dataclass(frozen=True)
class Rows:
    """The gateway on a table with many rows."""

    rows: int
    sends: Pairs  #: many rows, and none
    page: float  #: ms, p99 of a page of one device and status
    message: float  #: ms, p99 of one message by its id
    reading: Pairs  #: beside slow readers, and without


def in_pairs(plan: Plan, first: Callable[[], Load], second: Callable[[], Load]) -> Pairs:
    """Run the two in turns; what a first run warms up is not counted."""
    first(), second()
    runs = [(first(), second()) for _ in range(plan.pairs)]
    return Pairs([run[0] for run in runs], [run[1] for run in runs])


def against_others(plan: Plan, folder: Path, broker: stage.Mosquitto) -> Mapping[str, Pairs | None]:
    """The gateway beside each comparator; None for one that could not be installed."""
    for sentence in comparators.install():
        note(sentence)
    found: dict[str, Pairs | None] = {}
    with stage.gateway(folder, broker.url, f"sqlite:///{folder}/others.db") as gateway:
        caller = Caller(gateway)
        for comparator in comparators.ALL:
            found[comparator.name] = None
            if not comparator.is_installed() or (comparator.needs_postgres and not stage.has_postgres()):
                continue
            with _database(wanted=comparator.needs_postgres) as url, comparator.start(broker.port, url) as other:
                pairs = in_pairs(
                    plan, _sends(caller, plan), partial(Load.run, other, "/send", CONNECTIONS, plan.seconds)
                )
            found[comparator.name] = pairs
            note(f"{pairs.ratio:.2f} × {comparator.name}")
    return found


def postgres_and_sqlite(plan: Plan, folder: Path, broker: stage.Mosquitto) -> Pairs | None:
    """Two gateways, the first on PostgreSQL; None where that is not installed."""
    if not stage.has_postgres():
        return None
    with (
        _database(wanted=True) as url,
        stage.gateway(folder, broker.url, str(url)) as on_postgres,
        stage.gateway(folder, broker.url, f"sqlite:///{folder}/beside.db") as on_sqlite,
    ):
        pairs = in_pairs(plan, _sends(Caller(on_postgres), plan), _sends(Caller(on_sqlite), plan))
    note(f"PostgreSQL: {pairs.ratio:.2f} of SQLite")
    return pairs


def many_rows(plan: Plan, folder: Path, broker: stage.Mosquitto) -> Rows:
    """Two gateways, the first on a table with many rows; and what reading from that one costs."""
    full, empty = folder / "full.db", folder / "empty.db"
    fill(full, plan.rows)
    with (
        stage.gateway(folder, broker.url, f"sqlite:///{full}") as on_full,
        stage.gateway(folder, broker.url, f"sqlite:///{empty}") as on_empty,
    ):
        caller = Caller(on_full)
        sends = in_pairs(plan, _sends(caller, plan), _sends(Caller(on_empty), plan))
        note(f"{plan.rows:,} rows: {sends.ratio:.2f} of none")
        with httpx.Client(base_url=on_full.url, timeout=60) as client:
            devices = [f"86{device * 19 % 10_000:013d}" for device in range(_DEVICES_ASKED)]
            page = _p99(client, [f"/messaging/messages?imei={imei}&status=published" for imei in devices])
            message = _p99(client, [f"/messaging/messages/{id_}" for id_ in some_ids(full, _ASKED)])
        note(f"{plan.rows:,} rows: p99 of a page {page:.1f} ms, of a message {message:.1f} ms")
        reading = in_pairs(plan, _beside_readers(_sends(caller, plan), on_full.port), _sends(caller, plan))
    note(f"{READERS} slow readers: {reading.ratio:.2f} of none")
    return Rows(plan.rows, sends, page, message, reading)


def _sends(caller: Caller, plan: Plan) -> Callable[[], Load]:
    return lambda: caller.sends(CONNECTIONS, plan.seconds)[0]


def _beside_readers(sends: Callable[[], Load], port: int) -> Callable[[], Load]:
    def run() -> Load:
        command = [sys.executable, "-m", "benchmarks.slow_readers", str(port), str(READERS)]
        readers = subprocess.Popen(command)
        try:
            time.sleep(3)  # until all of them read
            load = sends()
            assert readers.poll() is None, "the readers went away"
        finally:
            readers.terminate()
            readers.wait()
        return load

    return run


def _p99(client: httpx.Client, paths: Sequence[str]) -> float:
    took = []
    for path in paths:
        begun = time.perf_counter()
        client.get(path).raise_for_status()
        took.append((time.perf_counter() - begun) * 1000)
    return quantiles(took, n=100)[-1]


@contextlib.contextmanager
def _database(*, wanted: bool) -> Iterator[str | None]:
    """A fresh PostgreSQL database, where one is wanted."""
    if not wanted:
        yield None
        return
    with stage.postgres() as server:
        yield server.create_database()
