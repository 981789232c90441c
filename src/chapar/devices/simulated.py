"""A fleet of simulated devices: each keeps a session of its own with the broker and listens for what it is told."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from chapar.errors import LinkError
from chapar.link.dial import dial
from chapar.link.endpoints import Endpoint, Rotation
from chapar.link.publication import Delivery, SignOn
from chapar.link.session import Session
from chapar.runtime.backoff import Backoff
from chapar.runtime.settings import Settings

MOST_DIALLING: Final = 100  # connections opened at a time; a broker's backlog is not endless


class Told(NamedTuple):
    """What a device was told. The broker keeps it until `delivery.acknowledge()`."""

    device: str
    delivery: Delivery


class Fleet:
    """Devices that listen on the command topic.

    `run()` keeps all of them connected until cancelled; `told()` gives what they hear, one by one. Why a session
    could not be had goes to `on_problem`, each reason once an outage and not once a device.
    """

    def __init__(self, settings: Settings, devices: Sequence[str], on_problem: Callable[[LinkError], None]) -> None:
        self.devices = devices
        self.connected = 0  #: devices that listen now
        self._settings = settings
        self._on_problem = on_problem
        self._run_id = secrets.token_hex(4)  # two fleets with the same devices would take over each other's sessions
        self._told: asyncio.Queue[Told] = asyncio.Queue()  # bounded by what brokers send ahead of acknowledgements
        self._dialling = asyncio.Semaphore(MOST_DIALLING)
        self._changed = asyncio.Condition()
        self._said: set[str] = set()  # problems since all were last connected

    @property
    def complete(self) -> bool:
        """Whether every device listens."""
        return self.connected == len(self.devices)

    async def run(self) -> None:
        """Keep every device connected until cancelled; then each says DISCONNECT."""
        async with asyncio.TaskGroup() as tasks:
            for device in self.devices:
                tasks.create_task(self._live(device), name=device)

    async def told(self) -> Told:
        """What a device has heard; waits for it."""
        return await self._told.get()

    async def until(self, *, complete: bool) -> None:
        """Wait until every device listens, or until one does not."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.complete is complete)

    async def _live(self, device: str) -> None:
        rotation = Rotation(self._settings.brokers(), self._settings.connect_timeout, self._note)
        backoff = Backoff()
        while True:
            # A round over all addresses is one try, as the link's own.
            while (endpoint := await rotation.next()) is not None:
                try:
                    async with self._session(device, endpoint) as session:
                        with backoff.working():
                            await session.ended()
                except LinkError as error:
                    self._note(error)
            await backoff.pause()

    @contextlib.asynccontextmanager
    async def _session(self, device: str, endpoint: Endpoint) -> AsyncIterator[Session]:
        """A session that listens as this device; raises LinkError where there is none."""
        sign_on = SignOn(
            client_id=f"{device}-{self._run_id}",
            keep_alive=self._settings.keep_alive,
            username=endpoint.broker.username,
            password=endpoint.broker.password,
        )
        async with self._dialling:
            session = await dial(endpoint, self._settings, sign_on, partial(self._hear, device))
        try:
            await session.subscribe([self._settings.command_topic.replace("{imei}", device)])
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

    def _hear(self, device: str, delivery: Delivery) -> None:
        self._told.put_nowait(Told(device, delivery))

    def _note(self, error: LinkError) -> None:
        if str(error) not in self._said:
            self._said.add(str(error))
            self._on_problem(error)
