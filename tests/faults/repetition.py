"""Idempotency keys: many callers repeat the same request at the same time, while the gateway is killed."""

import asyncio
import random
import time
from typing import Final

from faults.connection import Connection, Reply
from faults.load import ask_until_answered
from faults.run import Outcome, Surroundings, finish, opened
from faults.stage import Stage

KEYS: Final = 200  # in one cycle
CALLERS: Final = 10  # for each
_AT_ONCE: Final = 20  # keys


async def run(cycles: int, surroundings: Surroundings) -> Outcome:
    """In each cycle 200 keys are used by ten callers each, and the gateway is killed once."""
    replies = 0
    wrong: list[str] = []
    async with opened() as stage:
        never = asyncio.Event()
        connections = [Connection(stage.ports) for _ in range(_AT_ONCE * CALLERS)]
        for cycle in range(cycles):
            killed = asyncio.create_task(_kill(stage))
            for wave in range(0, KEYS, _AT_ONCE):
                entries = [
                    stage.ledger.open(f"keys-{place}", "keyed", time.time(), in_turn=False)
                    for place in range(wave, wave + _AT_ONCE)
                ]
                told = await asyncio.gather(
                    *(
                        ask_until_answered(connection, entries[place % _AT_ONCE], stage.ledger, never)
                        for place, connection in enumerate(connections)
                    )
                )
                replies += len(told)
                for place, entry in enumerate(entries):
                    different = _different(told[place::_AT_ONCE])
                    if len(different) > 1:
                        wrong.append(f"different answers to one key: {different}\n    {entry}")
            await killed
            surroundings.progress(cycle + 1, cycles, replies)
        for connection in connections:
            connection.close()
        outcome = await finish(stage, cycles)
    outcome.said.append(f"{cycles * KEYS:,} keys, {replies:,} answers, {len(wrong)} keys with answers that differ")
    outcome.wrong += wrong
    return outcome


def _different(told: list[Reply | None]) -> set[Reply | None]:
    return set(told)


async def _kill(stage: Stage) -> None:
    await asyncio.sleep(random.uniform(0, 1.0))
    await stage.kill(stage.gateway)
    await stage.start(stage.gateway)
