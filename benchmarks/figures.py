"""What was measured, as values: `report.py` writes it for people, `as_json` for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.beside import Pairs, Rows
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

    def at(self, connections: int) -> Row | None:
        """The runs with so many callers."""
        return next((row for row in self.rows if row.connections == connections), None)

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
    sqlite: OnDatabase | None = None
    postgres: OnDatabase | None = None  #: None also where PostgreSQL is not installed
    others: Mapping[str, Pairs | None] = field(default_factory=dict)  #: None for what could not be installed
    databases: Pairs | None = None  #: PostgreSQL and SQLite
    rows: Rows | None = None

    @property
    def sound(self) -> bool:
        return all(found.sound for found in (self.sqlite, self.postgres) if found is not None) and not self.failed

    @property
    def failed(self) -> int:
        """Answers that should not have come, of either side."""
        pairs = [*self.others.values(), self.databases]
        if self.rows is not None:
            pairs += [self.rows.sends, self.rows.reading]
        return sum(load.failed for pair in pairs if pair is not None for load in (*pair.first, *pair.second))

    def as_json(self) -> dict[str, object]:
        return {
            "machine": dict(self.machine),
            "plan": self.plan._asdict(),
            "fsync": self.fsync,
            "puback": self.puback,
            "sqlite": self.sqlite and self.sqlite.as_json(),
            "postgresql": self.postgres and self.postgres.as_json(),
            "others": {name: pairs and pairs.as_json() for name, pairs in self.others.items()},
            "databases": self.databases and self.databases.as_json(),
            "rows": self.rows
            and {
                "rows": self.rows.rows,
                "sends": self.rows.sends.as_json(),
                "page_p99": self.rows.page,
                "message_p99": self.rows.message,
                "slow_readers": self.rows.reading.as_json(),
            },
        }
