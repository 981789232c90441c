"""Schemathesis over the whole OpenAPI document: its examples, its edges, random requests, and chains of them."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fuzz.campaign import Outcome
from fuzz.stage import open_stage

_CONFIGURATION: Final = Path(__file__).with_name("schemathesis.toml")
_MANY: Final = 5_000  # cases from which on the largest bulk calls are worth their time

# What a number of examples makes of it: the edges of every operation are tried in any case, and of the random requests
# few go to operations without parameters.
_EDGES: Final = 700
_CASES_PER_EXAMPLE: Final = 8


def run(cases: int) -> Outcome:
    """At least `cases` requests, where the document has operations enough to ask for."""
    outcome = Outcome()
    with open_stage() as stage, tempfile.TemporaryDirectory(prefix="chapar-fuzz-") as folder:
        report, statuses = Path(folder) / "report.json", Path(folder) / "statuses.json"
        while outcome.cases < cases:
            examples = max(5, (cases - outcome.cases - _EDGES) // _CASES_PER_EXAMPLE)
            env = {"CHAPAR_FUZZ_STATUSES": str(statuses), "CHAPAR_FUZZ_SHORT": "" if cases >= _MANY else "1"}
            printed = _schemathesis(stage.gateway.url, examples, report, env)
            _read(report, statuses, outcome, printed)
            if outcome.findings:
                break
        stage.judge(outcome)
    return outcome


def _schemathesis(url: str, examples: int, report: Path, env: Mapping[str, str]) -> str:
    """Let it run once; gives what it printed."""
    command = [
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={_CONFIGURATION}",
        "run",
        f"{url}/openapi.json",
        f"--max-examples={examples}",
        "--report=json",
        f"--report-json-path={report}",
    ]
    done = subprocess.run(
        command,
        cwd=report.parent,
        env={**os.environ, **env, "PYTHONPATH": str(_CONFIGURATION.parents[1])},
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )
    return done.stdout + done.stderr


def _read(report: Path, statuses: Path, outcome: Outcome, printed: str) -> None:
    if not report.exists():
        outcome.findings.append(f"schemathesis did not come to its end:\n{printed}")
        return
    document = json.loads(report.read_text())
    report.unlink()
    outcome.cases += document["test_cases"]["generated"]
    outcome.said["operations"] = document["operations"]["tested"]
    for status, count in sorted(Counter(json.loads(statuses.read_text())).items()):
        outcome.count(f"answers {status[0]}xx", count)
    if document["exit_code"] or document["failures"] or document["errors"]:
        outcome.findings.append(printed[max(0, printed.find("= ERRORS")) or max(0, printed.find("= FAILURES")) :])
    if document["operations"]["tested"] < document["operations"]["total"]:
        outcome.findings.append(f"operations not tested: {document['operations']['skip_reasons']}")
