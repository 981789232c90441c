"""Devices behind a radio link: gone between check and send, deaf while they start, shut off by their carrier."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from support.modem import Modem
from support.site import Site

Figure = Callable[[str], None]

STARTING = 0.3  # seconds from its first word until firmware subscribes
_AT_ONCE = 50  # calls under way


class Field(NamedTuple):
    """How many devices, and for how many seconds after a word a device is reached: contact window and carrier."""

    devices: int
    window: int
    rounds: int = 1


SHORT = Field(20, 5)
LONG = pytest.param(Field(250, 15, 4), marks=pytest.mark.long)


class Sender:
    """Sends without waiting, and keeps when."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self.sent: dict[str, float] = {}  # operations, and when each was accepted by `time.monotonic`
        self._api = api
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def send(self, imei: str, micro_op: str, **fields: object) -> None:
        async with self._gate:
            message = {"imei": imei, "micro_op": micro_op, "wait": "none", **fields}
            answer = await self._api.post("/messaging/send", json=message)
        if answer.status_code == 202:
            self.sent[micro_op] = time.monotonic()

    async def until_online(self, imeis: Sequence[str]) -> None:
        async with asyncio.timeout(60):
            for imei in imeis:
                while not await self._is_online(imei):  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.1)

    async def _is_online(self, imei: str) -> bool:
        async with self._gate:
            answer = await self._api.get(f"/devices/{imei}")
        if not answer.is_success:
            return False
        presence = answer.json()["presence"]
        return presence["state"] == "online" and not presence["stale"]


@asynccontextmanager
async def sender_to(site: Site) -> AsyncIterator[Sender]:
    async with httpx.AsyncClient(base_url=site.gateway.url, timeout=90.0) as api:
        yield Sender(api)


@asynccontextmanager
async def modems_at(site: Site, count: int, **kind: object) -> AsyncIterator[list[Modem]]:
    modems = [Modem(site.broker.port, site.new_imei(), **kind) for _ in range(count)]
    try:
        yield modems
    finally:
        for modem in modems:
            await modem.drop()


async def each(modems: Sequence[Modem], *steps: Callable[[Modem], object]) -> None:
    for step in steps:
        await asyncio.gather(*(step(modem) for modem in modems))


@pytest.mark.parametrize("field", [SHORT, LONG])
async def test_what_is_for_who_is_online_reaches_nobody_late(field: Field, tmp_path: Path, figure: Figure) -> None:
    """The device is gone between the check and the send, and the broker keeps its session."""
    dice = random.Random(13)
    with Site(tmp_path, contact_window=field.window) as site:
        site.wait_until_received()
        async with sender_to(site) as sender, modems_at(site, field.devices, persistent=True) as modems:
            for round_ in range(field.rounds):
                await each(modems, Modem.connect, Modem.subscribe, Modem.announce)
                await sender.until_online([modem.imei for modem in modems])

                async def send_and_drop(modem: Modem, operation: str) -> None:
                    drops_after = dice.uniform(-0.05, 0.05)
                    await asyncio.sleep(max(0, -drops_after))
                    sending = asyncio.create_task(sender.send(modem.imei, operation, only_if_online=True))
                    await asyncio.sleep(dice.uniform(0, 0.1))
                    await modem.drop()
                    await sending

                names = {modem: f"{modem.imei}-{round_}" for modem in modems}
                await asyncio.gather(*(send_and_drop(modem, name) for modem, name in names.items()))
                await asyncio.sleep(field.window + 2)
                await each(modems, Modem.connect)
                await asyncio.sleep(2)
            heard = {name: at for modem in modems for name, at in modem.heard.items()}
    stale = [name for name, at in heard.items() if at - sender.sent[name] > field.window + 1]
    figure(f"{len(sender.sent)} sent to who drops: {len(heard)} arrived in time, {len(stale)} late")
    assert not stale
    assert len(heard) < len(sender.sent), "some were gone before their command came"


@pytest.mark.parametrize("field", [SHORT, LONG])
async def test_firmware_that_subscribes_after_it_spoke_gets_what_waited(
    field: Field, tmp_path: Path, figure: Figure
) -> None:
    with Site(tmp_path, contact_window=field.window) as site:
        site.wait_until_received()
        async with sender_to(site) as sender, modems_at(site, field.devices) as modems:
            for round_ in range(field.rounds):
                asked = [sender.send(modem.imei, f"{modem.imei}-{round_}", deliver="on_contact") for modem in modems]
                await asyncio.gather(*asked)

                async def start(modem: Modem) -> None:
                    await modem.connect()
                    await modem.announce()
                    await asyncio.sleep(STARTING)
                    await modem.subscribe()

                await asyncio.gather(*(start(modem) for modem in modems))
                await _until_heard(modems, sender, within=field.window + 5)
                await each(modems, Modem.drop)
            heard = {name for modem in modems for name in modem.heard}
    figure(f"{len(sender.sent)} for firmware that subscribes {STARTING} s after it spoke: {len(heard)} arrived")
    assert len(heard) >= 0.99 * len(sender.sent)


@pytest.mark.parametrize("field", [LONG])
async def test_what_waits_for_a_contact_passes_a_carrier_that_soon_shuts_the_way(
    field: Field, tmp_path: Path, figure: Figure
) -> None:
    """A device speaks every three windows, and commands come at any time."""
    dice = random.Random(13)
    every = 3 * field.window
    with Site(tmp_path, contact_window=field.window) as site:
        site.wait_until_received()
        async with (
            sender_to(site) as waiting,
            sender_to(site) as plain,
            modems_at(site, field.devices, forwards_for=field.window) as modems,
        ):
            over = time.monotonic() + (field.rounds + 2) * every

            async def live(modem: Modem) -> None:
                await asyncio.sleep(dice.uniform(0, every))
                while time.monotonic() < over:
                    await modem.speak()
                    await asyncio.sleep(every)

            async def command(modem: Modem) -> None:
                for round_ in range(field.rounds):
                    await asyncio.sleep(every if round_ else dice.uniform(0, every))
                    await waiting.send(modem.imei, f"{modem.imei}-waiting-{round_}", deliver="on_contact")
                    await plain.send(modem.imei, f"{modem.imei}-plain-{round_}")

            lives = [asyncio.create_task(live(modem)) for modem in modems]
            await asyncio.sleep(every)  # all have spoken once
            await asyncio.gather(*(command(modem) for modem in modems))
            await asyncio.gather(*lives)
            heard = {name for modem in modems for name in modem.heard}
    reached = {kind: len(heard & sender.sent.keys()) for kind, sender in (("waiting", waiting), ("plain", plain))}
    figure(
        f"a carrier that forwards for {field.window} s: {reached['waiting']} of {len(waiting.sent)} on contact, "
        f"{reached['plain']} of {len(plain.sent)} plain ones"
    )
    assert reached["waiting"] >= 0.99 * len(waiting.sent)
    assert reached["plain"] < reached["waiting"]


async def _until_heard(modems: Sequence[Modem], sender: Sender, within: float) -> None:
    """Until every command has arrived, or the time for it is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while sum(len(modem.heard) for modem in modems) < len(sender.sent):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
