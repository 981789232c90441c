"""Withdraw all that waits for a device, some messages in each commit."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, func, select, text, update

from chapar.model.audit import Entry
from chapar.model.change import Change
from chapar.model.message import WAITING, Message, Status
from chapar.model.principal import Reach
from chapar.model.reason import Reason
from chapar.store.audit import add_entries
from chapar.store.generations import advance
from chapar.store.lanes import is_in_lane, release
from chapar.store.operations import Kind
from chapar.store.patterns import fits_any
from chapar.store.schema import COLUMNS, IS_OPEN, Row, messages, to_message, to_row

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits

_PURGED = Reason.PURGED.value
_WITHDRAW = (
    update(messages)
    .where(messages.c.seq.in_(bindparam("found", expanding=True)))
    .values(
        status=Status.CANCELLED.value,
        reason=_PURGED,
        not_before=None,
        contact_until=None,
        finished_at=bindparam("at", type_=BigInteger),
    )
)

_AT_ONCE: Final = 500  # messages withdrawn in one commit: a few milliseconds


class Purge(NamedTuple):
    """The wish to withdraw what waits for a device."""

    entry: Entry  #: what the audit trail says of each message, but for its id and operation; it names the device
    reach: Reach  #: of whoever asks
    up_to: int | None = None  #: `seq` of the last message that is meant; None: the newest there is


class Purged(NamedTuple):
    """Messages that one commit has withdrawn."""

    messages: Sequence[tuple[Status, Message]]  #: where each waited, and the message as it stands now
    up_to: int | None  #: `up_to` of the commit that withdraws further ones; None: nothing is left


class Purges:
    """Withdraw all that waits for a device."""

    def __init__(self, commits: "Commits") -> None:
        self._commits = commits

    async def purge(self, purge: Purge, patience: float) -> int:
        """Withdraw what waits for a device now, with `patience` seconds for each commit; gives how many messages.

        Raises NotSaved, OutcomeUnknown.
        """
        loop, withdrawn = asyncio.get_running_loop(), 0
        while True:
            purged = await self._commits.one(PURGE_QUEUE, purge, loop.time() + patience)
            withdrawn += len(purged.messages)
            if purged.up_to is None:
                return withdrawn
            purge = purge._replace(up_to=purged.up_to)


_Found = tuple[list[tuple[str, Row]], int | None]


def _purge(connection: Connection, purges: Sequence[Purge]) -> Sequence[_Found]:
    return [_purge_some(connection, *purge) for purge in purges]


def _purge_some(connection: Connection, entry: Entry, reach: Reach, up_to: int | None) -> _Found:
    if up_to is None:
        up_to = connection.execute(select(func.max(messages.c.seq))).scalar_one() or 0
    statement = (
        select(messages.c.seq, *COLUMNS)
        .where(text(IS_OPEN), messages.c.status.in_([status.value for status in WAITING]))
        .where(messages.c.imei == entry.imei, messages.c.seq <= up_to)
        # The empty one that clears a retained message is nobody's.
        .where(messages.c.micro_op != "", *fits_any(messages.c.micro_op, reach.operations))
        .order_by(messages.c.seq)
        .limit(_AT_ONCE)
        .with_for_update()
    )
    found = [(seq, to_message(tuple(row))) for seq, *row in connection.execute(statement)]
    if not found:
        return [], None
    connection.execute(_WITHDRAW, {"found": [seq for seq, _ in found], "at": entry.at})
    advance(connection)
    add_entries(connection, [entry._replace(subject=message.id, micro_op=message.micro_op) for _, message in found])
    release(connection, [entry.imei] if entry.imei is not None and any(is_in_lane(each) for _, each in found) else [])
    moved = [(message.status.value, to_row(_withdrawn(message, entry.at))) for _, message in found]
    return moved, up_to if len(found) == _AT_ONCE else None


def _withdrawn(message: Message, at: int) -> Message:
    """The message as `_WITHDRAW` makes it."""
    return message.moved(Status.CANCELLED, reason=_PURGED, not_before=None, contact_until=None, finished_at=at)


def _purged(_: Purge, found: _Found) -> Purged:
    moved, up_to = found
    return Purged([(Status(before), to_message(row)) for before, row in moved], up_to)


def _changes_of_purge(purge: Purge, purged: Purged) -> Sequence[Change]:
    return [
        Change(message.id, message.imei, before, message.status, message.reason, purge.entry.at, message)
        for before, message in purged.messages
    ]


PURGE_QUEUE: Final[Kind[Purge, Purged]] = Kind("purge_queue", _purge, named=_purged, changes=_changes_of_purge)
