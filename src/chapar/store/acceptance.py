"""Accepting a message: its idempotency key, its place behind the device's backlog, and the bound of that backlog."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from sqlalchemy import Connection, Dialect, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from chapar.model.acceptance import Added, Addition, Full, IdempotencyKey, Placement, Sender, Withdrawal
from chapar.model.audit import Action
from chapar.model.change import Change
from chapar.model.message import Message, Status
from chapar.store.audit import add_entries
from chapar.store.database import run_on_driver
from chapar.store.generations import advance
from chapar.store.idempotency import free_key, keep_keys, owners_of
from chapar.store.operations import Ambiguous, Kind, batch_table, run_batch, run_on_list
from chapar.store.schema import COLUMNS, IS_UNFINISHED, Row, messages, to_message, to_row

# What a partial index is for must stand in a query word by word and without parameters: SQLite proves no more. And
# `seq > 0`, which is always true, makes that index a better match than the one of all that the device ever had.
#
# What comes direct may follow only what came direct to the same process: that is on its way to the link already, in
# this order. Anything else of its device is in the queue, or taken from it and perhaps on its way back; but what waits
# for something besides its turn is nobody's predecessor.
_LANES = """
    SELECT imei, count(CASE WHEN micro_op <> '' THEN 1 END), min(CASE WHEN micro_op <> '' THEN seq END),
        max(CASE WHEN (status = 'queued' AND reason IS NULL) OR (status = 'publishing' AND claim <> {direct})
            THEN 1 ELSE 0 END)
    FROM {messages_of_devices} AND seq > 0 AND {is_unfinished}
    GROUP BY imei
"""
# All devices are one parameter: with one for each, every number of them would be a statement of its own. SQLite is
# made to begin with them, and PostgreSQL is not: else they would go through everything that is unfinished.
LANES_SQL = {
    "sqlite": _LANES.format(
        is_unfinished=IS_UNFINISHED,
        direct="?",
        messages_of_devices="json_each(?) AS device CROSS JOIN messages WHERE imei = device.value",
    ),
    "postgresql": _LANES.format(
        is_unfinished=IS_UNFINISHED, direct="%s", messages_of_devices="messages WHERE imei = ANY (%s::text[])"
    ),
}

_PLACE = select(messages.c.status, messages.c.claim).where(messages.c.id == bindparam("of_message"))
_ID_AT = select(messages.c.id).where(messages.c.seq == bindparam("seq"))

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

Packed = tuple[Row, int, Row | None, Row | None]
"""An addition as it crosses: the message, how many unfinished ones its device may have, the key, and the sender."""


@dataclass(slots=True)
class _Lane:
    """The unfinished messages of one device."""

    depth: int = 0
    blocked: bool = False  #: something has to leave before what comes now
    front: int | None = None  #: the oldest one's seq, where it was there before
    first: str | None = None  #: the id of the first that joined in this batch


def packed_addition(addition: Addition) -> Packed:
    """An addition as it crosses."""
    message, max_depth, key, sender = addition
    return to_row(message), max_depth, key and tuple(key), sender and tuple(sender)


def _unpacked_addition(packed: Packed) -> Addition:
    row, max_depth, key, sender = packed
    return Addition(
        to_message(row),
        max_depth,
        None if key is None else IdempotencyKey._make(key),
        None if sender is None else Sender._make(sender),
    )


def _placed(addition: Addition, result: Row | None) -> Added:
    """Return what came of an ADD. It crosses as None where the message was added as asked, else as the fields alone."""
    if result is None:
        return Placement(addition.message.status, addition.message.claim)
    match result:
        case (oldest,):
            return Full(str(oldest))
        case (status, claim):
            return Placement(Status(str(status)), None if claim is None else str(claim))
        case owner:
            return IdempotencyKey._make(owner)


def _change_of_add(addition: Addition, added: Added) -> Sequence[Change]:
    if not isinstance(added, Placement):
        return ()
    message = addition.message
    now: Message | None
    if added.is_as_asked(message):
        now = message
    elif added == Placement(Status.QUEUED, None):
        now = message._replace(status=Status.QUEUED, attempts=0, claim=None)
    else:  # this was repeated, because its answer was lost, and the message has been moved since
        now = None
    reason = None if now is None else now.reason
    return [Change(message.id, message.imei, None, added.status, reason, message.created_at, now)]


# As the rows have them: to compare with a member of an enum, or to look for one in a set, takes longer.
_REJECTED, _PUBLISHING, _QUEUED = Status.REJECTED.value, Status.PUBLISHING.value, Status.QUEUED.value
_SENT = Action.SENT.value


@cache
def insert_sql(dialect: Dialect) -> str:
    """The statement that adds messages. Repeated because its answer was lost, it finds its row, and that is fine."""
    names = [*Message._fields, messages.c.sent_by.name]
    if dialect.name == "postgresql":
        rows = batch_table({name: messages.c[name].type for name in names})
        from_rows = postgresql.insert(messages).from_select(names, select(*rows.c))
        return str(from_rows.on_conflict_do_nothing(index_elements=["id"]).compile(dialect=dialect))
    statement = sqlite.insert(messages).on_conflict_do_nothing(index_elements=["id"])
    return str(statement.compile(dialect=dialect, column_keys=[messages.c.seq.name, *names]))


def insert_messages(connection: Connection, rows: Sequence[Row]) -> int:
    """Insert the messages that are not there yet, each with who sent it; gives how many those were."""
    if connection.dialect.name == "sqlite":
        rows = [(number, *row) for number, row in zip(_numbers(connection, len(rows)), rows, strict=True)]
    return run_batch(connection, insert_sql(connection.dialect), rows)


# SQLite writes where it keeps the highest number of a table, in a page of its own, whenever an insertion goes beyond
# it. So it is set ahead, and each message gets its number from those that are kept free.
_AHEAD: Final = 1000  # numbers; as many are skipped at each start
_NUMBERS = "message_numbers"  # what a connection remembers: the last one given, and the highest that is kept free
_COUNTER = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
_BEGIN_COUNTER = "INSERT INTO sqlite_sequence (name, seq) VALUES ('messages', ?)"
_SET_COUNTER = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'messages'"


def _numbers(connection: Connection, count: int) -> range:
    """The numbers of the next messages. None was given before, whatever was rolled back or removed."""
    counter = run_on_driver(connection, _COUNTER).fetchone()
    kept = 0 if counter is None else int(counter[0])
    last, kept_here = connection.info.get(_NUMBERS, (kept, kept))
    if kept_here != kept:  # setting it was rolled back, or somebody else has set it
        last = kept
    numbers = range(last + 1, last + 1 + count)
    if numbers.stop > kept:
        kept = numbers.stop + _AHEAD
        run_on_driver(connection, _BEGIN_COUNTER if counter is None else _SET_COUNTER, (kept,))
    connection.info[_NUMBERS] = (numbers.stop - 1, kept)
    return numbers


def _add(connection: Connection, additions: Sequence[Packed]) -> Sequence[Row | None]:
    asked = {
        IdempotencyKey._make(key)[:2]: Message._make(row).created_at for row, _, key, _ in additions if key is not None
    }
    owners = owners_of(connection, asked)
    lanes = _lanes(connection, additions)
    results: list[Row | None] = []
    new_keys: list[IdempotencyKey] = []
    new_rows: list[Row] = []
    entries: list[Row] = []
    for row, max_depth, key_row, sender in additions:
        message = Message._make(row)
        key = None if key_row is None else IdempotencyKey._make(key_row)
        if key is not None and owners.setdefault(key[:2], key).message_id != message.id:
            results.append(tuple(owners[key[:2]]))
            continue
        # Rejected rows never block a device, and no bound refuses them.
        lane = _Lane() if message.status == _REJECTED else lanes[message.imei]
        goes_behind = message.status == _PUBLISHING and lane.blocked and not message.urgent
        if goes_behind:
            message = message._replace(status=Status.QUEUED, attempts=0, claim=None)
        if lane.depth >= max_depth and _place(connection, message.id) is None:
            oldest = connection.execute(_ID_AT, {"seq": lane.front}).scalar_one_or_none() or str(lane.first)
            results.append((oldest,))
            continue
        lane.blocked |= message.status == _QUEUED
        lane.depth += 1
        lane.first = lane.first or message.id
        sent_by = None if sender is None else sender[0]
        new_rows.append((*(to_row(message) if goes_behind else row), sent_by))
        if sender is not None:
            entries.append((message.created_at, *sender, _SENT, message.id, message.imei, message.micro_op, None))
        if key is not None and owners[key[:2]] is key:
            new_keys.append(key)
        results.append((_QUEUED, None) if goes_behind else None)
    keep_keys(connection, new_keys)
    if new_rows and insert_messages(connection, new_rows) < len(new_rows):
        if len(additions) > 1:
            raise Ambiguous
        # It was there already: this is a repetition, and where it stands counts.
        return [_place(connection, message.id)]
    add_entries(connection, entries)
    return results


def _lanes(connection: Connection, additions: Sequence[Packed]) -> defaultdict[str, _Lane]:
    joining = [message for message in (Message._make(row) for row, *_ in additions) if message.status != _REJECTED]
    lanes: defaultdict[str, _Lane] = defaultdict(_Lane)
    if joining:
        direct = next((message.claim for message in joining if message.claim is not None), "")
        devices = list({message.imei for message in joining})
        found = run_on_list(connection, LANES_SQL[connection.dialect.name], direct, devices)
        for imei, depth, front, blocked in found:
            lanes[imei] = _Lane(depth, bool(blocked), front)
    return lanes


def _place(connection: Connection, message_id: str) -> Row | None:
    """Status and claim of a message, None where it is not there."""
    found = connection.execute(_PLACE, {"of_message": message_id}).one_or_none()
    return None if found is None else tuple(found)


_PackedWithdrawal = tuple[Row, str | None, Row | None]
_Withdrawn = tuple[str | None, str] | None
"""What a WITHDRAW did: the states before and after, None before where the message was not there; None: nothing."""


def _withdraw(connection: Connection, withdrawals: Sequence[_PackedWithdrawal]) -> Sequence[_Withdrawn]:
    return [_withdraw_one(connection, *withdrawal) for withdrawal in withdrawals]


def _withdraw_one(connection: Connection, row: Row, claim: str | None, key: Row | None) -> _Withdrawn:
    never = to_message(row)
    # Where it is not there, it is recorded as rejected: an INSERT of it that is still under way then finds it taken.
    if insert_messages(connection, [(*row, None)]) == 1:
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


ADD: Final[Kind[Addition, Added]] = Kind("add", _add, packed_addition, _placed, _change_of_add, _unpacked_addition)
WITHDRAW: Final[Kind[Withdrawal, Change | None]] = Kind(
    "withdraw",
    _withdraw,
    _packed_withdrawal,
    _change_of_withdrawal,
    changes=lambda _, change: () if change is None else [change],
    unpacked=_unpacked_withdrawal,
)
