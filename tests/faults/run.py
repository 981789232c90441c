"""One run: what it may use, how it ends, and what came of it."""

import asyncio
import contextlib
import dataclasses
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field

from faults.load import Load, Mix
from faults.stage import Stage, new_broker, open_stage
from faults.table import broken_chains, replies_of, rows_of
from faults.verdict import AT_BROKER, Verdict, judge
from faults.words import Contacts, judge_words
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer

Inject = Callable[[Stage, Load], Awaitable[None]]

_PROGRESS_EVERY = 5.0  # seconds


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    cycles: int
    verdict: Verdict
    said: list[str] = field(default_factory=list)  #: further figures
    wrong: list[str] = field(default_factory=list)  #: promises broken that have no column of their own


@dataclass(slots=True)
class Surroundings:
    """What the runs share."""

    name: str = ""  #: of the class that runs
    long: bool = False
    servers: ExitStack = field(default_factory=ExitStack)
    start_postgres: Callable[[], PostgresServer] | None = None  #: where somebody else keeps the server
    _postgres: PostgresServer | None = None
    _said_at: float = 0.0

    @property
    def disk_size(self) -> int:
        """Bytes of the disk that is filled."""
        return (512 if self.long else 32) * 1024 * 1024

    def postgres(self) -> PostgresServer:
        """The one server, started when it is first needed."""
        if self._postgres is None:
            start = self.start_postgres or (lambda: self.servers.enter_context(PostgresServer()))
            self._postgres = start()
        return self._postgres

    def scaled(self, mix: Mix) -> Mix:
        """The load of the long form is mostly bulk: it needs many messages more than many calls.

        The short form needs neither: an outage is as long as it is, and all that arrives meanwhile costs processor.
        """
        if not self.long:
            return dataclasses.replace(mix, pause=0.03, bulk_rate=200)
        return dataclasses.replace(mix, bulk_size=1000, bulk_rate=1500, bulk_devices=100)

    def progress(self, cycle: int, cycles: int, answered: int) -> None:
        """Say how many cycles are over."""
        self.say(f"cycle {cycle} of {cycles}, {answered:,} answers", is_last=cycle == cycles)

    def say(self, text: str, *, is_last: bool = False) -> None:
        """Say on standard error how far the run is: every few seconds, and at the end."""
        now = time.monotonic()
        if is_last or now - self._said_at > _PROGRESS_EVERY:
            self._said_at = now
            sys.stderr.write(f"  {self.name}: {text}\n")


@contextlib.asynccontextmanager
async def opened(
    *,
    database_url: str | None = None,
    gateways: int = 1,
    env: Mapping[str, str] | None = None,
    broker: Mosquitto | None = None,
    broker_port: int | None = None,
    log: int | None = None,
    answering: bool = False,
) -> AsyncIterator[Stage]:
    """A stage, on a broker of its own where none is given."""
    async with AsyncExitStack() as stack:
        broker = broker or stack.enter_context(new_broker())
        yield await stack.enter_async_context(
            open_stage(
                broker,
                database_url=database_url,
                gateways=gateways,
                env=env,
                broker_port=broker_port or broker.port,
                log=log,
                answering=answering,
            )
        )


async def in_cycles(
    surroundings: Surroundings,
    cycles: int,
    inject: Inject,
    stage: Stage,
    mix: Mix,
    *,
    same_clock: bool = True,
    at_end: Callable[[], Awaitable[None]] | None = None,
) -> Outcome:
    """Inject the fault `cycles` times under load, each at a random moment; `at_end` follows when the load is over."""
    async with Load(stage.ports, stage.ledger, mix) as load:
        for cycle in range(cycles):
            await load.answers(random.randrange(20, 200))
            await asyncio.sleep(random.uniform(0, 0.2))
            await inject(stage, load)
            surroundings.progress(cycle + 1, cycles, stage.ledger.answered)
        await load.answers(100)
    if at_end is not None:
        await at_end()
    return await finish(stage, cycles, same_clock=same_clock)


def killing_in_turns() -> Inject:
    """Kill one of the gateways, the next one each time, and start it again once others have answered."""
    numbers = itertools.count()

    async def kill(stage: Stage, load: Load) -> None:
        victim = stage.gateways[next(numbers) % len(stage.gateways)]
        await stage.kill(victim)
        await load.answers(30)
        await stage.start(victim)

    return kill


async def finish(stage: Stage, cycles: int, *, same_clock: bool = True) -> Outcome:
    """Wait until everything is over, stop the gateways, read the tables, and judge."""
    await stage.settled()
    await asyncio.gather(*(asyncio.to_thread(gateway.close) for gateway in stage.gateways))
    rows = await asyncio.to_thread(rows_of, stage.database_url)
    await stage.heard({row.number for row in rows if row.status in AT_BROKER})
    verdict = judge(
        stage.ledger,
        rows,
        stage.hearings.read().all,
        stalls=stage.stalls,
        same_clock=same_clock,
        one_gateway=len(stage.gateways) == 1,
    )
    outcome = Outcome(cycles, verdict, wrong=list(stage.ledger.faults))
    outcome.wrong += await asyncio.to_thread(broken_chains, stage.database_url)
    if stage.utterances is not None:
        replies = await asyncio.to_thread(replies_of, stage.database_url)
        said = stage.utterances.read().all
        contacts = Contacts.of(stage.gateway.env)
        heard = stage.hearings.all
        judge_words(verdict, stage.ledger, rows, heard, said, replies, contacts=contacts, stalls=stage.stalls)
        outcome.wrong += [f"nobody was subscribed: {each}" for each in said if each.is_unheard]
        counts = Counter(row.status for row in rows)
        outcome.said.append(f"{len(said):,} words of devices, {len(replies):,} replies stored; {_counted(counts)}")
    return outcome


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
