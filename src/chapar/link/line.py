"""The publications that wait for a place in the window: urgent ones, then each topic in its order, by turns."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from chapar.link.answers import Answers
from chapar.link.publication import Publication


@dataclass(eq=False, slots=True)
class Outgoing:
    """A publication on its way, from `publish()` to its answer."""

    publication: Publication
    answers: Answers
    packet_id: int = 0  #: 0 until it leaves, and at QoS 0
    number: int = 0  #: counts what has left
    sent_at: float = 0.0  #: loop time
    received: int | None = None  #: QoS 2: the reason code of PUBREC, while PUBCOMP has not come

    def answer(self, outcome: int | Exception) -> None:
        """Say what became of it."""
        self.answers.add(self.publication, outcome)


class Line:
    """Waiting publications. A topic, so a device, has its turn while fewer than `share` of its own are in flight.

    With one line for all, a device with two hundred publications held up every other one until the last of its own
    was answered, and one whose publications were not answered held them up for good.

    No message id is in line twice.
    """

    def __init__(self) -> None:
        self.share = 1  #: publications of one topic that may be unanswered at a time
        self._length = 0
        # Ordered dicts, because both their first entry and any other can be taken out at once.
        self._lines: dict[str, OrderedDict[Outgoing, None]] = {}  # by topic; none is empty
        self._turns: OrderedDict[str, None] = OrderedDict()  # the topics that may send
        self._urgent: OrderedDict[Outgoing, None] = OrderedDict()  # in no topic's line, and whatever is in flight
        self._by_id: dict[str, Outgoing] = {}  # by message id
        self._in_flight: dict[str, int] = {}  # by topic; none is 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Outgoing]:
        yield from self._urgent
        for line in self._lines.values():
            yield from line

    def append(self, outgoing: Outgoing) -> None:
        """Put a publication behind the others of its topic, or behind the other urgent ones."""
        topic = outgoing.publication.topic
        self._length += 1
        self._by_id[outgoing.publication.message_id] = outgoing
        if outgoing.publication.urgent:
            self._urgent[outgoing] = None
            return
        line = self._lines.get(topic)
        if line is not None:
            line[outgoing] = None
            return
        self._lines[topic] = OrderedDict({outgoing: None})
        if self._in_flight.get(topic, 0) < self.share:
            self._turns[topic] = None

    def next(self) -> Outgoing | None:
        """Take the publication whose turn it is out of the line, then call `left()`. None where no topic has a turn."""
        if self._urgent:
            outgoing, _ = self._urgent.popitem(last=False)
        elif self._turns:
            topic, _ = self._turns.popitem(last=False)
            line = self._lines[topic]
            outgoing, _ = line.popitem(last=False)
            if not line:
                del self._lines[topic]
        else:
            return None
        self._length -= 1
        self._by_id.pop(outgoing.publication.message_id, None)
        return outgoing

    def left(self, topic: str, *, in_flight: bool) -> None:
        """The publication taken last has left, and is in flight or not; so the next of its topic may have a turn."""
        count = self._in_flight.get(topic, 0)
        if in_flight:
            count += 1
            self._in_flight[topic] = count
        if topic in self._lines and count < self.share:
            self._turns[topic] = None

    def answered(self, topic: str) -> None:
        """A publication of this topic is in flight no longer."""
        count = self._in_flight.pop(topic) - 1
        if count:
            self._in_flight[topic] = count
        if topic in self._lines and count == self.share - 1:
            self._turns[topic] = None

    def find(self, message_id: str) -> Outgoing | None:
        """The publication of this message, None where it is not in line."""
        return self._by_id.get(message_id)

    def remove(self, outgoing: Outgoing) -> None:
        """Take a publication out of the line wherever it stands."""
        if outgoing.publication.urgent:
            del self._urgent[outgoing]
        else:
            topic = outgoing.publication.topic
            line = self._lines[topic]
            del line[outgoing]
            if not line:
                del self._lines[topic]
                self._turns.pop(topic, None)
        self._length -= 1
        self._by_id.pop(outgoing.publication.message_id, None)

    def clear(self) -> list[Outgoing]:
        """Empty the line; gives what was in it."""
        waiting = list(self)
        self._urgent.clear()
        self._lines.clear()
        self._turns.clear()
        self._by_id.clear()
        self._length = 0
        return waiting
