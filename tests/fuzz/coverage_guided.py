"""Run a fuzzer of atheris, which follows the coverage of the code it feeds, and read what it says at its end."""

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fuzz.campaign import Outcome

_SEEDS: Final = 200
_SHOWN: Final = 6000  # characters of what a fuzzer printed before it ended badly
_RSS_LIMIT: Final = 1024  # MB; a session or a body takes a thousandth
_RSS_AT_START: Final = 120  # MB of the interpreter with all that is imported
_RSS_GROWTH: Final = 200  # MB that libFuzzer's own corpus and tables may take
_SMALL_PARENT: Final = (
    "sh",
    "-c",
    '"$@"; exit $?',
    "sh",
)  # a process begins with the peak of the one it is forked from
_LONGEST_UNIT: Final = 10  # seconds after which an input counts as a hang

Seeds = Callable[[random.Random], bytes]


def runner(module: str, seeds: Seeds) -> Callable[[int], Outcome]:
    """The campaign of the fuzzer in `module`, which begins with inputs that `seeds` makes."""

    def run(executions: int) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="chapar-fuzz-") as folder:
            corpus = Path(folder) / "corpus"
            corpus.mkdir()
            for number in range(_SEEDS):
                (corpus / f"seed-{number}").write_bytes(seeds(random.Random(number)))
            return _fuzz(module, executions, corpus)

    return run


def _fuzz(module: str, executions: int, corpus: Path) -> Outcome:
    command = [
        *_SMALL_PARENT,
        sys.executable,
        "-P",
        "-m",
        module,
        f"-runs={executions}",
        f"-timeout={_LONGEST_UNIT}",
        f"-rss_limit_mb={_RSS_LIMIT}",
        f"-artifact_prefix={corpus.parent}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "RUST_BACKTRACE": "0"}
    log = corpus.parent / "log"
    with log.open("wb") as output:
        done = subprocess.run(command, env=env, check=False, stdout=output, stderr=output)
    # The codec's panics are caught where it is called; its own message goes to standard error all the same.
    printed = "\n".join(line for line in log.read_text(errors="replace").splitlines() if "panicked at" not in line)
    stats = {name: int(value) for name, value in re.findall(r"^stat::(\w+):\s+(\d+)", printed, re.MULTILINE)}
    coverage = re.findall(r" cov: (\d+)", printed)
    outcome = Outcome(cases=stats.get("number_of_executed_units", 0))
    outcome.said["branches covered"] = int(coverage[-1]) if coverage else 0
    outcome.said["MB at most"] = peak = stats.get("peak_rss_mb", 0)
    if done.returncode or outcome.cases < executions:
        inputs = [f"{each.name}: {each.read_bytes()!r}" for each in corpus.parent.glob("*-*") if each.is_file()]
        outcome.findings.append(f"{inputs or 'no input kept'}\n{printed[-_SHOWN:]}")
    if peak > _RSS_AT_START + _RSS_GROWTH:
        outcome.findings.append(f"it took {peak} MB")
    return outcome
