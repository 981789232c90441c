"""The registry: who sees and changes which device, and what it knows better than the database."""

from typing import Any

import pytest

from chapar.devices import registry as module
from chapar.devices.registry import Description, Registry
from chapar.errors import DeviceNotFound, DevicePaused, DevicesExhausted, FieldInvalid, NotSaved
from chapar.model.audit import Action, AuditFilters
from chapar.model.device import DeviceFilters, Edit, PresenceCounts, Registration, State
from chapar.model.message import Profile, Status
from chapar.model.principal import EVERY_SCOPE, Caller, Principal, Reach
from chapar.store.pauses import PauseQueue
from support.callers import CALLER
from support.fakes import EPOCH, FakeClock, MemoryStore
from support.stores import entry_about, new_message

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
        self.clock = FakeClock()
        self.registry = Registry(
            self.store.devices,
            self.store.purges,
            self.seen,
            self.clock,
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


async def test_a_device_is_not_forgotten_while_its_queue_is_paused(bench: Bench) -> None:
    await bench.registry.put(CALLER, "a", PLAIN)
    asked = PauseQueue(entry_about("a", Action.QUEUE_PAUSED), "Anna", None, 3)
    assert await bench.store.pauses.pause(asked, 30)
    with pytest.raises(DevicePaused):
        await bench.registry.forget(CALLER, "a")
    await bench.store.pauses.resume(entry_about("a", Action.QUEUE_RESUMED), 30)
    await bench.registry.forget(CALLER, "a")
    assert bench.seen.noted == [("registered", "a"), ("forgotten", "a")]


async def test_a_device_that_somebody_else_has_just_forgotten_is_not_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.registry.put(CALLER, "a", PLAIN)

    async def delete(*_: object) -> bool:
        return False

    monkeypatch.setattr(bench.store.devices, "delete", delete)
    with pytest.raises(DeviceNotFound):
        await bench.registry.forget(CALLER, "a")
    assert bench.seen.noted == [("registered", "a")]


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


def edit(imei: str, *, keeps_labels: bool = True, labels: Any = None, **fields: str | None) -> Edit:
    return Edit(imei, fields, labels or {}, keeps_labels)


async def both(bench: Bench, *edits: Edit, made: int = 0, caller: Caller = CALLER) -> list[Any]:
    """What becomes of edits, which must be what was foreseen."""
    foreseen = await bench.registry.foresee(caller, edits, made)
    done = await bench.registry.edit(caller, edits)
    assert list(map(str, foreseen)) == list(map(str, done))
    return done


async def test_many_are_described_as_far_as_they_are_named_and_what_would_become_of_them_is_known(bench: Bench) -> None:
    described = Description("pump", Profile.TEXT, {"farm": "1", "zone": "2"})
    await bench.registry.put(CALLER, "a", described)
    bench.clock.at += 1
    done = await both(
        bench,
        edit("a", labels={"zone": None, "crop": "wheat"}),
        edit("b", name="new"),
        edit("c", labels={str(number): "" for number in range(17)}),
    )
    assert done[:2] == [Registration.CHANGED, Registration.MADE]
    assert isinstance(done[2], FieldInvalid)
    bench.clock.at += 1
    assert await both(bench, edit("b", name="newer"), edit("a", profile="text")) == [
        Registration.CHANGED,
        Registration.UNCHANGED,
    ]
    device = (await bench.registry.find(CALLER, "a")).device
    assert (device.name, device.profile, device.labels) == ("pump", "text", {"farm": "1", "crop": "wheat"})
    assert (await bench.registry.find(CALLER, "b")).device.name == "newer"
    bench.clock.at += 1
    again = await both(bench, edit("a", keeps_labels=False), edit("b", name="newer"), edit("b", name="old"))
    assert again[:2] == [Registration.CHANGED, Registration.UNCHANGED]
    assert again[2] is Registration.CHANGED
    assert (await bench.registry.find(CALLER, "a")).device.labels == {}
    assert bench.seen.noted.count(("registered", "b")) == 4
    assert [imei for _, _, imei in await bench.entries()].count("b") == 3, "what changes nothing is in no trail"


async def test_none_is_made_beyond_the_room_nor_out_of_reach(bench: Bench) -> None:
    done = await both(bench, *(edit(f"farm{number}-x") for number in range(4)), caller=NARROW)
    assert [type(each) for each in done] == [DeviceNotFound, Registration, DeviceNotFound, DeviceNotFound]
    bench.clock.at += 1
    done = await both(bench, *(edit(f"more-{number}") for number in range(3)), edit("farm1-x", name="known"))
    assert isinstance(done[2], DevicesExhausted)
    assert done[3] is Registration.CHANGED
    [foreseen] = await bench.registry.foresee(CALLER, [edit("z")], made=0)
    assert isinstance(foreseen, DevicesExhausted)
    await bench.registry.forget(CALLER, "more-0")
    assert await bench.registry.foresee(CALLER, [edit("z")], made=0) == [Registration.MADE]
    [foreseen] = await bench.registry.foresee(CALLER, [edit("z")], made=1)
    assert isinstance(foreseen, DevicesExhausted)


async def test_all_devices_that_fit_are_given_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for imei in "abc":
        await bench.registry.put(CALLER, imei, PLAIN)
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    parts = [[known.device.imei for known in part] async for part in bench.registry.all(CALLER, DeviceFilters())]
    assert parts == [["a", "b"], ["c"]]
    assert [part async for part in bench.registry.all(NARROW, DeviceFilters())] == [[]]
