"""`python -m benchmarks [--short] [--only THEME …]`: measure, print a report in Markdown, keep the raw figures."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from benchmarks import beside, floor, machine, measuring, report, stage
from benchmarks.figures import OnDatabase, Results
from benchmarks.measuring import Caller, note
from benchmarks.plan import FULL, SHORT, THEMES, Plan

_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="within some minutes: one-second runs, 100,000 rows, PostgreSQL at 64 only"
    )
    parser.add_argument("--only", nargs="+", choices=THEMES, default=THEMES, help="measure this and nothing else")
    parser.add_argument("--rows", type=int, help="in the table that is called full")
    given = parser.parse_args()
    plan = SHORT if given.short else FULL
    plan = plan._replace(rows=given.rows or plan.rows)
    if missing := stage.missing_packages():
        note(f"missing: {' '.join(missing)}. Install these Debian packages and start again.")
        return 1
    _RESULTS.mkdir(exist_ok=True)
    begun = time.time()
    # Not in /tmp, which may be memory: an fsync has to cost what it costs.
    with tempfile.TemporaryDirectory(dir=_RESULTS) as folder:
        results = _measure(plan, given.only, Path(folder))
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime(begun))
    (_RESULTS / f"{name}.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    sys.stdout.write(report.markdown(results))
    note(f"took {time.time() - begun:.0f} s; the raw figures are in benchmarks/results/{name}.json")
    return 0 if results.sound else 1


def _measure(plan: Plan, themes: Collection[str], folder: Path) -> Results:
    where = machine.describe()
    with stage.broker() as broker:
        results = Results(where, plan, floor.fsync(folder), floor.puback(broker.port))
        if "sends" in themes:
            with stage.empty_endpoint() as empty_url:
                note("SQLite")
                results = replace(results, sqlite=_on_sqlite(plan, folder, broker, empty_url))
                if stage.has_postgres():
                    note("PostgreSQL")
                    with stage.postgres() as server:
                        postgres = _on_postgres(plan, folder, broker.url, empty_url, server.create_database())
                        results = replace(results, postgres=postgres)
        if "others" in themes:
            results = replace(results, others=beside.against_others(plan, folder, broker))
        if "databases" in themes:
            results = replace(results, databases=beside.postgres_and_sqlite(plan, folder, broker))
        if "rows" in themes:
            results = replace(results, rows=beside.many_rows(plan, folder, broker))
    return results


def _on_sqlite(plan: Plan, folder: Path, broker: stage.Mosquitto, empty_url: str) -> OnDatabase:
    database_url = f"sqlite:///{folder}/benchmark.db"
    with stage.gateway(folder, broker.url, database_url) as gateway:
        caller = Caller(gateway)
        measuring.warm_up(caller, empty_url, plan, at_least=measuring.MEMORY_FROM)
        resident, sent = caller.resident(), caller.created
        rows = [measuring.in_turns(caller, empty_url, count, plan) for count in plan.connections]
        listening = measuring.with_listener(caller, broker.port, plan) if plan.with_listener else None
        note(f"memory over {plan.sends_for_memory:,} sends")
        memory = measuring.memory(caller, resident, sent, plan)
        bulk = caller.bulk(plan.bulk_calls)
    kept = stage.statuses(database_url)
    return OnDatabase(rows, bulk, kept, caller.created, caller.cut_short, listening, memory)


def _on_postgres(plan: Plan, folder: Path, broker_url: str, empty_url: str, database_url: str) -> OnDatabase:
    with stage.gateway(folder, broker_url, database_url) as gateway:
        caller = Caller(gateway)
        measuring.warm_up(caller, empty_url, plan)
        rows = [measuring.in_turns(caller, empty_url, count, plan) for count in plan.connections_postgres]
        bulk = caller.bulk(plan.bulk_calls)
    return OnDatabase(rows, bulk, stage.statuses(database_url), caller.created, caller.cut_short)


if __name__ == "__main__":
    raise SystemExit(main())
