"""Thousands of small worlds, each grown from a seed, in which everything fails that can: the promises hold.

`CHAPAR_SEED=42 pytest tests/simulation` runs one world and shows what happened in it; `CHAPAR_SEEDS=100000` runs that
many instead of ten thousand. `PYTHONPATH=tests python -m simulation --help` does the same without pytest.
"""

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from chapar.model.message import MOVES, Status
from simulation.invariants import broken
from simulation.world import as_text, run, simulated

BLOCKS = 10
SEEDS = int(os.environ.get("CHAPAR_SEEDS", "10000"))
ONLY = os.environ.get("CHAPAR_SEED")
SHOWN = 10  # worlds named where a block fails

# What needs the inbox: no device replies in these worlds.
_OF_REPLIES = {Status.ACKNOWLEDGED, Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT}


@pytest.fixture(scope="module", autouse=True)
def _simulated() -> Iterator[None]:
    gc.freeze()
    with simulated():
        yield
    gc.unfreeze()


@pytest.mark.skipif(ONLY is not None, reason="one world was asked for")
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_world_breaks_a_promise(block: int) -> None:
    failing = {}
    for seed in range(block, SEEDS, BLOCKS):
        if sentences := broken(run(seed)):
            failing[seed] = sentences
            if len(failing) == SHOWN:
                break
    if failing:
        first = min(failing)
        named = "\n".join(f"seed {seed}: {'; '.join(sentences)}" for seed, sentences in sorted(failing.items()))
        pytest.fail(f"{as_text(run(first))}\n\n{named}\nReplay with CHAPAR_SEED={first}", pytrace=False)


@pytest.mark.skipif(ONLY is None, reason="no world was asked for")
def test_the_world_of_this_seed_keeps_its_promises() -> None:
    world = run(int(ONLY or ""))
    sys.stdout.write(as_text(world))
    assert broken(world) == []


def test_a_seed_makes_the_same_world_each_time() -> None:
    for seed in range(20):
        assert as_text(run(seed)) == as_text(run(seed))


def test_the_worlds_reach_every_move_and_every_kind_of_answer() -> None:
    moves: Counter[tuple[Status, Status]] = Counter()
    reasons: Counter[str | None] = Counter()
    answers: Counter[int] = Counter()
    for seed in range(600):
        world = run(seed)
        for _, before, after in world.database.changes:
            if before is not None:
                moves[before.status, after.status] += 1
        reasons.update(message.reason for message in world.messages.values())
        answers.update(given.status for request in world.requests for given in request.given)
    expected = {(before, after) for before, afters in MOVES.items() for after in afters if after is not before}
    expected = {move for move in expected if not _OF_REPLIES & {*move}}
    expected.discard((Status.SCHEDULED, Status.EXPIRED))  # it becomes due first
    assert expected <= moves.keys()
    assert {
        None,
        "broker_unreachable",
        "cancelled",
        "expired",
        "link_lost",
        "not_authorized",
        "outcome_unknown",
        "packet_too_large",
        "process_died",
        "qos_0",
        "quarantined",
        "quota_exceeded",
    } <= reasons.keys()
    assert {201, 202, 406, 409, 429, 503} <= answers.keys()
