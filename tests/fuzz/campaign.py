"""A campaign: one kind of generated input, how much of it, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """What came of one campaign."""

    cases: int = 0
    said: dict[str, int] = field(default_factory=dict)  #: further counts, by what they count
    findings: list[str] = field(default_factory=list)

    def count(self, what: str, by: int = 1) -> None:
        self.said[what] = self.said.get(what, 0) + by


@dataclass(frozen=True, slots=True)
class Campaign:
    """One kind of generated input."""

    name: str
    says: str  #: what is generated, and where it goes
    run: Callable[[int], Outcome]  #: takes the number of cases
    short: int  #: cases in continuous integration
    long: int
    missing: Callable[[], str | None] = lambda: None  #: what this machine lacks, as a sentence
