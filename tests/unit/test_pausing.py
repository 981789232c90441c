"""Pausing a device's queue: who may, what it answers, and what of a paused device is taken back from the link."""

import asyncio
from typing import Any

import pytest

from chapar.devices.pausing import Pausing
from chapar.errors import DeviceNotFound, DevicesExhausted, FieldInvalid, PauseUnconfirmed
from chapar.model.audit import AuditFilters
from chapar.model.device import MAX_NOTE, Pause, check_note
from chapar.model.message import Status
from chapar.model.principal import EVERY_SCOPE, Caller, Principal, Reach
from support.callers import CALLER
from support.fakes import EPOCH, FakeClock, MemoryStore
from support.stores import new_message

NARROW = Caller(Principal("key:farm1", "farm 1", EVERY_SCOPE, Reach(("farm1-*",), ("open*",))), "192.0.2.7")


class Seen:
    """Presences of this process."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def registered(self, imei: str) -> None:
        self.noted.append(imei)


class Bench:
    def __init__(self) -> None:
        self.store: Any = MemoryStore()
        self.seen: Any = Seen()
        self.looks = 0
        self.pausing = Pausing(
            self.store.devices,
            self.store.pauses,
            self.seen,
            FakeClock(),
            self.look,
            max_devices=2,
            patience=1.0,
        )

    def look(self) -> None:
        self.looks += 1


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_queue_within_reach_is_paused_and_resumed(bench: Bench) -> None:
    flying = bench.store.put(new_message("farm1-a", micro_op="open"))
    for operation in ("open", "open_valve", "close"):
        bench.store.put(new_message("farm1-a", Status.QUEUED, micro_op=operation, claim=None))
    paused = await bench.pausing.pause(NARROW, "farm1-a", "repair")
    assert paused.queue.pause == Pause(EPOCH, "farm 1", "repair")
    assert (paused.queue.depth, paused.in_flight) == (3, [flying.id]), "as far as the caller reaches"
    assert (bench.seen.noted, bench.looks) == (["farm1-a"], 1)
    assert (await bench.pausing.pause(CALLER, "farm1-a", None)).queue.pause == paused.queue.pause
    resumed = await bench.pausing.resume(NARROW, "farm1-a")
    assert (resumed.queue.pause, resumed.queue.depth, bench.looks) == (None, 3, 3)
    assert (await bench.pausing.resume(NARROW, "farm1-a"), bench.looks) == (resumed, 3), "nothing has changed"
    page = await bench.store.trail.page(AuditFilters(), before=None, limit=100)
    said = [(entry.action, entry.principal, entry.imei, entry.detail) for _, entry in reversed(page.entries)]
    assert said == [
        ("queue_paused", "key:farm1", "farm1-a", "repair"),
        ("queue_resumed", "key:farm1", "farm1-a", None),
    ]


async def test_a_device_out_of_reach_is_not_there(bench: Bench) -> None:
    for asked in (
        bench.pausing.pause(NARROW, "farm2-a", None),
        bench.pausing.resume(NARROW, "farm2-a"),
        bench.pausing.queue(NARROW, "farm2-a"),
    ):
        with pytest.raises(DeviceNotFound):
            await asked
    assert (await bench.pausing.queue(CALLER, "farm2-a")).queue.pause is None
    assert bench.looks == 0


async def test_no_more_are_registered_than_may_be(bench: Bench) -> None:
    for imei in "ab":
        await bench.pausing.pause(CALLER, imei, None)
    with pytest.raises(DevicesExhausted):
        await bench.pausing.pause(CALLER, "c", None)
    assert (await bench.pausing.queue(CALLER, "c")).queue.pause is None


async def test_a_pause_that_another_process_may_not_know_of_is_not_confirmed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: float) -> bool:
        return False

    monkeypatch.setattr(bench.store.pauses, "is_in_force", never)
    with pytest.raises(PauseUnconfirmed):
        await bench.pausing.pause(CALLER, "a", None)
    assert bench.looks == 1, "it holds here"
    assert (await bench.pausing.queue(CALLER, "a")).queue.pause == Pause(EPOCH, CALLER.principal.name, None)


async def test_a_pause_is_in_force_when_what_was_begun_before_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What began behind the pause is not waited for."""
    seen = iter([{"1/1", "2/1"}, {"2/1", "3/1"}, {"3/1"}])

    async def read(_: object) -> set[str]:
        return next(seen)

    monkeypatch.setattr(bench.store.readers, "read", read)
    assert await bench.store.pauses.is_in_force(asyncio.get_running_loop().time() + 30)
    seen = iter([{"1/1"}])
    assert not await bench.store.pauses.is_in_force(asyncio.get_running_loop().time() - 1)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "x" * (MAX_NOTE + 1)])
def test_a_note_that_cannot_be_shown_is_refused(text: str) -> None:
    with pytest.raises(FieldInvalid):
        check_note(text)


def test_a_note_has_no_blanks_around_it() -> None:
    assert check_note(" شیر باز است ") == "شیر باز است"
