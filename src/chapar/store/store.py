"""The opened database, and what may be asked of it, one class a subject."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import NamedTuple, Self

import structlog

from chapar.runtime.metrics import Metrics
from chapar.store import administration, database, files, migrations
from chapar.store.api_keys import ApiKeys
from chapar.store.audit import Trail
from chapar.store.change_log import ChangeLog
from chapar.store.changes import Changes
from chapar.store.circumstances import Evidence
from chapar.store.commits import Commits
from chapar.store.contacts import Contacts
from chapar.store.devices import Devices
from chapar.store.event_log import EventLog
from chapar.store.health import Health
from chapar.store.idempotency import Keys
from chapar.store.kinds import KINDS
from chapar.store.messages import Messages
from chapar.store.outages import Outages
from chapar.store.pauses import Pauses
from chapar.store.presences import StoredPresences
from chapar.store.purges import Purges
from chapar.store.queue import Queue
from chapar.store.readers import Readers
from chapar.store.receiving import Receiving
from chapar.store.replies import Replies
from chapar.store.reports import Reports
from chapar.store.retention import Retention

log = structlog.get_logger()


class Store(NamedTuple):
    """The database, by subject.

    Writes go to the writer process and are answered once they are committed. Reads have connections and threads of
    their own, which cannot write. Nothing here ever blocks the event loop.
    """

    messages: Messages
    queue: Queue
    contacts: Contacts
    keys: Keys
    replies: Replies
    reports: Reports
    retention: Retention
    api_keys: ApiKeys
    trail: Trail
    devices: Devices
    presences: StoredPresences
    purges: Purges
    pauses: Pauses
    receiving: Receiving
    evidence: Evidence
    outages: Outages
    health: Health
    changes: Changes  #: announces what was committed
    log: ChangeLog  #: … and what other processes did
    events: EventLog  #: all of it, from any place on

    @classmethod
    def over(cls, commits: Commits, lookups: Readers, reporters: Readers, changes: Changes) -> Self:
        """The store over what writes, what an index finds at once, and what may take seconds."""
        return cls(
            Messages(commits, lookups),
            Queue(commits, lookups),
            Contacts(commits),
            Keys(commits, lookups),
            Replies(commits, lookups, reporters),
            Reports(reporters),
            Retention(commits),
            ApiKeys(commits, lookups),
            Trail(commits, reporters),
            Devices(commits, lookups, reporters),
            StoredPresences(commits, reporters),
            Purges(commits),
            Pauses(commits, lookups),
            Receiving(commits, lookups),
            Evidence(lookups),
            Outages(commits),
            Health(commits, lookups),
            changes,
            ChangeLog(commits, lookups, changes),
            EventLog(lookups, reporters),
        )


@asynccontextmanager
async def open_store(
    database_url: str,
    metrics: Metrics,
    *,
    readers: int,
    report_readers: int,
    auto_migrate: bool,
    process: str | None = None,
) -> AsyncIterator[Store]:
    """Lock and migrate the database (PostgreSQL: check it, unless `auto_migrate`), commit once, start the writer.

    `readers` look single things up; `report_readers` answer what may take seconds, so that it keeps no look-up waiting.
    `process` is the token under which others find in the log of changes what this one did; None: they do not.

    Raises DatabaseInUse, SchemaOutdated, SchemaNewer, DatabaseUnsafe, DatabaseUnusable, SettingInvalid.
    """
    file = database.sqlite_file(database_url)
    lock = None if file is None else await asyncio.to_thread(files.lock, file)
    with lock or nullcontext():
        if lock is not None and lock.readable_by_others():
            log.warning("database_readable_by_others", file=str(lock.file), note=f"Run: chmod 600 {lock.file}*")
        if lock is not None or auto_migrate:
            await asyncio.to_thread(migrations.migrate, database_url)
        else:
            await asyncio.to_thread(migrations.check_schema, database_url)
        held = await asyncio.to_thread(administration.begin, database_url, lock)
        if held:
            note = "A backup was restored, and these may have been sent since. See `chapar queue show`."
            log.warning("messages_held", messages=held, note=note)
        identity = None if lock is None else lock.identity
        changes = Changes()
        async with (
            Commits.open(database_url, lock, KINDS, changes, metrics, process) as commits,
            Readers.open(database_url, readers, identity, lambda: commits.gone) as lookups,
            Readers.open(database_url, report_readers, identity, lambda: commits.gone) as reporters,
        ):
            yield Store.over(commits, lookups, reporters, changes)
