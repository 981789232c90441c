"""Where a run takes place: a broker, a database, gateways, and the device that hears everything."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from paho.mqtt import publish

from faults import clocks
from faults.connection import Connection, NoAnswer, Reply
from faults.fleet import LAST, SAY, Saying, Utterances
from faults.ledger import Ledger
from faults.listener import Hearings
from faults.table import awaited, is_stored
from support.api import UNFINISHED
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK
from support.processes import Program, children, describe
from support.tcp_proxy import TcpProxy

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
_NO_END = 60.0  # seconds after which what has been tried will not end
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
        self.utterances: Utterances | None = None  #: of devices that answer
        self.stalls: list[tuple[float, float]] = []  #: when the way to the device was stalled, time.time()
        self._probes = itertools.count(1)
        self._requests = itertools.count(1)

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

    async def pause(self, gateway: GatewayProcess, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        gateway.program.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            gateway.program.send_signal(signal.SIGCONT)

    async def break_line(self, proxy: TcpProxy) -> None:
        """Let the line to the broker, which leads through a proxy, fail in one of the ways of half-open connections."""
        with self.stalled():
            match random.randrange(4):
                case 0 | 1:  # what the broker acknowledges is lost, and then the connection
                    proxy.stall(to_server=False)
                    await asyncio.sleep(random.uniform(0.01, 1.0))
                    proxy.cut()
                case 2:  # nobody hears anything, until keep-alive gives up
                    proxy.stall()
                    await asyncio.sleep(random.uniform(1, 3.5))
                    proxy.cut()
                case _:  # slow: everything arrives, late
                    proxy.stall()
                    await asyncio.sleep(random.uniform(0.1, 1.2))
            proxy.resume()
        await self.ready(self.gateway)
        await self.none_in_doubt()

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

    async def say(self, sayings: Sequence[Saying]) -> int:
        """Let devices say this, in this order; gives the number of the request. Nothing asks whether all was said."""
        request = next(self._requests)
        text = json.dumps([request, sayings])
        await asyncio.to_thread(publish.single, SAY, text, qos=1, hostname=LOOPBACK, port=self.broker.port)
        return request

    async def replies_arrive(self) -> None:
        """Wait until all that devices have said so far is stored.

        What the broker has for the gateway arrives in order, so a last reply shows that of all before it.
        """
        word = f"last {next(self._requests)}"
        digest = sha256(word.encode()).hexdigest()
        await self._until(partial(self._all_said, await self.say([])), "devices have more to say")
        for _ in range(round(_NO_PROGRESS)):  # nobody may be subscribed yet
            await self.say([Saying(LAST, "reply", word)])
            with contextlib.suppress(AssertionError):
                return await self._until(partial(is_stored, self.database_url, digest), "", within=1.0)
        raise AssertionError(f"replies do not arrive\n{self.gateway.program.output}")

    def _all_said(self, request: int) -> bool:
        assert self.utterances is not None, "these devices do not answer"
        return request in self.utterances.read().silences

    async def _until(self, holds: Callable[[], bool], else_: str, within: float = _NO_PROGRESS) -> None:
        """Wait until something holds; raises AssertionError where it does not."""
        deadline = time.monotonic() + within
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < deadline, f"{else_}\n{self.gateway.program.output}"
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
        if self.utterances is None:
            return
        await self.replies_arrive()
        with contextlib.suppress(AssertionError):  # the judge says which
            await self._until(lambda: not awaited(self.database_url), "replies are still awaited")

    async def heard(self, numbers: set[int]) -> None:
        """Wait until the device has heard all of `numbers`, or nothing more for a while."""
        quiet_since, seen = time.monotonic(), -1
        while not numbers <= self.hearings.read().numbers and time.monotonic() - quiet_since < _QUIET:
            if len(self.hearings.all) != seen:
                quiet_since, seen = time.monotonic(), len(self.hearings.all)
            await asyncio.sleep(0.05)

    async def none_in_doubt(self) -> None:
        """Wait until all that has had an attempt by now has come to its end.

        What a session left in doubt is tried alone, and who is alone when a session ends again is taken for the cause:
        another fault of the line in that moment cannot be told from that. Until its move is committed, nothing shows
        that a message is in doubt, so its attempts are counted. Raises AssertionError where one does not end.
        """
        deadline = time.monotonic() + _NO_END
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = f"/messaging/messages?status=queued&status=publishing&until={now}"
        async with Connection(self.ports) as connection:
            while True:
                if not await _is_under_way(connection, path):
                    return
                assert time.monotonic() < deadline, (
                    f"what was tried does not end:\n{(await connection.get(path)).body!r}"
                )
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
    answering: bool = False,
) -> AsyncIterator[Stage]:
    """A stage whose gateways are ready and whose device listens; devices that reply where they are `answering`.

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
        stage.hearings, stage.utterances = stack.enter_context(_listening(broker, folder, answering=answering))
        for gateway in stage.gateways:
            stack.callback(gateway.close)
        await asyncio.gather(*map(stage.start, stage.gateways))
        await stage.device_listens()
        if answering:
            await stage.replies_arrive()  # from now on, the broker keeps them for whoever comes
        # A killed broker comes back with the device's session only where it has saved it.
        await asyncio.to_thread(broker.save)
        yield stage


def new_broker() -> Mosquitto:
    """A Mosquitto that forgets nothing it acknowledged, as long as the device keeps up."""
    return Mosquitto(*_HOLDS_NOTHING_BACK, *_SAVES_WHEN_TOLD, *_SILENT, persistence=True)


@contextlib.contextmanager
def _listening(broker: Mosquitto, folder: Path, *, answering: bool) -> Iterator[tuple[Hearings, Utterances | None]]:
    files = [folder / "heard", folder / "said"][: 1 + answering]
    for file in files:
        file.touch()
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(_TESTS)}
    module = "faults.fleet" if answering else "faults.listener"
    command = [sys.executable, "-P", "-m", module, str(broker.port), *map(str, files)]
    program = Program(command, folder=folder, env=env)
    hearings = Hearings(files[0])
    utterances = Utterances(files[1]) if answering else None
    try:
        program.wait_for_line("listening")
        yield hearings, utterances
    finally:
        hearings.close()
        if utterances is not None:
            utterances.close()
        program.close()


async def _is_under_way(connection: Connection, path: str) -> bool:
    """Return whether a message of these pages has had an attempt."""
    cursor = ""
    while True:
        page = json.loads((await connection.get(f"{path}&limit=1000{cursor}")).body)
        if any(message["attempts"] for message in page["messages"]):
            return True
        if page["next"] is None:
            return False
        cursor = f"&cursor={page['next']}"
