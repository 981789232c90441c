"""PostgreSQL over TLS: what the URL says of it is held, and what fails is one sentence that names no secret."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from chapar.errors import StoreUnavailable
from chapar.runtime.settings import Settings
from chapar.store.database import Role, open_engine
from chapar.store.migrations import migrate
from support import postgres as postgres_support
from support.certificates import Certificates
from support.ports import LOOPBACK
from support.postgres import PostgresServer

PASSWORD = "c4nary/@?#:%é "


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), LOOPBACK)


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[PostgresServer]:
    if postgres_support.find_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    access = ["hostssl all gate all scram-sha-256", "host all gate all reject"]
    with PostgresServer(certificates, access) as server:
        server.execute(f"CREATE ROLE gate LOGIN PASSWORD '{PASSWORD}'")
        server.execute("CREATE DATABASE gate OWNER gate")
        yield server


def url(server: PostgresServer, password: str = PASSWORD, host: str = LOOPBACK, **options: object) -> str:
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())
    made = f"postgresql://gate:{quote(password, safe='')}@{host}:{server.port}/gate?{query}"
    return Settings.load(database_url=made).database_url.get_secret_value()


def is_encrypted(database_url: str, role: Role) -> bool:
    engine = open_engine(database_url, role)
    try:
        with engine.connect() as connection:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            return bool(connection.exec_driver_sql(query).scalar_one())
    finally:
        engine.dispose()


def failure(database_url: str) -> str:
    with pytest.raises(StoreUnavailable) as error:
        migrate(database_url)
    said = str(error.value)
    assert "c4nary" not in said + error.value.sentence("fa") + repr(error.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("role", list(Role))
def test_a_verified_server_serves_every_kind_of_connection(
    server: PostgresServer, certificates: Certificates, role: Role
) -> None:
    assert is_encrypted(url(server, sslmode="verify-full", sslrootcert=certificates.ca_file), role)
    assert is_encrypted(url(server, sslmode="require"), role)


def test_the_schema_is_migrated_over_it(server: PostgresServer, certificates: Certificates) -> None:
    before, after = migrate(url(server, sslmode="verify-full", sslrootcert=certificates.ca_file))
    assert (before, bool(after)) == (None, True)


def test_another_authority(server: PostgresServer, tmp_path: Path) -> None:
    other = Certificates(tmp_path).ca_file
    assert "certificate verify failed" in failure(url(server, sslmode="verify-full", sslrootcert=other))
    assert "certificate verify failed" in failure(url(server, sslmode="verify-ca", sslrootcert=other))


def test_an_authority_that_is_not_there(server: PostgresServer, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert f'root certificate file "{missing}" does not exist' in failure(
        url(server, sslmode="verify-full", sslrootcert=missing)
    )


def test_another_name_than_the_certificates(server: PostgresServer, certificates: Certificates) -> None:
    options = {"sslrootcert": certificates.ca_file, "hostaddr": LOOPBACK}
    said = failure(url(server, host="db.example", sslmode="verify-full", **options))
    assert "db.example" in said
    assert "does not match host name" in said
    assert is_encrypted(url(server, host="db.example", sslmode="verify-ca", **options), Role.READER)


def test_a_server_that_wants_tls(server: PostgresServer) -> None:
    assert "no encryption" in failure(url(server, sslmode="disable"))


def test_a_mode_that_there_is_not(server: PostgresServer) -> None:
    assert 'invalid sslmode value: "trust-me"' in failure(url(server, sslmode="trust-me"))


def test_a_wrong_password(server: PostgresServer) -> None:
    assert 'password authentication failed for user "gate"' in failure(url(server, PASSWORD[::-1] + "c4nary"))


def test_a_server_without_tls(postgres_server: PostgresServer) -> None:
    said = failure(url(postgres_server, sslmode="require"))
    assert "server does not support SSL" in said
