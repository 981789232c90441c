"""Contacts: what waits for a device is sent soon after the device spoke."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from chapar.model.change import Change
from chapar.model.message import Status
from chapar.model.reason import Reason
from chapar.runtime.clock import Clock
from chapar.store.contacts import Contact
from chapar.store.contacts import Contacts as Waiting

_AT_ONCE: Final = 250  # devices in one commit, for which sends wait
_POLL_SHARED: Final = 0.25  # seconds between looks for what other processes have queued
_STEP: Final = 100  # ms; what is released within such a step leaves in one commit


class Contacts:
    """Devices that have just spoken, each with the window in which it is taken to receive what is sent.

    Where something new waits for one of them, it is released too: what this process queues is a change that it
    receives, and for what others queue the database is asked again.
    """

    def __init__(self, waiting: Waiting, clock: Clock, *, delay: float, window: float, alone: bool) -> None:
        """`delay` and `window`: seconds from a contact until the first message leaves, and until none does."""
        self._waiting = waiting
        self._clock = clock
        self._delay = round(delay * 1000)
        self._window = round(window * 1000)
        self._alone = alone
        self._open: dict[str, Contact] = {}  # by device
        self._again: set[str] = set()  # devices for which something new waits
        self._asked = asyncio.Event()  # … and there are some

    async def met(self, devices: Sequence[tuple[str, int]]) -> None:
        """Let leave what waits for devices that have spoken, each with the time at which it did, ms since the epoch."""
        contacts = [self._contact(imei, at) for imei, at in devices]
        self._open.update((contact.imei, contact) for contact in contacts)
        await self._release(contacts)

    def received(self, changes: Sequence[Change]) -> None:
        """Something has changed: what waits anew for a device whose window is open is released with the rest."""
        if not self._open:
            return
        for change in changes:
            waits = change.after is Status.QUEUED and change.reason == Reason.WAITING_FOR_CONTACT
            if waits and change.imei in self._open:
                self._again.add(change.imei)
                self._asked.set()

    async def run(self) -> None:
        """Ask again where something new may wait, until cancelled."""
        while True:
            imeis: Collection[str]
            try:
                async with asyncio.timeout(None if self._alone else _POLL_SHARED):
                    await self._asked.wait()
                imeis = self._again
            except TimeoutError:
                imeis = list(self._open)
            self._asked.clear()
            self._again = set()
            self._close()
            await self._release([contact for imei in imeis if (contact := self._open.get(imei)) is not None])

    def _contact(self, imei: str, at: int) -> Contact:
        first = -(-(at + self._delay) // _STEP) * _STEP
        return Contact(imei, first, at + self._window)

    def _close(self) -> None:
        """Forget the windows that are over."""
        now = self._clock.now()
        for imei in [imei for imei, contact in self._open.items() if contact.last <= now]:
            del self._open[imei]

    async def _release(self, contacts: Sequence[Contact]) -> None:
        for first in range(0, len(contacts), _AT_ONCE):
            await self._waiting.release(contacts[first : first + _AT_ONCE])
