"""What was measured, as values: `report.py` writes it for people, `as_json` for programs."""

import contextlib
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Self

from benchmarks.floor import Floor
from benchmarks.load import Load, Pairs
from benchmarks.plan import Plan


@dataclass(frozen=True)
class Processor:
    """Processor time, in seconds, or per message in µs."""

    gateway: float
    writer: float

    def per(self, messages: int) -> Self:
        return type(self)(self.gateway / messages * 1e6, self.writer / messages * 1e6)

    @classmethod
    def median(cls, processors: Sequence[Self]) -> Self:
        return cls(median(each.gateway for each in processors), median(each.writer for each in processors))


@dataclass(frozen=True)
class Row:
    """Runs of the gateway and of the empty endpoint, taken in turns."""

    connections: int
    pairs: Pairs  #: the gateway, and the empty endpoint
    processor: Processor  #: per send, µs
    floors: Sequence[Floor] = ()  #: measured behind each pair, where there is one caller

    @property
    def of_floor(self) -> float:
        """How many times the floor one caller waits for: p50 ÷ (empty endpoint's p50 + fsync + PUBACK).

        The median of the turns, as that of the ratio is.
        """
        turns = zip(self.pairs.first, self.pairs.second, self.floors, strict=True)
        return median(send.p50 / (empty.p50 + floor.fsync + floor.puback) for send, empty, floor in turns)


@dataclass(frozen=True)
class Bulk:
    """Calls of 1,000 messages."""

    rate: float  #: messages a second
    created: int
    failed: int
    processor: Processor


@dataclass(frozen=True)
class Memory:
    """Resident memory of the gateway and of its writer, in bytes."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    sends: int  #: answered between the two


@dataclass(frozen=True)
class Check:
    """What a gateway answered in all its runs, and the rows that its database got by them."""

    created: int  #: answers 201
    failed: int  #: other answers, and sends without one
    cut_short: int  #: sends at most that got no answer because wrk hung up on them
    statuses: Mapping[str, int]  #: rows of each status, read once the gateway had ended

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def sound(self) -> bool:
        """Whether nothing failed, each 201 has its row, no other has one, and the broker acknowledged each."""
        explained = self.created <= self.rows <= self.created + self.cut_short
        return not self.failed and explained and set(self.statuses) <= {"published"}


@dataclass
class OnDatabase:
    """The theme sends on one database, as far as it came."""

    rows: list[Row] = field(default_factory=list)
    listening: Pairs | None = None  #: while a device listens to all, and while none does
    memory: Memory | None = None
    bulk: Bulk | None = None

    def at(self, connections: int) -> Row | None:
        """The runs with so many callers."""
        return next((row for row in self.rows if row.connections == connections), None)

    @property
    def pairs(self) -> Iterator[Pairs]:
        yield from (row.pairs for row in self.rows)
        if self.listening is not None:
            yield self.listening


@dataclass
class ManyRows:
    """The theme rows, as far as it came."""

    pages: Load | None = None  #: pages of one device and status, one caller
    messages: Load | None = None  #: single messages by their id, one caller
    sends: Pairs | None = None  #: on many rows, and on none
    reading: Pairs | None = None  #: beside slow readers, and without


@dataclass
class Results:
    """One run of the benchmark. What is None or left out was not asked for, is not installed or failed."""

    machine: Mapping[str, str]
    plan: Plan
    themes: Collection[str]
    sqlite: OnDatabase = field(default_factory=OnDatabase)
    postgres: OnDatabase = field(default_factory=OnDatabase)
    others: dict[str, Pairs] = field(default_factory=dict)
    databases: Pairs | None = None  #: PostgreSQL and SQLite
    rows: ManyRows = field(default_factory=ManyRows)
    checks: dict[str, Check] = field(default_factory=dict)  #: of each gateway
    failures: dict[str, str] = field(default_factory=dict)  #: what could not be measured, and why
    missing: list[str] = field(default_factory=list)  #: what could not be installed, a sentence each

    @contextlib.contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Go on where that fails, and remember why: what was measured before and elsewhere is worth its minutes."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the report
            traceback.print_exc()
            self.failures[what] = str(error) or type(error).__name__

    @property
    def failed(self) -> int:
        """Answers that should not have come, of either side of any measurement."""
        compared = [*self.others.values(), self.databases, self.rows.sends, self.rows.reading]
        compared += [*self.sqlite.pairs, *self.postgres.pairs]
        return sum(each.failed for each in (*compared, self.rows.pages, self.rows.messages) if each is not None)

    @property
    def sound(self) -> bool:
        return not self.failures and not self.failed and all(check.sound for check in self.checks.values())

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"plan": self.plan._asdict()}
