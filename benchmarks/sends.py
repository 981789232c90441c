"""The theme sends: the gateway beside the empty endpoint, on SQLite and on PostgreSQL; memory and bulk."""

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import stage
from benchmarks.figures import Memory, OnDatabase, Processor, Results, Row
from benchmarks.floor import Floor
from benchmarks.load import Load, Pairs, sends_to
from benchmarks.measuring import CONNECTIONS, Caller, caller_of, note
from benchmarks.plan import Plan

MEMORY_FROM = 10_000  # sends; caches and pools are full by then
_NOOPS = sends_to("/noop", range(500))


def measure(results: Results, folder: Path, broker: stage.Mosquitto) -> None:
    """Fill in `results.sqlite`, and `results.postgres` where that is installed."""
    with stage.empty_endpoint() as empty_url:
        Load.run(empty_url, _NOOPS, CONNECTIONS, 1)
        _on_sqlite(results, folder, broker, empty_url)
        if stage.has_postgres():
            _on_postgres(results, folder, broker, empty_url)


def _on_sqlite(results: Results, folder: Path, broker: stage.Mosquitto, empty_url: str) -> None:
    plan, into = results.plan, results.sqlite
    with caller_of(results, "sends, SQLite", folder, broker.url, f"sqlite:///{folder}/benchmark.db") as caller:
        while caller.created < MEMORY_FROM:  # at the highest level, so that memory is counted from there
            caller.sends(max(plan.connections), 1)
        resident, sent = caller.resident(), caller.created
        _levels(plan, plan.connections, caller, empty_url, into, lambda: Floor.measure(folder, broker.port))
        if plan.with_listener:
            into.listening = _with_listener(caller, broker.port, plan)
        note(f"memory over {plan.sends_for_memory:,} sends")
        into.memory = _memory(caller, resident, sent, plan)
        into.bulk = caller.bulk(plan.bulk_calls)


def _on_postgres(results: Results, folder: Path, broker: stage.Mosquitto, empty_url: str) -> None:
    plan, into = results.plan, results.postgres
    with (
        stage.postgres() as server,
        caller_of(results, "sends, PostgreSQL", folder, broker.url, server.create_database()) as caller,
    ):
        caller.sends(max(plan.connections), 1)  # fills caches and pools
        _levels(plan, plan.connections_postgres, caller, empty_url, into, lambda: Floor.measure(folder, broker.port))
        into.bulk = caller.bulk(plan.bulk_calls)


def _levels(
    plan: Plan,
    connections: tuple[int, ...],
    caller: Caller,
    empty_url: str,
    into: OnDatabase,
    floor: Callable[[], Floor],
) -> None:
    """The gateway and the empty endpoint in turns, and with one caller the floor behind each pair."""
    for count in connections:
        sends: list[Load] = []
        processors: list[Processor] = []
        empty: list[Load] = []
        floors: list[Floor] = []
        for _ in range(plan.pairs):
            load, processor = caller.sends(count, plan.seconds)
            sends.append(load)
            processors.append(processor)
            empty.append(Load.run(empty_url, _NOOPS, count, plan.seconds))
            if count == 1:
                floors.append(floor())
        into.rows.append(Row(count, Pairs(sends, empty), Processor.median(processors), floors))
        note(f"{count} connections: {into.rows[-1].pairs.ratio:.2f} of the empty endpoint")


def _with_listener(caller: Caller, port: int, plan: Plan) -> Pairs:
    """Sends while a device listens, and while nobody does, in turns."""
    heard, unheard = [], []
    for _ in range(plan.pairs):
        unheard.append(caller.sends(CONNECTIONS, plan.seconds)[0])
        with stage.listener(port):
            heard.append(caller.sends(CONNECTIONS, plan.seconds)[0])
    return Pairs(heard, unheard)


def _memory(caller: Caller, before: tuple[int, ...], sent_before: int, plan: Plan) -> Memory:
    """Send as often or as long as planned, and see what is resident then; `before` was so at `sent_before`."""
    ends = time.monotonic() + plan.seconds_for_memory
    seconds = 1  # the first tells the rate
    while (missing := plan.sends_for_memory - caller.created) > 0 and (left := ends - time.monotonic()) > 0:
        load, _ = caller.sends(CONNECTIONS, seconds)
        seconds = max(1, min(10, round(missing / load.rate), round(left) - seconds))
    return Memory(before, caller.resident(), caller.created - sent_before)
