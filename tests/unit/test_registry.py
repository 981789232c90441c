"""The registry: who sees and changes which device, and what it knows better than the database."""

from typing import Any

import pytest

from chapar.devices.registry import Description, Registry
from chapar.errors import DeviceNotFound, DevicesExhausted, NotSaved
from chapar.model.audit import AuditFilters
from chapar.model.device import DeviceFilters, PresenceCounts, Registration, State
from chapar.model.message import Profile, Status
from chapar.model.principal import EVERY_SCOPE, Caller, Principal, Reach
from support.callers import CALLER
from support.fakes import EPOCH, FakeClock, MemoryStore
from support.stores import new_message

NARROW = Caller(Principal("key:farm1", "farm 1", EVERY_SCOPE, Reach(("farm1-*",), ("open*",))), "192.0.2.7")
PLAIN = Description(None, None, {})


class Seen:
    """Presences of a process that receives, or of one that does not."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        self.noted: list[tuple[str, str]] = []

    def last_seen(self, imei: str) -> int | None:
        return self.at.get(imei)

    def registered(self, imei: str) -> None:
        self.noted.append(("registered", imei))

    def forgotten(self, imei: str) -> None:
        self.noted.append(("forgotten", imei))


class Bench:
    def __init__(self) -> None:
        self.store: Any = MemoryStore()
        self.seen: Any = Seen()
        self.registry = Registry(
            self.store.devices,
            self.store.purges,
            self.seen,
            FakeClock(),
            default_profile=Profile.CHAPAR,
            max_devices=3,
            patience=1.0,
        )

    async def ids(self, caller: Caller = CALLER, **filters: Any) -> list[str]:
        page = await self.registry.page(caller, DeviceFilters(**filters), after=None, limit=10)
        return [known.device.imei for known in page.devices]

    async def entries(self) -> list[tuple[str, str, str | None]]:
        page = await self.store.trail.page(AuditFilters(), before=None, limit=100)
        return [(entry.action, entry.principal, entry.imei) for _, entry in reversed(page.entries)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_device_within_reach_is_registered_shown_and_forgotten(bench: Bench) -> None:
    described = Description("pump", Profile.TEXT, {"farm": "1"})
    known, registration = await bench.registry.put(NARROW, "farm1-a", described)
    assert registration is Registration.MADE
    assert (known.device.name, known.device.profile, known.device.created_at) == ("pump", "text", EPOCH)
    assert (await bench.registry.put(NARROW, "farm1-a", PLAIN))[1] is Registration.MADE, "at the same moment"
    assert (await bench.registry.find(NARROW, "farm1-a")).device.labels == {}
    await bench.registry.forget(NARROW, "farm1-a")
    assert bench.seen.noted == [("registered", "farm1-a")] * 2 + [("forgotten", "farm1-a")]
    assert await bench.entries() == [
        ("device_put", "key:farm1", "farm1-a"),
        ("device_put", "key:farm1", "farm1-a"),
        ("device_forgotten", "key:farm1", "farm1-a"),
    ]
    for asked in (bench.registry.find, bench.registry.forget):
        with pytest.raises(DeviceNotFound):
            await asked(NARROW, "farm1-a")


async def test_a_device_out_of_reach_is_not_there(bench: Bench) -> None:
    await bench.registry.put(CALLER, "farm2-a", PLAIN)
    await bench.registry.put(CALLER, "farm1-a", PLAIN)
    waiting = bench.store.put(new_message("farm2-a", Status.QUEUED, claim=None))
    for asked in (
        bench.registry.find(NARROW, "farm2-a"),
        bench.registry.put(NARROW, "farm2-a", PLAIN),
        bench.registry.put(NARROW, "farm3-new", PLAIN),
        bench.registry.forget(NARROW, "farm2-a"),
        bench.registry.purge(NARROW, "farm2-a"),
        bench.registry.owed(NARROW, "farm2-a", 9),
    ):
        with pytest.raises(DeviceNotFound):
            await asked
    assert await bench.ids(NARROW) == ["farm1-a"]
    assert await bench.ids() == ["farm1-a", "farm2-a"]
    assert bench.store.now(waiting) == waiting
    assert len(await bench.entries()) == 2


async def test_a_purge_withdraws_what_the_caller_reaches(bench: Bench) -> None:
    messages = [
        bench.store.put(new_message("farm1-a", Status.QUEUED, micro_op=operation, claim=None))
        for operation in ("open", "open_valve", "close")
    ]
    assert await bench.registry.owed(NARROW, "farm1-a", 9) == [bench.store.now(message) for message in messages[:2]]
    assert await bench.registry.purge(NARROW, "farm1-a") == 2, "nobody registered it, and it has a queue"
    assert [bench.store.now(message).status for message in messages] == [
        Status.CANCELLED,
        Status.CANCELLED,
        Status.QUEUED,
    ]
    assert await bench.registry.purge(CALLER, "farm1-a") == 1


async def test_no_more_are_registered_than_may_be(bench: Bench) -> None:
    for imei in "abc":
        await bench.registry.put(CALLER, imei, PLAIN)
    with pytest.raises(DevicesExhausted) as raised:
        await bench.registry.put(CALLER, "d", PLAIN)
    assert raised.value.limit == 3
    assert ("registered", "d") not in bench.seen.noted
    assert await bench.ids() == ["a", "b", "c"]


async def test_who_receives_knows_better_when_a_device_was_seen(bench: Bench) -> None:
    await bench.registry.put(CALLER, "a", PLAIN)
    assert (await bench.registry.find(CALLER, "a")).last_seen is None
    bench.seen.at["a"] = EPOCH + 5
    assert (await bench.registry.find(CALLER, "a")).last_seen == EPOCH + 5
    page = await bench.registry.page(CALLER, DeviceFilters(), after=None, limit=1)
    assert page.devices[0].last_seen == EPOCH + 5


async def test_a_device_without_a_profile_is_found_by_the_default_one(bench: Bench) -> None:
    await bench.registry.put(CALLER, "a", PLAIN)
    await bench.registry.put(CALLER, "b", Description(None, Profile.TEXT, {}))
    assert await bench.ids(profile="chapar") == ["a"]
    assert await bench.ids(profile="text") == ["b"]


async def test_devices_within_reach_are_counted(bench: Bench) -> None:
    for imei in ("farm1-a", "farm1-b", "farm2-a"):
        await bench.registry.put(CALLER, imei, PLAIN)
    for caller, count in ((CALLER, 3), (NARROW, 2)):
        counts = {State.ONLINE: 0, State.OFFLINE: 0, State.UNKNOWN: count}
        assert await bench.registry.counts(caller) == PresenceCounts(counts, stale=True), "nobody has ever listened"


async def test_what_is_not_saved_is_not_taken_for_done(bench: Bench) -> None:
    bench.store.commits.failing = {"put_device": NotSaved("the disk is full.")}
    with pytest.raises(NotSaved):
        await bench.registry.put(CALLER, "a", PLAIN)
    assert bench.seen.noted == []
