"""The classes of faults: how each is injected, under which load, and how often in the short and in the long form."""

import asyncio
import itertools
import random
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from faults import answering, brokers, clocks, disks, events, pauses, repetition
from faults.clocks import FakeClock
from faults.connection import Connection
from faults.disks import FailingDisk, fill_up, small_disk
from faults.load import Load, Mix
from faults.logs import UnwritableLog
from faults.run import Inject, Outcome, Surroundings, in_cycles, opened
from faults.stage import Stage, new_broker
from support import mosquitto
from support.postgres import find_programs
from support.processes import kill
from support.tcp_proxy import TcpProxy

Run = Callable[[int, Surroundings], Coroutine[None, None, Outcome]]

_ONE_DAY: Final = 86_400  # seconds
_LEASE: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class FaultClass:
    """One kind of fault."""

    name: str
    says: str  #: what happens in one cycle
    short: int  #: cycles
    long: int
    run: Run
    tools: Callable[[], str | None] = lambda: None  #: what this machine lacks beside Mosquitto; None: nothing

    def missing(self) -> str | None:
        """What this machine lacks for it, None where it has everything."""
        return self.tools() if mosquitto.installed() else "Mosquitto is not installed"


def _plain(inject: Inject, mix: Mix | None = None, **settings: str) -> Run:
    """A class on SQLite with one gateway."""

    async def run(cycles: int, surroundings: Surroundings) -> Outcome:
        async with opened(env=settings) as stage:
            return await in_cycles(surroundings, cycles, inject, stage, surroundings.scaled(mix or Mix()))

    return run


async def _kill_gateway(stage: Stage, _load: Load) -> None:
    await stage.kill(stage.gateway)
    await stage.start(stage.gateway)


async def _pause_gateway(stage: Stage, _load: Load) -> None:
    await stage.pause(stage.gateway, random.uniform(0.05, 2.5))


async def _kill_writer(stage: Stage, _load: Load) -> None:
    kill(stage.writers(stage.gateway))


async def _kill_broker(stage: Stage, _load: Load) -> None:
    await asyncio.to_thread(stage.broker.kill)
    await asyncio.sleep(random.uniform(0, 0.5))
    await asyncio.to_thread(stage.broker.start)
    await stage.ready(stage.gateway)
    await stage.device_listens()
    await stage.none_in_doubt()


async def _pause_broker(stage: Stage, _load: Load) -> None:
    with stage.stalled():
        stage.broker.pause()
        await asyncio.sleep(random.choice([0.3, 1.5, 3.5]) * random.uniform(0.5, 1))  # keep-alive ends at 2.5
        stage.broker.resume()
    await stage.ready(stage.gateway)
    await stage.none_in_doubt()


async def _half_open(cycles: int, surroundings: Surroundings) -> Outcome:
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(new_broker())
        proxy = stack.enter_context(TcpProxy(broker.port))

        async def fail(stage: Stage, load: Load) -> None:
            await stage.break_line(proxy)
            await load.answers(20)

        stage = await stack.enter_async_context(opened(broker=broker, broker_port=proxy.port))
        return await in_cycles(surroundings, cycles, fail, stage, surroundings.scaled(Mix()))


async def _backends_terminated(cycles: int, surroundings: Surroundings) -> Outcome:
    server = surroundings.postgres()
    url = server.create_database()

    async def terminate(_stage: Stage, _load: Load) -> None:
        await asyncio.to_thread(server.terminate_backends, url)

    async with opened(database_url=url) as stage:
        return await in_cycles(surroundings, cycles, terminate, stage, surroundings.scaled(Mix()))


async def _database_restarted(cycles: int, surroundings: Surroundings) -> Outcome:
    server = surroundings.postgres()
    url = server.create_database()

    async def restart(_stage: Stage, _load: Load) -> None:
        await asyncio.to_thread(server.stop, random.choice(["fast", "immediate"]))
        try:
            await asyncio.sleep(random.uniform(0, 1.5))
        finally:
            await asyncio.to_thread(server.start)

    async with opened(database_url=url) as stage:
        return await in_cycles(surroundings, cycles, restart, stage, surroundings.scaled(Mix()))


async def _disk_full(cycles: int, surroundings: Surroundings) -> Outcome:
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk(surroundings.disk_size))

        async def fill(_stage: Stage, load: Load) -> None:
            ballast = await asyncio.to_thread(fill_up, disk)
            try:
                await load.refusals(20)
            finally:
                ballast.unlink()
            await load.answers(50)

        url = f"sqlite:///{disk / 'chapar.db'}"
        stage = await stack.enter_async_context(opened(database_url=url))
        return await in_cycles(surroundings, cycles, fill, stage, surroundings.scaled(Mix()))


async def _database_file_gone(cycles: int, surroundings: Surroundings) -> Outcome:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chapar-gone-"))) / "data"
        folder.mkdir()
        file = folder / "chapar.db"
        places = itertools.cycle([file, folder, file.with_name("chapar.db-wal"), file.with_name("chapar.db-shm")])

        async def move(stage: Stage, load: Load) -> None:
            place = next(places)
            elsewhere = place.with_name("elsewhere")
            place.rename(elsewhere)
            if place == file and random.random() < 0.5:
                place.touch()  # somebody else's
            try:
                await load.refusals(20)
            finally:
                elsewhere.replace(place)
            await stage.ready(stage.gateway)
            await load.answers(50)

        stage = await stack.enter_async_context(opened(database_url=f"sqlite:///{file}"))
        return await in_cycles(surroundings, cycles, move, stage, surroundings.scaled(Mix()))


async def _disk_errors(cycles: int, surroundings: Surroundings) -> Outcome:
    async with AsyncExitStack() as stack:
        control = stack.enter_context(FailingDisk())

        async def fail(stage: Stage, load: Load) -> None:
            for writer in stage.writers(stage.gateway):
                await control.fail(writer, seconds=random.uniform(0.05, 0.8))
            await load.answers(20)

        stage = await stack.enter_async_context(opened(env=control.env))
        return await in_cycles(surroundings, cycles, fail, stage, surroundings.scaled(Mix()))


async def _clock_jumps(cycles: int, surroundings: Surroundings) -> Outcome:
    async with AsyncExitStack() as stack:
        clock = stack.enter_context(FakeClock())

        async def jump(_stage: Stage, load: Load) -> None:
            clock.set(random.choice([0, -_ONE_DAY, _ONE_DAY]))
            await asyncio.sleep(clocks.CACHED)
            await load.answers(30)

        stage = await stack.enter_async_context(opened(env=clock.env))
        mix = surroundings.scaled(Mix(brief=6, later=4))
        return await in_cycles(surroundings, cycles, jump, stage, mix, same_clock=False)


async def _log_unwritable(cycles: int, surroundings: Surroundings) -> Outcome:
    lost = 0.0
    async with AsyncExitStack() as stack:
        log = stack.enter_context(UnwritableLog())
        ways = itertools.cycle((log.reader_gone, log.unread))

        async def fail(stage: Stage, load: Load) -> None:
            nonlocal lost
            with next(ways)():
                await _kill_broker(stage, load)  # the link's end and its return are lines of the log
                await load.answers(20)
            async with Connection([stage.gateway.port]) as connection:
                while not lost:  # it is measured every second
                    text = (await connection.get("/metrics")).body.decode()
                    lost = float(text.partition("\nchapar_log_lines_lost_total ")[2].split()[0])

        stage = await stack.enter_async_context(opened(env={"CHAPAR_LOG_LEVEL": "debug"}, log=log.descriptor))
        return await in_cycles(surroundings, cycles, fail, stage, surroundings.scaled(Mix()))


async def _nothing(_stage: Stage, load: Load) -> None:
    await load.answers(50)


async def _several_gateways(cycles: int, surroundings: Surroundings) -> Outcome:
    url = surroundings.postgres().create_database()
    numbers, paused_every = itertools.count(1), max(3, cycles // 10)

    async def fail(stage: Stage, _load: Load) -> None:
        victim = random.choice(stage.gateways)
        if next(numbers) % paused_every:
            await stage.kill(victim)
            await stage.start(victim)
        else:
            await stage.pause(victim, random.uniform(0.1, 2 * _LEASE))

    async with opened(database_url=url, gateways=4, env={"CHAPAR_LEASE": str(_LEASE)}) as stage:
        # Less load than elsewhere: four gateways and their database share the processor with the one that starts.
        return await in_cycles(surroundings, cycles, fail, stage, Mix(pause=0.05))


def _no_postgres() -> str | None:
    return None if find_programs() else "PostgreSQL is not installed"


CLASSES: Final = (
    FaultClass("no-fault", "nothing", 3, 10, _plain(_nothing)),
    FaultClass("gateway-killed", "SIGKILL of the gateway, and a new start", 4, 150, _plain(_kill_gateway)),
    FaultClass("gateway-paused", "SIGSTOP of the gateway for up to 2.5 s", 5, 40, _plain(_pause_gateway)),
    FaultClass("writer-killed", "SIGKILL of the writer process", 5, 60, _plain(_kill_writer)),
    FaultClass("broker-killed", "SIGKILL of the broker, and a new start", 4, 100, _plain(_kill_broker)),
    FaultClass("broker-paused", "SIGSTOP of the broker for up to 3.5 s", 4, 50, _plain(_pause_broker)),
    FaultClass("broker-half-open", "acknowledgements lost, both directions lost, or slow", 5, 50, _half_open),
    FaultClass("broker-refuses", "a refusal with a code outside the standard's list", 5, 100, brokers.refusals),
    FaultClass("broker-unanswered", "one message is never acknowledged", 2, 20, brokers.unanswered),
    FaultClass("broker-silent-at-one", "from one message on the connection is dead", 2, 20, brokers.silent),
    FaultClass("broker-strays", "acknowledgements twice, and packets nobody asked for", 5, 100, brokers.strays),
    FaultClass("backends-terminated", "pg_terminate_backend", 6, 80, _backends_terminated, _no_postgres),
    FaultClass("database-restarted", "PostgreSQL stops, fast or immediate", 2, 30, _database_restarted, _no_postgres),
    FaultClass("disk-full", "no room on the disk of SQLite", 3, 20, _disk_full, disks.cannot_mount),
    FaultClass("database-file-gone", "the files of SQLite are moved and put back", 4, 40, _database_file_gone),
    FaultClass("disk-errors", "fsync and writes of SQLite fail", 4, 40, _disk_errors, disks.lacks_libfiu),
    FaultClass("log-unwritable", "the log's reader goes or stops reading; broker-killed", 4, 40, _log_unwritable),
    FaultClass("clock-jumps", "the clock jumps by a day", 4, 40, _clock_jumps, clocks.lacks_libfaketime),
    FaultClass("callers-hang-up", "callers close behind the request", 4, 40, _plain(_nothing, Mix(cut=12))),
    FaultClass("keys-repeated", "200 keys, 10 callers each, SIGKILL of the gateway", 1, 50, repetition.run),
    FaultClass("device-replies", "gateway killed or its line broken, while devices answer", 2, 100, answering.replies),
    FaultClass("receiver-killed", "SIGKILL or SIGSTOP of who receives", 2, 60, answering.receiver, _no_postgres),
    FaultClass("presence-storm", "thousands of devices come and go within a second", 2, 40, answering.storm),
    FaultClass("contacts", "devices speak all at once, and the gateway is killed", 2, 60, answering.contacts),
    FaultClass("event-log", "SIGKILL of one of two; listeners drop and come back", 2, 56, events.run, _no_postgres),
    FaultClass("pauses", "SIGKILL of one of two; devices are paused and resumed", 2, 40, pauses.run, _no_postgres),
    FaultClass("several-gateways", "SIGKILL or SIGSTOP of one of four", 3, 112, _several_gateways, _no_postgres),
)
