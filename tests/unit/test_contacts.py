"""Contacts: devices that have just spoken, and what is released for them."""

import asyncio

import pytest

from chapar.delivery.contacts import Contacts
from chapar.model.change import Change
from chapar.model.message import Status
from chapar.store.contacts import Contact
from support.fakes import EPOCH, FakeClock, until

WAITS = "waiting_for_contact"


class Waiting:
    """The store, as far as contacts ask it."""

    def __init__(self) -> None:
        self.released: list[list[Contact]] = []

    async def release(self, contacts: list[Contact]) -> list[int]:
        self.released.append([*contacts])
        return [0] * len(contacts)


class Bench:
    def __init__(self, *, alone: bool = True) -> None:
        self.store, self.clock = Waiting(), FakeClock()
        self.contacts = Contacts(self.store, self.clock, delay=0.5, window=15, alone=alone)  # type: ignore[arg-type]

    def waits(self, imei: str, reason: str | None = WAITS, after: Status = Status.QUEUED) -> None:
        self.contacts.received([Change("m", imei, None, after, reason, EPOCH, None)])


async def test_what_waits_leaves_a_while_after_a_contact_and_in_steps() -> None:
    bench = Bench()
    await bench.contacts.met([("A", EPOCH), ("B", EPOCH + 1), ("C", EPOCH + 100)])
    assert bench.store.released == [
        [
            Contact("A", EPOCH + 500, EPOCH + 15_000),
            Contact("B", EPOCH + 600, EPOCH + 15_001),
            Contact("C", EPOCH + 600, EPOCH + 15_100),
        ]
    ]


async def test_a_thousand_contacts_are_four_commits() -> None:
    bench = Bench()
    await bench.contacts.met([(f"D{number}", EPOCH) for number in range(1000)])
    assert [len(each) for each in bench.store.released] == [250] * 4


async def test_what_waits_anew_in_an_open_window_is_released_too() -> None:
    bench = Bench()
    run = asyncio.create_task(bench.contacts.run())
    bench.waits("A")
    await bench.contacts.met([("A", EPOCH)])
    bench.waits("B")
    bench.waits("A", None)
    bench.waits("A", after=Status.PUBLISHING)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.store.released) == 1
    bench.waits("A")
    await until(lambda: len(bench.store.released) == 2)
    assert bench.store.released[1] == bench.store.released[0]
    bench.clock.at += 15_000
    bench.waits("A")
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.store.released) == 2, "the window is over"
    run.cancel()


async def test_what_others_queue_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chapar.delivery.contacts._POLL_SHARED", 0)
    bench = Bench(alone=False)
    await bench.contacts.met([("A", EPOCH)])
    run = asyncio.create_task(bench.contacts.run())
    await until(lambda: len(bench.store.released) > 2)
    assert bench.store.released[1] == bench.store.released[0]
    run.cancel()
