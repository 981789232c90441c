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

import httpx

from fuzz.campaign import Outcome
from fuzz.stage import open_stage

_CONFIGURATION: Final = Path(__file__).with_name("schemathesis.toml")
_MANY: Final = 5_000  # cases from which on the largest bulk calls are worth their time

# What a number of examples makes of it: the edges of every operation are tried in any case, and of the random requests
# few go to operations without parameters.
_EDGES: Final = 700
_CASES_PER_EXAMPLE: Final = 8


def run(cases: int) -> Outcome:
    """At least `cases` requests with a key of all scopes, then a few by somebody without one."""
    outcome = Outcome()
    with open_stage() as stage, tempfile.TemporaryDirectory(prefix="chapar-fuzz-") as folder:
        key = stage.new_key()
        files = {"report": str(Path(folder) / "report.json"), "statuses": str(Path(folder) / "statuses.json")}
        env = {
            "CHAPAR_FUZZ_SHORT": "" if cases >= _MANY else "1",
            "CHAPAR_FUZZ_KEY_ID": key["id"],
            "CHAPAR_FUZZ_STATUSES": files["statuses"],
        }
        while outcome.cases < cases and not outcome.findings:
            examples = max(5, (cases - outcome.cases - _EDGES) // _CASES_PER_EXAMPLE)
            _schemathesis(stage.gateway.url, examples, key["key"], files, env, outcome)
        _refuse_all(stage.gateway.url, key["key"], outcome)
        stage.judge(outcome)
    return outcome


def _refuse_all(url: str, key: str, outcome: Outcome) -> None:
    """Without a key no operation does anything, but those that say so in the document."""
    with httpx.Client(base_url=url, timeout=30.0) as api:
        document = api.get("/openapi.json", headers={"Authorization": f"Bearer {key}"}).raise_for_status().json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                is_open = operation.get("security", document["security"]) == []
                for credential in ({}, {"Authorization": "Bearer chapar_nobody"}, {"Authorization": "Basic YTpi"}):
                    answer = api.request(method, path, headers=credential)
                    outcome.count("without a key")
                    if answer.status_code != (200 if is_open and not credential else 401):
                        outcome.findings.append(f"{method} {path} with {credential}: {answer.status_code}")


def _schemathesis(
    url: str, examples: int, key: str, files: Mapping[str, str], env: Mapping[str, str], outcome: Outcome
) -> None:
    """Let it run once."""
    command = [
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={_CONFIGURATION}",
        "run",
        f"{url}/openapi.json",
        f"--header=Authorization:Bearer {key}",
        f"--max-examples={examples}",
        "--report=json",
        f"--report-json-path={files['report']}",
    ]
    report = Path(files["report"])
    done = subprocess.run(
        command,
        cwd=report.parent,
        env={**os.environ, **env, "PYTHONPATH": str(_CONFIGURATION.parents[1])},
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )
    _read(report, Path(files["statuses"]), outcome, done.stdout + done.stderr)


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
