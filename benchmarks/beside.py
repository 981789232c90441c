"""The gateway beside others, and beside itself in other circumstances: always in turns, A B A B A B."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import comparators, stage
from benchmarks.figures import Results
from benchmarks.filling import DEVICES, fill, some_ids
from benchmarks.load import Load, Requests, imei, sends_to
from benchmarks.measuring import CONNECTIONS, SEND, SENDS, Caller, caller_of, in_turns, note
from benchmarks.plan import Plan
from benchmarks.slow_readers import slow_readers

READERS = 200
_IDS_ASKED = 100_000  # more than one caller asks for in its time, so that none is asked for twice
_IN_ANY_ORDER = random.Random(1).sample(range(DEVICES), DEVICES)
"""All devices of the full table, drawn by lot; the same lot for both sides of a ratio."""


def against_others(results: Results, folder: Path, broker: stage.Mosquitto) -> None:
    """The gateway beside each comparator that is installed or can be."""
    results.missing += comparators.install()
    with caller_of(results, "others", folder, broker.url, f"sqlite:///{folder}/others.db") as caller:
        for comparator in comparators.ALL:
            if not comparator.is_installed() or (comparator.needs_postgres and not stage.has_postgres()):
                continue
            with results.measuring(f"others, {comparator.name}"):
                _against(results, comparator, caller, broker)


def _against(results: Results, comparator: comparators.Comparator, caller: Caller, broker: stage.Mosquitto) -> None:
    plan = results.plan
    requests = sends_to(comparators.SEND, range(500))
    with stage.database(wanted=comparator.needs_postgres) as url, comparator.start(broker.port, url) as other:
        theirs = partial(Load.run, other, requests, CONNECTIONS, plan.seconds)
        pairs = in_turns(plan, _sends(caller, plan), theirs)
    results.others[comparator.name] = pairs
    note(f"{pairs.ratio:.2f} × {comparator.name}")


def postgres_and_sqlite(results: Results, folder: Path, broker: stage.Mosquitto) -> None:
    """Two gateways, the first on PostgreSQL, where that is installed."""
    if not stage.has_postgres():
        return
    with (
        stage.postgres() as server,
        caller_of(results, "databases, PostgreSQL", folder, broker.url, server.create_database()) as on_postgres,
        caller_of(results, "databases, SQLite", folder, broker.url, f"sqlite:///{folder}/beside.db") as on_sqlite,
    ):
        pairs = in_turns(results.plan, _sends(on_postgres, results.plan), _sends(on_sqlite, results.plan))
    results.databases = pairs
    note(f"PostgreSQL: {pairs.ratio:.2f} of SQLite")


def many_rows(results: Results, folder: Path, broker: stage.Mosquitto) -> None:
    """Two gateways, the first on a table with many rows; and what reading from that one costs."""
    plan, into = results.plan, results.rows
    full, empty = folder / "full.db", folder / "empty.db"
    fill(full, plan.rows)
    requests = sends_to(SEND, _IN_ANY_ORDER)
    with (
        caller_of(results, "rows, many", folder, broker.url, f"sqlite:///{full}") as on_full,
        caller_of(results, "rows, none", folder, broker.url, f"sqlite:///{empty}") as on_empty,
    ):
        # Reading comes first, while the table is as it was filled: what is sent now lies at its end, close together.
        into.pages = _ask(
            plan, on_full.url, [f"/messaging/messages?imei={imei(one)}&status=published" for one in _IN_ANY_ORDER]
        )
        into.messages = _ask(plan, on_full.url, [f"/messaging/messages/{id_}" for id_ in some_ids(full, _IDS_ASKED)])
        note(f"{plan.rows:,} rows: p99 of a page {into.pages.p99:.1f} ms, of a message {into.messages.p99:.1f} ms")
        into.sends = in_turns(plan, _sends(on_full, plan, requests), _sends(on_empty, plan, requests))
        note(f"{plan.rows:,} rows: {into.sends.ratio:.2f} of none")
        with results.measuring("rows, slow readers"):
            sends = _sends(on_full, plan, requests)
            into.reading = in_turns(plan, _beside_readers(sends, on_full.port), sends)
            note(f"{READERS} slow readers: {into.reading.ratio:.2f} of none")


def _sends(caller: Caller, plan: Plan, requests: Requests = SENDS) -> Callable[[], Load]:
    return lambda: caller.sends(CONNECTIONS, plan.seconds, requests)[0]


def _beside_readers(sends: Callable[[], Load], port: int) -> Callable[[], Load]:
    def run() -> Load:
        with slow_readers(port, READERS) as readers:
            before = readers.look()
            load = sends()
            readers.look().require_progress_since(before)
        return load

    return run


def _ask(plan: Plan, url: str, paths: Sequence[str]) -> Load:
    """One caller who asks for one after the other, as long as all turns of another measurement take together."""
    lines = [f"GET {path}" for path in paths]
    Load.run(url, Requests(lines[::2], 200), 1, 1)  # warms up what is not of one row
    return Load.run(url, Requests(lines[1::2], 200), 1, plan.seconds * plan.pairs)
