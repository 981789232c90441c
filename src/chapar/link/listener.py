"""One connection that stays subscribed, and proves that it receives what it is subscribed to."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

import structlog

from chapar.errors import (
    BrokerClosed,
    BrokerError,
    BrokerMute,
    LinkDown,
    NoAnswer,
    Phrase,
    SessionTakenOver,
    SubscriptionRefused,
)
from chapar.link.broker_access import BrokerAccess
from chapar.link.dial import dial
from chapar.link.endpoints import Endpoint
from chapar.link.keeper import ProblemLog, stay_connected
from chapar.link.kept_session import KeptSession
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.link.reason_codes import SESSION_TAKEN_OVER
from chapar.link.session import Session
from chapar.link.topics import DeviceTopics
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.backoff import Backoff
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import guarded, supervised

PROBE_DEVICE: Final = "chapar-probe"  # reserved; an ACL has to let the gateway write its topic
PROBE_TIMEOUT: Final = 5.0  # seconds; a broker passes a message on at once
_SUSPECT_PROBES: Final = 2  # in a row
_DEFERRED: Final = 60.0  # seconds, twice as many each time
_LONGEST_DEFERRED: Final = 3600.0  # seconds
_SUBSCRIBE: Final = Phrase("link.step_subscribe")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ListenerState(StrEnum):
    """The states of a listener with its broker."""

    UP = "up"  #: subscribed, and received its probe or is within the time for it
    DOWN = "down"  #: not connected, or not subscribed yet
    MUTE = "mute"  #: subscribed, and nothing comes: a broker's ACL can grant a subscription and deliver nothing of it
    REFUSED = "refused"  #: connected, and the subscription was refused


class Subscription(NamedTuple):
    """A topic filter to subscribe to."""

    filter: str
    qos: int
    retained: bool  #: whether the broker is to send what it has stored


class Listener:
    """One connection to one of several brokers, subscribed whenever it is there.

    What comes in one turn of the event loop goes to `on_deliveries` as one list. Where that raises, a session that the
    broker keeps is ended, so that it delivers again. On topics of `probed`, a device's, neither the probe nor what
    the broker had stored is handed over.
    """

    def __init__(
        self,
        name: str,
        access: BrokerAccess,
        subscriptions: Sequence[Subscription],
        probed: DeviceTopics,
        on_deliveries: Callable[[list[Delivery]], None],
        metrics: Metrics,
    ) -> None:
        """`name` is for the log."""
        self.name = name
        self.trouble: BrokerError | None = None  #: why nothing, or not everything, comes now
        self.down_since: float | None = asyncio.get_running_loop().time()  #: loop time; None while it is subscribed
        self.received = 0  #: deliveries handed over
        self._access = access
        self._subscriptions = subscriptions
        self._probed = probed
        self._probe_topic = probed.of(PROBE_DEVICE)
        self._on_deliveries = on_deliveries
        self._metrics = metrics
        self._problems = ProblemLog("receiver_link_down", link=name)
        self._session: Session | None = None
        self._come: list[Delivery] = []  # in this turn of the loop
        self._receives = asyncio.Event()  # set by the first delivery of a session on a topic of `probed`
        self._undecodable = 0  # of the sessions before this one
        self._counted = 0  # of those in the metrics
        self._closing: asyncio.Task[None] | None = None
        self._is_probing = False
        self._fatal_probes = 0  # sessions in a row that ended before their probe came back

    async def run(self, sign_on: SignOn, kept: KeptSession | None = None) -> None:
        """Keep a subscribed session until cancelled; then it ends with DISCONNECT.

        `sign_on` is completed with the user of each broker; `kept` is the session where brokers keep it. Raises
        SessionTakenOver where another client has connected with its client id.
        """
        await stay_connected(self._access, partial(self._opened, sign_on, kept), self._note)

    @property
    def state(self) -> ListenerState:
        """The state now."""
        if self._session is None or not self._session.up:
            return ListenerState.DOWN
        match self.trouble:
            case SubscriptionRefused():
                return ListenerState.REFUSED
            case BrokerMute():
                return ListenerState.MUTE
        return ListenerState.UP if self.down_since is None else ListenerState.DOWN

    @property
    def undecodable(self) -> int:
        """Deliveries that the codec could not read: acknowledged in their turn, and not handed over."""
        return self._undecodable + (0 if self._session is None else self._session.undecodable)

    def measure(self) -> None:
        """Show in the metrics what changes by itself."""
        self._metrics.receiving.labels(self.name).set(self.down_since is None)
        self._metrics.mute.labels(self.name).set(self.state is ListenerState.MUTE)
        undecodable = self.undecodable
        if undecodable and not self._counted:
            log.warning("deliveries_undecodable", link=self.name, note="They are acknowledged, counted and dropped.")
        self._metrics.undecodable[self.name,].inc(undecodable - self._counted)
        self._counted = undecodable

    @asynccontextmanager
    async def _opened(self, sign_on: SignOn, kept: KeptSession | None, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Be connected with a session of this endpoint until it ends; raises BrokerError where there is none."""
        if kept is not None:
            kept.check(endpoint)
        self._receives = asyncio.Event()
        self._come.clear()
        broker = endpoint.broker
        sign_on = replace(
            sign_on,
            username=broker.username,
            password=broker.password,
            max_packet_size=broker.max_packet_size,
            properties=broker.properties,
        )
        session = await dial(endpoint, self._access, sign_on, self._take)
        self._session = session
        if self._come:  # what the broker kept may come with CONNACK
            self._hand_over()
        listen = partial(self._listen, session, broker, kept)
        listening = asyncio.create_task(supervised(f"receiver_{self.name}", listen, self._metrics), name=self.name)
        try:
            if kept is not None:
                kept.opened(session, broker)
            yield session
        except BrokerClosed as error:
            if kept is not None and error.reason_code == SESSION_TAKEN_OVER:
                raise SessionTakenOver(session.endpoint) from error
            raise
        finally:
            listening.cancel()
            self._fatal_probes += self._is_probing
            self._is_probing = False
            self._undecodable += session.undecodable
            self._session = None
            if self.down_since is None:
                self.down_since = asyncio.get_running_loop().time()
            await session.close()

    async def _listen(self, session: Session, broker: BrokerAddress, kept: KeptSession | None) -> None:
        """Subscribe, then prove that something comes; each as often as it takes, until the session ends."""
        with suppress(LinkDown, BrokerError):  # the session ended: whoever keeps the session has the reason as well
            await self._subscribe(session)
            if kept is not None:
                await kept.tidy(session, broker)
            await self._prove(session)

    async def _subscribe(self, session: Session) -> None:
        backoff = Backoff()
        while not await self._is_granted(session):
            await backoff.pause()
        self.trouble = self.down_since = None
        filters = [each.filter for each in self._subscriptions]
        log.info("receiver_link_up", link=self.name, broker=session.endpoint, filters=filters)

    async def _is_granted(self, session: Session) -> bool:
        """Subscribe; raises BrokerError or LinkDown where the session ends."""
        patience = self._access.connect_timeout
        try:
            async with asyncio.timeout(patience):
                for topic_filter, qos, retained in self._subscriptions:
                    granted = await session.subscribe([topic_filter], qos, retained=retained)
                    if granted < qos:
                        log.warning("subscription_granted_at_lower_qos", link=self.name, filter=topic_filter)
        except SubscriptionRefused as refusal:
            self._note(refusal)
            return False
        except TimeoutError:
            self._note(NoAnswer(session.endpoint, _SUBSCRIBE, patience))
            await session.close()
            raise LinkDown from None
        return True

    async def _prove(self, session: Session) -> None:
        await self._defer_probe()
        backoff = Backoff()
        while not await self._comes_back(session):
            self._note(BrokerMute(session.endpoint, self._probed.filter, self._probe_topic, PROBE_TIMEOUT))
            await backoff.pause()
        if self.trouble is not None:
            log.info("receiver_link_receives", link=self.name, broker=session.endpoint)
        self.trouble = None
        self._problems.clear()

    async def _comes_back(self, session: Session) -> bool:
        """Publish a probe; answer whether it, or a device's message, came in time."""
        nonce = secrets.token_hex(8)
        deadline = asyncio.get_running_loop().time() + PROBE_TIMEOUT
        self._is_probing = True
        session.publish(
            [Publication(self._probe_topic, nonce.encode(), 1, retain=False, message_id=nonce, deadline=deadline)]
        )
        is_received = await self._receive_within(PROBE_TIMEOUT)
        self._is_probing = False
        self._fatal_probes = 0
        return is_received

    async def _defer_probe(self) -> None:
        """Wait where the last probes ended their sessions: some brokers hang up where an ACL forbids to publish."""
        if self._fatal_probes >= _SUSPECT_PROBES:
            seconds = min(_DEFERRED * 2 ** (self._fatal_probes - _SUSPECT_PROBES), _LONGEST_DEFERRED)
            log.warning("receiver_probe_deferred", link=self.name, topic=self._probe_topic, seconds=seconds)
            await self._receive_within(seconds)

    async def _receive_within(self, seconds: float) -> bool:
        """Wait for a delivery on a topic that is probed, or for so long; answer whether one has come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._receives.wait()
        return self._receives.is_set()

    def _take(self, delivery: Delivery) -> None:
        if self._probed.device(delivery.topic) is not None:
            if not delivery.retain:
                self._receives.set()
            if delivery.retain or delivery.topic == self._probe_topic:
                delivery.acknowledge()
                return
        if self._session is not None and not self._come:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._come.append(delivery)

    def _hand_over(self) -> None:
        come, self._come = self._come, []
        self.received += len(come)
        self._metrics.deliveries[self.name,].inc(len(come))
        with guarded(f"receiver_{self.name}", self._metrics):
            self._on_deliveries(come)
            return
        if self._session is not None and any(each.qos for each in self._subscriptions):
            self._closing = asyncio.create_task(self._session.close())

    def _note(self, error: BrokerError) -> None:
        self.trouble = error
        self._problems.note(error)
