"""The presence of the devices: what is stored of it, and when, who is registered, and what counts as a contact."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from chapar.devices import presence
from chapar.devices.presence import AT_ONCE, Presences
from chapar.link.publication import Delivery
from chapar.link.topics import DeviceTopics
from chapar.model.device import GRACE, DeviceFilters, Edit, KnownDevice
from chapar.model.principal import EVERYWHERE
from chapar.store.devices import Put, find, page
from chapar.store.presences import Noted, StoredPresences
from support.fakes import EPOCH, FakeClock, MemoryStore
from support.stores import entry_about

MINUTE = 60_000


def said(imei: str, payload: bytes = b"online", *, topic: str = "presence", retain: bool = False) -> Delivery:
    return Delivery(f"devices/{imei}/{topic}", payload, 0, retain, None, None, (), lambda: None)


class Bench:
    """Presences over the real statements, and a clock of the test's own."""

    def __init__(self, **settings: Any) -> None:
        self.store: Any = MemoryStore()
        self.clock = FakeClock()
        self.contacts: list[tuple[str, int]] = []
        self.presences = self.new(**settings)

    def new(self, **settings: Any) -> Presences:
        made = Presences(
            self.store.presences,
            self.clock,
            commands=DeviceTopics("devices/{imei}"),
            presences=DeviceTopics("devices/{imei}/presence"),
            **{
                "replies": DeviceTopics("devices/{imei}/reply"),
                "auto_register": True,
                "max_devices": 1000,
            }
            | settings,
        )
        made.listen(self.keep)
        return made

    async def keep(self, contacts: Sequence[tuple[str, int]]) -> None:
        self.contacts += contacts

    @asynccontextmanager
    async def running(self, presences: Presences | None = None) -> AsyncIterator[None]:
        presences = presences or self.presences
        await presences.begin()
        running = asyncio.create_task(presences.run())
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await presences.end()

    async def receive(self, *deliveries: Delivery) -> None:
        self.presences.received(deliveries)
        for _ in range(20):
            await asyncio.sleep(0)

    async def put(self, imei: str) -> None:
        await self.store.devices.put_all([Put(Edit(imei, {}, {}), entry_about(imei), 1000)], 1.0)

    def known(self, imei: str) -> KnownDevice | None:
        return self.store.database.read(lambda connection: find(connection, imei, EVERYWHERE, self.clock.now()))

    def state(self, imei: str) -> tuple[str, str | None]:
        known = self.known(imei)
        assert known is not None, imei
        return known.presence.state.value, known.presence.evidence and known.presence.evidence.value

    @property
    def registered(self) -> list[str]:
        found = self.store.database.read(
            lambda connection: page(connection, DeviceFilters(), None, 5000, self.clock.now())
        )
        return [each.device.imei for each in found.devices]

    def noted(self) -> list[Noted]:
        return self.store.asked("presence")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_device_that_speaks_is_registered_and_seen(bench: Bench) -> None:
    async with bench.running():
        await bench.receive(said("a"), said("b", b"{}", topic="reply"), said("c", b"71 %"))
        assert bench.registered == ["a", "b", "c"]
        assert [bench.state(imei) for imei in "abc"] == [("online", "announced"), ("unknown", None), ("unknown", None)]
        assert {bench.known(imei).last_seen for imei in "abc"} == {EPOCH}  # type: ignore[union-attr]
        assert bench.contacts == [("a", EPOCH), ("b", EPOCH), ("c", EPOCH)]


async def test_only_what_a_device_says_now_is_a_contact(bench: Bench) -> None:
    async with bench.running():
        await bench.receive(
            said("will", b"offline"),
            said("stored", retain=True),
            said("replied", b"ok", topic="reply", retain=True),
            said("emptied", b""),
            said("chatter", b"71 %", retain=True),
        )
        assert bench.contacts == []
        assert bench.registered == []
        await bench.receive(said("other", topic="telemetry"), said("a/b"), said("x" * 65), said("پمپ"))
        assert bench.contacts == []
        await bench.receive(said("stored", b"71 %"), said("stored", b"72 %"))
        assert bench.contacts == [("stored", EPOCH)], "one a device, however much it says at once"
        assert bench.state("stored") == ("online", "spoke")


async def test_our_own_commands_are_no_sign_of_life() -> None:
    bench = Bench(replies=DeviceTopics("devices/{imei}"))
    async with bench.running():
        await bench.receive(replace(said("a"), topic="devices/a"), said("b"))
    assert bench.contacts == [("b", EPOCH)]


async def test_evidence_is_stored_when_it_changes_and_not_before(bench: Bench) -> None:
    async with bench.running():
        await bench.receive(said("a"))
        assert len(bench.noted()) == 1
        for _ in range(100):
            bench.clock.at += MINUTE
            await bench.receive(said("a"), said("a", b"71 %"), said("a", topic="reply"), said("a", retain=True))
        assert len(bench.noted()) == 1
        assert bench.presences.last_seen("a") == EPOCH + 100 * MINUTE
        await bench.receive(said("a", b"offline"))
        assert len(bench.noted()) == 2
        assert bench.state("a") == ("online", "announced")
        bench.clock.at += 15_000
        assert bench.state("a") == ("offline", "announced")
        assert bench.known("a").last_seen == EPOCH + 100 * MINUTE, "stored along with what has changed"  # type: ignore[union-attr]
        await bench.receive(said("a", b"71 %"))
        assert bench.state("a") == ("online", "spoke")
        await bench.receive(said("a", b""))
        assert bench.state("a") == ("unknown", None)
        assert len(bench.noted()) == 4


async def test_an_offline_is_stored_as_the_state_once_it_is_believed(bench: Bench) -> None:
    def states() -> list[tuple[str, str, int | None]]:
        return [
            (each.imei, each.evidence.state.value, each.evidence.offline_at) for each in bench.noted() if each.evidence
        ]

    offline_at = bench.clock.at + 1
    async with bench.running():
        await bench.receive(said("a"), said("b"), said("c"), said("d"))
        bench.clock.at = offline_at
        await bench.receive(said("a", b"offline"), said("b", b"offline"), said("c", b"offline"), said("d", b"offline"))
        bench.clock.at += 1
        await bench.receive(said("b", b"{}", topic="reply"), said("c", b""))
        bench.presences.forgotten("d")
        before = len(states())
        assert states()[4:8] == [(imei, "online", offline_at) for imei in "abcd"]
        bench.clock.at = offline_at + GRACE - 1
        await bench.receive(said("e"))
        assert states()[before:] == [("e", "online", None)]
        bench.clock.at += 1
        await bench.receive(said("f"))
        assert states()[before + 1 :] == [("f", "online", None), ("a", "offline", None)]
    # Also where that came to be while nobody received, and where a clock was set back meanwhile.
    bench.clock.at += 1
    async with bench.running():
        await bench.receive(said("a"), said("b"))
        await bench.receive(said("a", b"offline"))
        bench.clock.at += 1
        await bench.receive(said("b", b"offline"))
    bench.clock.at += GRACE - 1
    before = len(states())
    async with bench.running():
        await bench.receive()
        assert states()[before:] == [("a", "offline", None)]
        bench.clock.at -= 2 * GRACE
        await bench.receive(said("g"))
        assert states()[before + 1 :] == [("g", "online", None), ("b", "offline", None)]


async def test_when_devices_were_last_seen_is_stored_now_and_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = asyncio.Event()
    sight = StoredPresences.sight

    def noticed(presences: StoredPresences, seen: Sequence[tuple[str, int]]) -> asyncio.Future[Any]:
        stored.set()
        return sight(presences, seen)

    monkeypatch.setattr(StoredPresences, "sight", noticed)
    monkeypatch.setattr(presence, "SIGHTINGS_EVERY", 0.05)
    async with bench.running():
        await bench.receive(*(said(f"d{number:03}") for number in range(AT_ONCE + 5)))
        assert not bench.store.asked("sightings"), "what has changed is stored with when it was"
        bench.clock.at += 1000
        await bench.receive(said("d000", b"71 %"), said("d254", b"71 %"))
        await asyncio.wait_for(stored.wait(), 60)
        await bench.receive()
        assert bench.store.asked("sightings") == [("d000", EPOCH + 1000), ("d254", EPOCH + 1000)]
        assert bench.known("d254").last_seen == EPOCH + 1000  # type: ignore[union-attr]


async def test_what_is_known_outlives_the_process(bench: Bench) -> None:
    async with bench.running():
        await bench.receive(said("a"), said("b"), said("c", b"71 %"))
        bench.clock.at += 5000
        await bench.receive(said("a", b"71 %"), said("b", b"offline"))
    assert bench.presences.last_seen("a") is None, "another process knows better now"
    bench.clock.at += 60_000
    bench.presences = bench.new()
    noted = len(bench.noted())
    async with bench.running():
        assert bench.presences.last_seen("a") == EPOCH + 5000
        await bench.receive(said("a"), said("b", b"offline", retain=True), said("c", b"71 %"))
        assert [bench.state(imei) for imei in "abc"] == [
            ("online", "announced"),
            ("offline", "announced"),
            ("unknown", None),
        ]
        assert [each.imei for each in bench.noted()[noted:]] == ["b"], "it is believed now; nothing else has changed"


async def test_beyond_the_bound_nobody_is_registered_and_nobody_is_harmed() -> None:
    bench = Bench(max_devices=3)
    async with bench.running():
        await bench.receive(said("a"), said("b"))
        await bench.receive(*(said(f"invented-{number}") for number in range(50)))
        assert len(bench.registered) == 3
        asked = len(bench.noted())
        for _ in range(10):
            await bench.receive(*(said(f"invented-{number}") for number in range(50)))
        assert len(bench.noted()) == asked, "they are not tried again and again"
        bench.contacts.clear()
        await bench.receive(said("a", b"offline"), said("invented-40", b"71 %"))
        assert bench.contacts == [("invented-40", bench.clock.now())], "what waits for it leaves all the same"
        bench.clock.at += 15_000
        assert bench.state("a") == ("offline", "announced")


async def test_contacts_that_nobody_takes_are_bounded() -> None:
    bench = Bench(max_devices=3)
    bench.presences.received([said(f"invented-{number}") for number in range(50)])
    async with bench.running():
        pass
    bench.presences.received([said(f"invented-{number}") for number in range(50)])
    running = asyncio.create_task(bench.presences.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(bench.contacts) == 3


async def test_a_device_is_registered_by_somebody_where_it_may_not_be_by_itself() -> None:
    bench = Bench(auto_register=False)
    async with bench.running():
        await bench.receive(said("here", retain=True), said("there"), said("there", b"71 %"))
        assert bench.registered == []
        assert bench.contacts == [("there", EPOCH)]
        for imei in ("here", "silent"):
            await bench.put(imei)
            bench.presences.registered(imei)
        await bench.receive()
        assert bench.state("here") == ("online", "retained")
        assert bench.state("silent") == ("unknown", None)
        await bench.receive(said("silent"))
        assert bench.state("silent") == ("online", "announced")
        await bench.put("there")  # by another process
        assert bench.state("there") == ("unknown", None)
    assert bench.state("there") == ("online", "announced"), "the next time that strangers are stored"
    assert bench.known("there").last_seen == EPOCH  # type: ignore[union-attr]
    bench.presences.registered("later")
    assert bench.presences.last_seen("later") is None


async def test_a_device_that_was_forgotten_is_met_anew_when_it_speaks(bench: Bench) -> None:
    async with bench.running():
        await bench.receive(said("here"), said("elsewhere"))
        for imei in ("here", "elsewhere"):
            await bench.store.devices.delete(entry_about(imei), 1.0)
        bench.presences.forgotten("here")
        assert bench.presences.last_seen("here") is None
        await bench.receive(said("here", b"online", retain=True), said("elsewhere", b"offline"))
        assert bench.registered == [], "a word that it left behind does not bring it back"
        await bench.receive(said("here", b"71 %"), said("elsewhere", b"71 %"))
        assert bench.registered == ["elsewhere", "here"]
        assert bench.state("here") == ("online", "spoke")


async def test_what_is_under_way_meanwhile_is_stored_next(bench: Bench) -> None:
    async with bench.running():
        bench.presences.received([said("a")])
        await asyncio.sleep(0)
        bench.presences.received([said("a", b"offline"), said("b")])
        await bench.receive()
        bench.clock.at += 15_000
        assert bench.state("a") == ("offline", "announced")
        assert bench.state("b") == ("online", "announced")


async def test_a_device_that_is_forgotten_while_it_is_stored_stays_so(bench: Bench) -> None:
    async with bench.running():
        await bench.receive(said("a"), said("b"))
        await bench.receive(said("a", b"71 %"), said("b", b"71 %"))
        for imei in "ab":
            await bench.store.devices.delete(entry_about(imei), 1.0)
        ending = asyncio.create_task(bench.presences.end())
        await asyncio.sleep(0)  # the sightings are on their way
        bench.presences.forgotten("a")
        await ending
    assert bench.registered == []


async def test_a_storm_is_stored_in_short_commits_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_devices=5000)
    sizes: list[int] = []
    under_way: list[asyncio.Future[Any]] = []
    note = StoredPresences.note

    def counted(stored: StoredPresences, noted: Sequence[Noted]) -> asyncio.Future[Any]:
        assert all(future.done() for future in under_way), "sends have a commit in between"
        sizes.append(len(noted))
        under_way.append(note(stored, noted))
        return under_way[-1]

    monkeypatch.setattr(StoredPresences, "note", counted)
    async with bench.running():
        tasks = len(asyncio.all_tasks())
        bench.presences.received([said(f"d{number}") for number in range(1100)])
        while sum(sizes) < 1100:
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) <= tasks + 2, "no task a packet"
    assert sizes[:5] == [250, 250, 250, 250, 100]
    assert len(bench.contacts) == len(bench.registered) == 1100


async def test_a_device_takes_a_few_hundred_bytes_of_memory() -> None:
    bench = Bench(max_devices=100_000)
    deliveries = [said(f"86123456{number:07}") for number in range(20_000)]
    tracemalloc.start()
    bench.presences.received(deliveries)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(deliveries) < 600  # 60 MB for as many devices as there may be
