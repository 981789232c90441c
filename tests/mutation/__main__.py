"""Put mistakes into the modules that must not have any, and count those that no test notices."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ENOUGH: Final = 90.0  # percent of the mutants of a module that the tests kill
SOURCES: Final = Path("src")
MUTANTS: Final = Path("mutants")  # where mutmut works
KILLED: Final = {"killed", "timeout", "segfault"}  # the last is one that was stopped the hard way
_PROGRESS: Final = re.compile(r"(\d+)/(\d+) ")
_STEP: Final = 50  # mutants from one line of progress to the next


class Survivor(NamedTuple):
    """A mistake that no test noticed."""

    place: str  #: file and line
    before: str
    after: str


class Score(NamedTuple):
    """What became of the mutants of a module."""

    module: str
    statuses: Counter[str]
    survivors: list[Survivor]

    @property
    def killed(self) -> int:
        return sum(self.statuses[status] for status in KILLED)

    @property
    def percent(self) -> float:
        tested = self.killed + len(self.survivors)
        return 100 * self.killed / tested if tested else 100.0

    def __str__(self) -> str:
        refused = self.statuses["caught by type check"]
        return (
            f"{self.module:20} {self.statuses.total():4} mutants, {refused:4} refused by mypy, "
            f"{self.killed:4} killed, {len(self.survivors):3} survived, {self.percent:5.1f} %"
        )


def main() -> int:
    """Parse the command line and run; gives the exit code."""
    files = sorted(file for pattern in config().only_mutate for file in Path().glob(pattern))
    modules = {_module_of(file): file for file in files if file.name != "__init__.py"}
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"all, or some of {', '.join(modules)}")
    asked = parser.parse_args().modules or list(modules)
    if unknown := set(asked) - set(modules):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    shutil.rmtree(MUTANTS, ignore_errors=True)
    _mutate([f"chapar.{module}.x*" for module in asked])
    scores = [_score(module, modules[module]) for module in asked]
    for score in scores:
        for survivor in score.survivors:
            _print(f"\nSURVIVED {survivor.place}\n  - {survivor.before}\n  + {survivor.after}")
    _print("")
    for score in scores:
        _print(str(score))
    return 0 if all(score.percent >= ENOUGH for score in scores) else 1


def _module_of(file: Path) -> str:
    return ".".join(file.relative_to(SOURCES / "chapar").with_suffix("").parts)


def _mutate(patterns: list[str]) -> None:
    """Let mutmut work, one process at a time and behind everybody else, and tell how far it is."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}  # for mypy
    command = ["nice", "-n", "10", scripts / "mutmut", "run", "--max-children", "1", *patterns]
    told, shown = -_STEP, []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:  # the carriage returns of its progress end lines too
            shown.append(line)
            progress = _PROGRESS.search(line)
            if progress is not None and int(progress[1]) - told >= _STEP:
                told = int(progress[1])
                _print(f"{told} of {progress[2]} mutants")
    if run.returncode:
        sys.exit("".join(shown[-100:]))


def _score(module: str, file: Path) -> Score:
    data = SourceFileMutationData(path=file)
    data.load()
    statuses = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
    survivors = [
        _survivor(file, name) for name, status in statuses.items() if status not in KILLED | {"caught by type check"}
    ]
    return Score(module, Counter(statuses.values()), survivors)


def _survivor(file: Path, name: str) -> Survivor:
    changes = list(_changed(get_diff_for_mutant(name, path=file)))
    before = [line[1:].strip() for line in changes if line.startswith("-")]
    after = [line[1:].strip() for line in changes if line.startswith("+")]
    return Survivor(f"{file}:{_line(file, name, before[0])}", " ".join(before), " ".join(after))


def _changed(diff: str) -> Iterator[str]:
    return (line for line in diff.splitlines() if line[:1] in {"-", "+"} and line[:3] not in {"---", "+++"})


def _line(file: Path, name: str, text: str) -> int:
    """The line of this text in the function that a mutant is one of."""
    function = re.split(r"x_|ǁ", name.rpartition("__mutmut_")[0])[-1]
    lines = file.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if re.search(rf"def {re.escape(function)}\(", line))
    return next((number for number, line in enumerate(lines[start:], start + 1) if line.strip() == text), start + 1)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
