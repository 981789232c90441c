"""Callers waiting for what becomes of their messages, each with its own deadline."""

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from chapar.errors import StoreUnavailable
from chapar.model.change import Change
from chapar.model.message import UNFINISHED, Message, Status, Wait
from chapar.store.messages import Messages

_AT_MOST: Final = 500  # messages looked up in one read
_AGAIN: Final = 0.5  # seconds until what could not be read is looked up again
_SWEEP_EVERY: Final = 0.05  # seconds, at least: one sweep ends all waits whose time is up

_WITHOUT_A_WORD: Final = UNFINISHED | {Status.PUBLISHED, Status.ACKNOWLEDGED}
"""The states in which the device's final word may come, or the time for it run out."""


def is_over(message: Message, wait: Wait) -> bool:
    """Return whether a caller who waits for this need not wait any more.

    Who waits for the broker goes on where the message is in doubt: a 201 is for what was answered once. Who waits for
    the device does not, because what it says next ends the doubt.
    """
    if wait is Wait.DEVICE:
        return message.status not in _WITHOUT_A_WORD
    in_doubt = message.possible_duplicate and message.status is Status.QUEUED
    return in_doubt or message.status not in UNFINISHED


class Waiting:
    """One caller, and the messages that it waits for: each until the wait for it `is_over`.

    `done` has a result once all are, or when time is up; cancelled, it is waited for no more. A message that is about
    to be rejected holds its caller past the deadline, who would else be answered that its delivery goes on.
    """

    __slots__ = ("_rejected", "_wait", "deadline", "done", "found", "is_late", "pending")

    def __init__(self, ids: Iterable[str], wait: Wait = Wait.BROKER) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pending = set(ids)
        self._wait = wait
        self.found: dict[str, Message] = {}  #: messages as they stood when they came to be what is waited for
        self.deadline = math.inf  #: loop time; it runs from when all are saved
        self.is_late = False  #: whether time is up
        self._rejected: set[str] = set()  # messages of which that is being committed

    @property
    def is_held(self) -> bool:
        """Return whether something is about to be rejected."""
        return bool(self._rejected)

    def hold(self, message_id: str, *, rejected: bool) -> None:
        """Note that what comes of a message is being committed: that it is `rejected`, or something else."""
        if rejected:
            self._rejected.add(message_id)
            return
        self._rejected.discard(message_id)
        if self.is_late and not self._rejected:
            self.give_up()

    def notify(self, message: Message) -> bool:
        """Learn how a message stands; answer whether it need not be waited for any more."""
        if is_over(message, self._wait):
            self.end(message)
            return True
        return self.done.done()

    def end(self, message: Message) -> None:
        """Note how a message stands: it need not be waited for any more."""
        self.found[message.id] = message
        self.release((message.id,))

    def release(self, ids: Iterable[str]) -> None:
        """These messages are waited for no more."""
        self.pending.difference_update(ids)
        self._rejected &= self.pending
        is_over = not self.pending or (self.is_late and not self._rejected)
        if is_over and self.deadline < math.inf:
            self.give_up()

    def give_up(self) -> None:
        """Let the caller go on with what is known."""
        if not self.done.done():
            self.done.set_result(None)


class Waiters:
    """Waiting callers by the message that they wait for: a listener of what has changed.

    A message that is waited for is looked up where a change that may end the wait does not bring it along.
    """

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[Waiting]] = {}
        self._timed: set[Waiting] = set()  # whose deadline runs
        self._timer: asyncio.Handle | None = None
        self._sweep_at = math.inf  # loop time of the next sweep
        self._unknown: set[str] = set()  # messages to look up
        self._asked = asyncio.Event()  # to look some up
        self._stopping = False

    async def run(self) -> None:
        """Look up what is not known, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            unknown, self._unknown = self._unknown, set()
            for ids in batched(unknown & self._waiting.keys(), _AT_MOST):
                try:
                    found = await self._messages.find_all(ids)
                except StoreUnavailable:
                    self._look_up_later(ids)
                    continue
                for message in found:
                    self.notify(message)

    def add(self, waiting: Waiting) -> None:
        """Have a caller wait for its messages, which are about to be saved or are there."""
        for message_id in waiting.pending:
            self._waiting.setdefault(message_id, []).append(waiting)

    def time(self, waiting: Waiting, deadline: float, without: Sequence[str] = ()) -> None:
        """Let a caller wait until the `deadline` (loop time) for what is saved now, `without` the rest."""
        waiting.deadline = deadline
        if without:
            self._forget(waiting, without)
            waiting.release(without)
        if self._stopping or not waiting.pending:
            waiting.give_up()
        if waiting.done.done():
            self._forget(waiting, waiting.pending)
            return
        self._timed.add(waiting)
        if deadline < self._sweep_at:
            self._sweep_by(deadline)

    def remove(self, waiting: Waiting) -> None:
        """A caller does not wait any more."""
        self._timed.discard(waiting)
        self._forget(waiting, waiting.pending)

    def received(self, changes: Sequence[Change]) -> None:
        """Notify whoever waits for what has changed."""
        if not self._waiting:
            return
        for change in changes:
            if change.id not in self._waiting:
                continue
            if change.message is not None:
                self.notify(change.message)
            elif change.after not in UNFINISHED or change.before is Status.PUBLISHING:  # then it may be in doubt
                self.look_up(change.id)

    def look_up(self, message_id: str) -> None:
        """Find out how a message stands, and notify whoever waits for it."""
        self._unknown.add(message_id)
        self._asked.set()

    def missed(self) -> None:
        """Changes may have been missed: whatever is waited for is looked up once."""
        for message_id in self._waiting:
            self.look_up(message_id)

    def _look_up_later(self, ids: Iterable[str]) -> None:
        self._unknown.update(ids)
        self._loop.call_later(_AGAIN, self._asked.set)

    def notify(self, message: Message) -> None:
        """Notify whoever waits for a message to be as it is now."""
        left = []
        for waiting in self._waiting.pop(message.id, ()):
            if not waiting.notify(message):
                left.append(waiting)
            elif waiting.done.done():
                self._timed.discard(waiting)
        if left:
            self._waiting[message.id] = left

    def give_up(self, message: Message) -> None:
        """Nobody can say what comes of a message: whoever waits for it goes on."""
        for waiting in self._waiting.pop(message.id, ()):
            waiting.end(message)
            if waiting.done.done():
                self._timed.discard(waiting)

    def release_all(self) -> None:
        """The gateway stops: for whoever waits, now or later, time is up."""
        self._stopping = True
        self._give_up(math.inf)

    def _forget(self, waiting: Waiting, ids: Iterable[str]) -> None:
        for message_id in ids:
            left = [each for each in self._waiting.pop(message_id, ()) if each is not waiting]
            if left:
                self._waiting[message_id] = left

    def _give_up(self, now: float) -> None:
        for waiting in [each for each in self._timed if each.deadline <= now or each.done.done()]:
            if waiting.is_held and not waiting.done.done():
                self._timed.discard(waiting)
                waiting.is_late = True
                continue
            self.remove(waiting)
            waiting.give_up()

    # One timer for all: nearly every send would start one of its own only to stop it again.
    def _sweep_by(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._sweep_at = at
        self._timer = self._loop.call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._give_up(self._loop.time())
        self._timer, self._sweep_at = None, math.inf
        left = min((waiting.deadline for waiting in self._timed), default=None)
        if left is not None:
            self._sweep_by(max(left, self._loop.time() + _SWEEP_EVERY))


def batched(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """The ids in lists of this size, and the rest of them."""
    rest = iter(ids)
    while batch := list(islice(rest, size)):
        yield batch
