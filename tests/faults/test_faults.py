"""Every class of faults, a few times: the short form of `scripts/faults`."""

import asyncio
from pathlib import Path

import pytest

from faults.classes import CLASSES, FaultClass
from faults.run import Surroundings
from support.postgres import PostgresServer


@pytest.fixture
def surroundings(request: pytest.FixtureRequest) -> Surroundings:
    def server() -> PostgresServer:
        found: PostgresServer = request.getfixturevalue("postgres_server")
        return found

    return Surroundings(start_postgres=server)


def test_the_script_and_both_pages_name_every_class() -> None:
    project = Path(__file__).parents[2]
    script = (project / "scripts/faults").read_text()
    assert not [each.name for each in CLASSES if each.name not in script]
    for language in ("en", "fa"):
        page = (project / f"docs/{language}/reliability.md").read_text()
        assert not [each.name for each in CLASSES if f"`{each.name}`" not in page]


@pytest.mark.parametrize("fault", CLASSES, ids=lambda fault: fault.name)
def test_every_promise_is_kept(fault: FaultClass, surroundings: Surroundings) -> None:
    if missing := fault.missing():
        pytest.skip(missing)
    surroundings.name = fault.name
    outcome = asyncio.run(fault.run(fault.short, surroundings))
    broken = [f"{what.value}: {each}" for what, offenders in outcome.verdict.broken.items() for each in offenders]
    assert not broken, "\n".join(broken)  # in full
    assert not outcome.wrong
    assert outcome.verdict.accepted
