"""The publications of one session: those in line, and those that the broker has not answered. No bytes here."""

import math
from typing import Final

from chapar.errors import BrokerError, BrokerUnanswered, LinkDown, LinkLost, PublicationExpired, TakenBack
from chapar.link.answers import Answers
from chapar.link.line import Line, Outgoing
from chapar.link.publication import Publication
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, SUCCESS

LAST_PACKET_ID: Final = 64_000  # the ids above, up to 65,535, are the subscriptions'


class Window:
    """The broker's Receive Maximum (MQTT 5.0 §4.9), and the line in front of it, a strict FIFO for each topic.

    One topic, so one device, has at most three quarters of it: the others are not held up by one that sends much, or
    whose publications are answered late. What is urgent leaves before all else.

    The outcome of a publication is the reason code of its PUBACK or PUBREC. One of QoS 2 has it with PUBCOMP: before,
    the broker still owns no more than a packet id, and drops the message with the session (MQTT 5.0 §4.3.3).
    """

    def __init__(self) -> None:
        self._size = 0
        self.met_no_subscribers = False  #: whether an outcome was 0x10
        self.next_deadline = math.inf  #: loop time before which nothing in line expires
        self._line = Line()
        self._flights: dict[int, Outgoing] = {}  # by packet id
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
        """Return when the publication unanswered for longest left (loop time); `now` where everything is answered."""
        return next((outgoing.sent_at for outgoing in self._flights.values()), now)

    def add(self, publication: Publication, answers: Answers) -> None:
        """Put a publication at the end of the line; what becomes of it is added to `answers`."""
        self._line.append(Outgoing(publication, answers))
        if publication.deadline is not None and publication.deadline < self.next_deadline:
            self.next_deadline = publication.deadline

    def take_back(self, message_id: str) -> bool:
        """Take the publication of a message out of the line; answer whether it was still there."""
        outgoing = self._line.find(message_id)
        if outgoing is None:
            return False
        self._line.remove(outgoing)
        outgoing.answer(TakenBack())
        return True

    def expire(self, now: float) -> None:
        """End what is in line and past its deadline, also where nothing can leave."""
        if now < self.next_deadline:
            return
        deadlines = [(outgoing.publication.deadline or math.inf, outgoing) for outgoing in self._line]
        self.next_deadline = min((deadline for deadline, _ in deadlines if deadline > now), default=math.inf)
        for deadline, outgoing in deadlines:
            if deadline <= now:
                self._line.remove(outgoing)
                outgoing.answer(PublicationExpired())

    def next(self, now: float) -> Outgoing | None:
        """Take the publication that may leave now; None where there is none, or no place. Then call `written()`."""
        while len(self._flights) < self._size and (outgoing := self._line.next()):
            publication = outgoing.publication
            is_late = publication.deadline is not None and publication.deadline <= now
            self._line.left(publication.topic, in_flight=publication.qos > 0 and not is_late)
            if is_late:
                outgoing.answer(PublicationExpired())
                continue
            if publication.qos:
                outgoing.packet_id = self._draw_packet_id()
                self._left += 1
                outgoing.number, outgoing.sent_at = self._left, now
                self._flights[outgoing.packet_id] = outgoing
            return outgoing
        return None

    def written(self, outgoing: Outgoing) -> None:
        """It leaves. At QoS 0 that is its outcome."""
        if not outgoing.packet_id:
            outgoing.answer(SUCCESS)

    def acknowledged(self, packet_id: int, reason_code: int) -> bool:
        """PUBACK came; answer whether something of QoS 1 waited for it."""
        outgoing = self._flights.get(packet_id)
        if outgoing is None or outgoing.publication.qos != 1:
            return False
        self._settle(outgoing, reason_code)
        return True

    def received(self, packet_id: int, reason_code: int) -> bool:
        """PUBREC came; answer whether something of QoS 2 waited for it."""
        outgoing = self._flights.get(packet_id)
        if outgoing is None or outgoing.publication.qos == 1 or outgoing.received is not None:
            return False
        if reason_code < FIRST_FAILURE:
            outgoing.received = reason_code
        else:
            self._settle(outgoing, reason_code)
        return True

    def is_received(self, packet_id: int) -> bool:
        """Return whether PUBREC came for it, and PUBCOMP not yet."""
        outgoing = self._flights.get(packet_id)
        return outgoing is not None and outgoing.received is not None

    def completed(self, packet_id: int, refusal: BrokerError | None = None) -> bool:
        """PUBCOMP came, with a `refusal` or without; answer whether something waited for it."""
        outgoing = self._flights.get(packet_id)
        if outgoing is None or outgoing.received is None:
            return False
        if refusal is None:
            self._settle(outgoing, outgoing.received)
        else:
            self.fail_one(outgoing, LinkLost(refusal, singled_out=True))
        return True

    def fail(self, cause: BrokerError | None) -> None:
        """The session ended: what was sent is in doubt, what waited was certainly not sent."""
        is_alone = len(self._flights) == 1
        last_answered = self._last_answered if isinstance(cause, BrokerUnanswered) else 0
        for outgoing in self._flights.values():
            # Answers come in the order of what they answer (MQTT 5.0 §4.6), so this one was passed over.
            is_passed_over = outgoing.number < last_answered
            outgoing.answer(LinkLost(cause, singled_out=is_alone or is_passed_over))
        self._flights.clear()
        for outgoing in self._line.clear():
            outgoing.answer(LinkDown())

    def fail_one(self, outgoing: Outgoing, error: Exception) -> None:
        """A publication that was taken to leave has come to nothing."""
        if outgoing.packet_id:
            self._end(outgoing)
        outgoing.answer(error)

    def _end(self, outgoing: Outgoing) -> None:
        del self._flights[outgoing.packet_id]
        self._line.answered(outgoing.publication.topic)

    def _settle(self, outgoing: Outgoing, reason_code: int) -> None:
        self._end(outgoing)
        self._last_answered = max(self._last_answered, outgoing.number)
        if reason_code == NO_MATCHING_SUBSCRIBERS:
            self.met_no_subscribers = True
        outgoing.answer(reason_code)

    def _draw_packet_id(self) -> int:
        # Round the whole range, so that a late answer to an old packet is not taken for one to a new.
        while True:
            self._last_packet_id = self._last_packet_id % LAST_PACKET_ID + 1
            if self._last_packet_id not in self._flights:
                return self._last_packet_id
