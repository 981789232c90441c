"""A fleet of simulated devices: each keeps a session of its own with the broker and listens for commands."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from chapar.errors import BrokerError
from chapar.link.broker_access import BrokerAccess
from chapar.link.dial import dial
from chapar.link.endpoints import Endpoint
from chapar.link.keeper import stay_connected
from chapar.link.publication import Delivery, SignOn
from chapar.link.session import Session

MOST_DIALLING: Final = 100  # connections opened at a time; a broker's backlog is not endless


class ReceivedCommand(NamedTuple):
    """A command that reached a device. The broker keeps it until `delivery.acknowledge()`."""

    device: str
    delivery: Delivery


class Fleet:
    """Devices that listen on the command topic, a template with `{imei}`.

    `run()` keeps all of them connected until cancelled; `received()` gives what they hear, one by one. Why a session
    could not be had goes to `on_problem`, each reason once an outage and not once a device.
    """

    def __init__(
        self,
        access: BrokerAccess,
        command_topic: str,
        devices: Sequence[str],
        on_problem: Callable[[BrokerError], None],
    ) -> None:
        self.devices = devices
        self.connected = 0  #: devices that listen now
        self._access = access
        self._command_topic = command_topic
        self._on_problem = on_problem
        self._run_id = secrets.token_hex(4)  # two fleets with the same devices would take over each other's sessions
        # bounded by what brokers send ahead of acknowledgements
        self._received: asyncio.Queue[ReceivedCommand] = asyncio.Queue()
        self._dialling = asyncio.Semaphore(MOST_DIALLING)
        self._changed = asyncio.Condition()
        self._said: set[str] = set()  # problems since all were last connected

    @property
    def complete(self) -> bool:
        """Return whether every device listens."""
        return self.connected == len(self.devices)

    async def run(self) -> None:
        """Keep every device connected until cancelled; then each says DISCONNECT."""
        async with asyncio.TaskGroup() as tasks:
            for device in self.devices:
                tasks.create_task(stay_connected(self._access, partial(self._session, device), self._note), name=device)

    async def received(self) -> ReceivedCommand:
        """Return the next command that a device received; waits for it."""
        return await self._received.get()

    async def until(self, *, complete: bool) -> None:
        """Wait until every device listens, or until one does not."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.complete is complete)

    @contextlib.asynccontextmanager
    async def _session(self, device: str, endpoint: Endpoint) -> AsyncIterator[Session]:
        """A session that listens as this device; raises BrokerError where there is none."""
        sign_on = SignOn(
            client_id=f"{device}-{self._run_id}",
            keep_alive=self._access.keep_alive,
            username=endpoint.broker.username,
            password=endpoint.broker.password,
        )
        async with self._dialling:
            session = await dial(endpoint, self._access, sign_on, partial(self._receive, device))
        try:
            await session.subscribe([self._command_topic.replace("{imei}", device)])
            await self._count(1)
            try:
                yield session
            finally:
                await self._count(-1)
        finally:
            await session.close()

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.connected += change
            if self.complete:
                self._said.clear()
            self._changed.notify_all()

    def _receive(self, device: str, delivery: Delivery) -> None:
        self._received.put_nowait(ReceivedCommand(device, delivery))

    def _note(self, error: BrokerError) -> None:
        if str(error) not in self._said:
            self._said.add(str(error))
            self._on_problem(error)
