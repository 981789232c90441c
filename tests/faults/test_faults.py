"""Every class of faults, a few times: the short form of `scripts/faults`."""

import asyncio

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


@pytest.mark.parametrize("fault", CLASSES, ids=lambda fault: fault.name)
def test_every_promise_is_kept(fault: FaultClass, surroundings: Surroundings) -> None:
    if missing := fault.missing():
        pytest.skip(missing)
    surroundings.name = fault.name
    outcome = asyncio.run(fault.run(fault.short, surroundings))
    broken = {what.value: offenders for what, offenders in outcome.verdict.broken.items() if offenders}
    assert not broken
    assert not outcome.wrong
    assert outcome.verdict.accepted
