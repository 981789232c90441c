"""The publications of one session: those in line, and those that the broker has not answered. No bytes here."""

import asyncio
import math
from typing import Final, NamedTuple

from chapar.errors import BrokerError, BrokerUnanswered, LinkDown, LinkLost, PublicationExpired
from chapar.link.line import Line
from chapar.link.publication import Publication
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, SUCCESS

LAST_PACKET_ID: Final = 64_000  # the ids above, up to 65,535, are the subscriptions'


class _Flight(NamedTuple):
    topic: str
    qos: int
    outcome: asyncio.Future[int]
    number: int  #: counts what has left
    sent_at: float  #: loop time
    received: int | None = None  #: QoS 2: the reason code of PUBREC, while PUBCOMP has not come


class Window:
    """The broker's Receive Maximum (MQTT 5.0 §4.9), and the line in front of it, a strict FIFO for each topic.

    One topic, so one device, has at most three quarters of it: the others are not held up by one that sends much, or
    whose publications are answered late.

    The outcome of a publication is the reason code of its PUBACK or PUBREC. One of QoS 2 has it with PUBCOMP: before,
    the broker still owns no more than a packet id, and drops the message with the session (MQTT 5.0 §4.3.3).
    """

    def __init__(self) -> None:
        self._size = 0
        self.met_no_subscribers = False  #: whether an outcome was 0x10
        self.next_deadline = math.inf  #: loop time before which nothing in line expires
        self._line = Line()
        self._flights: dict[int, _Flight] = {}
        self._last_packet_id = 0
        self._left = 0
        self._last_answered = 0  # the highest number among those that were answered

    @property
    def size(self) -> int:
        """Publications that may be unanswered at a time."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size
        self._line.share = size - size // 4

    @property
    def waiting(self) -> int:
        """Publications of which nothing was sent."""
        return len(self._line)

    @property
    def in_flight(self) -> int:
        """Publications that the broker has not answered."""
        return len(self._flights)

    def oldest_sent_at(self, now: float) -> float:
        """When that left which has been unanswered for longest (loop time); `now` where everything is answered."""
        return next((flight.sent_at for flight in self._flights.values()), now)

    def add(self, publication: Publication, outcome: asyncio.Future[int]) -> None:
        """Put a publication at the end of the line."""
        self._line.append((publication, outcome))
        if publication.deadline is not None and publication.deadline < self.next_deadline:
            self.next_deadline = publication.deadline

    def take_back(self, outcome: asyncio.Future[int]) -> bool:
        """Take a publication out of the line, and cancel its outcome; answer whether it was still there."""
        return any(waiting is outcome for _, waiting in self._line) and outcome.cancel()

    def expire(self, now: float) -> None:
        """End what is in line and past its deadline, also where nothing can leave."""
        if now < self.next_deadline:
            return
        self.next_deadline = math.inf
        for publication, outcome in self._line.clear():
            if publication.deadline is None or publication.deadline > now:
                self.add(publication, outcome)
            elif not outcome.done():
                outcome.set_exception(PublicationExpired())

    def next(self, now: float) -> tuple[Publication, int] | None:
        """Take the publication that may leave now, with its packet id; None where the window or the line is empty."""
        while len(self._flights) < self._size and (following := self._line.next()):
            publication, outcome = following
            leaves = not outcome.done()  # else its caller took it back
            if leaves and publication.deadline is not None and publication.deadline <= now:
                outcome.set_exception(PublicationExpired())
                leaves = False
            self._line.left(publication.topic, in_flight=leaves and publication.qos > 0)
            if not leaves:
                continue
            if publication.qos == 0:
                outcome.set_result(SUCCESS)
                return publication, 0
            packet_id = self._draw_packet_id()
            self._left += 1
            self._flights[packet_id] = _Flight(publication.topic, publication.qos, outcome, self._left, now)
            return publication, packet_id
        return None

    def acknowledged(self, packet_id: int, reason_code: int) -> bool:
        """PUBACK came; answer whether something of QoS 1 waited for it."""
        flight = self._flights.get(packet_id)
        if flight is None or flight.qos != 1:
            return False
        self._end(packet_id)
        self._settle(flight, reason_code)
        return True

    def received(self, packet_id: int, reason_code: int) -> bool:
        """PUBREC came; answer whether something of QoS 2 waited for it."""
        flight = self._flights.get(packet_id)
        if flight is None or flight.qos == 1 or flight.received is not None:
            return False
        if reason_code < FIRST_FAILURE:
            self._flights[packet_id] = flight._replace(received=reason_code)
        else:
            self._end(packet_id)
            self._settle(flight, reason_code)
        return True

    def is_received(self, packet_id: int) -> bool:
        """Whether PUBREC came for it, and PUBCOMP not yet."""
        flight = self._flights.get(packet_id)
        return flight is not None and flight.received is not None

    def completed(self, packet_id: int, refusal: BrokerError | None = None) -> bool:
        """PUBCOMP came, with a `refusal` or without; answer whether something waited for it."""
        flight = self._flights.get(packet_id)
        if flight is None or flight.received is None:
            return False
        self._end(packet_id)
        if refusal is None:
            self._settle(flight, flight.received)
        elif not flight.outcome.done():
            flight.outcome.set_exception(LinkLost(refusal, singled_out=True))
        return True

    def fail(self, cause: BrokerError | None) -> None:
        """The session ended: what was sent is in doubt, what waited was certainly not sent."""
        is_alone = len(self._flights) == 1
        last_answered = self._last_answered if isinstance(cause, BrokerUnanswered) else 0
        for flight in self._flights.values():
            if not flight.outcome.done():
                # Answers come in the order of what they answer (MQTT 5.0 §4.6), so this one was passed over.
                is_passed_over = flight.number < last_answered
                flight.outcome.set_exception(LinkLost(cause, singled_out=is_alone or is_passed_over))
        for _, outcome in self._line.clear():
            if not outcome.done():
                outcome.set_exception(LinkDown())
        self._flights.clear()

    def fail_one(self, packet_id: int, error: Exception) -> None:
        """A publication could not be sent after all; one of QoS 0 has its outcome already."""
        flight = self._flights.get(packet_id)
        if flight is not None:
            self._end(packet_id)
            if not flight.outcome.done():
                flight.outcome.set_exception(error)

    def _end(self, packet_id: int) -> None:
        self._line.answered(self._flights.pop(packet_id).topic)

    def _settle(self, flight: _Flight, reason_code: int) -> None:
        self._last_answered = max(self._last_answered, flight.number)
        if reason_code == NO_MATCHING_SUBSCRIBERS:
            self.met_no_subscribers = True
        if not flight.outcome.done():
            flight.outcome.set_result(reason_code)

    def _draw_packet_id(self) -> int:
        # Round the whole range, so that a late answer to an old packet is not taken for one to a new.
        while True:
            self._last_packet_id = self._last_packet_id % LAST_PACKET_ID + 1
            if self._last_packet_id not in self._flights:
                return self._last_packet_id
