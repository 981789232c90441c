"""The publications that wait for a place in the window: each topic in its order, the topics by turns."""

import asyncio
from collections import deque
from collections.abc import Iterator

from chapar.link.publication import Publication

Waiting = tuple[Publication, asyncio.Future[int]]


class Line:
    """What waits. A topic, so a device, has its turn while fewer than `share` of its publications are in flight.

    With one line for all, a device with two hundred publications held up every other one until the last of its own
    was answered, and one whose publications were not answered held them up for good.
    """

    def __init__(self) -> None:
        self.share = 1  #: publications of one topic that may be unanswered at a time
        self._length = 0
        self._lines: dict[str, deque[Waiting]] = {}  # by topic; none is empty
        self._turns: deque[str] = deque()  # the topics that may send, each once
        self._in_flight: dict[str, int] = {}  # by topic; none is 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiting]:
        for line in self._lines.values():
            yield from line

    def append(self, waiting: Waiting) -> None:
        """Put a publication behind the others of its topic."""
        topic = waiting[0].topic
        self._length += 1
        line = self._lines.get(topic)
        if line is not None:
            line.append(waiting)
            return
        self._lines[topic] = deque((waiting,))
        if self._in_flight.get(topic, 0) < self.share:
            self._turns.append(topic)

    def next(self) -> Waiting | None:
        """Take the publication whose turn it is out of the line, then call `left()`. None where no topic has a turn."""
        if not self._turns:
            return None
        topic = self._turns.popleft()
        line = self._lines[topic]
        waiting = line.popleft()
        self._length -= 1
        if not line:
            del self._lines[topic]
        return waiting

    def left(self, topic: str, *, in_flight: bool) -> None:
        """The publication taken last has left, and is in flight or not; so the next of its topic may have a turn."""
        count = self._in_flight.get(topic, 0)
        if in_flight:
            count += 1
            self._in_flight[topic] = count
        if topic in self._lines and count < self.share:
            self._turns.append(topic)

    def answered(self, topic: str) -> None:
        """A publication of this topic is in flight no longer."""
        count = self._in_flight.pop(topic) - 1
        if count:
            self._in_flight[topic] = count
        if topic in self._lines and count == self.share - 1:
            self._turns.append(topic)

    def clear(self) -> list[Waiting]:
        """Empty the line; gives what was in it."""
        waiting = list(self)
        self._lines.clear()
        self._turns.clear()
        self._length = 0
        return waiting
