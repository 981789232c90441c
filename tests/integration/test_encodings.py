"""Every letter is kept as it came: PostgreSQL is asked for UTF-8, and a database of another encoding is refused."""

from collections.abc import Iterator

import pytest

from chapar.errors import DatabaseUnsafe
from chapar.store.administration import administer
from chapar.store.api_keys import oldest_first
from chapar.store.database import Role, open_engine
from chapar.store.migrations import check_schema, migrate
from support.postgres import PostgresServer


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("query", ["", "?client_encoding=LATIN1"])
def test_each_connection_speaks_utf_8(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, role: Role, query: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = open_engine(f"{postgres_url}{query}", role)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW client_encoding").scalar_one() == "UTF8"
        assert connection.exec_driver_sql("SELECT 'باز کن'").scalar_one() == "باز کن"
    engine.dispose()


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def other_url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    """A database that has an encoding of its own."""
    name = f"chapar_{request.param.lower()}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0")
    yield postgres_server.url(name)
    postgres_server.drop_database(postgres_server.url(name))


def list_keys(url: str) -> None:
    with administer(url) as connection:
        assert oldest_first(connection) == []


def test_a_database_of_another_encoding_is_refused(other_url: str) -> None:
    for refuse in (migrate, check_schema, list_keys):
        with pytest.raises(DatabaseUnsafe, match=r"encoding is (LATIN1|SQL_ASCII).*createdb --encoding=UTF8") as caught:
            refuse(other_url)
        assert "کدگذاری" in caught.value.sentence("fa")
