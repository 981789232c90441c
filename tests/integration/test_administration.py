"""The owner at work on the database, and an audit trail that nobody changes."""

import asyncio
import itertools
import os
import random
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chapar.access.keyring import Grant, issue, revocation
from chapar.errors import DatabaseInUse, StoreUnavailable
from chapar.model.acceptance import Sender
from chapar.model.audit import Action, AuditFilters, Entry
from chapar.model.principal import EVERY_SCOPE, Reach, Scope
from chapar.model.queue import Lease
from chapar.store import database, files, migrations
from chapar.store.administration import administer
from chapar.store.api_keys import CREATE_KEY, any_key, oldest_first
from chapar.store.audit import add_entries, entry_of_local_user, local_user, newest_first
from chapar.store.database import Role, open_engine
from chapar.store.migrations import migrate
from support.callers import CALLER
from support.plans import plans_on
from support.postgres import PostgresServer
from support.stores import PROCESS, add_one, entries, new_message, now, open_store

ANNA = Sender("key:anna", "Anna", "192.0.2.7")
GRANT = Grant("backend", frozenset({Scope.SEND, Scope.READ}), Reach(("farm1-*",), ("open", "باز کن")), None)


FORGED = "(seq, at, principal, name, address, action, subject) {} VALUES ({}, 1, '', '', '', '', '')"


REWRITES = {
    "sqlite": (
        "UPDATE audit SET principal = 'nobody'",
        "UPDATE OR IGNORE audit SET principal = 'nobody'",
        "UPDATE OR REPLACE audit SET seq = 3 WHERE seq = 1",
        "DELETE FROM audit",
        *(f"{verb} INTO audit {FORGED.format('', seq)}" for verb in ("REPLACE", "INSERT OR REPLACE") for seq in (1, 3)),
        *(f"INSERT OR IGNORE INTO audit {FORGED.format('', seq)}" for seq in (3, -1, 0)),
        f"INSERT INTO audit {FORGED.format('', 1)} ON CONFLICT DO UPDATE SET principal = 'nobody'",
        "REPLACE INTO audit SELECT * FROM audit",
        "UPDATE audit_hours SET hour = 0",
        "DELETE FROM audit_hours",
    ),
    "postgresql": (
        "UPDATE audit SET principal = 'nobody'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "SET LOCAL session_replication_role = replica; DELETE FROM audit",
        f"INSERT INTO audit {FORGED.format('OVERRIDING SYSTEM VALUE', 1)} ON CONFLICT (seq) DO UPDATE SET name = ''",
        "MERGE INTO audit USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET name = ''",
        "WITH gone AS (DELETE FROM audit RETURNING 1) SELECT * FROM gone",
    ),
}


async def test_nothing_changes_the_trail(database_url: str) -> None:
    async with open_store(database_url) as store:
        for _ in range(3):
            await add_one(store, new_message(), sender=ANNA)
        kept = await entries(store)
        for statement in REWRITES[database.parse(database_url).get_backend_name()]:
            with open_engine(database_url, Role.ADMINISTRATOR).connect() as connection:
                with pytest.raises(DBAPIError, match="append-only"):
                    connection.exec_driver_sql(statement)
                connection.rollback()
        async for _ in store.retention.prune(now() + 10**9, now() + 10**9):
            pass
        assert await entries(store) == kept
        await add_one(store, new_message(), sender=ANNA)
        assert len(await entries(store)) == 4


def test_no_other_connection_to_the_file_changes_the_trail(sqlite_url: str) -> None:
    """The standard library's, with its own settings, as any program would open it."""
    with administer(sqlite_url) as connection:
        add_entries(connection, [entry_of_local_user(now(), Action.PRUNED, "first")])
    file = database.sqlite_file(sqlite_url)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for recursive in ("on", "off"):
            other.execute(f"PRAGMA recursive_triggers = {recursive}")
            for statement in ("DELETE FROM audit", f"REPLACE INTO audit {FORGED.format('', 1)}"):
                with pytest.raises(sqlite3.DatabaseError, match="append-only"):
                    other.execute(statement)
        assert other.execute("SELECT detail FROM audit").fetchall() == [("first",)]


def test_a_time_is_found_in_the_trail_whatever_the_clock_did(database_url: str) -> None:
    migrate(database_url)
    hour = 3_600_000
    lot = random.Random(3)
    steady = [number * hour // 4 for number in range(40, 80)]
    wandering = [lot.randrange(30 * hour) for _ in range(40)]
    times = [*steady, 0, 1, *steady, *wandering, 10**15, *steady]
    edges = [None, 0, 1, 10 * hour, 10 * hour + 1, 15 * hour - 1, 20 * hour, 40 * hour, 10**15, 10**15 + 1, 10**16]
    with administer(database_url) as connection:
        add_entries(connection, [Entry(at, "", "", "", Action.SENT.value, "") for at in times])
        for since, until in itertools.product(edges, edges):
            found = newest_first(connection, AuditFilters(since=since, until=until), None, 1000).entries
            expected = [at for at in times if (since is None or at >= since) and (until is None or at < until)]
            assert [entry.at for _, entry in found] == expected[::-1], (since, until)


def test_a_time_is_looked_up_in_a_long_trail(database_url: str) -> None:
    migrate(database_url)
    filters = AuditFilters(since=10 * 3_600_000, until=11 * 3_600_000)
    written = [Entry(number * 36_000, "", "", "", Action.SENT.value, "") for number in range(5000)]
    with administer(database_url) as connection:
        add_entries(connection, written)
    with open_engine(database_url, Role.MIGRATOR).connect() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        if not on_sqlite:
            connection.exec_driver_sql("ANALYZE audit")
        plans = plans_on(connection)
        assert len(newest_first(connection, filters, None, 1000).entries) == 100
        [plan] = plans
        assert ("SEARCH audit USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" if on_sqlite else "ix_audit_at") in plan


def test_a_user_without_an_account_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert local_user().id == "cli:54321"


def test_a_migration_is_kept_where_it_was_asked_for_or_changed_what_was_there(database_url: str) -> None:
    def kept() -> list[str | None]:
        with administer(database_url) as connection:
            found = newest_first(connection, AuditFilters(action=Action.MIGRATED), None, 10).entries
        return [entry.detail for _, entry in reversed(found)]

    migrate(database_url)
    assert kept() == []
    with open_engine(database_url, Role.MIGRATOR).connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    migrate(database_url)
    migrate(database_url, asked_for=True)
    assert kept() == ["0002 → 0009"]


@pytest.mark.parametrize("language", ["en", "fa"])
async def test_a_gateway_that_does_not_own_the_tables_cannot_rewrite_the_trail(
    language: str, postgres_url: str, postgres_server: PostgresServer
) -> None:
    page = (Path(__file__).parents[2] / "docs" / language / "security.md").read_text()
    [granting] = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    migrate(postgres_url)
    postgres_server.execute("CREATE ROLE chapar LOGIN")
    try:
        with open_engine(postgres_url, Role.MIGRATOR).begin() as connection:
            connection.exec_driver_sql(granting)
        url = postgres_url.replace("//postgres@", "//chapar@")
        async with open_store(url) as store:
            await store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
            deadline = asyncio.get_running_loop().time() + 30
            await add_one(store, new_message(), sender=ANNA)
            issued = issue(CALLER, GRANT, now())
            await store.api_keys.create(issued.key, issued.entry, deadline)
            await store.api_keys.change(revocation(CALLER, issued.key, now()), deadline)
            assert [entry.action for entry in await entries(store)] == ["message_sent", "key_created", "key_revoked"]
            async for _ in store.retention.prune(now() + 10**9, now() + 10**9):
                pass
        for statement in ("UPDATE audit SET name = ''", "DELETE FROM audit", "TRUNCATE audit", "DROP TABLE audit"):
            with (
                pytest.raises(DBAPIError, match=r"permission denied|must be owner"),
                open_engine(url, Role.MIGRATOR).begin() as connection,
            ):
                connection.execute(text(statement))
    finally:
        with open_engine(postgres_url, Role.MIGRATOR).begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY chapar")
        postgres_server.execute("DROP ROLE chapar")


def test_the_owner_works_on_the_database_itself(sqlite_url: str) -> None:
    issued = issue(CALLER, GRANT, now())
    with administer(sqlite_url) as connection:
        assert not any_key(connection)
        CREATE_KEY.apply(connection, [(issued.key, issued.entry)])
    with administer(sqlite_url) as connection:
        assert oldest_first(connection) == [issued.key]
        assert len(newest_first(connection, AuditFilters(), None, 10).entries) == 1
    with pytest.raises(StoreUnavailable), administer(sqlite_url) as connection:
        connection.execute(text("DELETE FROM nowhere"))


def test_a_new_database_file_is_its_owner_s(sqlite_url: str) -> None:
    with administer(sqlite_url):
        file = database.sqlite_file(sqlite_url)
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.glob(f"{file.name}*")}
        assert {mode for name, mode in modes.items() if not name.endswith(".lock")} == {0o600}
        assert len(modes) > 1


def test_an_old_database_that_is_served_is_left_alone(sqlite_url: str) -> None:
    served = files.lock(database.sqlite_file(sqlite_url))
    with served, pytest.raises(DatabaseInUse), administer(sqlite_url):
        pass


def test_more_rights_than_this_version_knows_are_none(sqlite_url: str) -> None:
    issued = issue(CALLER, GRANT._replace(scopes=EVERY_SCOPE), now())
    with administer(sqlite_url) as connection:
        CREATE_KEY.apply(connection, [(issued.key, issued.entry)])
        connection.execute(text("""UPDATE api_keys SET scopes = '["messages:send", "moon:land"]'"""))
    with administer(sqlite_url) as connection:
        assert oldest_first(connection)[0].scopes == {Scope.SEND}
