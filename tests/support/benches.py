"""A gateway without its edges, for tests of what callers are promised."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

from chapar.app.health import Monitor
from chapar.app.wiring import rules_of
from chapar.delivery.acceptance import Sending
from chapar.delivery.cancellation import Cancellation
from chapar.delivery.capacity import Capacity
from chapar.delivery.idempotency import IdempotencyKeys, Replay, Use
from chapar.delivery.messages import Messaging
from chapar.devices.catalog import NO_CATALOG, Catalog
from chapar.errors import ChaparError, NotSent
from chapar.model.message import Command, Message
from support.callers import CALLER
from support.fakes import PROCESS, FakeClock, FakeLink, MemoryStore, dispatcher_of, fake_settings

USE = Use("me", "key", "fingerprint")
ASKED = Command("A", "push_down")


class Given(NamedTuple):
    """An answer that is kept."""

    sent: Message | NotSent
    status: int = 202
    body: bytes = b"{}"


class Bench:
    """A gateway and its dispatcher between a link, a store and a clock that the test holds in its hands."""

    def __init__(self, *, alone: bool = True, catalog: Catalog = NO_CATALOG, **settings: Any) -> None:
        self.store, self.link, self.clock = MemoryStore(), FakeLink(), FakeClock()
        self.settings = fake_settings(alone=alone, **settings)
        self.dispatcher, self.waiters, self.metrics = dispatcher_of(self.store, self.link, self.clock, alone=alone)
        self.capacity = Capacity(self.settings.max_queue, self.store.queue, self.metrics)
        self.sending = Sending(
            rules_of(self.settings, catalog),
            self.store.messages,
            self.dispatcher,
            self.waiters,
            self.capacity,
            self.clock,
            PROCESS,
            self.metrics,
        )
        store: Any = self.store
        link: Any = self.link
        self.keys = IdempotencyKeys(store, self.clock, PROCESS, self.sending.when_landed)
        self.messaging = Messaging(self.store.messages, self.sending, self.keys, self.waiters)
        self.cancellation = Cancellation(
            store,
            self.dispatcher,
            self.waiters,
            self.messaging,
            self.clock,
            patience=self.settings.publish_timeout,
        )
        self.monitor = Monitor(self.store.health, link, self.capacity, self.clock, self.metrics, lambda: "elsewhere")

    async def send(self, command: Command = ASKED) -> Message:
        return await self.messaging.send(CALLER, command)

    async def all_once(self, *requests: tuple[Command, Use]) -> list[Given | Replay | ChaparError]:
        """Send a list, each with its key."""
        return await self.messaging.send_all_once(CALLER, requests, Given)

    async def once(self, command: Command = ASKED, use: Use = USE) -> Given | Replay:
        """Send with a key."""
        return await self.messaging.send_once(CALLER, command, use, Given)

    def stored(self) -> list[Message]:
        return self.store.database.messages()

    def in_flight(self, command: Command = ASKED) -> asyncio.Task[Message]:
        return asyncio.create_task(self.send(command))

    async def counted(self) -> None:
        """Let what is unfinished be counted."""
        await for_a_moment(self.capacity.run())


async def for_a_moment(loop: Coroutine[None, None, None]) -> None:
    """Let a loop have a few turns, and end it."""
    run = asyncio.create_task(loop)
    for _ in range(5):
        await asyncio.sleep(0)
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run
