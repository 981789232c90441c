"""Checks of the database: a read, and a real commit."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from chapar.errors import NotSaved, OutcomeUnknown, Phrase, StoreUnavailable
from chapar.store.operations import Kind
from chapar.store.schema import messages, processes

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_PATIENCE = 2.0  # seconds; a probe of readiness usually gives up after a few
_PROBE = "probe"  # token of the row that a CHECK writes
_NONE = select(messages.c.id).where(messages.c.id == "")


class Health:
    """The state of the database, for whoever asks whether the gateway is ready."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    @property
    def is_saving(self) -> bool:
        """Return whether the last commit succeeded, and the database has not gone since."""
        return self._commits.is_saving

    async def writer_answers(self, patience: float) -> bool:
        """Return whether the writer process answers within so many seconds, with or without a database."""
        return await self._commits.is_answering(patience)

    async def check(self, patience: float = _PATIENCE) -> None:
        """Raise StoreUnavailable unless, within so many seconds, a read works and the writer commits a write."""
        until = asyncio.get_running_loop().time() + patience
        try:
            await self._commits.one(CHECK, (), until)
            async with asyncio.timeout_at(until):
                await self._lookups.read(lambda connection: connection.execute(_NONE).first())
        except NotSaved as error:
            raise StoreUnavailable(error.cause) from None
        except (OutcomeUnknown, TimeoutError):
            raise StoreUnavailable(Phrase("database.silent")) from None


def _check(connection: Connection, rows: Sequence[tuple[()]]) -> Sequence[None]:
    # A real write: a full disk or a read-only database would answer a SELECT happily, and SQLite writes nothing where
    # nothing changes. Into a table that a gateway writes anyway, so that it needs no right for this alone; as a process
    # whose lease was over long ago.
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    probe = insert(processes).values(token=_PROBE, name=_PROBE, lease_until=0)
    connection.execute(
        probe.on_conflict_do_update(index_elements=["token"], set_={"lease_until": 1 - processes.c.lease_until})
    )
    return [None] * len(rows)


CHECK: Final[Kind[tuple[()], None]] = Kind("check", _check)
