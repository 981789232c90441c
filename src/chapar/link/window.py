"""The publications of one session: those in line, and those that the broker has not answered. No bytes here."""

import asyncio
from collections import deque
from typing import Final, NamedTuple

from chapar.errors import BrokerError, LinkDown, LinkLost, PublicationExpired
from chapar.link.publication import Publication
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, SUCCESS

LAST_PACKET_ID: Final = 64_000  # the ids above, up to 65,535, are the subscriptions'


class _Flight(NamedTuple):
    qos: int
    outcome: asyncio.Future[int]
    received: int | None = None  #: QoS 2: the reason code of PUBREC, while PUBCOMP has not come


class Window:
    """A strict FIFO in front of the broker's Receive Maximum (MQTT 5.0 §4.9).

    The outcome of a publication is the reason code of its PUBACK or PUBREC. One of QoS 2 has it with PUBCOMP: before,
    the broker still owns no more than a packet id, and drops the message with the session (MQTT 5.0 §4.3.3).
    """

    def __init__(self) -> None:
        self.size = 0  #: publications that may be unanswered at a time
        self.met_no_subscribers = False  #: whether an outcome was 0x10
        self._waiting: deque[tuple[Publication, asyncio.Future[int]]] = deque()
        self._flights: dict[int, _Flight] = {}
        self._last_packet_id = 0

    @property
    def waiting(self) -> int:
        """Publications of which nothing was sent."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Publications that the broker has not answered."""
        return len(self._flights)

    def add(self, publication: Publication, outcome: asyncio.Future[int]) -> None:
        """Put a publication at the end of the line."""
        self._waiting.append((publication, outcome))

    def next(self, now: float) -> tuple[Publication, int] | None:
        """Take the publication that may leave now, with its packet id; None where the window or the line is empty."""
        while self._waiting and len(self._flights) < self.size:
            publication, outcome = self._waiting.popleft()
            if outcome.done():
                continue  # its caller took it back
            if publication.deadline is not None and publication.deadline <= now:
                outcome.set_exception(PublicationExpired())
                continue
            if publication.qos == 0:
                outcome.set_result(SUCCESS)
                return publication, 0
            packet_id = self._draw_packet_id()
            self._flights[packet_id] = _Flight(publication.qos, outcome)
            return publication, packet_id
        return None

    def acknowledged(self, packet_id: int, reason_code: int) -> bool:
        """PUBACK came; answer whether something of QoS 1 waited for it."""
        flight = self._flights.get(packet_id)
        if flight is None or flight.qos != 1:
            return False
        del self._flights[packet_id]
        self._settle(flight.outcome, reason_code)
        return True

    def received(self, packet_id: int, reason_code: int) -> bool:
        """PUBREC came; answer whether something of QoS 2 waited for it."""
        flight = self._flights.get(packet_id)
        if flight is None or flight.qos == 1 or flight.received is not None:
            return False
        if reason_code < FIRST_FAILURE:
            self._flights[packet_id] = flight._replace(received=reason_code)
        else:
            del self._flights[packet_id]
            self._settle(flight.outcome, reason_code)
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
        del self._flights[packet_id]
        if refusal is None:
            self._settle(flight.outcome, flight.received)
        elif not flight.outcome.done():
            flight.outcome.set_exception(LinkLost(refusal))
        return True

    def fail(self, cause: BrokerError | None) -> None:
        """The session ended: what was sent is in doubt, what waited was certainly not sent."""
        for flight in self._flights.values():
            if not flight.outcome.done():
                flight.outcome.set_exception(LinkLost(cause))
        for _, outcome in self._waiting:
            if not outcome.done():
                outcome.set_exception(LinkDown())
        self._flights.clear()
        self._waiting.clear()

    def _settle(self, outcome: asyncio.Future[int], reason_code: int) -> None:
        if reason_code == NO_MATCHING_SUBSCRIBERS:
            self.met_no_subscribers = True
        if not outcome.done():
            outcome.set_result(reason_code)

    def _draw_packet_id(self) -> int:
        # Round the whole range, so that a late answer to an old packet is not taken for one to a new.
        while True:
            self._last_packet_id = self._last_packet_id % LAST_PACKET_ID + 1
            if self._last_packet_id not in self._flights:
                return self._last_packet_id
