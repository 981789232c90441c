"""Where a run takes place: a broker, a database, gateways, and the device that hears everything."""

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from paho.mqtt import publish

from faults import clocks
from faults.connection import Connection, NoAnswer, Reply
from faults.ledger import Ledger
from faults.listener import Hearings
from support.api import UNFINISHED
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK
from support.processes import Program, children, describe

# What Mosquitto does not hold back is in the device's socket before its PUBACK leaves: killed, it forgets nothing, and
# has only to remember the device's session, which is saved once. Saving at every change makes it wait for the disk.
_HOLDS_NOTHING_BACK = ("max_inflight_messages 0", "max_queued_messages 0")
_SAVES_WHEN_TOLD = ("autosave_on_changes false", "autosave_interval 0")
_SILENT = ("log_type none", "log_type error")  # a line for each packet would cost more than the packet
_TESTS = Path(__file__).parents[1]
# libfaketime and a program with threads: about one start in thirty hangs, whatever version of the gateway it is.
_HANGS = 2
_LOOK_EVERY = 0.02  # seconds
_QUIET = 4.0  # seconds without a message after which the device has heard everything
_NO_PROGRESS = 45.0  # seconds after which what is unfinished will stay so


class Stage:
    """Everything one run needs; made by `open_stage`."""

    def __init__(self, folder: Path, broker: Mosquitto, database_url: str, gateways: Sequence[GatewayProcess]) -> None:
        self.folder = folder
        self.broker = broker
        self.database_url = database_url
        self.gateways = gateways
        self.ledger = Ledger()
        self.hearings: Hearings
        self.stalls: list[tuple[float, float]] = []  #: when the way to the device was stalled, time.time()
        self._probes = itertools.count(1)

    @property
    def gateway(self) -> GatewayProcess:
        return self.gateways[0]

    @property
    def ports(self) -> list[int]:
        return [gateway.port for gateway in self.gateways]

    async def start(self, gateway: GatewayProcess) -> None:
        """Start a gateway; returns once it is ready."""
        hangs = _HANGS if clocks.is_faked(gateway.env) else 0
        while True:
            gateway.start(until=None)
            try:
                return await self.ready(gateway)
            except AssertionError:
                if not hangs or not gateway.program.running:
                    raise
                hangs -= 1
                sys.stderr.write("  a start under a faked clock hung, and is made again\n")
                await self.kill(gateway)

    async def ready(self, gateway: GatewayProcess, within: float = 30.0) -> None:
        """Wait until the gateway has both its database and its broker."""
        deadline = time.monotonic() + within
        said: Reply | None = None
        async with Connection([gateway.port]) as connection:
            while said is None or said.status != 200:
                if not gateway.program.running or time.monotonic() > deadline:
                    raise AssertionError(f"the gateway does not get ready: {said}\n{gateway.program.output}")
                await asyncio.sleep(_LOOK_EVERY)
                with contextlib.suppress(NoAnswer):
                    said = await connection.get("/health/ready")

    async def kill(self, gateway: GatewayProcess) -> None:
        """SIGKILL; returns once what it had started is gone too."""
        await asyncio.to_thread(gateway.kill)

    async def device_listens(self) -> None:
        """Wait until the device is back at the broker."""
        while True:
            probe = next(self._probes)
            await asyncio.to_thread(
                publish.single, "devices/probe", str(probe), qos=1, hostname=LOOPBACK, port=self.broker.port
            )
            for _ in range(25):
                if probe in self.hearings.read().probes:
                    return
                await asyncio.sleep(_LOOK_EVERY)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Within it the way to the device is stalled: what has left may arrive late."""
        since = time.time()
        try:
            yield
        finally:
            self.stalls.append((since, time.time()))

    async def settled(self) -> None:
        """Wait until nothing is unfinished any more and the device has heard what it will hear."""
        query = "&".join(f"status={status}" for status in UNFINISHED)
        moved_at, seen = time.monotonic(), -1
        async with Connection(self.ports) as connection:
            while time.monotonic() - moved_at < _NO_PROGRESS:
                with contextlib.suppress(NoAnswer):
                    reply = await connection.get(f"/messaging/messages?{query}&limit=1")
                    if reply.status == 200 and b'"messages":[]' in reply.body:
                        break
                if (heard := len(self.hearings.read().all)) != seen:
                    moved_at, seen = time.monotonic(), heard
                await asyncio.sleep(0.1)
        await self.device_listens()

    async def heard(self, numbers: set[int]) -> None:
        """Wait until the device has heard all of `numbers`, or nothing more for a while."""
        quiet_since, seen = time.monotonic(), -1
        while not numbers <= self.hearings.read().numbers and time.monotonic() - quiet_since < _QUIET:
            if len(self.hearings.all) != seen:
                quiet_since, seen = time.monotonic(), len(self.hearings.all)
            await asyncio.sleep(0.05)

    def writers(self, gateway: GatewayProcess) -> list[int]:
        """The process ids of a gateway's writer."""
        return [pid for pid in children(gateway.pid) if "chapar.store.writer" in describe(pid)]


@contextlib.asynccontextmanager
async def open_stage(
    broker: Mosquitto,
    *,
    database_url: str | None,
    gateways: int,
    env: Mapping[str, str] | None,
    broker_port: int,
    log: int | None = None,
) -> AsyncIterator[Stage]:
    """A stage whose gateways are ready and whose device listens.

    A new SQLite file where `database_url` is None. The gateways find the broker at `broker_port`.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chapar-faults-")))
        url = database_url or f"sqlite:///{folder / 'chapar.db'}"
        settings = {
            "CHAPAR_DATABASE_URL": url,
            "CHAPAR_AUTO_MIGRATE": "true",
            "CHAPAR_BROKER_URL": f"mqtt://{LOOPBACK}:{broker_port}",
            "CHAPAR_PUBLISH_TIMEOUT": "1",
            "CHAPAR_KEEP_ALIVE": "2",
            "CHAPAR_LOG_LEVEL": "error",
            **(env or {}),
        }
        stage = Stage(folder, broker, url, [GatewayProcess(folder, settings, log=log) for _ in range(gateways)])
        stage.hearings = stack.enter_context(_listening(broker, folder))
        for gateway in stage.gateways:
            stack.callback(gateway.close)
        await asyncio.gather(*map(stage.start, stage.gateways))
        await stage.device_listens()
        # A killed broker comes back with the device's session only where it has saved it.
        await asyncio.to_thread(broker.save)
        yield stage


def new_broker() -> Mosquitto:
    """A Mosquitto that forgets nothing it acknowledged, as long as the device keeps up."""
    return Mosquitto(*_HOLDS_NOTHING_BACK, *_SAVES_WHEN_TOLD, *_SILENT, persistence=True)


@contextlib.contextmanager
def _listening(broker: Mosquitto, folder: Path) -> Iterator[Hearings]:
    file = folder / "heard"
    file.touch()
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(_TESTS)}
    program = Program(
        [sys.executable, "-P", "-m", "faults.listener", str(broker.port), str(file)], folder=folder, env=env
    )
    hearings = Hearings(file)
    try:
        program.wait_for_line("listening")
        yield hearings
    finally:
        hearings.close()
        program.close()
