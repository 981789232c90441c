"""Withdrawal by a newer message: of those with its collapse key, or of all that waits for its device."""

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import BigInteger, Connection, bindparam, or_, select, text, update

from chapar.model.acceptance import Sender
from chapar.model.audit import Action
from chapar.model.change import Cancelled
from chapar.model.message import WAITING, Message, Status
from chapar.model.reason import Reason
from chapar.store.audit import add_entries
from chapar.store.database import run_on_driver
from chapar.store.generations import advance
from chapar.store.lanes import is_in_lane, release
from chapar.store.operations import as_list
from chapar.store.schema import COLUMNS, IS_UNFINISHED, Row, messages, to_message

_SUPERSEDED: Final = Reason.SUPERSEDED.value
_PURGED: Final = Reason.PURGED.value

_UNFINISHED = (
    select(messages.c.seq, *COLUMNS)
    .where(messages.c.imei == bindparam("imei"), text(IS_UNFINISHED), messages.c.seq > text("0"))
    .where(messages.c.micro_op != "")  # the empty one that clears a retained message is nobody's
    .order_by(messages.c.seq)  # two processes lock them in the same order
    .with_for_update()
)
_OF_KEY = _UNFINISHED.where(messages.c.collapse_key == bindparam("key"))
_WITHDRAW = (
    update(messages)
    .where(messages.c.seq == bindparam("at_seq", type_=BigInteger))
    .values(
        status=Status.CANCELLED.value,
        reason=bindparam("why"),
        superseded_by=bindparam("newer"),
        not_before=None,
        contact_until=None,
        finished_at=bindparam("at", type_=BigInteger),
    )
)
_NEVER_AGAIN = (
    update(messages)
    .where(messages.c.seq == bindparam("at_seq", type_=BigInteger))
    .values(superseded_by=bindparam("newer"))
)
# For a repetition, whose answer was lost.
_WITHDRAWN_BY = (
    select(*COLUMNS)
    .where(messages.c.imei == bindparam("imei"))
    .where(or_(messages.c.superseded_by == bindparam("newer"), messages.c.reason == bindparam("purged")))
)
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(pair, 0)) FROM unnest(%s::text[]) AS pair"

Found = list[tuple[int, Message]]
"""Messages that a newer one would withdraw, with their `seq`."""


def lock_devices(connection: Connection, pairs: Iterable[tuple[str, str]]) -> None:
    """Have each device and key be one process's affair until the end of the transaction; an empty key: its lane."""
    # A device's name has no blank. In one order everywhere, so that no two processes wait for each other.
    if connection.dialect.name == "postgresql" and (names := sorted({" ".join(pair) for pair in pairs})):
        run_on_driver(connection, _LOCK, (as_list(connection, names),))


def withdrawable(connection: Connection, newer: Message, *, purges: bool) -> Found:
    """Find what a new message withdraws, in the order of acceptance: of its key, also what is on its way.

    That is never sent again. Of what is scheduled, a key means what is due no later than the new message.
    """
    query = _UNFINISHED if purges else _OF_KEY
    found = connection.execute(query, {"imei": newer.imei, "key": newer.collapse_key})
    read = [(seq, to_message(tuple(row))) for seq, *row in found]
    return [(seq, older) for seq, older in read if _is_meant(older, newer, purges=purges)]


def _is_meant(older: Message, newer: Message, *, purges: bool) -> bool:
    is_waiting = older.status in WAITING
    if newer.collapse_key is not None and older.collapse_key == newer.collapse_key:
        is_earlier = older.status is not Status.SCHEDULED or (older.deliver_at or 0) <= _due_at(newer)
        return is_earlier or (purges and is_waiting)
    return purges and is_waiting


def _due_at(message: Message) -> int:
    return message.deliver_at or message.created_at


def withdraw(connection: Connection, found: Found, newer: Message, sender: Sender | None) -> list[Cancelled]:
    """Withdraw for a new message what `withdrawable` has found; gives all of it as it stands now."""
    at = newer.created_at
    done = [(seq, Cancelled(older.status, _withdrawn(older, newer))) for seq, older in found]
    ended = [(seq, each.message) for seq, each in done if each.message.status is Status.CANCELLED]
    if ended:
        connection.execute(
            _WITHDRAW,
            [
                {"at_seq": seq, "why": message.reason, "newer": message.superseded_by, "at": at}
                for seq, message in ended
            ],
        )
        advance(connection)
        if sender is not None:
            add_entries(connection, [_entry(message, at, sender) for _, message in ended])
        if any(is_in_lane(message) for _, message in ended):
            release(connection, [newer.imei])
    if on_their_way := [seq for seq, each in done if each.message.status is Status.PUBLISHING]:
        connection.execute(_NEVER_AGAIN, [{"at_seq": seq, "newer": newer.id} for seq in on_their_way])
    return [each for _, each in done]


def _entry(message: Message, at: int, sender: Sender) -> Row:
    subject = (message.id, message.imei, message.micro_op)
    return (at, *sender, Action.CANCELLED.value, *subject, message.reason)


def _withdrawn(older: Message, newer: Message) -> Message:
    """An older message as a new one leaves it."""
    is_of_key = newer.collapse_key is not None and older.collapse_key == newer.collapse_key
    superseded_by = newer.id if is_of_key else None
    if older.status is Status.PUBLISHING:
        return older._replace(superseded_by=superseded_by)
    ended = older.moved(
        Status.CANCELLED,
        reason=_SUPERSEDED if is_of_key else _PURGED,
        not_before=None,
        contact_until=None,
        finished_at=newer.created_at,
    )
    return ended._replace(superseded_by=superseded_by)


def withdrawn_by(connection: Connection, newer: Message) -> list[Cancelled]:
    """Find what a message withdrew that was added already, but for what has moved on since."""
    found = connection.execute(_WITHDRAWN_BY, {"imei": newer.imei, "newer": newer.id, "purged": _PURGED})
    read: Sequence[Message] = [to_message(tuple(row)) for row in found]
    return [
        Cancelled(Status.QUEUED if (message.deliver_at or 0) <= newer.created_at else Status.SCHEDULED, message)
        for message in read
        if message.status is Status.CANCELLED and message.finished_at == newer.created_at
    ]
