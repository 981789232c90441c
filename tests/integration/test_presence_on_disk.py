"""How much of a disk the presence of devices takes: an SD card bears a few hundred gigabytes in all."""

from pathlib import Path

from chapar.devices.presence import SIGHTINGS_EVERY, Presences
from chapar.link.publication import Delivery
from chapar.link.topics import DeviceTopics
from chapar.store.receiving import Reception
from support.fakes import FakeClock
from support.stores import PROCESS, open_store, writer_processes

MINUTE = 60_000  # ms
HOUR = 3600  # seconds
MEGABYTE = 1_000_000


def said(imei: str, payload: bytes, topic: str) -> Delivery:
    return Delivery(f"devices/{imei}/{topic}", payload, 0, retain=False, **NOTHING_ELSE)


NOTHING_ELSE = {
    "correlation_data": None,
    "response_topic": None,
    "user_properties": (),
    "acknowledge": lambda: None,
}


def written() -> int:
    """Bytes that the writer process has written into files, the log and the checkpoints of it."""
    [writer] = writer_processes()
    counts = dict(line.split(": ") for line in Path(f"/proc/{writer}/io").read_text().splitlines())
    return int(counts["wchar"])


async def test_five_hundred_devices_that_report_each_minute_write_less_than_a_megabyte_an_hour(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'chapar.db'}") as store:
        clock = FakeClock()
        topics = {name: DeviceTopics(f"devices/{{imei}}/{name}") for name in ("presence", "reply")}
        presences = Presences(
            store.presences,
            clock,
            commands=DeviceTopics("devices/{imei}"),
            presences=topics["presence"],
            replies=topics["reply"],
            auto_register=True,
            max_devices=1000,
        )
        await presences.begin()
        imeis = [f"86{number * 7919:013}" for number in range(500)]
        presences.received([said(imei, b"online", "presence") for imei in imeis])
        await presences._store_changes()
        before, turns = written(), int(HOUR // SIGHTINGS_EVERY)
        for _ in range(turns):
            for _ in range(5):
                clock.at += MINUTE
                presences.received([said(imei, b'{"level":71}', "reply") for imei in imeis])
                await presences._store_changes()
            await presences._store_sightings()
        log = written() - before
        # Each page of the log is written once more by a checkpoint, or less where the log has it twice.
        assert 0 < 2 * log < MEGABYTE
        await presences.end()


async def test_a_receiver_that_is_alone_renews_its_lease_without_writing(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'chapar.db'}") as store:
        reception = Reception(PROCESS, 10, alone=True, life_is_up=True)
        await store.receiving.acquire(reception)
        before = written()
        for _ in range(10):
            assert await store.receiving.acquire(reception) is not None
        assert written() == before
        await store.receiving.acquire(reception._replace(life_is_up=False))
        assert written() > before
