"""The sessions with which gateways receive: what the broker keeps for a client id, and one connection to it."""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from chapar.errors import BrokerClosed, BrokerError, LinkDown
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.link.reason_codes import SESSION_TAKEN_OVER
from simulation.place import here

if TYPE_CHECKING:
    from simulation.network import Broker


@dataclass(eq=False, slots=True)
class Parcel:
    """A publication that the broker has for a session."""

    topic: str
    payload: bytes
    correlation_data: bytes | None
    sent: bool = False  #: whether it was sent over a connection before


class Mailbox:
    """A session as the broker has it: its filters, and what was not acknowledged."""

    def __init__(self, *, kept: bool) -> None:
        self.kept = kept  #: whether it outlives its connection
        self.filters: set[str] = set()
        self.parcels: list[Parcel] = []
        self.session: ReceivingSession | None = None

    def takes(self, topic: str) -> bool:
        """Return whether a publication on this topic is for it."""
        return any(_fits(each, topic) for each in self.filters)

    def put(self, topic: str, payload: bytes, correlation_data: bytes | None) -> bool:
        """Give it a publication; answer whether the broker keeps it until it is acknowledged."""
        parcel = Parcel(topic, payload, correlation_data)
        if self.kept:
            self.parcels.append(parcel)
        if self.session is not None:
            self.session.deliver(parcel)
        return self.kept


class ReceivingSession:
    """One connection of a receiver, in place of `chapar.link.session.Session`."""

    def __init__(
        self,
        broker: "Broker",
        mailbox: Mailbox,
        sign_on: SignOn,
        on_delivery: Callable[[Delivery], None],
        *,
        present: bool,
    ) -> None:
        self.endpoint = "mqtt://simulated"
        self.process = here()
        self.up = True
        self.session_present = present
        self.undecodable = 0
        self.strays = Counter[str]()
        self._broker = broker
        self._world = broker.world
        self._loop = broker.world.loop
        self._mailbox = mailbox
        self._client_id = sign_on.client_id
        self._on_delivery = on_delivery
        self._context = contextvars.copy_context()  # whoever publishes, deliveries are received in this process
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._error: BrokerError | None = None
        self._last_arrival = 0.0
        for parcel in mailbox.parcels:
            self.deliver(parcel)

    def deliver(self, parcel: Parcel) -> None:
        """Send it over the wire, in order."""
        self._last_arrival = max(self._last_arrival, self._loop.time() + self._world.weather.latency())
        self._loop.call_at(self._last_arrival, partial(self._arrive, parcel), context=self._context)

    def _arrive(self, parcel: Parcel) -> None:
        if not self.up:
            return
        is_repeated, parcel.sent = parcel.sent, True
        self._on_delivery(
            Delivery(
                parcel.topic,
                parcel.payload,
                int(self._mailbox.kept),
                False,  # noqa: FBT003 - nothing is retained here
                parcel.correlation_data,
                None,
                (),
                partial(self._acknowledge, parcel),
                is_repeated,
            )
        )

    def _acknowledge(self, parcel: Parcel) -> None:
        """It travels to the broker, which forgets the parcel where the session is still up then."""
        self._loop.call_later(self._world.weather.latency(), self._acknowledged, parcel)

    def _acknowledged(self, parcel: Parcel) -> None:
        if self.up and parcel in self._mailbox.parcels:
            self._mailbox.parcels.remove(parcel)

    async def subscribe(self, filters: Sequence[str], qos: int = 1, *, retained: bool = True) -> int:
        del retained
        await asyncio.sleep(self._world.weather.latency())
        if not self.up:
            raise self._error or LinkDown
        self._mailbox.filters.update(filters)
        return qos

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        self._mailbox.filters.difference_update(filters)

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish a probe."""
        for each in publications:
            self._loop.call_later(
                self._world.weather.latency(), self._broker.pass_on, each.topic, each.payload, each.message_id.encode()
            )

    async def ended(self) -> None:
        await asyncio.shield(self._gone)
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        self.end(None)

    def take_over(self) -> None:
        """Another connection came with the same client id."""
        self.end(BrokerClosed(self.endpoint, "Session taken over", SESSION_TAKEN_OVER))

    def end(self, error: BrokerError | None) -> None:
        """The connection is over, on both sides; what was not acknowledged stays with the broker, if it keeps it."""
        if not self.up:
            return
        self.up, self._error = False, error
        self._world.trace(self.process.name, "session", self._client_id, "ends:", error or "closed")
        self._broker.sessions.remove(self)
        if self._mailbox.session is self:
            self._mailbox.session = None
            if not self._mailbox.kept:
                self._broker.mailboxes.pop(self._client_id, None)
        self._gone.set_result(None)


def _fits(topic_filter: str, topic: str) -> bool:
    levels, given = topic_filter.split("/"), topic.split("/")
    return len(levels) == len(given) and all(a in {"+", b} for a, b in zip(levels, given, strict=True))
