"""Idempotency keys: many callers repeat the same request at the same time, while the gateway is killed."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from typing import Final

from faults.connection import Connection
from faults.load import ask_until_answered
from faults.run import Outcome, Surroundings, finish, opened
from faults.stage import Stage

KEYS: Final = 200  # in one cycle
CALLERS: Final = 10  # for each
_AT_ONCE: Final = 20  # keys


async def run(cycles: int, surroundings: Surroundings) -> Outcome:
    """In each cycle 200 keys are used by ten callers each, and the gateway is killed once."""
    async with opened() as stage:
        lanes = [_Lane(stage, f"keys-{lane}") for lane in range(_AT_ONCE)]
        for cycle in range(cycles):
            keys = iter(range(KEYS))
            killed = asyncio.create_task(_kill(stage))
            await asyncio.gather(*(lane.use(keys) for lane in lanes))
            await killed
            surroundings.progress(cycle + 1, cycles, sum(lane.answers for lane in lanes))
        for lane in lanes:
            lane.close()
        outcome = await finish(stage, cycles)
    answers = sum(lane.answers for lane in lanes)
    wrong = list(itertools.chain.from_iterable(lane.wrong for lane in lanes))
    outcome.said.append(f"{cycles * KEYS:,} keys, {answers:,} answers, {len(wrong)} keys with answers that differ")
    outcome.wrong += wrong
    return outcome


class _Lane:
    """Ten callers who use one key after the other, all ten the same at the same time."""

    def __init__(self, stage: Stage, imei: str) -> None:
        self.answers = 0
        self.wrong: list[str] = []
        self._stage = stage
        self._imei = imei
        self._callers = [Connection(stage.ports) for _ in range(CALLERS)]
        self._never = asyncio.Event()

    async def use(self, keys: Iterator[int]) -> None:
        """Use keys until there are none left; others may take from the same."""
        ledger = self._stage.ledger
        for _ in keys:
            entry = ledger.open(self._imei, "keyed", time.time())
            told = await asyncio.gather(
                *(ask_until_answered(caller, entry, ledger, self._never) for caller in self._callers)
            )
            self.answers += len(told)
            if len(different := set(told)) > 1:
                self.wrong.append(f"different answers to one key: {different}\n    {entry}")

    def close(self) -> None:
        for caller in self._callers:
            caller.close()


async def _kill(stage: Stage) -> None:
    await asyncio.sleep(random.uniform(0, 1.0))
    await stage.kill(stage.gateway)
    await stage.start(stage.gateway)
