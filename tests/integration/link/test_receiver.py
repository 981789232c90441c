"""What devices publish, received from real brokers."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from chapar.app.brokers import broker_access
from chapar.link.listener import ListenerState
from chapar.link.publication import Delivery
from chapar.link.receiver import Receiver
from chapar.link.topics import DeviceTopics
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from support.mosquitto import Mosquitto

WAIT = 30.0  # seconds, for what takes a moment on a busy machine
REPLIES = DeviceTopics("devices/{imei}/reply")
PRESENCES = DeviceTopics("devices/{imei}/presence")


class Owner:
    """A receiver under way, and what it handed over."""

    def __init__(self, settings: Settings, *, replies: DeviceTopics = REPLIES, keeps: bool = False) -> None:
        self.replies: list[Delivery] = []
        self.life: list[Delivery] = []
        self.filters: list[tuple[str, ...]] = []
        self.metrics = Metrics()
        self._keeps = keeps
        self._changed = asyncio.Event()
        self.receiver = Receiver(
            broker_access(settings),
            replies,
            PRESENCES,
            self.metrics,
            on_replies=self._on_replies,
            on_life=self.life.extend,
            on_filters=self.filters.append,
        )

    def _on_replies(self, deliveries: list[Delivery]) -> None:
        self.replies += deliveries
        if not self._keeps:
            for delivery in deliveries:
                delivery.acknowledge()

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.replies]


def new_client_id() -> str:
    return f"chapar-replies-{secrets.token_hex(4)}"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110 - nothing announces what a link or a broker is about to do
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def receiving(
    settings: Settings,
    *,
    earlier: Sequence[str] = (),
    replies: DeviceTopics = REPLIES,
    keeps: bool = False,
    client_id: str = "",
) -> AsyncIterator[Owner]:
    owner = Owner(settings, replies=replies, keeps=keeps)
    task = asyncio.create_task(owner.receiver.run(client_id or new_client_id(), earlier, lambda: True))
    try:
        yield owner
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def both_up(owner: Owner) -> None:
    await until(lambda: owner.receiver.replies_state is ListenerState.UP and owner.receiver.life_up)


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture
def settings(mosquitto: Mosquitto) -> Settings:
    return Settings.load(broker_url=mosquitto.url)


async def test_replies_and_signs_of_life_are_handed_over(mosquitto: Mosquitto, settings: Settings) -> None:
    with mosquitto.device("1", mqtt5=True) as device:
        await asyncio.to_thread(device.publish, "devices/1/presence", "online", retain=True)
        await asyncio.to_thread(device.publish, "devices/1/reply", "an old one", retain=True)
        async with receiving(settings) as owner:
            await both_up(owner)
            await asyncio.to_thread(device.reply, "push_down ok", correlation_data=b"id")
            await until(lambda: len(owner.replies) == 1 and len(owner.life) == 2)
    [reply] = owner.replies
    assert (reply.topic, reply.payload, reply.correlation_data) == ("devices/1/reply", b"push_down ok", b"id")
    assert [(each.topic, each.payload, each.retain) for each in owner.life] == [
        ("devices/1/presence", b"online", True),
        ("devices/1/reply", b"push_down ok", False),
    ]
    assert owner.filters == [("devices/+/reply",)]
    assert owner.receiver.trouble is None
