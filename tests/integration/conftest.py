"""Parts of the gateway against real brokers and databases, in the test's own process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio
from sqlalchemy import Connection, delete, update

from chapar.link.embedded import EmbeddedBroker
from chapar.runtime.metrics import Metrics
from chapar.store import schema
from chapar.store.database import Role, open_engine
from chapar.store.store import Store
from support.builtin import BuiltinBroker
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer
from support.stores import open_store

_EMPTIED = (
    schema.attempts,
    schema.keys,
    schema.messages,
    schema.processes,
    schema.replies,
    schema.devices,
    schema.pauses,
    schema.presences,
    schema.sightings,
    schema.changes,
    schema.outages,
    schema.api_keys,
    schema.audit,
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The database of `shared_store`; the module runs once with each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('shared') / 'chapar.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database()
        yield url
        server.drop_database(url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_store(shared_url: str) -> AsyncIterator[Store]:
    async with open_store(shared_url) as store:
        yield store


@pytest.fixture
def shared_store(one_store: Store, shared_url: str) -> Store:
    """The one store, and so the one writer process, of a module whose tests run in one loop; empty for each test."""
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection, _trail_unguarded(connection):
        for table in _EMPTIED:
            connection.execute(delete(table))
        connection.execute(update(schema.receiver).values(process=None, lease_until=0, life_down_since=None))
    return one_store


@contextmanager
def _trail_unguarded(connection: Connection) -> Iterator[None]:
    """Nothing can be removed from the audit trail while its triggers are there."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ALTER TABLE audit DISABLE TRIGGER audit_is_append_only")
        yield
        connection.exec_driver_sql("ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_append_only")
        return
    found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in found:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    connection.execute(delete(schema.audit_hours))
    yield
    for _, sql in found:
        connection.exec_driver_sql(sql)


@pytest.fixture(params=["mosquitto", "builtin"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Mosquitto | BuiltinBroker]:
    """The test runs once with each broker, and it runs already."""
    if request.param == "builtin":
        builtin = BuiltinBroker()
        async with EmbeddedBroker(builtin.port, Metrics()):
            yield builtin
    else:
        yield request.getfixturevalue("mosquitto")
