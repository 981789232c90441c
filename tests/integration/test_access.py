"""API keys and the audit trail in both databases."""

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chapar.access.keyring import Grant, issue, new_end, revocation
from chapar.errors import DatabaseInUse, StoreUnavailable
from chapar.model.acceptance import IdempotencyKey, Sender
from chapar.model.api_key import ApiKey
from chapar.model.audit import Action, AuditFilters, Entry
from chapar.model.message import Status
from chapar.model.principal import EVERY_SCOPE, EVERYWHERE, Reach, Scope
from chapar.model.queue import Lease
from chapar.model.report import Filters
from chapar.store import database, files, migrations
from chapar.store.administration import administer
from chapar.store.api_keys import CREATE_KEY, any_key, oldest_first
from chapar.store.audit import add_entries, entry_of_local_user, local_user, newest_first
from chapar.store.database import Role, open_engine
from chapar.store.migrations import migrate
from chapar.store.store import Store
from support.callers import CALLER, cancelling
from support.postgres import PostgresServer
from support.stores import PROCESS, add_one, new_message, now, open_store, single

ANNA = Sender("key:anna", "Anna", "192.0.2.7")
GRANT = Grant("backend", frozenset({Scope.SEND, Scope.READ}), Reach(("farm1-*",), ("open", "باز کن")), None)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url) as store:
        await store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
        yield store


def deadline_of(patience: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + patience


async def entries(store: Store, **filters: object) -> list[Entry]:
    """What the audit trail says, oldest first."""
    found = (await store.trail.page(AuditFilters(**filters), before=None, limit=100)).entries  # type: ignore[arg-type]
    return [entry for _, entry in reversed(found)]


async def every_key(store: Store) -> list[ApiKey]:
    return [key async for keys in store.api_keys.all() for key in keys]


async def created(store: Store, grant: Grant = GRANT) -> ApiKey:
    issued = issue(CALLER, grant, now())
    await store.api_keys.create(issued.key, issued.entry, deadline_of())
    return issued.key


async def test_a_key_is_found_as_it_was_made(store: Store) -> None:
    assert not await store.api_keys.any()
    key = await created(store)
    assert await store.api_keys.any()
    assert await store.api_keys.find(key.id) == key
    assert await store.api_keys.find_by_hash(key.hash) == key
    assert await every_key(store) == [key]
    assert await store.api_keys.find("nobody") is None
    assert await store.api_keys.find_by_hash("0" * 64) is None
    assert [entry.action for entry in await entries(store)] == ["key_created"]


@pytest.mark.parametrize("count", [9, 10, 21])
async def test_every_key_is_listed_once_the_oldest_first(store: Store, count: int) -> None:
    made = [issue(CALLER, GRANT, at // 4) for at in range(count)]
    await asyncio.gather(*(store.api_keys.create(each.key, each.entry, deadline_of()) for each in made))
    listed = await every_key(store)
    assert listed == sorted((each.key for each in made), key=lambda key: (key.created_at, key.id))


async def test_a_page_of_the_audit_trail_ends_at_its_bytes(store: Store) -> None:
    entry = Entry(1, "cli:root", "root", "", Action.PRUNED, "", detail="x" * 100_000)
    for number in range(5):
        await store.trail.add(entry._replace(at=number))
    seen, page = [], await store.trail.page(AuditFilters(), before=None, limit=1000)
    while page.next is not None:
        seen.append(page.entries)
        page = await store.trail.page(AuditFilters(), before=page.next, limit=1000)
    assert [[entry.at for _, entry in entries] for entries in [*seen, page.entries]] == [[4, 3], [2, 1], [0]]


async def test_a_key_that_is_made_again_because_the_answer_was_lost_is_there_once(store: Store) -> None:
    issued = issue(CALLER, GRANT, now())
    for _ in range(2):
        await store.api_keys.create(issued.key, issued.entry, deadline_of())
    assert await every_key(store) == [issued.key]
    assert len(await entries(store)) == 1


async def test_a_key_is_revoked_once_and_for_good(store: Store) -> None:
    key = await created(store)
    for at in (now(), now() + 1000):
        assert await store.api_keys.change(revocation(CALLER, key, at), deadline_of())
    revoked = await store.api_keys.find(key.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert revoked.revoked_at < now() + 1000
    assert await store.api_keys.change(new_end(CALLER, key, now() + 5000, now()), deadline_of())
    assert await store.api_keys.find(key.id) == revoked
    assert [entry.action for entry in await entries(store)] == ["key_created", "key_revoked"]


async def test_a_key_gets_another_end(store: Store) -> None:
    key, end = await created(store), now() + 60_000
    for _ in range(2):
        assert await store.api_keys.change(new_end(CALLER, key, end, now()), deadline_of())
    assert await store.api_keys.find(key.id) == key._replace(expires_at=end)
    assert await store.api_keys.change(new_end(CALLER, key, None, now()), deadline_of())
    assert await store.api_keys.find(key.id) == key
    assert [entry.action for entry in await entries(store)] == ["key_created", "key_expires", "key_expires"]


async def test_a_key_that_is_not_there_is_not_changed(store: Store) -> None:
    key = issue(CALLER, GRANT, now()).key
    assert not await store.api_keys.change(revocation(CALLER, key, now()), deadline_of())
    assert await entries(store) == []


async def test_the_last_use_of_a_key_only_goes_forward(store: Store) -> None:
    key = await created(store)
    for at in (5000, 7000, 6000):
        await store.api_keys.used(key.id, at)
    used = await store.api_keys.find(key.id)
    assert used is not None
    assert used.last_used_at == 7000


async def test_who_sent_what_is_kept_with_the_message(store: Store) -> None:
    messages = [new_message(imei) for imei in ("A", "B")]
    for message in messages:
        await add_one(store, message, sender=ANNA)
        await add_one(store, message, sender=ANNA)  # repeated, because the answer was lost
    found = await entries(store)
    assert [(entry[1:7], entry.micro_op) for entry in found] == [
        ((*ANNA, "message_sent", message.id, message.imei), message.micro_op) for message in messages
    ]
    assert [entry.at for entry in found] == [message.created_at for message in messages]


async def test_a_batch_with_a_repetition_is_told_of_once(store: Store) -> None:
    first, second = new_message("A"), new_message("B")
    await add_one(store, first, sender=ANNA)
    futures = [add_one(store, message, sender=ANNA) for message in (first, second)]
    for future in futures:
        await future
    assert [entry.subject for entry in await entries(store)] == [first.id, second.id]


async def test_what_was_not_added_is_not_told_of(store: Store) -> None:
    for _ in range(2):
        message = new_message("A", Status.QUEUED, claim=None, attempts=0)
        await add_one(store, message, sender=ANNA, max_depth=1)
    assert len(await entries(store)) == 1


async def test_who_withdrew_what_is_kept_once(store: Store) -> None:
    message = new_message("A", Status.QUEUED, claim=None, attempts=0)
    await add_one(store, message)
    for _ in range(2):
        await single(store.messages.cancel([cancelling(message.id, now())], deadline_of()))
    assert [entry.action for entry in await entries(store)] == ["message_cancelled"]


async def test_the_trail_is_narrowed_and_paged(store: Store) -> None:
    messages = [new_message(imei, micro_op=operation) for imei in ("farm1-a", "farm2-b") for operation in ("open", "x")]
    for message in messages:
        await add_one(store, message, sender=ANNA)
    key = await created(store)
    assert len(await entries(store)) == 5
    assert len(await entries(store, principal="key:anna")) == 4
    assert len(await entries(store, imei="farm1-a")) == 2
    assert len(await entries(store, subject=key.id)) == 1
    assert len(await entries(store, action=Action.KEY_CREATED)) == 1
    assert len(await entries(store, since=now() + 60_000)) == 0
    assert len(await entries(store, until=now() + 60_000)) == 5
    assert [e.imei for e in await entries(store, reach=Reach(("farm1-*",)))] == ["farm1-a", "farm1-a"]
    assert [e.micro_op for e in await entries(store, reach=Reach(operations=("op*",)))] == ["open", "open"]
    page = await store.trail.page(AuditFilters(), before=None, limit=2)
    assert page.next == page.entries[-1][0]
    rest = await store.trail.page(AuditFilters(), before=page.next, limit=3)
    assert len(rest.entries) == 3
    assert page.next > rest.entries[0][0]
    assert rest.next is None


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


async def test_nothing_changes_the_trail(store: Store, database_url: str) -> None:
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
    file = database.sqlite_file(database.parse(sqlite_url))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for recursive in ("on", "off"):
            other.execute(f"PRAGMA recursive_triggers = {recursive}")
            for statement in ("DELETE FROM audit", f"REPLACE INTO audit {FORGED.format('', 1)}"):
                with pytest.raises(sqlite3.DatabaseError, match="append-only"):
                    other.execute(statement)
        assert other.execute("SELECT detail FROM audit").fetchall() == [("first",)]


def test_a_user_without_an_account_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert local_user().id == "cli:54321"


async def test_an_entry_of_its_own_that_is_repeated_is_there_once(store: Store) -> None:
    entry = entry_of_local_user(now(), Action.PRUNED, "begun")
    for _ in range(2):
        await store.trail.add(entry)
    assert await entries(store) == [entry]


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
    assert kept() == ["0002 → 0003"]


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
            message = new_message()
            await add_one(store, message, sender=ANNA)
            key = await created(store)
            await store.api_keys.change(revocation(CALLER, key, now()), deadline_of())
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


@pytest.mark.parametrize(
    ("reach", "seen"),
    [
        (EVERYWHERE, ["farm1-a/open", "farm1-a/[x]%_", "FARM1-b/open", "farm2_c/open"]),
        (Reach(("farm1-*",)), ["farm1-a/open", "farm1-a/[x]%_"]),
        (Reach(("farm2?c",)), ["farm2_c/open"]),
        (Reach(("farm2_c", "FARM1-?")), ["FARM1-b/open", "farm2_c/open"]),
        (Reach(("farm_-*",)), []),
        (Reach(operations=("[x]%_",)), ["farm1-a/[x]%_"]),
        (Reach(operations=("[o]pen", "o%n")), []),
        (Reach(("farm1-*",), ("o*",)), ["farm1-a/open"]),
    ],
)
async def test_lists_and_counts_are_narrowed_to_what_is_within_reach(
    store: Store, reach: Reach, seen: list[str]
) -> None:
    for place in ("farm1-a/open", "farm1-a/[x]%_", "FARM1-b/open", "farm2_c/open"):
        imei, _, operation = place.partition("/")
        await add_one(store, new_message(imei, micro_op=operation))
    for filters in (Filters(reach=reach), Filters(reach=reach, status=(Status.PUBLISHING,))):
        page = (await store.reports.page(filters, after=None, limit=10)).messages
        assert [f"{message.imei}/{message.micro_op}" for message in reversed(page)] == seen
        rows = [message async for rows in store.reports.pages(filters) for message in rows]
        assert [f"{message.imei}/{message.micro_op}" for message in rows] == seen
        summary = await store.reports.summary(filters, "hour")
        assert summary.total == len(seen)
        assert {name for name, _ in summary.devices.counts} == {place.partition("/")[0] for place in seen}
    for imei in ("farm1-a", "FARM1-b", "farm2_c"):
        page = (await store.reports.page(Filters(imei=imei, reach=reach), after=None, limit=10)).messages
        assert all(reach.covers(message.imei, message.micro_op) for message in page)


async def test_patterns_of_a_query_and_of_a_command_mean_the_same(store: Store) -> None:
    names = ["a", "ab", "a-b", "a_b", "a.b", "A", "b", "aa", "abab"]
    for name in names:
        await add_one(store, new_message(name))
    for pattern in ("a*", "*b", "a?b", "?", "a_b", "a.b", "*", "a*b", "??", "A*"):
        reach = Reach((pattern,)) if pattern != "*" else EVERYWHERE
        page = (await store.reports.page(Filters(reach=reach), after=None, limit=100)).messages
        assert {message.imei for message in page} == {name for name in names if reach.covers(name, "push_down")}, (
            pattern
        )


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
        file = database.sqlite_file(database.parse(sqlite_url))
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.glob(f"{file.name}*")}
        assert {mode for name, mode in modes.items() if not name.endswith(".lock")} == {0o600}
        assert len(modes) > 1


async def test_the_owner_works_beside_a_gateway(store: Store, database_url: str) -> None:
    issued = issue(CALLER, GRANT, now())
    with administer(database_url) as connection:
        CREATE_KEY.apply(connection, [(issued.key, issued.entry)])
    await add_one(store, new_message(), sender=ANNA)
    assert await every_key(store) == [issued.key]
    assert [entry.action for entry in await entries(store)] == ["key_created", "message_sent"]


def test_an_old_database_that_is_served_is_left_alone(sqlite_url: str) -> None:
    served = files.lock(database.sqlite_file(database.parse(sqlite_url)))
    with served, pytest.raises(DatabaseInUse), administer(sqlite_url):
        pass


def test_more_rights_than_this_version_knows_are_none(sqlite_url: str) -> None:
    issued = issue(CALLER, GRANT._replace(scopes=EVERY_SCOPE), now())
    with administer(sqlite_url) as connection:
        CREATE_KEY.apply(connection, [(issued.key, issued.entry)])
        connection.execute(text("""UPDATE api_keys SET scopes = '["messages:send", "moon:land"]'"""))
    with administer(sqlite_url) as connection:
        assert oldest_first(connection)[0].scopes == {Scope.SEND}


async def test_what_a_key_was_used_for_is_found_until_it_may_be_used_anew(store: Store) -> None:
    message = new_message()
    key = IdempotencyKey("key:anna", "k", "0" * 64, message.id, PROCESS, None, None, kept_until=1000)
    await add_one(store, message, key=key)
    assert await store.keys.owner(key[:2], 999) == key
    assert await store.keys.owner(key[:2], 1000) is None
    assert await store.keys.owner(("key:bahram", "k"), 999) is None
