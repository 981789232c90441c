"""Run classes of faults one after the other and print a line for each."""

import argparse
import contextlib
import io
import logging
import sys
import time
import traceback
from typing import Final

import uvloop

from faults.classes import CLASSES, FaultClass
from faults.run import Outcome, Surroundings
from faults.verdict import EXPIRY_GRANULARITY, Broken

_SHOWN: Final = 10  # offenders of each kind
_HEAD: Final = ("class", "cycles", "promises", "heard", *Broken)


def main() -> int:
    """Parse the command line and run; gives the exit code."""
    names = [each.name for each in CLASSES]
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description=__doc__,
        epilog="\n".join(f"  {each.name:20} {each.says}" for each in CLASSES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="all, or some of those below")
    parser.add_argument("--long", action="store_true", help="as often as docs/en/reliability.md reports; half an hour")
    parser.add_argument("--cycles", type=int, help="as often as this instead")
    asked = parser.parse_args()
    if unknown := set(asked.classes) - set(names):
        parser.error(f"no such class: {', '.join(sorted(unknown))}")
    chosen = [each for each in CLASSES if not asked.classes or each.name in asked.classes]
    report = Report()
    surroundings = Surroundings(long=asked.long)
    logging.getLogger("paho").setLevel(logging.CRITICAL)  # it complains at each good-bye
    with contextlib.redirect_stdout(io.StringIO()), surroundings.servers:
        for fault in chosen:
            if missing := fault.missing():
                report.skipped(fault, missing)
                continue
            began = time.monotonic()
            cycles = asked.cycles or (fault.long if asked.long else fault.short)
            try:
                outcome = run(fault, cycles, surroundings)
            except Exception as error:  # noqa: BLE001 - the other classes still run
                report.failed(fault, error)
            else:
                report.add(fault, outcome, time.monotonic() - began)
    return report.end()


def run(fault: FaultClass, cycles: int, surroundings: Surroundings) -> Outcome:
    """Run one class. What its programs printed is shown only where it does not come to its end."""
    surroundings.name = fault.name
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            return uvloop.run(fault.run(cycles, surroundings))
    except BaseException:
        sys.stderr.write(printed.getvalue())
        raise


class Report:
    """The table, printed line by line, and what goes below it."""

    def __init__(self) -> None:
        self._output = sys.stdout  # the runs' programs print to another
        self._broken: list[str] = []
        self._said: list[str] = []
        self._promises = self._cycles = 0
        self._print(*_HEAD, "seconds")

    def add(self, fault: FaultClass, outcome: Outcome, seconds: float) -> None:
        """The line of one class."""
        verdict = outcome.verdict
        promises = verdict.accepted + verdict.refused
        counts = [verdict.count(what) for what in Broken]
        self._print(fault.name, outcome.cycles, f"{promises:,}", f"{verdict.heard:,}", *counts, f"{seconds:.0f}")
        self._promises += promises
        self._cycles += outcome.cycles
        self._said.append(
            f"{fault.name}: {verdict.accepted:,} accepted, {verdict.refused:,} refused, {verdict.unanswered:,} told "
            f"nothing; {verdict.heard_again:,} heard again and flagged, {verdict.late_in_transit:,} late in transit"
        )
        self._said += [f"{fault.name}: {each}" for each in outcome.said]
        for what, offenders in verdict.broken.items():
            self._broken += [f"{fault.name}: {what}: {each}" for each in offenders[:_SHOWN]]
        self._broken += [f"{fault.name}: {each}" for each in outcome.wrong[:_SHOWN]]

    def skipped(self, fault: FaultClass, missing: str) -> None:
        """A class that this machine cannot run."""
        self._write(f"{fault.name:20} skipped: {missing}")

    def failed(self, fault: FaultClass, error: Exception) -> None:
        """A class that did not come to its end."""
        self._write(f"{fault.name:20} FAILED, see below")
        self._broken.append(f"{fault.name}: " + "".join(traceback.format_exception(error)))

    def end(self) -> int:
        """Print what goes below the table; gives the exit code."""
        self._write(f"\n{self._cycles:,} cycles, {self._promises:,} promises")
        for each in self._said:
            self._write(f"  {each}")
        self._write(f"  after expiry: later than the {EXPIRY_GRANULARITY:g} s by which MQTT counts")
        for each in self._broken:
            self._write(f"\nBROKEN {each}")
        return 1 if self._broken else 0

    def _print(self, name: object, *cells: object) -> None:
        widths = [max(len(head), 8) for head in (*_HEAD[1:], "seconds")]
        aligned = (f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True))
        self._write(f"{name!s:20} {'  '.join(aligned)}")

    def _write(self, line: str) -> None:
        self._output.write(line + "\n")
        self._output.flush()


if __name__ == "__main__":
    sys.exit(main())
