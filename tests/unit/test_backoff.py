"""Whatever is tried again and again is paced, also where each try succeeds for a moment."""

import asyncio
import contextlib
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from chapar.app import workers
from chapar.app.brokers import broker_access
from chapar.devices.simulated import Fleet, Topics
from chapar.errors import BrokerClosed, ConnectionFailed
from chapar.link import endpoints
from chapar.link import keeper as link_module
from chapar.link.answers import Answers
from chapar.link.embedded import EmbeddedBroker
from chapar.link.endpoints import Endpoint
from chapar.link.keeper import Link
from chapar.link.publication import Publication
from chapar.link.receiver import Receiver
from chapar.link.topics import DeviceTopics
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.backoff import LONGEST_GAP, SHORTEST_GAP, Backoff
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store import commits
from chapar.store.changes import Changes
from chapar.store.writer_process import Channel
from simulation.virtual_time import VirtualLoop

SPAN = 30.0  # seconds of virtual time
BROKER = "mqtt://127.0.0.1:1"
ACCESS = broker_access(Settings.load(broker_url=BROKER))

Loop = Callable[[list[float], float], Awaitable[None]]


def tries(loop: Loop, lives: float) -> list[float]:
    """When `loop` tried, in SPAN seconds, where each try works for `lives` seconds."""
    tried: list[float] = []

    async def bounded() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SPAN):
                await loop(tried, lives)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(bounded())
    return tried


def note(tried: list[float]) -> None:
    tried.append(asyncio.get_running_loop().time())


class BriefSession:
    """A session that a broker ends after a while; with 0 seconds there is none."""

    endpoint, up, window, met_no_subscribers = BROKER, True, 20, False

    session_present, undecodable = False, 0

    def __init__(self, lives: float) -> None:
        self._lives = lives
        self.strays = Counter[str]()

    async def subscribe(self, _: list[str], qos: int = 1, **__: object) -> int:
        """It is granted."""
        return qos

    async def ended(self) -> None:
        await asyncio.sleep(self._lives)
        raise BrokerClosed(BROKER, "it closed the connection")

    def publish(self, publications: Sequence[Publication]) -> Answers:
        return Answers.alike(publications, 0)

    async def close(self) -> None:
        """It is closed."""


def brief_dial(tried: list[float], lives: float) -> Callable[..., Awaitable[BriefSession]]:
    async def dial(*_: object) -> BriefSession:
        note(tried)
        if not lives:
            raise ConnectionFailed(BROKER, "Connection refused")
        return BriefSession(lives)

    return dial


async def looked_up(broker: BrokerAddress, _: float) -> list[Endpoint]:
    return [Endpoint(broker, socket.AF_INET, (broker.host, broker.port))]


async def link(tried: list[float], lives: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_module, "dial", brief_dial(tried, lives))
        patch.setattr(endpoints, "look_up", looked_up)
        await Link(ACCESS, Metrics()).run()


async def receiver(tried: list[float], lives: float) -> None:
    def note_replies(*arguments: object) -> Awaitable[BriefSession]:
        is_kept = not arguments[2].clean_start  # type: ignore[attr-defined]
        return brief_dial(tried if is_kept else [], lives)(*arguments)

    topics = DeviceTopics("{imei}/reply")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chapar.link.listener.dial", note_replies)
        patch.setattr(endpoints, "look_up", looked_up)
        receiving = Receiver(ACCESS, topics, topics, Metrics(), on_replies=ignore, on_life=ignore, on_filters=ignore)
        await receiving.run("kept", [], lambda: True)


def ignore(_: object) -> None:
    """Problems and events are not looked at."""


async def fleet(tried: list[float], lives: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chapar.devices.simulated.dial", brief_dial(tried, lives))
        patch.setattr(endpoints, "look_up", looked_up)
        await Fleet(ACCESS, Topics("{imei}", "{imei}/reply", "{imei}/presence"), ["1"], ignore, ignore).run()


class BriefProcess:
    """A child process that ends by itself after a while."""

    pid, returncode, stdout = 1, 1, None

    def __init__(self, lives: float, line: bytes = b"ready, open\n") -> None:
        self._lives = lives
        self.stdout = self._lines(line)  # type: ignore[assignment]

    async def _lines(self, line: bytes) -> AsyncIterator[bytes]:
        yield line

    async def wait(self) -> int:
        await asyncio.sleep(self._lives)
        return 1


async def embedded_broker(tried: list[float], lives: float) -> None:
    broker = EmbeddedBroker(1, Metrics())

    async def start() -> None:
        note(tried)
        broker._process = BriefProcess(lives)  # type: ignore[assignment]

    broker._start = start  # type: ignore[method-assign]
    await broker._supervise()


async def worker(tried: list[float], lives: float, tmp_path: Path = Path("/nowhere")) -> None:
    class Brief(workers._Worker):
        async def _start(self) -> Any:
            note(tried)
            return BriefProcess(lives)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "mark_process_dead", lambda *_: None)
        listener: Any = None
        await Brief(listener, {workers.WORKERS_FOLDER: str(tmp_path)}, None).keep()


async def writer(tried: list[float], lives: float) -> None:
    @contextlib.asynccontextmanager
    async def process(channel: Channel, _: object) -> AsyncIterator[Any]:
        note(tried)
        transport: Any = type("Transport", (), {"write": lambda *_: None})()
        channel.connection_made(transport)
        channel.data_received(commits.pack(("ready",)))
        asyncio.get_running_loop().call_later(lives, channel.connection_lost, None)
        yield transport

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commits, "writer_process", process)
        await commits.Commits([], Changes(), commits.Metrics())._keep_writer("sqlite://", None)


LOOPS = [link, receiver, fleet, embedded_broker, worker, writer]


@pytest.mark.parametrize(
    ("lives", "most"), [(0.0, 27), (0.1, 18), (0.6, 14), (1.0, 12), (3.0, 8), (LONGEST_GAP - 0.1, 6)]
)
@pytest.mark.parametrize("loop", LOOPS)
def test_what_works_for_a_moment_only_is_tried_ever_more_rarely(loop: Loop, lives: float, most: int) -> None:
    tried = tries(loop, lives)
    assert 3 <= len(tried) <= most
    gaps = [later - earlier - lives for earlier, later in itertools.pairwise(tried)]
    assert max(gaps) <= LONGEST_GAP + 1e-6
    assert max(gaps) >= 0.4 * LONGEST_GAP


@pytest.mark.parametrize("loop", LOOPS)
def test_what_has_worked_for_long_is_tried_again_at_once(loop: Loop) -> None:
    lives = LONGEST_GAP + 0.1
    tried = tries(loop, lives)
    gaps = [later - earlier - lives for earlier, later in itertools.pairwise(tried)]
    assert gaps[1:]
    assert max(gaps[1:]) <= SHORTEST_GAP + 1e-6


def test_gaps_are_jittered() -> None:
    async def gaps() -> set[float]:
        backoff = Backoff()
        await asyncio.sleep(60)
        return {backoff.gap() for _ in range(100)}

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        found = runner.run(gaps())
    assert len(found) > 90
    assert LONGEST_GAP / 2 <= min(found) <= max(found) <= LONGEST_GAP
