"""Notices of changes: one for many, none for what the reader may not see, and a sign of life between."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from chapar.errors import EventsGone
from chapar.events.wanted import Wanted
from chapar.model.principal import ANYBODY
from chapar.web.console import changes
from chapar.web.console.changes import Notices, pause_after


class Happened(NamedTuple):
    imei: str
    type: str = "device.presence"
    id: str | None = None


class Batch(NamedTuple):
    events: list[Happened]
    end: Any = None


class Source:
    """A feed whose batches the test hands over."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Batch | Exception | None] = asyncio.Queue()
        self.listeners = 0
        self.rests: list[float] = []
        self.stops = False

    async def following(self, _place: Any, _wanted: Wanted) -> Batch | None:
        batch = await self.batches.get()
        if isinstance(batch, Exception):
            raise batch
        return batch

    async def rest(self, seconds: float) -> bool:
        self.rests.append(seconds)
        await asyncio.sleep(seconds)
        return not self.stops

    def newest(self, _place: Any) -> Any:
        while not self.batches.empty():
            self.batches.get_nowait()

    @contextmanager
    def listening(self, _wanted: Wanted) -> Iterator[None]:
        self.listeners += 1
        yield
        self.listeners -= 1


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(changes, "_PAUSE", 0.05)
    monkeypatch.setattr(changes, "_HEARTBEAT", 0.2)
    return Source()


async def test_many_changes_make_few_notices_and_others_make_none(source: Any) -> None:
    place: Any = None
    stream = Notices(source).of(Wanted(ANYBODY, frozenset({"mine"})), place)
    assert await anext(stream) == b"retry: 5000\n\n"
    for _ in range(100):
        source.batches.put_nowait(Batch([Happened("mine"), Happened("other")]))
    assert await anext(stream) == b"event: changed\ndata: 1\n\n"
    assert source.listeners == 1
    source.batches.put_nowait(Batch([Happened("other")]))
    assert await anext(stream) == b":\n\n", "a sign of life"
    source.batches.put_nowait(None)
    assert [notice async for notice in stream] == []
    assert source.listeners == 0


async def test_one_who_rests_long_shows_a_sign_of_life_and_a_stop_ends_that(
    source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_PAUSE", 0.5)
    place: Any = None
    stream = Notices(source).of(Wanted(ANYBODY), place, is_due=True)
    assert [await anext(stream) for _ in range(2)] == [b"retry: 5000\n\n", b"event: changed\ndata: 1\n\n"]
    source.batches.put_nowait(Batch([Happened("any")]))
    assert [await anext(stream) for _ in range(3)] == [b":\n\n", b":\n\n", b"event: changed\ndata: 1\n\n"]
    source.batches.put_nowait(Batch([Happened("any")]))
    assert await anext(stream) == b":\n\n"
    source.stops = True
    assert [notice async for notice in stream] == []


async def test_who_may_have_missed_something_is_notified_at_once(source: Any) -> None:
    place: Any = None
    stream = Notices(source).of(Wanted(ANYBODY), place, is_due=True)
    assert [await anext(stream) for _ in range(3)] == [b"retry: 5000\n\n", b"event: changed\ndata: 1\n\n", b":\n\n"]
    await stream.aclose()


async def test_what_is_not_kept_any_more_ends_the_stream(source: Any) -> None:
    place: Any = None
    source.batches.put_nowait(EventsGone("x"))
    assert [notice async for notice in Notices(source).of(Wanted(ANYBODY), place)] == [b"retry: 5000\n\n"]


def test_notices_come_less_often_while_changes_do_not_end_and_the_more_consoles_there_are() -> None:
    pauses = [0.0]
    for _ in range(4):
        pauses.append(pause_after(pauses[-1], consoles=3))
    assert pauses == [0, 1, 2, 4, 5]
    assert [pause_after(pause, consoles=50) for pause in (0, 1, 5)] == [10, 10, 10]
    assert [pause_after(pause, consoles=200) for pause in (0, 5)] == [40, 40]
