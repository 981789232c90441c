"""The migrations bring both databases to the schema that the program writes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select
from sqlalchemy.exc import DBAPIError

from chapar.errors import SchemaNewer, SchemaOutdated, StoreUnavailable
from chapar.model.acceptance import Sender
from chapar.model.audit import AuditFilters
from chapar.store import migrations
from chapar.store.database import Role, open_engine
from chapar.store.migrations import check_schema, migrate
from chapar.store.schema import audit, audit_hours, messages, metadata, sqlite_metadata
from support.stores import add_one, new_message, open_store

NEWEST = "0009"
ON_POSTGRESQL = ("ix_audit_at", "ix_changes_tx")  # indexes that SQLite does without


def execute(database_url: str, statement: str) -> None:
    with open_engine(database_url, Role.MIGRATOR).begin() as connection:
        connection.exec_driver_sql(statement)


def test_the_migrated_schema_is_the_one_the_program_writes(database_url: str) -> None:
    migrate(database_url)
    with open_engine(database_url, Role.MIGRATOR).connect() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        options = {
            "compare_type": True,
            "include_object": lambda _, name, *__: name not in ON_POSTGRESQL or not on_sqlite,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, [metadata, sqlite_metadata] if on_sqlite else metadata) == []
        indexes = {index["name"] for table in ("audit", "changes") for index in inspect(connection).get_indexes(table)}
        assert indexes.intersection(ON_POSTGRESQL) == (set() if on_sqlite else set(ON_POSTGRESQL))


def test_a_database_is_migrated_once(database_url: str) -> None:
    assert migrate(database_url) == (None, NEWEST)
    assert migrate(database_url) == (NEWEST, NEWEST)
    check_schema(database_url)


def test_the_history_is_that_of_alembic() -> None:
    scripts = ScriptDirectory(migrations.__path__[0]).walk_revisions("base", "head")
    assert migrations.history() == [script.revision for script in scripts][::-1]


def test_a_database_at_the_newest_revision_is_opened_without_loading_alembic(database_url: str) -> None:
    migrate(database_url)
    program = (
        f"import sys; from chapar.store.store import migrations as m; m.migrate({database_url!r}); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "alembic" not in loaded
    assert ("psycopg" in loaded) == database_url.startswith("postgresql")


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    program = f"from chapar.store.migrations import migrate; migrate({database_url!r})"
    running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[1] for process in running] == [""] * 4
    check_schema(database_url)


def test_an_empty_database_is_outdated(database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match=f"at revision none, and this version needs {NEWEST}"):
        check_schema(database_url)


def test_a_database_of_a_newer_program_is_left_alone(database_url: str) -> None:
    migrate(database_url)
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    for refuse in (migrate, check_schema):
        with pytest.raises(SchemaNewer, match=f"at revision 9999, and this version knows revisions up to {NEWEST}"):
            refuse(database_url)


def test_a_migration_that_fails_leaves_nothing_behind(database_url: str) -> None:
    execute(database_url, "CREATE TABLE somebody (ix INTEGER)")
    execute(database_url, "CREATE INDEX ix_messages_status_seq ON somebody (ix)")
    with pytest.raises(StoreUnavailable, match="already exists"):
        migrate(database_url)
    execute(database_url, "DROP TABLE somebody")
    assert migrate(database_url) == (None, NEWEST)


BEFORE = """
INSERT INTO messages (id, imei, micro_op, topic, qos, retain, at_most_once, status, attempts, possible_duplicate,
                      created_at)
SELECT 'id-' || n, 'D', 'on', 'devices/D', 1, {false}, {false}, status, 0, {false}, n * 1000000
FROM (SELECT 1 AS n, 'queued' AS status UNION SELECT 2, 'scheduled' UNION SELECT 3, 'published'
      UNION SELECT 4, 'queued' UNION SELECT 5, 'publishing') AS each ORDER BY n;
INSERT INTO audit (at, principal, name, address, action, subject)
SELECT n * 1000000, 'key:' || n, 'one', '', action, 'id-' || n
FROM (SELECT 1 AS n, 'message_sent' AS action UNION SELECT 2, 'message_sent' UNION SELECT 3, 'message_sent'
      UNION SELECT 4, 'message_cancelled' UNION SELECT 5, 'message_sent') AS each ORDER BY n;
INSERT INTO audit (at, principal, name, address, action, subject)
SELECT at, '', '', '', 'message_sent', ''
FROM (SELECT 1 AS n, 36000000 AS at UNION SELECT 2, 1 UNION SELECT 3, 36000001) AS each ORDER BY n
"""


@pytest.fixture
def used_url(database_url: str) -> str:
    """A database of an earlier version, with messages and a trail during which the clock went back once."""
    alembic(database_url, command.upgrade, "0003")
    false = "0" if database_url.startswith("sqlite") else "false"
    for statement in BEFORE.format(false=false).split(";"):
        execute(database_url, statement)
    return database_url


def alembic(database_url: str, move: Callable[[Config, str], None], revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with open_engine(database_url, Role.MIGRATOR).connect() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


async def test_what_waits_names_its_sender_and_numbers_go_on(used_url: str) -> None:
    assert migrate(used_url) == ("0003", NEWEST)
    async with open_store(used_url) as store:
        assert [message.id async for page in store.reports.waiting_of("key:1", 9) for message in page] == ["id-1"]
        await add_one(store, new_message(), sender=Sender("me", "", ""))
        (newest, sent), (before, migrated) = (await store.trail.page(AuditFilters(), before=None, limit=2)).entries
        assert (newest, sent.principal, before, migrated.action) == (10, "me", 9, "schema_migrated")
    with open_engine(used_url, Role.MIGRATOR).connect() as connection:
        found = connection.execute(select(messages.c.seq, messages.c.sent_by).order_by(messages.c.seq)).all()
    # Only what waits, or will again once it is settled, can still be withdrawn with all else of its sender's.
    assert found == [(1, "key:1"), (2, "key:2"), (3, None), (4, None), (5, "key:5"), (6, "me")]


def test_the_hours_of_a_trail_are_found_and_nothing_else_becomes_of_it(used_url: str) -> None:
    with open_engine(used_url, Role.MIGRATOR).connect() as connection:
        before = connection.execute(select(audit)).all()
    migrate(used_url)
    with open_engine(used_url, Role.MIGRATOR).connect() as connection:
        *entries, migrated = connection.execute(select(audit).order_by(audit.c.seq)).all()
        assert entries == before
        if connection.dialect.name == "sqlite":
            hours = connection.execute(select(audit_hours).order_by(audit_hours.c.first)).all()
            assert hours == [(0, 1), (1, 4), (10, 6), (0, 7), (10, 8), (migrated.at // 3_600_000, 9)]
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    for statement in ("UPDATE audit SET name = ''", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"):
            execute(used_url, statement)


def test_the_newest_migration_can_be_taken_back(used_url: str) -> None:
    migrate(used_url)
    alembic(used_url, command.downgrade, "0003")
    execute(used_url, BEFORE.split(";")[1])
    assert migrate(used_url) == ("0003", NEWEST)


def test_a_server_that_does_not_answer_is_one_sentence_without_the_password(free_port: int) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        migrate(f"postgresql://chapar:secret@127.0.0.1:{free_port}/chapar")
    assert "Connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__) + str(caught.value)


def test_the_migrations_are_found_from_any_folder(tmp_path: Path) -> None:
    program = "from chapar.store.migrations import migrate; print(migrate('sqlite:///chapar.db'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"(None, '{NEWEST}')\n"
    assert (tmp_path / "chapar.db").exists()
