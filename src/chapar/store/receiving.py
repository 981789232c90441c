"""The right of one process at a time to receive from the broker, and since when nobody receives signs of life."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import BigInteger, Boolean, ColumnElement, Connection, bindparam, case, func, null, or_, select, update

from chapar.store.operations import Kind
from chapar.store.schema import DATABASE_TIME, installation, receiver

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_is_up: ColumnElement[bool] = bindparam("life_is_up", type_=Boolean)
_is_ours = receiver.c.process == bindparam("of_process")
_is_over = receiver.c.lease_until <= DATABASE_TIME
_over_since = case((_is_over, receiver.c.lease_until), else_=DATABASE_TIME)

_ACQUIRE = (
    update(receiver)
    .where(or_(_is_ours, _is_over, bindparam("alone", type_=Boolean)))
    .values(
        process=bindparam("of_process"),
        lease_until=DATABASE_TIME + bindparam("lasts", type_=BigInteger),
        # The link of another one may have been up until its lease ended.
        life_down_since=case(
            (_is_up, null()),
            (receiver.c.life_down_since.is_not(None), receiver.c.life_down_since),
            (_is_ours, DATABASE_TIME),
            (_is_over, receiver.c.lease_until),
            else_=0,  # it died whenever: whoever is alone has no lease that ends
        ),
    )
    .returning(receiver.c.filters)
)
_KEEP_FILTERS = update(receiver).where(_is_ours).values(filters=bindparam("kept"))
_RELEASE = (
    update(receiver)
    .where(_is_ours)
    .values(lease_until=DATABASE_TIME, life_down_since=func.coalesce(receiver.c.life_down_since, _over_since))
)
_NAME = select(installation.c.name)
_DOWN_FOR = select(
    case(
        (_is_over, DATABASE_TIME - func.coalesce(receiver.c.life_down_since, receiver.c.lease_until)),
        else_=DATABASE_TIME - receiver.c.life_down_since,
    )
)


_FOR_EVER: Final = 100 * 365 * 86_400_000  # ms


class Reception(NamedTuple):
    """The wish of a process to receive, or to go on receiving."""

    process: str  #: token
    seconds: float  #: how long the lease is from now on, unless it is alone
    alone: bool  #: no other process can be alive: this one holds the database's lock
    life_is_up: bool  #: it receives signs of life now
    filters: tuple[str, ...] | None = None  #: topic filters that the broker keeps for it from now on; None: as before


class Held(NamedTuple):
    """The lease of the receiver, which the process that asked for it holds now."""

    filters: tuple[str, ...]  #: topic filters that the broker may keep for it, from whoever received before


class Receiving:
    """The lease of the one process that receives, in database time."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    async def installation(self) -> str:
        """Return the name of this installation, which no other database has; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: str(connection.execute(_NAME).scalar_one()))

    async def acquire(self, reception: Reception) -> Held | None:
        """Take the lease, or renew it; None where another process holds it."""
        return await self._commits.one(ACQUIRE_RECEIVER, reception)

    async def release(self, process: str) -> None:
        """Give the lease up, so that another process takes it at once."""
        await self._commits.one(RELEASE_RECEIVER, process)


def life_down_since(connection: Connection, now: int) -> int | None:
    """Since when nobody receives signs of life, by a clock that shows `now` (ms since the epoch); None: somebody does.

    Ages are taken from the database's clock, so that no other's matters.
    """
    found = connection.execute(_DOWN_FOR).one_or_none()
    if found is None:  # a database without its one row: nobody ever received
        return 0
    (down_for,) = found
    return None if down_for is None else now - int(down_for)


def _acquire(connection: Connection, receptions: Sequence[Reception]) -> Sequence[tuple[str, ...] | None]:
    return [_acquire_one(connection, reception) for reception in receptions]


def _acquire_one(connection: Connection, reception: Reception) -> tuple[str, ...] | None:
    if reception.alone and (held := _held_alone(connection, reception)) is not None:
        return held
    found = connection.execute(
        _ACQUIRE,
        {
            "of_process": reception.process,
            "lasts": _FOR_EVER if reception.alone else round(reception.seconds * 1000),
            "alone": reception.alone,
            "life_is_up": reception.life_is_up,
        },
    ).one_or_none()
    if found is None:
        return None
    if reception.filters is not None:
        kept = json.dumps(reception.filters)
        connection.execute(_KEEP_FILTERS, {"of_process": reception.process, "kept": kept})
        return reception.filters
    return tuple(json.loads(found[0]))


def _held_alone(connection: Connection, reception: Reception) -> tuple[str, ...] | None:
    """The filters, where nothing is to be written: whoever is alone renews nothing, because SD cards bear no more."""
    row = connection.execute(select(receiver)).one()
    is_same = row.process == reception.process and (row.life_down_since is None) is reception.life_is_up
    return tuple(json.loads(row.filters)) if is_same and reception.filters is None else None


def _held(_: Reception, filters: tuple[str, ...] | None) -> Held | None:
    return None if filters is None else Held(filters)


def _release(connection: Connection, processes: Sequence[str]) -> Sequence[None]:
    connection.execute(_RELEASE, [{"of_process": process} for process in processes])
    return [None] * len(processes)


ACQUIRE_RECEIVER: Final[Kind[Reception, Held | None]] = Kind("acquire_receiver", _acquire, named=_held)
RELEASE_RECEIVER: Final[Kind[str, None]] = Kind("release_receiver", _release)
