"""Taking an addition back whose outcome is unknown."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from chapar.model.acceptance import IdempotencyKey, Withdrawal
from chapar.model.change import Change
from chapar.model.message import Message, Status
from chapar.store.generations import advance
from chapar.store.idempotency import free_key
from chapar.store.insertion import insert_messages
from chapar.store.lanes import is_in_lane, release
from chapar.store.operations import Kind
from chapar.store.schema import COLUMNS, Row, messages, to_message, to_row

_TO_WITHDRAW = select(*COLUMNS).where(messages.c.id == bindparam("of_message")).with_for_update()
_WITHDRAW = (
    update(messages)
    .where(messages.c.id == bindparam("of_message"))
    .values(
        status=bindparam("to"),
        reason=bindparam("reason"),
        attempts=0,
        claim=None,
        not_before=None,
        finished_at=bindparam("at"),
    )
)

_PackedWithdrawal = tuple[Row, str | None, Row | None]
_Withdrawn = tuple[str | None, str] | None
"""What a WITHDRAW did: the states before and after, None before where the message was not there; None: nothing."""


def _withdraw(connection: Connection, withdrawals: Sequence[_PackedWithdrawal]) -> Sequence[_Withdrawn]:
    return [_withdraw_one(connection, *withdrawal) for withdrawal in withdrawals]


def _withdraw_one(connection: Connection, row: Row, claim: str | None, key: Row | None) -> _Withdrawn:
    never = to_message(row)
    # Where it is not there, it is recorded as rejected: an INSERT of it that is still under way then finds it taken.
    if insert_messages(connection, [(None, *row)]) == 1:
        return None, never.status.value
    there = connection.execute(_TO_WITHDRAW, {"of_message": never.id}).one_or_none()
    if there is None:  # it is forgotten
        return None
    found = to_message(tuple(there))
    if found.finished_at is not None:
        is_ours = (found.reason, found.finished_at) == (never.reason, never.finished_at)
        return (None, found.status.value) if is_ours else None  # this is repeated, because its answer was lost
    ends = _ended_before_it_left(found, claim)
    if ends is None or (key is not None and not free_key(connection, IdempotencyKey._make(key))):
        # It has been taken for delivery; or another process has answered a repetition of the request, and that answer
        # is a promise.
        return None
    connection.execute(
        _WITHDRAW, {"of_message": never.id, "to": ends.value, "reason": never.reason, "at": never.finished_at}
    )
    advance(connection)
    if is_in_lane(found):
        release(connection, [found.imei])
    return found.status.value, ends.value


def _ended_before_it_left(message: Message, claim: str | None) -> Status | None:
    """The state in which a message ends that certainly was never sent; None where it may have been."""
    if message.status is Status.SCHEDULED or (message.status is Status.QUEUED and message.attempts == 0):
        return Status.CANCELLED
    is_as_added = message.status is Status.PUBLISHING and claim is not None and message.claim == claim
    return Status.REJECTED if is_as_added else None


def _packed_withdrawal(withdrawal: Withdrawal) -> _PackedWithdrawal:
    return to_row(withdrawal.never), withdrawal.claim, withdrawal.key and tuple(withdrawal.key)


def _unpacked_withdrawal(packed: _PackedWithdrawal) -> Withdrawal:
    row, claim, key = packed
    return Withdrawal(to_message(row), claim, None if key is None else IdempotencyKey._make(key))


def _change_of_withdrawal(withdrawal: Withdrawal, withdrawn: _Withdrawn) -> Change | None:
    if withdrawn is None:
        return None
    never, before, after = withdrawal.never, withdrawn[0], Status(withdrawn[1])
    now = never._replace(status=after)
    at = never.finished_at or never.created_at
    return Change(never.id, never.imei, None if before is None else Status(before), after, never.reason, at, now)


WITHDRAW: Final[Kind[Withdrawal, Change | None]] = Kind(
    "withdraw",
    _withdraw,
    _packed_withdrawal,
    _change_of_withdrawal,
    changes=lambda _, change: () if change is None else [change],
    unpacked=_unpacked_withdrawal,
)
