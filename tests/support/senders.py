"""Callers who send at the same time, and the ledger of what each was told."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from support.api import client_of

_PAUSE_AFTER_FAILURE = 0.1  # seconds; as a caller does, and so that an outage does not fill the table


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call was told; `status` is None where it was told nothing."""

    imei: str
    micro_op: str
    at_most_once: bool
    asked_at: float  #: time.monotonic()
    answered_at: float
    told_at: float  #: time.time(), to compare with what the gateway writes down
    status: int | None
    location: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str | None:
        found: str | None = self.body.get("id")
        return found

    @property
    def code(self) -> str | None:
        found: str | None = self.body.get("code")
        return found


class Senders:
    """`count` callers; from `async with` to its end each sends one message after the other, never the same twice.

    Every `at_most_once`-th of them asks for that; 0: none does.
    """

    def __init__(
        self, url: str, count: int, *, imei: Callable[[int], str] | None = None, at_most_once: int = 0
    ) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._count = count
        self._imei = imei or (lambda sender: f"86{sender:013}")
        self._at_most_once = at_most_once
        self._numbers = itertools.count(1)
        self._answered = asyncio.Condition()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def answered(
        self,
        status: int | None = 201,
        *,
        times: int = 1,
        asked_since: float | None = None,
        within: float = 30.0,
    ) -> Answer:
        """Wait until `times` calls made from now (or `asked_since`) on were answered so; gives the last of them."""
        since = time.monotonic() if asked_since is None else asked_since
        looked_at = len(self.answers) if asked_since is None else 0
        found: list[Answer] = []

        def enough() -> bool:
            nonlocal looked_at
            new = self.answers[looked_at:]
            looked_at = len(self.answers)
            found.extend(answer for answer in new if answer.status == status and answer.asked_at >= since)
            return len(found) >= times

        async with self._answered:
            try:
                async with asyncio.timeout(within):
                    await self._answered.wait_for(enough)
            except TimeoutError:
                last = self.answers[-3:]
                raise AssertionError(
                    f"only {len(found)} answers {status} in {within} s; the last were {last}"
                ) from None
        return found[times - 1]

    async def __aenter__(self) -> Self:
        client = await self._stack.enter_async_context(client_of(self._url))
        for sender in range(self._count):
            at_most_once = bool(self._at_most_once) and sender % self._at_most_once == 0
            task = asyncio.create_task(self._send(client, self._imei(sender), at_most_once=at_most_once))
            self._tasks.append(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Every call under way still gets its answer."""
        self._stopping = True
        try:
            for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(outcome, BaseException) and error is None:
                    raise outcome
        finally:
            await self._stack.aclose()

    async def _send(self, client: httpx.AsyncClient, imei: str, *, at_most_once: bool) -> None:
        while not self._stopping:
            answer = await self._ask(client, imei, f"operation-{next(self._numbers)}", at_most_once=at_most_once)
            self.answers.append(answer)
            async with self._answered:
                self._answered.notify_all()
            if answer.status != httpx.codes.CREATED:
                await asyncio.sleep(_PAUSE_AFTER_FAILURE)

    async def _ask(self, client: httpx.AsyncClient, imei: str, micro_op: str, *, at_most_once: bool) -> Answer:
        asked_at = time.monotonic()
        asked = {"imei": imei, "micro_op": micro_op, "at_most_once": at_most_once}
        try:
            told = await client.post("/messaging/send", json=asked)
        except httpx.TransportError:
            return Answer(imei, micro_op, at_most_once, asked_at, time.monotonic(), time.time(), None)
        return Answer(
            imei,
            micro_op,
            at_most_once,
            asked_at,
            time.monotonic(),
            time.time(),
            told.status_code,
            told.headers.get("location"),
            told.json() if "json" in told.headers.get("content-type", "") else {},
        )
