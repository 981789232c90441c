"""Run campaigns one after the other and print a line for each."""

import argparse
import contextlib
import io
import logging
import sys
import time
import traceback

from fuzz.campaign import Campaign, Outcome
from fuzz.campaigns import CAMPAIGNS


def main() -> int:
    """Parse the command line and run; gives the exit code."""
    names = [each.name for each in CAMPAIGNS]
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description=__doc__,
        epilog="\n".join(f"  {each.name:14} {each.says}" for each in CAMPAIGNS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help="all, or some of those below")
    parser.add_argument("--long", action="store_true", help="about half an hour instead of a minute")
    parser.add_argument("--cases", type=int, help="as many as this instead")
    asked = parser.parse_args()
    if unknown := set(asked.campaigns) - set(names):
        parser.error(f"no such campaign: {', '.join(sorted(unknown))}")
    logging.getLogger("paho").setLevel(logging.CRITICAL)  # it complains at each good-bye
    findings: list[str] = []
    for campaign in CAMPAIGNS:
        if not asked.campaigns or campaign.name in asked.campaigns:
            cases = asked.cases or (campaign.long if asked.long else campaign.short)
            findings += [f"{campaign.name}: {each}" for each in _run(campaign, cases)]
    for each in findings:
        sys.stdout.write(f"\nFINDING {each}\n")
    return 1 if findings else 0


def _run(campaign: Campaign, cases: int) -> list[str]:
    """Run one, print its line, and give its findings. What its programs printed is shown where it does not end."""
    if missing := campaign.missing():
        _print(f"{campaign.name:14} skipped: {missing}")
        return []
    began = time.monotonic()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            outcome = campaign.run(cases)
    except Exception as error:  # noqa: BLE001 - the other campaigns still run
        sys.stderr.write(printed.getvalue())
        outcome = Outcome(findings=["".join(traceback.format_exception(error))])
    further = "".join(f", {count:,} {what}" for what, count in outcome.said.items())
    seconds = time.monotonic() - began
    _print(f"{campaign.name:14} {outcome.cases:>9,} cases{further}, {len(outcome.findings)} findings, {seconds:.0f} s")
    return outcome.findings


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
