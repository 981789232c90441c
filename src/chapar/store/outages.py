"""Outages of the broker, as gateway processes met them: a row each, and the newest alone."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, delete, func, insert, select

from chapar.errors import NotSaved
from chapar.store.operations import Kind
from chapar.store.schema import outages

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits

MOST_KEPT: Final = 1000  # outages of all processes
_MOST_READ: Final = 20  # outages of the time of one message

_SAME = select(outages.c.seq).where(
    outages.c.process == bindparam("of_process"), outages.c.began_at == bindparam("since", type_=BigInteger)
)
_KEEP = insert(outages)
_OLD = delete(outages).where(outages.c.seq <= select(func.max(outages.c.seq)).scalar_subquery() - MOST_KEPT)
_DURING = (
    select(outages.c.process, outages.c.began_at, outages.c.ended_at, outages.c.cause)
    .where(outages.c.began_at <= bindparam("until", type_=BigInteger))
    .where(outages.c.ended_at >= bindparam("since", type_=BigInteger))
    .order_by(outages.c.seq.desc())
    .limit(_MOST_READ)
)


class Outage(NamedTuple):
    """A time in which a gateway process had no session with the broker. Times are ms since the epoch."""

    process: str  #: token
    began_at: int
    ended_at: int
    cause: str | None  #: code of the first error of it; None: there was none


class Outages:
    """The outages that gateway processes have met."""

    def __init__(self, commits: "Commits") -> None:
        self._commits = commits

    def keep(self, met: Sequence[Outage]) -> asyncio.Future[list[NotSaved | None]]:
        """Keep outages that are over; the oldest of all go where there are too many."""
        return self._commits.submit(KEEP_OUTAGE, met)


def outages_during(connection: Connection, since: int, until: int) -> list[Outage]:
    """The newest outages of a time (ms since the epoch), in their order."""
    found = connection.execute(_DURING, {"since": since, "until": until})
    return sorted((Outage._make(row) for row in found), key=lambda outage: outage.began_at)


def _keep(connection: Connection, met: Sequence[Outage]) -> Sequence[None]:
    for outage in met:
        process, began_at, *_ = outage
        # It is there where the answer to a commit was lost.
        if connection.execute(_SAME, {"of_process": process, "since": began_at}).first() is None:
            connection.execute(_KEEP, Outage._make(outage)._asdict())
    connection.execute(_OLD)
    return [None] * len(met)


KEEP_OUTAGE: Final[Kind[Outage, None]] = Kind("keep_outage", _keep)
