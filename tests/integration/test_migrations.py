"""The migrations bring both databases to the schema that the program writes."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from chapar.errors import SchemaNewer, SchemaOutdated, StoreUnavailable
from chapar.store import migrations
from chapar.store.database import Role, open_engine
from chapar.store.migrations import check_schema, migrate
from chapar.store.schema import metadata

NEWEST = "0003"


def execute(database_url: str, statement: str) -> None:
    with open_engine(database_url, Role.MIGRATOR).begin() as connection:
        connection.exec_driver_sql(statement)


def test_the_migrated_schema_is_the_one_the_program_writes(database_url: str) -> None:
    migrate(database_url)
    with open_engine(database_url, Role.MIGRATOR).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


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
