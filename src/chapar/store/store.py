"""What the gateway may ask of the database: add and move messages, find and count them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Final, NamedTuple, Self, TypeVar

import structlog
from sqlalchemy import Connection

from chapar.errors import NotSaved, OutcomeUnknown, StoreUnavailable
from chapar.model.message import Attempt, Message, Status, first_id
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store import administration, api_keys, audit, database, files, migrations, reports
from chapar.store.acceptance import ADD, ANSWER, WITHDRAW, Added, Key, Sender, addition, owner_of
from chapar.store.api_keys import CHANGE_KEY, CREATE_KEY, KEY_USED, ApiKey, KeyChange
from chapar.store.audit import ADD_ENTRY, AuditFilters, AuditPage, Entry
from chapar.store.commits import Commits
from chapar.store.operations import CHECK, MOVE, RECORD, move_row
from chapar.store.queue import CANCEL, HOLD, LEAVE, SETTLE, TAKE, Lease, Take
from chapar.store.readers import Readers
from chapar.store.reports import WAITING, Backlog, Bucket, Filters, Page, Position, Summary
from chapar.store.retained import TAKE_BACK, TakeBack
from chapar.store.retention import PRUNE, Prune
from chapar.store.schema import to_message, to_row

log = structlog.get_logger()

Result = TypeVar("Result")

UNBOUNDED: Final = 2**31

_CHECK_PATIENCE = 2.0  # seconds; a probe of readiness usually gives up after a few
_FORGOTTEN = 500  # messages, and keys, removed in one commit: a few milliseconds
_PAGE = 200  # messages read at once by `pages`: more would keep everybody else waiting while they are written down
_KEYS = 10  # API keys read at once: one may name two hundred patterns


class Taken(NamedTuple):
    """What a `take` found to do."""

    messages: list[Message]  #: now PUBLISHING, in the order of acceptance
    expired: list[str]  #: ids of those that have just expired
    next_at: int | None  #: when something becomes due or expires next, ms since the epoch
    superseded: Sequence[str] = ()  #: ids of the clearings that something newer has just made needless


class Store:
    """The messages. Open it with `async with Store.open(settings) as store`.

    Writes go to the writer process and are answered once they are committed. Reads have connections and threads of
    their own, which cannot write. Nothing here ever blocks the event loop.
    """

    def __init__(self, commits: Commits, lookups: Readers, reporters: Readers) -> None:
        self._commits = commits
        self._lookups = lookups  # what an index finds at once: single messages, keys
        self._reporters = reporters  # what may take seconds, so that it keeps no lookup waiting

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[Self]:
        """Lock and migrate the database (PostgreSQL: check it, unless `auto_migrate`), commit once, start the writer.

        Raises DatabaseInUse, SchemaOutdated, SchemaNewer, DatabaseUnsafe, DatabaseUnusable, SettingInvalid.
        """
        database_url = settings.database_url.get_secret_value()
        url = database.parse(database_url)
        is_sqlite = url.get_backend_name() == "sqlite"
        lock = await asyncio.to_thread(files.lock, database.sqlite_file(url)) if is_sqlite else None
        with lock or nullcontext():
            if lock is not None and lock.readable_by_others():
                log.warning("database_readable_by_others", file=str(lock.file), note=f"Run: chmod 600 {lock.file}*")
            if is_sqlite or settings.auto_migrate:
                await asyncio.to_thread(migrations.migrate, database_url)
            else:
                await asyncio.to_thread(migrations.check_schema, database_url)
            await asyncio.to_thread(administration.check_commit, database_url)
            identity = None if lock is None else lock.identity
            async with (
                Commits.open(database_url, lock, metrics) as commits,
                Readers.open(database_url, settings.readers, identity) as lookups,
                Readers.open(database_url, settings.report_readers, identity) as reporters,
            ):
                yield cls(commits, lookups, reporters)

    def add(
        self,
        message: Message,
        deadline: float | None = None,
        *,
        max_depth: int = UNBOUNDED,
        key: Key | None = None,
        sender: Sender | None = None,
    ) -> asyncio.Future[Added]:
        """Save a new message, with `key` and what the audit trail says of `sender`; harmless where it is already there.

        A message that would be PUBLISHING is QUEUED instead where its device has something that must leave first.
        The future says where it stands; Full where its device has `max_depth` unfinished messages, on their way or
        waiting; the key's owner where the key was used for another message. The last two add nothing.

        It is tried until `deadline` (loop time; None: for ever). The future then raises NotSaved where certainly
        nothing was committed, OutcomeUnknown where it may have been. Cancelling the future does not stop the commit.
        """
        return self._commits.submit(ADD, addition(message, max_depth, key, sender), deadline)

    def move(self, before: Message, after: Message, deadline: float | None = None) -> asyncio.Future[bool]:
        """Make the message in the database, which is `before`, what `after` says.

        The future is True once it is so, False where the message no longer was in the state, at the attempt and
        under the claim of `before`: somebody else moved it. Ask for a move from a state only when the move to it
        was answered. Deadline, errors and cancelling are as with `add`.
        """
        return self._commits.submit(MOVE, move_row(before, after), deadline)

    def record(self, attempt: Attempt) -> asyncio.Future[None]:
        """Keep an attempt; ask before the move that ends it, so that the two are committed together."""
        return self._commits.submit(RECORD, attempt)

    async def take(self, claim: str, limit: int, at: int) -> Taken:
        """At the time `at` (ms since the epoch): make due what is due, expire what is too late, take what is next.

        Up to `limit` messages become PUBLISHING, their attempt counted. `claim` begins with the token of this
        process and must not have been used before.
        """
        rows, expired, next_at, superseded = await self._commits.submit(TAKE, Take(claim, limit, at))
        return Taken([to_message(row) for row in rows], expired, next_at, superseded)

    async def cancel(self, entry: Entry, deadline: float) -> tuple[bool, Status | None]:
        """Withdraw the message that `entry` is about, if it waits, and keep `entry` then.

        Whether this withdrew it, and its status now; None where there is no such message.

        Raises NotSaved, OutcomeUnknown.
        """
        won, status = await self._commits.submit(CANCEL, entry, deadline)
        return won, None if status is None else Status(status)

    async def take_back(self, clearing: Message, entry: Entry | None, deadline: float) -> str | None:
        """Have the broker forget a retained message: add `clearing`, which makes it, and keep `entry` then.

        The id of what clears it, also where that is on its way already. None where the broker does not have it, or
        has or will have a newer one in its place. Raises NotSaved, OutcomeUnknown.
        """
        return await self._commits.submit(TAKE_BACK, TakeBack(to_row(clearing), entry), deadline)

    async def hold(self, lease: Lease) -> None:
        """Say that this process lives; what it holds is its own until the lease is over."""
        await self._commits.submit(HOLD, lease)

    async def leave(self, process: str) -> None:
        """Give the lease up, so that others take over at once what this process still holds."""
        await self._commits.submit(LEAVE, process)

    async def settle(self, process: str, at: int) -> int:
        """Settle what dead processes have PUBLISHING, seen from `process`; gives how many messages those were.

        Nobody knows whether they left: they are queued again as possible duplicates, or UNCONFIRMED where they may
        be sent at most once.
        """
        return await self._commits.submit(SETTLE, (process, at))

    def answer(self, key: Key, status: int, body: str) -> asyncio.Future[Key | None]:
        """Keep what the first request of a key was answered; later ones get the same.

        The future has the key as it is now: with this answer, or with one that was kept before; None where the
        message was withdrawn, and the key with it.
        """
        return self._commits.submit(ANSWER, (tuple(key), status, body))

    def withdraw(self, never: Message, claim: str | None, key: Key | None) -> asyncio.Future[bool]:
        """Take back an `add` whose outcome is unknown: `never` is the message as rejected, `claim` the one it had.

        The future is True where it is now certain never to be sent, and its key is free again; False where it was
        there and has been taken for delivery.
        """
        return self._commits.submit(WITHDRAW, (to_row(never), claim, key))

    async def prune(self, before: int, at: int) -> AsyncIterator[int]:
        """Remove finished messages accepted before the time `before`, and keys outlived at `at`, the oldest first.

        What is unfinished stays. Gives how many messages each small batch removed, and then rests four times as long
        as it took, so that what is sent meanwhile hardly waits.
        """
        loop = asyncio.get_running_loop()
        removed, outlived = _FORGOTTEN, 0
        while _FORGOTTEN in {removed, outlived}:
            began = loop.time()
            removed, outlived = await self._commits.submit(PRUNE, Prune(first_id(before), before, at, _FORGOTTEN))
            took = loop.time() - began
            yield removed
            if _FORGOTTEN in {removed, outlived}:
                await asyncio.sleep(4 * took)

    async def owner(self, key: tuple[str, str], at: int) -> Key | None:
        """What a principal's idempotency key was used for, None where it is free at the time `at`.

        Raises StoreUnavailable.
        """
        return await self._look_up(lambda connection: owner_of(connection, key, at))

    async def create_key(self, key: ApiKey, entry: Entry, deadline: float) -> None:
        """Save a new API key; raises NotSaved, OutcomeUnknown."""
        await self._commits.submit(CREATE_KEY, (key, entry), deadline)

    async def change_key(self, change: KeyChange, deadline: float) -> bool:
        """Let an API key end; whether there is such a key. Raises NotSaved, OutcomeUnknown."""
        return await self._commits.submit(CHANGE_KEY, change, deadline)

    async def key_used(self, key_id: str, at: int) -> None:
        """Keep when an API key was used last."""
        await self._commits.submit(KEY_USED, (key_id, at))

    async def key_by_hash(self, hash_: str) -> ApiKey | None:
        """The API key with this hash; raises StoreUnavailable."""
        return await self._look_up(lambda connection: api_keys.find_by_hash(connection, hash_))

    async def key(self, key_id: str) -> ApiKey | None:
        """The API key with this id; raises StoreUnavailable."""
        return await self._look_up(lambda connection: api_keys.find(connection, key_id))

    async def all_keys(self) -> AsyncIterator[list[ApiKey]]:
        """Every API key that was ever made, oldest first, in short lists; raises StoreUnavailable."""
        keys = await self._keys_after(None)
        while len(keys) == _KEYS:
            yield keys
            keys = await self._keys_after(keys[-1])
        yield keys

    async def any_key(self) -> bool:
        """Whether an API key was ever made; raises StoreUnavailable."""
        return await self._look_up(api_keys.any_key)

    async def audit(self, filters: AuditFilters, *, before: int | None, limit: int) -> AuditPage:
        """Up to `limit` entries of the audit trail, and `PAGE_BYTES`, newest first, numbered below `before`.

        Raises StoreUnavailable.
        """
        return await self._report(lambda connection: audit.newest_first(connection, filters, before, limit))

    async def add_entry(self, entry: Entry) -> None:
        """Keep an entry in the audit trail."""
        await self._commits.submit(ADD_ENTRY, entry)

    async def attempts(self, message_id: str) -> list[Attempt]:
        """The attempts of a message that were not the plain first success; raises StoreUnavailable."""
        return await self._look_up(lambda connection: reports.attempts_of(connection, message_id))

    async def backlog(self) -> Backlog:
        """What is unfinished, on all devices; raises StoreUnavailable."""
        return await self._look_up(reports.backlog)

    async def find(self, message_id: str) -> Message | None:
        """The message with this id; raises StoreUnavailable."""
        return await self._look_up(lambda connection: reports.find(connection, message_id))

    async def find_all(self, ids: Sequence[str]) -> list[Message]:
        """Those of the messages with these ids that there are; raises StoreUnavailable."""
        return await self._look_up(lambda connection: reports.find_all(connection, ids))

    async def waiting_of(self, sender: str, size: int) -> AsyncIterator[list[Message]]:
        """What waits of what a principal sent, in lists of up to `size`; raises StoreUnavailable."""
        for status in WAITING:
            async for waiting in self.pages(Filters(status=(status,), sender=sender), size):
                yield waiting

    async def is_alive(self, process: str) -> bool:
        """Whether a process holds a lease; raises StoreUnavailable."""
        return await self._look_up(lambda connection: reports.is_alive(connection, process))

    async def page(self, filters: Filters, *, after: Position | None, limit: int) -> Page:
        """Up to `limit` messages, and `PAGE_BYTES`, newest first, older than the one at `after`.

        Raises StoreUnavailable.
        """
        return await self._report(lambda connection: reports.newest_first(connection, filters, after, limit))

    async def pages(self, filters: Filters, size: int = _PAGE) -> AsyncIterator[list[Message]]:
        """All messages, oldest first, in lists of up to `size` and `PAGE_BYTES`; raises StoreUnavailable.

        Each list is a read of its own: memory stays small, and no transaction stays open for a slow client. Whatever
        is added, moved or removed meanwhile, no message comes twice, and none is left out that stays.
        """
        page = await self._oldest_first(filters, None, size)
        while page.next is not None:
            yield page.messages
            page = await self._oldest_first(filters, page.next, size)
        if page.messages:
            yield page.messages

    async def summary(self, filters: Filters, bucket: Bucket) -> Summary:
        """Count the messages that fit; raises StoreUnavailable."""
        return await self._report(lambda connection: reports.summary(connection, filters, bucket))

    async def check(self, patience: float = _CHECK_PATIENCE) -> None:
        """Raise StoreUnavailable unless, within so many seconds, a read works and the writer commits a write."""
        until = asyncio.get_running_loop().time() + patience
        try:
            await self._commits.submit(CHECK, (), until)
            async with asyncio.timeout_at(until):
                await self._look_up(lambda connection: reports.find(connection, ""))
        except NotSaved as error:
            raise StoreUnavailable(error.cause) from None
        except (OutcomeUnknown, TimeoutError):
            raise StoreUnavailable("it does not answer.") from None

    async def _oldest_first(self, filters: Filters, after: Position | None, limit: int) -> Page:
        return await self._report(lambda connection: reports.oldest_first(connection, filters, after, limit))

    async def _keys_after(self, key: ApiKey | None) -> list[ApiKey]:
        return await self._look_up(lambda connection: api_keys.oldest_first(connection, key, _KEYS))

    async def _look_up(self, query: Callable[[Connection], Result]) -> Result:
        return await self._read(self._lookups, query)

    async def _report(self, query: Callable[[Connection], Result]) -> Result:
        return await self._read(self._reporters, query)

    async def _read(self, readers: Readers, query: Callable[[Connection], Result]) -> Result:
        if self._commits.gone is not None:
            raise StoreUnavailable(self._commits.gone)
        return await readers.read(query)
