"""`python -m benchmarks [--short] [--only THEME …]`: measure, print a report in Markdown, keep the raw figures."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import beside, machine, report, sends, stage
from benchmarks.figures import Results
from benchmarks.measuring import note
from benchmarks.plan import FULL, SHORT

_RESULTS = Path(__file__).parent / "results"

_THEMES = {
    "sends": sends.measure,
    "others": beside.against_others,
    "databases": beside.postgres_and_sqlite,
    "rows": beside.many_rows,
}
"""What can be measured by itself: sends, memory and bulk; beside what one would otherwise run; PostgreSQL beside
SQLite; on many rows, and beside slow readers."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="within some minutes: one-second runs, 100,000 rows, PostgreSQL at 64 only"
    )
    parser.add_argument("--only", nargs="+", choices=_THEMES, default=_THEMES, help="measure this and nothing else")
    parser.add_argument("--rows", type=int, help="in the table that is called full")
    given = parser.parse_args()
    plan = SHORT if given.short else FULL
    plan = plan._replace(rows=given.rows or plan.rows)
    if missing := stage.missing_packages():
        note(f"missing: {' '.join(missing)}. Install these Debian packages and start again.")
        return 1
    _RESULTS.mkdir(exist_ok=True)
    begun = time.time()
    results = Results(machine.describe(), plan, list(given.only))
    if not stage.has_postgres():
        results.missing.append("PostgreSQL: its Debian package is postgresql.")
    # Not in /tmp, which may be memory: an fsync has to cost what it costs.
    with tempfile.TemporaryDirectory(dir=_RESULTS) as folder, stage.broker() as broker:
        for theme in results.themes:
            note(theme)
            with results.measuring(theme):
                _THEMES[theme](results, Path(folder), broker)
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime(begun))
    (_RESULTS / f"{name}.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    sys.stdout.write(report.markdown(results))
    note(f"took {time.time() - begun:.0f} s; the raw figures are in benchmarks/results/{name}.json")
    return 0 if results.sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
