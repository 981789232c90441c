"""A receiver under way, and what it handed over."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from chapar.link.broker_access import BrokerAccess
from chapar.link.publication import Delivery
from chapar.link.receiver import Receiver
from chapar.link.topics import DeviceTopics
from chapar.runtime.metrics import Metrics

WAIT = 60.0  # seconds, for what takes a moment on a busy machine
REPLIES = DeviceTopics("devices/{imei}/reply")
PRESENCES = DeviceTopics("devices/{imei}/presence")


class Owner:
    """The owner of a receiver: acknowledges each reply, unless it `keeps` them."""

    def __init__(self, access: BrokerAccess, *, replies: DeviceTopics = REPLIES, keeps: bool = False) -> None:
        self.lists: list[list[Delivery]] = []  #: of replies, as they were handed over
        self.life: list[Delivery] = []
        self.filters: list[tuple[str, ...]] = []  #: those that held, each time that they were reported
        self.metrics = Metrics()
        self.is_holder = True  #: whether it has the lease
        self.fault: Exception | None = None  #: raised once for the next replies
        self.running: asyncio.Task[None] | None = None
        self._keeps = keeps
        self.receiver = Receiver(
            access,
            replies,
            PRESENCES,
            self.metrics,
            on_replies=self._on_replies,
            on_life=self.life.extend,
            on_filters=self.filters.append,
        )

    @property
    def replies(self) -> list[Delivery]:
        return [delivery for each in self.lists for delivery in each]

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.replies]

    @property
    def state(self) -> str:
        return self.receiver.replies_state

    @property
    def is_up(self) -> bool:
        return self.state == "up" and self.receiver.life_up

    def metric(self, line: str) -> bool:
        """Whether a line of the metrics begins so."""
        return any(each.startswith(line) for each in self.metrics.exposition().decode().splitlines())

    def _on_replies(self, deliveries: list[Delivery]) -> None:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.lists.append(deliveries)
        if not self._keeps:
            for delivery in deliveries:
                delivery.acknowledge()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110 - nothing announces what a link or a broker is about to do
            await asyncio.sleep(0.01)


def new_client_id() -> str:
    return f"chapar-replies-{secrets.token_hex(4)}"


@contextlib.asynccontextmanager
async def receiving(
    access: BrokerAccess,
    *,
    earlier: Sequence[str] = (),
    replies: DeviceTopics = REPLIES,
    keeps: bool = False,
    client_id: str = "",
) -> AsyncIterator[Owner]:
    """A receiver whose `run()` is under way; it is cancelled at the end, and what it raised before is not raised."""
    owner = Owner(access, replies=replies, keeps=keeps)
    owner.running = asyncio.create_task(
        owner.receiver.run(client_id or new_client_id(), earlier, lambda: owner.is_holder)
    )
    try:
        yield owner
    finally:
        owner.running.cancel()
        await asyncio.wait([owner.running])
