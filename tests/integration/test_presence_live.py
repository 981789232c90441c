"""Presence as devices of both protocols make it, on real brokers: announcements, wills, and what is retained."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from chapar.app.brokers import broker_access
from chapar.devices.presence import Presences
from chapar.link.receiver import Receiver
from chapar.link.topics import DeviceTopics
from chapar.model.device import GRACE
from chapar.model.principal import EVERYWHERE
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store.receiving import Reception
from chapar.store.store import Store
from support.builtin import BuiltinBroker
from support.fakes import FakeClock
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK
from support.receivers import new_client_id, until
from support.stores import PROCESS, open_store

TOPICS = {name: DeviceTopics(f"devices/{{imei}}{name}") for name in ("", "/presence", "/reply")}


@contextlib.contextmanager
def device(port: int, imei: str, version: MQTTProtocolVersion, *, will: bool = True) -> Iterator[Client]:
    """A device that is connected, and leaves without a word."""
    client = Client(CallbackAPIVersion.VERSION2, f"device-{imei}", protocol=version)
    if will:
        client.will_set(f"devices/{imei}/presence", "offline", 1, retain=True)
    client.connect(LOOPBACK, port)
    client.loop_start()
    try:
        yield client
    finally:
        if (line := client.socket()) is not None:
            line.close()
        client.loop_stop()


class Place:
    """A receiver at work, and a clock of the test's own."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self.clock = FakeClock()
        self.contacts: list[str] = []
        self._presences = Presences(
            store.presences,
            self.clock,
            commands=TOPICS[""],
            presences=TOPICS["/presence"],
            replies=TOPICS["/reply"],
            auto_register=True,
            max_devices=100,
        )
        self._presences.listen(self._contacted)

    async def _contacted(self, contacts: Sequence[tuple[str, int]]) -> None:
        self.contacts += [imei for imei, _ in contacts]

    @contextlib.asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        receiver = Receiver(
            broker_access(self._settings),
            TOPICS["/reply"],
            TOPICS["/presence"],
            Metrics(),
            on_replies=lambda deliveries: [delivery.acknowledge() for delivery in deliveries].clear(),
            on_life=self._presences.received,
            on_filters=lambda _: None,
        )
        await self._presences.begin()
        tasks = [
            asyncio.create_task(self._presences.run()),
            asyncio.create_task(receiver.run(new_client_id(), (), lambda: True)),
        ]
        await until(lambda: receiver.life_up and receiver.trouble is None)
        await self._store.receiving.acquire(Reception(PROCESS, 60, alone=True, life_is_up=True))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._presences.end()

    async def seen(self, imei: str, state: str, evidence: str | None) -> None:
        """Wait until a device is seen so."""
        async with asyncio.timeout(60):
            while await self._now(imei) != (state, evidence, False):  # noqa: ASYNC110 - as in `until`
                await asyncio.sleep(0.02)

    async def _now(self, imei: str) -> tuple[str, str | None, bool] | None:
        found = await self._store.devices.find(imei, EVERYWHERE, self.clock.now())
        if found is None:
            return None
        state, _, evidence, stale = found.presence
        return state.value, evidence and evidence.value, stale


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
async def test_a_device_comes_falls_away_and_speaks(
    broker: Mosquitto | BuiltinBroker, version: MQTTProtocolVersion, tmp_path: Path
) -> None:
    imei = f"d{version}"
    if isinstance(broker, Mosquitto):
        port, settings = broker.port, Settings.load(broker_url=broker.url)
    else:
        is_new = version is MQTTProtocolVersion.MQTTv5
        port, settings = broker.port + is_new, Settings.load(embedded_port=broker.port)
    async with open_store(f"sqlite:///{tmp_path / 'chapar.db'}") as store:
        place = Place(store, settings)
        async with place.receiving():
            with device(port, imei, version) as client:
                client.publish(f"devices/{imei}/presence", "Online ", 1, retain=True).wait_for_publish(60)
                await place.seen(imei, "online", "announced")
            # The will arrives, and is believed after the grace.
            await until(lambda: place._presences._evidence[imei].offline_at is not None)
            await place.seen(imei, "online", "announced")
            place.clock.at += GRACE
            await place.seen(imei, "offline", "announced")
            with device(port, imei, version, will=False) as client:
                client.publish(f"devices/{imei}/reply", b"\xff\x00 71 %", 1).wait_for_publish(60)
                await place.seen(imei, "online", "spoke")
            assert set(place.contacts) == {imei}
            seen_at = place.clock.at
        # Whoever receives next finds what the will has left.
        place.contacts.clear()
        place.clock.at += 60_000
        async with place.receiving():
            await place.seen(imei, "offline", "retained")
            assert place.contacts == []
            found = await store.devices.find(imei, EVERYWHERE, place.clock.now())
            assert found is not None
            assert found.last_seen == seen_at
            with device(port, imei, version) as client:
                client.publish(f"devices/{imei}/presence", "", 1, retain=True).wait_for_publish(60)
                await place.seen(imei, "unknown", None)
