"""Parts of the gateway against real brokers and databases, in the test's own process."""

from collections.abc import AsyncIterator

import pytest

from chapar.link.embedded import EmbeddedBroker
from chapar.runtime.metrics import Metrics
from support.builtin import BuiltinBroker
from support.mosquitto import Mosquitto


@pytest.fixture(params=["mosquitto", "builtin"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Mosquitto | BuiltinBroker]:
    """The test runs once with each broker, and it runs already."""
    if request.param == "builtin":
        builtin = BuiltinBroker()
        async with EmbeddedBroker(builtin.port, Metrics()):
            yield builtin
    else:
        yield request.getfixturevalue("mosquitto")
