"""Callers who wait for what becomes of their messages, each until a time of its own."""

import asyncio
import math
from collections.abc import Iterable
from typing import NamedTuple

from chapar.model.message import Message


class _Waiter(NamedTuple):
    told: asyncio.Future[Message | None]
    deadline: float  #: loop time


class Waiters:
    """Who waits, by the message that they wait for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[str, _Waiter] = {}
        self._timer: asyncio.Handle | None = None
        self._sweep_at = math.inf  # loop time of the next sweep
        self._hurried = False

    def add(self, message_id: str, told: asyncio.Future[Message | None], deadline: float) -> None:
        """Let `told` be the message once it has ended; None at the `deadline` (loop time), or once all are hurried.

        Cancelling the future is how a caller stops waiting.
        """
        if self._hurried:
            told.set_result(None)
            return
        self._waiters[message_id] = _Waiter(told, deadline)
        if deadline < self._sweep_at:
            self._sweep_by(deadline)

    def tell(self, message: Message) -> None:
        """Tell who waits for this message what became of it."""
        waiter = self._waiters.pop(message.id, None)
        if waiter is not None and not waiter.told.done():
            waiter.told.set_result(message)

    def hurry(self) -> None:
        """Whoever waits, now or later, is told that time is up."""
        self._hurried = True
        self._give_up(math.inf)

    def is_awaited(self, message_id: str) -> bool:
        """Whether somebody waits for this message and has not been told."""
        waiter = self._waiters.get(message_id)
        return waiter is not None and not waiter.told.done()

    def among(self, message_ids: Iterable[str]) -> list[str]:
        """Those of the messages that somebody waits for."""
        return [message_id for message_id in message_ids if self.is_awaited(message_id)]

    def all(self) -> list[str]:
        """Every message that somebody waits for."""
        return self.among(self._waiters)

    def _give_up(self, now: float) -> None:
        late = [message_id for message_id, waiter in self._waiters.items() if waiter.deadline <= now]
        for message_id in late:
            told = self._waiters.pop(message_id).told
            if not told.done():
                told.set_result(None)

    # One timer for all: nearly every send would start one of its own only to stop it again.
    def _sweep_by(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._sweep_at = at
        self._timer = self._loop.call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._give_up(self._loop.time())
        self._timer, self._sweep_at = None, math.inf
        left = min((waiter.deadline for waiter in self._waiters.values()), default=None)
        if left is not None:
            self._sweep_by(left)
