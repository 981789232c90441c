"""Figures that many consoles look at are found once for all of them."""

import asyncio

import pytest

from chapar.errors import StoreUnavailable
from chapar.web.console import shared as shared_module
from chapar.web.console.shared import Shared


class Counting:
    """Finds its turn, which takes a while."""

    def __init__(self, error: Exception | None = None) -> None:
        self.turns = 0
        self.error = error

    async def find(self) -> int:
        self.turns += 1
        turn = self.turns
        await asyncio.sleep(0.02)
        if self.error is not None:
            raise self.error
        return turn


async def test_all_who_ask_together_get_what_is_found_once() -> None:
    shared, counting = Shared[int](), Counting()
    assert await asyncio.gather(*(shared.get("reach", counting.find) for _ in range(50))) == [1] * 50
    assert await shared.get("reach", counting.find) == 1, "it is not old yet"
    assert await shared.get("another", counting.find) == 2


async def test_figures_are_found_again_once_they_are_old_for_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "_SHOWN_FOR", 0)
    shared, counting = Shared[int](), Counting()
    assert [await shared.get("reach", counting.find) for _ in range(3)] == [1, 2, 3]


async def test_what_could_not_be_found_is_an_error_for_all_and_is_tried_again() -> None:
    shared, counting = Shared[int](), Counting(StoreUnavailable("away"))
    errors = await asyncio.gather(*(shared.get("reach", counting.find) for _ in range(3)), return_exceptions=True)
    assert errors == [counting.error] * 3
    counting.error = None
    assert await shared.get("reach", counting.find) == 2


async def test_one_who_hangs_up_ends_it_for_nobody_else() -> None:
    shared, counting = Shared[int](), Counting()
    first, second = (asyncio.create_task(shared.get("reach", counting.find)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    assert counting.turns == 1


async def test_what_nobody_asks_for_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "_MOST", 2)
    shared, counting = Shared[int](), Counting()
    for key in ("a", "b", "a", "c"):
        await shared.get(key, counting.find)
    assert await shared.get("a", counting.find) == 1
    assert await shared.get("b", counting.find) == 4
