"""What goes wrong, and how long things take: drawn from the seed, and all fine once it is calm."""

from random import Random
from typing import Final

_FATES: Final = (
    "committed, answer lost",
    "not committed, answer lost",
    "committed, writer died",
    "not committed, writer died",
    "refused",
)


class Weather:
    """The faults of one world."""

    def __init__(self, plan: Random, chaos: Random) -> None:
        self._chaos = chaos
        self.calm = False
        self.window = plan.choice([1, 2, 3, 20])
        self._slow_commits = plan.choice([0.0, 0.0, 0.02, 0.1])  # how many of them
        self._failing_batches = plan.choice([0.0, 0.0, 0.05, 0.3])
        self._failing_reads = plan.choice([0.0, 0.0, 0.0, 0.1])
        self._slow_answers = plan.choice([0.0, 0.0, 0.1])
        self._putting_off = plan.choice([0.0, 0.0, 0.1, 0.5])
        self._nobody_listens = plan.choice([0.0, 0.2])
        self._latency = plan.choice([0.0, 0.001, 0.02])
        self.broker_away = False

    def commit_time(self) -> float:
        if not self.calm and self._chaos.random() < self._slow_commits:
            return self._chaos.choice([0.2, 1.0, 3.0])
        return self._chaos.uniform(0.001, 0.01)

    def answer_time(self) -> float:
        if not self.calm and self._chaos.random() < self._slow_commits:
            return self._chaos.choice([0.2, 1.0, 3.0])
        return self._chaos.choice([0.0, 0.001])

    def restart_time(self) -> float:
        return self._chaos.uniform(0.05, 0.3)

    def read_time(self) -> float:
        return self._chaos.choice([0.0, 0.002])

    def fate_of_batch(self) -> str:
        if self.calm or self._chaos.random() >= self._failing_batches:
            return "committed"
        return self._chaos.choice(_FATES)

    def read_fails(self) -> bool:
        return not self.calm and self._chaos.random() < self._failing_reads

    def dial_time(self) -> float:
        return self._chaos.uniform(0.001, 0.01)

    def broker_is_away(self) -> bool:
        return self.broker_away and not self.calm

    def latency(self) -> float:
        return self._chaos.uniform(0, self._latency)

    def acknowledgement(self) -> float:
        if not self.calm and self._chaos.random() < self._slow_answers:
            return self._chaos.choice([0.3, 2.0])
        return self._chaos.uniform(0, self._latency)

    def verdict(self) -> int:
        if not self.calm and self._chaos.random() < self._putting_off:
            return 0x97
        return 0x10 if self._chaos.random() < self._nobody_listens else 0x00
