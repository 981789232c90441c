"""A background loop goes on whatever ends a turn of it, and says so."""

import asyncio
from typing import Any

import pytest
import structlog

from chapar.errors import WorkerFailed
from chapar.runtime import supervision
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import guarded, supervised
from support.stores import measured

FAILED = r'chapar_loop_failures_total\{loop="a-loop"\}'


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(supervision.Backoff, "pause", at_once)


class Loop:
    """A loop that ends its turns in these ways, one after the other, and then returns."""

    def __init__(self, *ways: BaseException) -> None:
        self.ways = list(ways)
        self.turns = 0

    async def run(self) -> None:
        self.turns += 1
        await asyncio.sleep(0)
        if self.ways:
            raise self.ways.pop(0)


async def test_a_loop_goes_on_after_what_nobody_expected_and_it_is_counted_and_logged() -> None:
    metrics = Metrics()
    loop = Loop(ValueError("odd"), RecursionError(), Panic("rust"), ExceptionGroup("many", [OSError()]))
    with structlog.testing.capture_logs() as logged:
        await supervised("a-loop", loop.run, metrics)
    assert loop.turns == 5
    assert measured(metrics, FAILED) == 4
    assert [(line["event"], line["loop"], line["exc_info"]) for line in logged] == [("loop_failed", "a-loop", True)] * 4


@pytest.mark.parametrize("end", [WorkerFailed(3), KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()])
async def test_what_is_meant_to_end_more_than_a_loop_goes_through(end: BaseException) -> None:
    loop = Loop(ValueError(), end)
    with pytest.raises(type(end)):
        await supervised("a-loop", loop.run, Metrics(), WorkerFailed)
    assert loop.turns == 2


async def test_cancelling_is_the_normal_end_of_a_loop() -> None:
    metrics = Metrics()
    task = asyncio.create_task(supervised("a-loop", asyncio.Event().wait, metrics))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "loop_failures_total{" not in metrics.exposition().decode()


def test_one_turn_of_a_loop_of_somebody_elses_is_guarded_alike() -> None:
    metrics = Metrics()
    turns: list[Any] = []
    for turn in range(3):
        with guarded("a-loop", metrics):
            turns.append(turn)
            raise OSError
    assert turns == [0, 1, 2]
    assert measured(metrics, FAILED) == 3
