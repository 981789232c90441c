"""What was measured, as values: `report.py` writes it for people, `as_json` for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.load import Load, Row
from benchmarks.measuring import Bulk, Memory
from benchmarks.plan import Plan


@dataclass(frozen=True)
class OnDatabase:
    """A gateway on one database, from its empty start to its end."""

    rows: Sequence[Row]
    bulk: Bulk
    statuses: Mapping[str, int]  #: what the database held afterwards
    created: int  #: answers 201
    cut_short: int  #: calls at most that got none, because wrk hung up on them
    listening: tuple[Sequence[Load], Sequence[Load]] | None = None  #: without and with a device, in turns
    memory: Memory | None = None

    @property
    def failed(self) -> int:
        """Answers that should not have come, in all runs."""
        loads = [load for row in self.rows for load in (*row.sends, *row.empty)]
        return sum(load.failed for load in loads) + self.bulk.failed

    @property
    def kept(self) -> int:
        """Messages in the database."""
        return sum(self.statuses.values())

    @property
    def sound(self) -> bool:
        """Whether nothing failed, each 201 has its row, no other has one, and each row was published."""
        explained = self.created <= self.kept <= self.created + self.cut_short
        return not self.failed and explained and set(self.statuses) == {"published"}

    def as_json(self) -> dict[str, object]:
        return {
            "rows": [row.as_json() for row in self.rows],
            "bulk": asdict(self.bulk),
            "statuses": dict(self.statuses),
            "created": self.created,
            "cut_short_at_most": self.cut_short,
            "listening": self.listening and [[load.as_json() for load in loads] for loads in self.listening],
            "memory": self.memory and asdict(self.memory),
        }


@dataclass(frozen=True)
class Results:
    """One run of the benchmark."""

    machine: Mapping[str, str]
    plan: Plan
    fsync: float  #: ms, alone
    puback: float  #: ms, alone
    sqlite: OnDatabase
    postgres: OnDatabase | None  #: None where PostgreSQL is not installed

    @property
    def sound(self) -> bool:
        return self.sqlite.sound and (self.postgres is None or self.postgres.sound)

    def as_json(self) -> dict[str, object]:
        return {
            "machine": dict(self.machine),
            "plan": self.plan._asdict(),
            "fsync": self.fsync,
            "puback": self.puback,
            "sqlite": self.sqlite.as_json(),
            "postgresql": self.postgres and self.postgres.as_json(),
        }
