"""A fleet of simulated devices: each keeps a session of its own with the broker, takes commands and replies."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from chapar.devices.firmware import Behaviour, Firmware, Reaction, Received, Reply
from chapar.errors import BrokerError, LinkDown, LinkLost, PublicationRefused
from chapar.link.broker_access import BrokerAccess
from chapar.link.dial import dial
from chapar.link.endpoints import Endpoint
from chapar.link.keeper import stay_connected
from chapar.link.publication import MQTT_5, Delivery, Publication, SignOn, Will
from chapar.link.reason_codes import FIRST_FAILURE, reason_name
from chapar.link.session import Session

MOST_DIALLING: Final = 100  # connections opened at a time; a broker's backlog is not endless
SESSION_EXPIRY: Final = 7 * 24 * 3600  # seconds; longer than anybody is away
FAREWELL: Final = 5.0  # seconds that a broker may take to acknowledge the last word of a device
ONLINE: Final = "online"
OFFLINE: Final = "offline"


class Topics(NamedTuple):
    """The topics of devices: templates with `{imei}`."""

    command: str
    reply: str
    presence: str


class Took(NamedTuple):
    """A device received something, and did something with it."""

    device: str
    delivery: Delivery
    reaction: Reaction


class Replied(NamedTuple):
    """The broker acknowledged a reply of a device."""

    device: str
    reply: Reply


class Announced(NamedTuple):
    """The broker acknowledged what a device announced: `online` or `offline`."""

    device: str
    presence: str


class FellSilent(NamedTuple):
    """A device ended its connection without a word, for a while."""

    device: str
    seconds: float


Event = Took | Replied | Announced | FellSilent


@dataclass(eq=False, slots=True)
class _Device:
    """One device, over all its sessions."""

    name: str
    firmware: Firmware
    spells: Iterator[tuple[float, float]]
    session: Session | None = None  #: in which it listens now
    due: deque[Reply] = field(default_factory=deque)  #: replies that the broker has not acknowledged, oldest first
    sending: asyncio.Task[None] | None = None
    is_away: bool = False  #: of its own accord, until it listens again
    back_at: float = 0.0  #: loop time at which such a spell ends


class Fleet:
    """Devices that take commands, reply and announce themselves, as their firmware does.

    `run()` keeps all of them connected until cancelled; then each announces that it is offline. What happens to them
    goes to `on_event`. Why a session could not be had goes to `on_problem`, each reason once an outage and not once a
    device. `persistent` devices keep their session at the broker, so each needs its device id as client id.
    """

    def __init__(
        self,
        access: BrokerAccess,
        topics: Topics,
        devices: Sequence[str],
        on_problem: Callable[[BrokerError], None],
        on_event: Callable[[Event], None],
        *,
        behaviour: Behaviour | None = None,
        version: int = MQTT_5,
        persistent: bool = False,
    ) -> None:
        self.devices = devices
        self.connected = 0  #: devices that listen now
        self._away = 0  # devices that do not, of their own accord
        self._access = access
        self._topics = topics
        self._on_problem = on_problem
        self._on_event = on_event
        self._behaviour = behaviour
        self._version = version
        self._persistent = persistent
        self._run_id = secrets.token_hex(4)  # two fleets with the same devices would take over each other's sessions
        self._dialling = asyncio.Semaphore(MOST_DIALLING)
        self._changed = asyncio.Condition()
        self._said: set[str] = set()  # problems since all were last connected
        self._refused: set[str] = set()  # topics on which the broker lets no device publish

    @property
    def complete(self) -> bool:
        """Return whether every device listens, but those that are away of their own accord."""
        return self.connected + self._away >= len(self.devices)

    async def run(self) -> None:
        """Keep every device connected until cancelled; then each says DISCONNECT."""
        async with asyncio.TaskGroup() as tasks:
            for name in self.devices:
                firmware = Firmware(name, self._behaviour)
                session = partial(self._session, _Device(name, firmware, firmware.spells()))
                tasks.create_task(stay_connected(self._access, session, self._note), name=name)

    async def until(self, *, complete: bool) -> None:
        """Wait until every device listens, or until one does not."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.complete is complete)

    @contextlib.asynccontextmanager
    async def _session(self, device: _Device, endpoint: Endpoint) -> AsyncIterator[Session]:
        """A session in which a device listens; raises BrokerError where there is none."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, device.back_at - loop.time()))
        async with self._dialling:
            sign_on = self._sign_on(device, endpoint)
            session = await dial(endpoint, self._access, sign_on, partial(self._receive, device))
        leaving: asyncio.TimerHandle | None = None
        try:
            await session.subscribe([_topic(self._topics.command, device)])
            await self._announce(device, session, ONLINE)
            async with self._listening(device, session):
                if (spell := next(device.spells, None)) is not None:
                    connected, away = spell
                    leaving = loop.call_later(connected, self._leave, device, session, away)
                yield session
        finally:
            if leaving is not None:
                leaving.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    await self._announce(device, session, OFFLINE)
            await session.close()

    @contextlib.asynccontextmanager
    async def _listening(self, device: _Device, session: Session) -> AsyncIterator[None]:
        device.session = session
        self._away -= device.is_away
        device.is_away = False
        self._send_due(device)
        await self._count(1)
        try:
            yield
        finally:
            device.session = None
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.connected += change
            if self.complete:
                self._said.clear()
            self._changed.notify_all()

    def _leave(self, device: _Device, session: Session, seconds: float) -> None:
        """Fall silent for a while, as where the network is gone: the broker publishes the will."""
        self._away += not device.is_away
        device.is_away = True
        device.back_at = asyncio.get_running_loop().time() + seconds
        session.drop()
        self._on_event(FellSilent(device.name, seconds))

    def _sign_on(self, device: _Device, endpoint: Endpoint) -> SignOn:
        address = endpoint.broker
        return SignOn(
            client_id=device.name if self._persistent else f"{device.name}-{self._run_id}",
            keep_alive=self._access.keep_alive,
            username=address.username,
            password=address.password,
            clean_start=not self._persistent,
            session_expiry=SESSION_EXPIRY if self._persistent else 0,
            max_packet_size=address.max_packet_size,
            properties=address.properties,
            will=Will(_topic(self._topics.presence, device), OFFLINE.encode(), 1, retain=True),
            version=self._version,
        )

    def _receive(self, device: _Device, delivery: Delivery) -> None:
        received = Received(delivery.payload, delivery.correlation_data, delivery.user_properties)
        reaction = device.firmware.receive(received)
        self._on_event(Took(device.name, delivery, reaction))
        delivery.acknowledge()
        loop = asyncio.get_running_loop()
        for reply in reaction.replies:
            if reply.delay:
                loop.call_later(reply.delay, self._reply, device, reply)
            else:  # timers that end at once keep no order
                self._reply(device, reply)

    def _reply(self, device: _Device, reply: Reply) -> None:
        device.due.append(reply)
        self._send_due(device)

    def _send_due(self, device: _Device) -> None:
        session = device.session
        if device.due and device.sending is None and session is not None and session.up:
            device.sending = asyncio.create_task(self._send(device, session), name=f"{device.name} replies")

    async def _send(self, device: _Device, session: Session) -> None:
        """Publish what is due, one by one; what the broker did not acknowledge goes into the next session."""
        topic = _topic(self._topics.reply, device)
        try:
            while device.due:
                reply = device.due[0]
                publication = Publication(
                    topic, reply.payload, 1, retain=False, message_id="", correlation_data=reply.correlation_data
                )
                error = await self._publish(session, self._topics.reply, publication)
                if isinstance(error, LinkDown | LinkLost):
                    return
                device.due.popleft()
                if error is None:
                    self._on_event(Replied(device.name, reply))
        finally:
            device.sending = None
            self._send_due(device)

    async def _announce(self, device: _Device, session: Session, presence: str) -> None:
        topic = _topic(self._topics.presence, device)
        publication = Publication(topic, presence.encode(), 1, retain=True, message_id="")
        if await self._publish(session, self._topics.presence, publication) is None:
            self._on_event(Announced(device.name, presence))

    async def _publish(self, session: Session, template: str, publication: Publication) -> Exception | None:
        """Publish on the topic of this template; give the error, None where the broker acknowledged it."""
        [[answer]] = [answers async for answers in session.publish([publication])]
        if not isinstance(answer.outcome, int):
            return answer.outcome
        if answer.outcome < FIRST_FAILURE:
            return None
        refusal = PublicationRefused(session.endpoint, template, reason_name(answer.outcome), answer.outcome)
        if template not in self._refused:
            self._refused.add(template)
            self._on_problem(refusal)
        return refusal

    def _note(self, error: BrokerError) -> None:
        if str(error) not in self._said:
            self._said.add(str(error))
            self._on_problem(error)


def _topic(template: str, device: _Device) -> str:
    return template.replace("{imei}", device.name)
