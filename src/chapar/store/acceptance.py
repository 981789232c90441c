"""Accepting a message: its idempotency key, its place behind the device's backlog, and the bound of that backlog."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, or_, select, tuple_, update

from chapar.model.message import Message, Status
from chapar.store.audit import Action, add_entries
from chapar.store.operations import Ambiguous, Kind, insert_messages, run_on_list
from chapar.store.schema import Row, keys, messages, to_message, to_row

# What a partial index is for must stand in a query word by word and without parameters: SQLite proves no more. And
# `seq > 0`, which is always true, makes that index a better match than the one of all that the device ever had.
#
# What comes direct may follow only what came direct to the same process: that is on its way to the link already, in
# this order. Anything else of its device is in the queue, or taken from it and perhaps on its way back.
_LANES = """
    SELECT imei, count(CASE WHEN micro_op <> '' THEN 1 END), min(CASE WHEN micro_op <> '' THEN seq END),
        max(CASE WHEN status = 'queued' OR (status = 'publishing' AND claim <> {direct}) THEN 1 ELSE 0 END)
    FROM {messages_of_devices} AND seq > 0 AND status IN ('scheduled', 'queued', 'publishing')
    GROUP BY imei
"""
# All devices are one parameter: with one for each, every number of them would be a statement of its own. SQLite must
# be told to begin with them, and PostgreSQL must not: else they would go through everything that is unfinished.
LANES_SQL = {
    "sqlite": _LANES.format(
        direct="?", messages_of_devices="json_each(?) AS device CROSS JOIN messages WHERE imei = device.value"
    ),
    "postgresql": _LANES.format(direct="%s", messages_of_devices="messages WHERE imei = ANY (%s::text[])"),
}

_PLACE = select(messages.c.status, messages.c.claim).where(messages.c.id == bindparam("of_message"))
_ID_AT = select(messages.c.id).where(messages.c.seq == bindparam("seq"))

_OWNERS = select(keys).where(tuple_(keys.c.principal, keys.c.key).in_(bindparam("pairs", expanding=True)))
_OWN_KEY = and_(
    keys.c.principal == bindparam("of_principal"),
    keys.c.key == bindparam("of_key"),
    keys.c.message_id == bindparam("of_message"),
)
_ANSWER = (
    update(keys)
    .where(_OWN_KEY, keys.c.answer_status.is_(None))
    .values(answer_status=bindparam("status"), answer_body=bindparam("body"))
)
_KEY = select(keys).where(_OWN_KEY)
_FORGET = keys.delete().where(_OWN_KEY)
_FREE = keys.delete().where(_OWN_KEY, keys.c.answer_status.is_(None))
_WITHDRAW = (
    update(messages)
    .where(
        messages.c.id == bindparam("of_message"),
        or_(
            messages.c.status == Status.SCHEDULED.value,
            and_(messages.c.status == Status.QUEUED.value, messages.c.attempts == 0),
            and_(messages.c.status == Status.PUBLISHING.value, messages.c.claim == bindparam("of_claim")),
        ),
    )
    .values(
        status=case(
            (messages.c.status == Status.PUBLISHING.value, Status.REJECTED.value), else_=Status.CANCELLED.value
        ),
        reason=bindparam("reason"),
        attempts=0,
        claim=None,
        not_before=None,
        finished_at=bindparam("at"),
    )
)


class Key(NamedTuple):
    """An idempotency key, and what it was used for. The fields are the columns of the table, in their order."""

    principal: str  #: whose key it is
    key: str
    fingerprint: str  #: SHA-256 of the request, in hexadecimal
    message_id: str  #: the message it made
    process: str  #: token of the process that answers the first request
    answer_status: int | None  #: what was answered, None while nothing was
    answer_body: str | None
    kept_until: int  #: ms since the epoch; then the key may be used anew


class Full(NamedTuple):
    """Not added: the device has as many unfinished messages as it may have."""

    oldest: str  #: id of the one in front


class Sender(NamedTuple):
    """Who sends a message, as the audit trail says."""

    principal: str
    name: str
    address: str


Addition = tuple[Row, int, Row | None, Row | None]
"""The arguments of an ADD: the message, how many unfinished ones its device may have, the fields of the key to commit
with it, and those of the sender whom the audit trail names."""


class Place(NamedTuple):
    """Where a message that was added stands."""

    status: Status
    claim: str | None


Added = Place | Key | Full
"""What came of an ADD: where the message stands; the key's owner, where that is another message; or Full."""

Answer = tuple[Row, int, str]
"""The arguments of an ANSWER: the fields of a key, and the status and body that its first request is answered."""

Withdrawal = tuple[Row, str | None, Key | None]
"""The arguments of a WITHDRAW: the message as it is recorded where it is not there, the claim under which it was to
be added, and its key."""


@dataclass(slots=True)
class _Lane:
    """What one device has unfinished."""

    depth: int = 0
    blocked: bool = False  #: something has to leave before what comes now
    front: int | None = None  #: the oldest one's seq, where it was there before
    first: str | None = None  #: the id of the first that joined in this batch


def addition(message: Message, max_depth: int, key: Key | None, sender: Sender | None) -> Addition:
    """The arguments of an ADD."""
    return to_row(message), max_depth, key and tuple(key), sender and tuple(sender)


def _named(asked: Addition, result: Row | None) -> Added:
    """What came of an ADD. It crosses as None where the message was added as asked, else as the fields alone."""
    match result:
        case None:
            message = to_message(asked[0])
            return Place(message.status, message.claim)
        case (oldest,):
            return Full(str(oldest))
        case (status, claim):
            return Place(Status(str(status)), None if claim is None else str(claim))
        case owner:
            return Key._make(owner)


# As the rows have them: to compare with a member of an enum, or to look for one in a set, takes longer.
_REJECTED, _PUBLISHING, _QUEUED = Status.REJECTED.value, Status.PUBLISHING.value, Status.QUEUED.value
_SENT = Action.SENT.value


def _add(connection: Connection, additions: Sequence[Addition]) -> Sequence[Row | None]:
    owners = _owners(connection, additions)
    lanes = _lanes(connection, additions)
    results: list[Row | None] = []
    new_keys: list[Key] = []
    new_rows: list[Row] = []
    entries: list[Row] = []
    for row, max_depth, key_row, sender in additions:
        message = Message._make(row)
        key = None if key_row is None else Key._make(key_row)
        if key is not None and owners.setdefault(key[:2], key).message_id != message.id:
            results.append(tuple(owners[key[:2]]))
            continue
        # Rejected rows never block a device, and no bound refuses them.
        lane = _Lane() if message.status == _REJECTED else lanes[message.imei]
        goes_behind = message.status == _PUBLISHING and lane.blocked
        if goes_behind:
            message = message._replace(status=Status.QUEUED, attempts=0, claim=None)
        if lane.depth >= max_depth and _place(connection, message.id) is None:
            oldest = connection.execute(_ID_AT, {"seq": lane.front}).scalar_one_or_none() or str(lane.first)
            results.append((oldest,))
            continue
        lane.blocked |= message.status == _QUEUED
        lane.depth += 1
        lane.first = lane.first or message.id
        new_rows.append(to_row(message) if goes_behind else row)
        if sender is not None:
            entries.append((message.created_at, *sender, _SENT, message.id, message.imei, message.micro_op, None))
        if key is not None and owners[key[:2]] is key:
            new_keys.append(key)
        results.append((_QUEUED, None) if goes_behind else None)
    if new_keys:
        connection.execute(keys.insert(), [key._asdict() for key in new_keys])
    if new_rows and insert_messages(connection, new_rows) < len(new_rows):
        if len(additions) > 1:
            raise Ambiguous
        # It was there already: this is a repetition, and where it stands counts.
        return [_place(connection, message.id)]
    add_entries(connection, entries)
    return results


def _owners(connection: Connection, additions: Sequence[Addition]) -> dict[Row, Key]:
    """Keys in use among those asked for; the outlived ones are dropped."""
    asked = {key[:2]: row for row, _, key, _ in additions if key is not None}
    if not asked:
        return {}
    owners: dict[Row, Key] = {}
    for owner in map(Key._make, connection.execute(_OWNERS, {"pairs": list(asked)}).all()):
        if owner.kept_until > Message._make(asked[owner[:2]]).created_at:
            owners[owner[:2]] = owner
        else:
            connection.execute(_FORGET, _own(owner))
    return owners


def owner_of(connection: Connection, key: tuple[str, str], at: int) -> Key | None:
    """What a principal's key was used for, unless that is so long before the time `at` that it may be used anew."""
    found = connection.execute(_OWNERS, {"pairs": [key]}).one_or_none()
    owner = None if found is None else Key._make(found)
    return owner if owner is not None and owner.kept_until > at else None


def _lanes(connection: Connection, additions: Sequence[Addition]) -> defaultdict[str, _Lane]:
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


def _withdraw(connection: Connection, withdrawals: Sequence[Withdrawal]) -> Sequence[bool]:
    """Whether each message is now certain never to be sent."""
    return [_withdraw_one(connection, *withdrawal) for withdrawal in withdrawals]


def _withdraw_one(connection: Connection, row: Row, claim: str | None, key: Key | None) -> bool:
    never = Message._make(row)
    # Where it is not there, it is recorded as rejected: an INSERT of it that is still under way then finds it taken.
    if insert_messages(connection, [row]) == 1:
        return True
    as_added = {"of_message": never.id, "of_claim": claim, "reason": never.reason, "at": never.finished_at}
    with connection.begin_nested() as attempt:
        withdrawn = connection.execute(_WITHDRAW, as_added).rowcount == 1
        if withdrawn and key is not None and connection.execute(_FREE, _own(key)).rowcount == 0:
            # Another process has answered a repetition of the request meanwhile, and that answer is a promise.
            withdrawn = False
            attempt.rollback()
    return withdrawn


def _answer(connection: Connection, answers: Sequence[Answer]) -> Sequence[Row | None]:
    """Each key as it is now: with this answer, or with one that came before; None where its message was withdrawn."""
    owned = [_own(Key._make(key)) for key, _, _ in answers]
    given = [{"status": status, "body": body} for _, status, body in answers]
    connection.execute(_ANSWER, [own | answer for own, answer in zip(owned, given, strict=True)])
    found = (connection.execute(_KEY, own).one_or_none() for own in owned)
    return [None if row is None else tuple(row) for row in found]


def _key_named(_: Answer, row: Row | None) -> Key | None:
    return None if row is None else Key._make(row)


def _own(key: Key) -> dict[str, str]:
    return {"of_principal": key.principal, "of_key": key.key, "of_message": key.message_id}


ADD: Kind[Addition, Added] = Kind("add", 5, _add, _named)
WITHDRAW: Kind[Withdrawal, bool] = Kind("withdraw", 4, _withdraw)
ANSWER: Kind[Answer, Key | None] = Kind("answer", 6, _answer, _key_named)
