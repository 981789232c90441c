"""Reading off the event loop, on connections that cannot write."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from chapar.errors import DatabaseFileGone, StoreUnavailable
from chapar.store.database import Role, open_engine
from chapar.store.failures import cause
from chapar.store.identity import Identity

Result = TypeVar("Result")


class Readers:
    """A few threads, each with a connection of its own. Open it with `async with Readers.open(…)`."""

    def __init__(
        self, engine: Engine, threads: ThreadPoolExecutor, gone: Callable[[], DatabaseFileGone | None]
    ) -> None:
        self._engine = engine
        self._threads = threads
        self._gone = gone

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database_url: str, count: int, identity: Identity | None, gone: Callable[[], DatabaseFileGone | None]
    ) -> AsyncIterator[Self]:
        """Make `count` readers, of this SQLite file only; leaving waits for the reads that have begun.

        While `gone` says that a file of the database is not there, nothing is read.
        """
        engine = open_engine(database_url, Role.READER, count, identity=identity)
        threads = ThreadPoolExecutor(count, "store-reader")
        try:
            yield cls(engine, threads, gone)
        finally:
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
            engine.dispose()

    async def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run `query` on a free reader; raises StoreUnavailable."""
        if (gone := self._gone()) is not None:
            raise StoreUnavailable(gone)
        return await asyncio.get_running_loop().run_in_executor(self._threads, query_once_more, self._engine, query)


def query_once_more(engine: Engine, query: Callable[[Connection], Result]) -> Result:
    """Run `query`, and once more where its connection was lost; raises StoreUnavailable."""
    try:
        try:
            return _query(engine, query)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The server was restarted. That emptied the pool too, so this connects anew.
            return _query(engine, query)
    except DatabaseFileGone as error:
        raise StoreUnavailable(error) from error
    except SQLAlchemyError as error:
        raise StoreUnavailable(cause(error)) from error


def _query(engine: Engine, query: Callable[[Connection], Result]) -> Result:
    with engine.connect() as connection:
        return query(connection)
