"""The broker, what it heard, and the sessions that gateways have with it."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from chapar.errors import BrokerClosed, BrokerError, BrokerSilent, ConnectionFailed, LinkDown, PublicationInvalid
from chapar.link.answers import Answers
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, SUCCESS
from chapar.link.window import Window
from simulation.place import here
from simulation.receiving import Mailbox, ReceivingSession

if TYPE_CHECKING:
    from simulation.world import Process, World

NOT_AUTHORIZED: Final = 0x87
QUOTA_EXCEEDED: Final = 0x97
MALFORMED: Final = 0x81
PACKET_TOO_LARGE: Final = 0x95


class Passage(NamedTuple):
    """A publication that left a gateway, or that the broker took or refused."""

    at: float  #: loop time
    message_id: str
    attempt: int
    process: "Process"
    session: int
    clock: int  #: the gateway's clock when it left
    latest_clock: int  #: the clock that is ahead of all others then
    code: int = SUCCESS  #: what the broker said


class Broker:
    """What the broker heard and said, whoever it was from."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.left: list[Passage] = []
        self.heard: list[Passage] = []
        self.refused: list[Passage] = []
        self.ended_sessions: Counter[str] = Counter()  # how many the broker ended while this message was in flight
        self.sessions: list[SimulatedSession | ReceivingSession] = []
        self.mailboxes: dict[str, Mailbox] = {}  # by client id
        self.opened = 0

    async def dial(self) -> "SimulatedSession":
        """Stand in for `chapar.link.dial.dial` where somebody publishes."""
        await self._reached()
        self.opened += 1
        session = SimulatedSession(self, here(), self.opened)
        self.sessions.append(session)
        self.world.trace(session.process.name, "session", session.number, "is up")
        return session

    async def dial_to_receive(self, sign_on: SignOn, on_delivery: Callable[[Delivery], None]) -> ReceivingSession:
        """Stand in for it where somebody receives."""
        await self._reached()
        before = self.mailboxes.get(sign_on.client_id)
        if before is not None and before.session is not None:
            before.session.take_over()
        kept = self.mailboxes.setdefault(sign_on.client_id, Mailbox(kept=not sign_on.clean_start))
        session = ReceivingSession(self, kept, sign_on, on_delivery, present=before is not None)
        kept.session = session
        self.sessions.append(session)
        self.world.trace(session.process.name, "session", sign_on.client_id, "is up")
        return session

    async def _reached(self) -> None:
        await asyncio.sleep(self.world.weather.dial_time())
        if self.world.weather.broker_is_away():
            raise ConnectionFailed("mqtt://simulated", "the broker is away")

    def pass_on(self, topic: str, payload: bytes, correlation_data: bytes | None) -> bool:
        """Pass a publication on to whoever receives; answer whether it is kept until that is acknowledged."""
        taken = [
            mailbox.put(topic, payload, correlation_data) for mailbox in self.mailboxes.values() if mailbox.takes(topic)
        ]
        return any(taken)

    def verdict(self, publication: Publication) -> int | None:
        """The reason code for a publication; None where the broker ends the session instead."""
        kind = self.world.kind_of(publication)
        if kind in {"poison", "silent poison"}:
            return None
        if kind == "refused":
            return NOT_AUTHORIZED
        return self.world.weather.verdict()


class SimulatedSession:
    """One session: the gateway's side of `chapar.link.session.Session`, with the network and the broker behind it."""

    def __init__(self, broker: Broker, process: "Process", number: int) -> None:
        self.endpoint = "mqtt://simulated"
        self.number = number
        self.process = process
        self._broker = broker
        self._world = broker.world
        self._loop = broker.world.loop
        self._window = Window()
        self._window.size = self._world.weather.window
        self.up = True
        self.strays = Counter[str]()
        self._error: BrokerError | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._flushing = False
        self._underway: deque[tuple[Any, tuple[Any, ...]]] = deque()  # on the wire to the broker, in order
        self._answers: deque[tuple[Any, tuple[Any, ...]]] = deque()  # on the wire back
        self._unanswered: dict[int, str] = {}  # packet id → message
        self._last_arrival = 0.0
        self._last_answer = 0.0

    @property
    def window(self) -> int:
        return self._window.size

    @property
    def in_flight(self) -> int:
        return self._window.in_flight

    @property
    def waiting(self) -> int:
        return self._window.waiting

    @property
    def unanswered_for(self) -> float | None:
        """Everything is answered in a while."""
        return None

    @property
    def met_no_subscribers(self) -> bool:
        return self._window.met_no_subscribers

    def publish(self, publications: Sequence[Publication]) -> Answers:
        if not self.up:
            return Answers.alike(publications, LinkDown())
        answers = Answers(len(publications))
        for publication in publications:
            if self._world.kind_of(publication) == "too large":
                answers.add(publication, PublicationInvalid("Maximum Packet Size", 10, 20, PACKET_TOO_LARGE))
            else:
                self._window.add(publication, answers)
        self._flush_soon()
        return answers

    def take_back(self, message_id: str) -> bool:
        return self._window.take_back(message_id)

    async def ended(self) -> None:
        await asyncio.shield(self._gone)
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        self.end(None)

    def end(self, error: BrokerError | None) -> None:
        """The session is over, on both sides. What was on the wire arrives up to some packet."""
        if not self.up:
            return
        self.up = False
        self._error = error
        self._broker.sessions.remove(self)
        self._world.trace(self.process.name, "session", self.number, "ends:", error or "closed")
        if error is not None:
            self._broker.ended_sessions.update(self._unanswered.values())
        if self._underway:
            for _ in range(self._world.chaos.randint(0, len(self._underway))):
                self._underway.pop()
            self._loop.call_later(self._world.chaos.choice([0.0, 0.0, 0.3]), self._arrive_late)
        self._window.fail(error)
        if not self._gone.done():
            self._gone.set_result(None)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while self.up and (following := self._window.next(self._loop.time())):
            publication, packet_id = following.publication, following.packet_id
            self._window.written(following)
            passage = Passage(
                self._loop.time(),
                publication.message_id,
                publication.attempt,
                self.process,
                self.number,
                self.process.clock.now(),
                max(process.clock.now() for process in self._world.processes),
            )
            self._broker.left.append(passage)
            if packet_id:
                self._unanswered[packet_id] = publication.message_id
            self._world.trace(self.process.name, "publishes", publication.message_id, "attempt", publication.attempt)
            self._send(self._arrive, passage, publication, packet_id)

    def _send(self, action: Any, *arguments: Any) -> None:
        """Over the wire, in order; the session may end before it arrives."""
        self._last_arrival = max(self._last_arrival, self._loop.time() + self._world.weather.latency())
        self._underway.append((action, arguments))
        self._loop.call_at(self._last_arrival, self._arrived)

    def _arrived(self) -> None:
        if self.up:
            action, arguments = self._underway.popleft()
            action(*arguments)

    def _arrive_late(self) -> None:
        while self._underway:
            action, arguments = self._underway.popleft()
            action(*arguments)

    def _arrive(self, passage: Passage, publication: Publication, packet_id: int) -> None:
        code = self._broker.verdict(publication)
        passage = passage._replace(at=self._loop.time(), code=code if code is not None else MALFORMED)
        if code is None:
            self._broker.refused.append(passage)
            blames = self._world.kind_of(publication) == "poison"
            self._underway.clear()  # the broker reads no further
            self.end(BrokerClosed(self.endpoint, "it ended the session", MALFORMED if blames else None))
            return
        if code >= FIRST_FAILURE:
            self._world.trace("broker", "refuses", publication.message_id, hex(code))
            self._broker.refused.append(passage)
            if publication.qos:
                self._answer(self._refuse, publication.qos, packet_id, code)
            return
        if publication.qos == 2:
            self._answer(self._received, packet_id, code, passage, publication)
            return
        self._hear(passage, publication)
        if publication.qos == 1:
            self._answer(self._acknowledge, packet_id, code)

    def _hear(self, passage: Passage, publication: Publication) -> None:
        self._world.trace("broker", "hears", passage.message_id)
        self._broker.heard.append(passage._replace(at=self._loop.time()))
        if passage.code != NO_MATCHING_SUBSCRIBERS:
            self._world.devices.receive(publication)

    def _answer(self, action: Any, *arguments: Any) -> None:
        self._last_answer = max(self._last_answer, self._loop.time() + self._world.weather.acknowledgement())
        self._answers.append((action, arguments))
        self._loop.call_at(self._last_answer, self._take_answer)

    def _take_answer(self) -> None:
        if self.up:
            action, arguments = self._answers.popleft()
            action(*arguments)
            self._flush_soon()

    def _acknowledge(self, packet_id: int, code: int) -> None:
        del self._unanswered[packet_id]
        self._window.acknowledged(packet_id, code)

    def _refuse(self, qos: int, packet_id: int, code: int) -> None:
        del self._unanswered[packet_id]
        if qos == 1:
            self._window.acknowledged(packet_id, code)
        else:
            self._window.received(packet_id, code)

    def _received(self, packet_id: int, code: int, passage: Passage, publication: Publication) -> None:
        self._window.received(packet_id, code)
        self._send(self._release, packet_id, passage, publication)

    def _release(self, packet_id: int, passage: Passage, publication: Publication) -> None:
        # As Mosquitto does it: what is not released when the session ends is dropped (MQTT 5.0 §4.3.3, method A).
        self._hear(passage, publication)
        self._answer(self._complete, packet_id)

    def _complete(self, packet_id: int) -> None:
        del self._unanswered[packet_id]
        self._window.completed(packet_id)


def silence() -> BrokerError:
    return BrokerSilent("mqtt://simulated", 15.0)


def reset() -> BrokerError:
    return BrokerClosed("mqtt://simulated", "Connection reset by peer")
