"""Devices that are paused and resumed at any moment, at either of two gateways, which are killed in turns."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from faults.connection import Connection, NoAnswer
from faults.listener import Hearing, topic_of
from faults.load import Mix
from faults.run import Outcome, Surroundings, in_cycles, killing_in_turns, opened
from faults.table import Row, rows_of
from faults.verdict import CLOCK_STEP

_LEASE: Final = 2.0  # seconds
_WORKED_ON: Final = (
    *("broker-0-0", "broker-1-1", "none-0-0", "none-1-2", "once-0-1", "brief-0-0", "later-0-2", "keyed-0-1", "crowd"),
    *("bulk-0-0", "bulk-0-1"),
)
_WITHIN: Final = 60.0  # seconds in which a device is resumed
_ASK_AGAIN: Final = 0.1  # seconds
# Seconds for an answer. What nobody waits for any more might be done later than what is asked next.
_PATIENCE: Final = 30.0
_SETTLES: Final = 3.0  # seconds in which a database may still commit for a gateway that was killed
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Hold:
    """The time in which nothing may leave for a device."""

    imei: str
    since: float  #: time.time() at which the pause was acknowledged
    until: float  #: and at which it was asked to end
    in_flight: frozenset[str]  #: what the acknowledgement names: may still arrive


class _Worker:
    """Somebody who works on one device now and then."""

    def __init__(self, imei: str, ports: Sequence[int]) -> None:
        self.imei = imei
        self.holds: list[Hold] = []
        self.unacknowledged = 0
        self._ports = ports
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        async with Connection(self._ports, _PATIENCE) as connection:
            while not self._leaving.is_set():
                await self._sleep(random.uniform(0.05, 0.8))
                in_flight = await self._pause(connection)
                since = time.time()
                await self._sleep(random.uniform(0.1, 1.5))
                until = time.time()
                await self._resume(connection)
                if in_flight is None:
                    self.unacknowledged += 1
                else:
                    self.holds.append(Hold(self.imei, since, until, in_flight))

    def leave(self) -> None:
        """Have it resume its device, and end."""
        self._leaving.set()

    async def _pause(self, connection: Connection) -> frozenset[str] | None:
        try:
            reply = await connection.post(f"/devices/{self.imei}/queue/pause", b"{}")
        except NoAnswer:
            await asyncio.sleep(_SETTLES)
            return None
        return frozenset(json.loads(reply.body)["in_flight"]) if reply.status == 200 else None

    async def _resume(self, connection: Connection) -> None:
        async with asyncio.timeout(_WITHIN):
            while True:
                try:
                    if (await connection.post(f"/devices/{self.imei}/queue/resume", b"")).status == 200:
                        return
                    await asyncio.sleep(_ASK_AGAIN)
                except NoAnswer:
                    await asyncio.sleep(_SETTLES)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()


async def run(cycles: int, surroundings: Surroundings) -> Outcome:
    """Two gateways on one PostgreSQL are killed in turns, while devices are paused at either."""
    url = surroundings.postgres().create_database()
    async with opened(database_url=url, gateways=2, env={"CHAPAR_LEASE": str(_LEASE)}) as stage:
        workers = [_Worker(imei, stage.ports) for imei in _WORKED_ON]
        async with asyncio.TaskGroup() as tasks:
            at_work = [tasks.create_task(worker.run()) for worker in workers]

            async def at_end() -> None:
                for worker in workers:
                    worker.leave()
                await asyncio.wait(at_work)  # the gateways are stopped behind this

            outcome = await in_cycles(
                surroundings, cycles, killing_in_turns(), stage, Mix(pause=0.05, urgent=2), at_end=at_end
            )
        rows = await asyncio.to_thread(rows_of, url)
        hearings = stage.hearings.all
    holds = list(itertools.chain.from_iterable(worker.holds for worker in workers))
    outcome.wrong += left_while_held(holds, rows, hearings)[:_SHOWN]
    accepted: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        accepted[row.imei].append(row.created_at / 1000)
    held = sum(hold.since < at < hold.until for hold in holds for at in accepted[hold.imei])
    if not held:
        outcome.wrong.append("nothing was accepted for a paused device")
    unacknowledged = sum(worker.unacknowledged for worker in workers)
    outcome.said.append(
        f"{len(holds):,} pauses acknowledged, {unacknowledged:,} not; {held:,} messages accepted for a paused device"
    )
    return outcome


def left_while_held(holds: Iterable[Hold], rows: Iterable[Row], hearings: Iterable[Hearing]) -> list[str]:
    """What left for a device after its pause was acknowledged, and before it was to end."""
    of_id = {row.id: row for row in rows}
    heard_by: defaultdict[int, list[Hearing]] = defaultdict(list)
    for hearing in hearings:
        heard_by[hearing.topic].append(hearing)
    wrong = []
    for hold in holds:
        within: defaultdict[str, list[Hearing]] = defaultdict(list)
        for hearing in heard_by[topic_of(hold.imei)]:
            if hold.since < hearing.at < hold.until:
                within[hearing.id].append(hearing)
        for id_, heard in within.items():
            # What left before may take a moment to arrive; what was in flight is not tried again.
            published_at = (of_id[id_].published_at or 0) / 1000
            left_before = id_ in hold.in_flight or 0 < published_at <= hold.since + CLOCK_STEP
            if not left_before or len({hearing.attempt for hearing in heard}) > 1:
                wrong.append(f"left for a paused device\n    {hold}\n    {of_id[id_]}\n    heard {heard}")
    return wrong
