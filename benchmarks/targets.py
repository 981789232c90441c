"""What the gateway is asked to do, beside what it does."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Target(NamedTuple):
    """One figure that was asked for."""

    what: str
    measured: float | None  #: None where it was not
    wanted: float
    unit: str = ""
    at_most: bool = False  #: whether less is better
    note: str = ""

    @property
    def is_met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted


def table(targets: Iterable[Target]) -> Iterator[str]:
    """Rows of Markdown."""
    yield "| what | asked | measured | |"
    yield "| --- | ---: | ---: | --- |"
    for target in targets:
        sign = "≤" if target.at_most else "≥"
        measured = "not measured" if target.measured is None else f"**{target.measured:.2f}**{target.unit}"
        verdict = "" if target.measured is None else "met" if target.is_met else "missed"
        note = f" ({target.note})" if target.note else ""
        yield f"| {target.what}{note} | {sign} {target.wanted:g}{target.unit} | {measured} | {verdict} |"
