"""What the gateway may ask of the database: add and move messages, find and count them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Self

from chapar.errors import NotSaved, OutcomeUnknown, StoreUnavailable
from chapar.message import Message, now
from chapar.settings import Settings
from chapar.store import database, migrations, reports
from chapar.store.commits import Commits, Counters
from chapar.store.operations import ADD, CHECK, MOVE, add_row, move_row
from chapar.store.queue import CLAIM, SETTLE, claim_row, settle_row
from chapar.store.readers import Readers
from chapar.store.reports import Bucket, Filters, Summary
from chapar.store.schema import to_message

_CHECK_PATIENCE = 2.0  # seconds; a probe of readiness usually gives up after a few
_PAGE = 1000  # messages read at once by `pages`: about 1 MB


class Store:
    """The messages. Open it with `async with Store.open(settings) as store`.

    Writes go to the writer process and are answered once they are committed. Reads have connections and threads of
    their own, which cannot write. Nothing here ever blocks the event loop.
    """

    def __init__(self, commits: Commits, readers: Readers) -> None:
        self._commits = commits
        self._readers = readers

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Lock and migrate the database (PostgreSQL: check it, unless `auto_migrate`), and start the writer.

        Raises DatabaseInUse, SchemaOutdated, SchemaNewer, DatabaseUnsafe, StoreUnavailable, SettingInvalid.
        """
        database_url = settings.database_url.get_secret_value()
        url = database.parse(database_url)
        is_sqlite = url.get_backend_name() == "sqlite"
        lock = await asyncio.to_thread(database.lock, database.sqlite_file(url)) if is_sqlite else None
        with lock or nullcontext():
            inherit = () if lock is None else (lock.fileno(),)
            if is_sqlite or settings.auto_migrate:
                await asyncio.to_thread(migrations.migrate, database_url)
            else:
                await asyncio.to_thread(migrations.check_schema, database_url)
            async with (
                Commits.open(database_url, inherit) as commits,
                Readers.open(database_url, settings.readers) as readers,
            ):
                yield cls(commits, readers)

    @property
    def counters(self) -> Counters:
        """What the writer has done since the start."""
        return self._commits.counters

    def add(self, message: Message, deadline: float | None = None) -> asyncio.Future[None]:
        """Save a new message; harmless where it is already there.

        It is tried until `deadline` (loop time; None: for ever). The future then raises NotSaved where certainly
        nothing was committed, OutcomeUnknown where it may have been. Cancelling the future does not stop the commit.
        """
        return self._commits.submit(ADD, add_row(message), deadline)

    def move(self, before: Message, after: Message, deadline: float | None = None) -> asyncio.Future[bool]:
        """Make the message in the database, which is `before`, what `after` says.

        The future is True once it is so, False where the message no longer was in the state, at the attempt and
        under the claim of `before`: somebody else moved it. Ask for a move from a state only when the move to it
        was answered. Deadline, errors and cancelling are as with `add`.
        """
        return self._commits.submit(MOVE, move_row(before, after), deadline)

    async def claim(self, claim: str, limit: int) -> list[Message]:
        """Take up to `limit` queued messages in the order of acceptance: PUBLISHING, their attempt counted.

        `claim` begins with the token of this process and must not have been used before.
        """
        return [to_message(row) for row in await self._commits.submit(CLAIM, claim_row(claim, limit))]

    async def settle(self, process: str) -> int:
        """Settle what is PUBLISHING under claims that do not begin with `process`; gives how many those were.

        Nobody knows whether they left: they are queued again as possible duplicates, or UNCONFIRMED where they may
        be sent at most once.
        """
        return await self._commits.submit(SETTLE, settle_row(process, now()))

    async def find(self, message_id: str) -> Message | None:
        """The message with this id; raises StoreUnavailable."""
        return await self._readers.read(lambda connection: reports.find(connection, message_id))

    async def page(self, filters: Filters, *, before: str | None, limit: int) -> list[Message]:
        """Up to `limit` messages, newest first, with ids below `before`; raises StoreUnavailable."""
        return await self._readers.read(lambda connection: reports.newest_first(connection, filters, before, limit))

    async def pages(self, filters: Filters, size: int = _PAGE) -> AsyncIterator[list[Message]]:
        """All messages, oldest first, in lists of up to `size`; raises StoreUnavailable.

        Each list is a read of its own: memory stays small, and no transaction stays open for a slow client.
        """
        after: str | None = None
        while page := await self._oldest_first(filters, after, size):
            yield page
            if len(page) < size:
                return
            after = page[-1].id

    async def summary(self, filters: Filters, bucket: Bucket) -> Summary:
        """Count the messages that fit; raises StoreUnavailable."""
        return await self._readers.read(lambda connection: reports.summary(connection, filters, bucket))

    async def check(self) -> None:
        """Raise StoreUnavailable unless, within two seconds, a read works and the writer commits a write."""
        until = asyncio.get_running_loop().time() + _CHECK_PATIENCE
        try:
            await self._commits.submit(CHECK, (), until)
            async with asyncio.timeout_at(until):
                await self._readers.read(lambda connection: reports.find(connection, ""))
        except NotSaved as error:
            raise StoreUnavailable(error.cause) from None
        except (OutcomeUnknown, TimeoutError):
            raise StoreUnavailable("it does not answer.") from None

    async def _oldest_first(self, filters: Filters, after: str | None, limit: int) -> list[Message]:
        return await self._readers.read(lambda connection: reports.oldest_first(connection, filters, after, limit))
