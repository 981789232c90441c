"""Taking a retained message back: whether the broker may still have it, and the message that clears it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, literal, literal_column, or_, select, update

from chapar.model.audit import Entry
from chapar.model.change import Change
from chapar.model.message import AT_BROKER, UNFINISHED, Message, Status, first_id, time_of
from chapar.model.reason import Reason
from chapar.store.audit import add_entries
from chapar.store.insertion import insert_messages
from chapar.store.operations import Kind
from chapar.store.schema import Row, messages, to_message, to_row

_SKEW = 3_600_000  # ms by which the clocks of two gateways may differ

_SUPERSEDED = Reason.SUPERSEDED.value
_MICRO_OP = Message._fields.index("micro_op")
_at_broker = [status.value for status in AT_BROKER]
_unfinished = [status.value for status in UNFINISHED]

# Published last, or of an outcome in doubt that nothing follows any more.
_MAY_BE_RETAINED = select(literal(1)).where(
    messages.c.id == bindparam("origin"),
    messages.c.retain.is_(True),
    or_(
        messages.c.status.in_(_at_broker),
        and_(messages.c.possible_duplicate.is_(True), messages.c.status.not_in(_unfinished)),
    ),
)
_ONE: ColumnElement[int] = literal_column("1")  # for SQLite plans anew at each execution where LIMIT has a parameter
_seq = messages.alias("numbered")
_ORIGINS_SEQ = select(_seq.c.seq).where(_seq.c.id == bindparam("origin")).scalar_subquery()
_OWN_SEQ = select(_seq.c.seq).where(_seq.c.id == bindparam("clearing")).scalar_subquery()
# What is on its way is taken for there: behind it, the clearing would remove it. Only what the same TAKE has put behind
# the clearing leaves after it. Where the origin is forgotten, the clearing's own place says what is newer. Ids begin
# with their time, so `since` keeps this off what the device had long before.
_REPLACEMENT = (
    select(literal(1))
    .where(
        messages.c.imei == bindparam("imei"),
        messages.c.topic == bindparam("topic"),
        messages.c.retain.is_(True),
        messages.c.id > bindparam("since"),
        messages.c.seq > func.coalesce(_ORIGINS_SEQ, _OWN_SEQ),
        messages.c.id != bindparam("clearing"),
        or_(
            messages.c.status.in_(_at_broker),
            and_(
                messages.c.status == literal_column(f"'{Status.PUBLISHING.value}'"),  # likewise, for a partial index
                or_(messages.c.claim.is_distinct_from(bindparam("taker")), messages.c.seq < _OWN_SEQ),
            ),
        ),
    )
    .limit(_ONE)
)
_CLEARING = (
    select(messages.c.id)
    .where(
        messages.c.imei == bindparam("imei"),
        messages.c.id > bindparam("since"),
        messages.c.origin == bindparam("origin"),
        messages.c.micro_op == "",
        messages.c.status.in_([Status.QUEUED.value, Status.PUBLISHING.value, Status.PUBLISHED.value]),
    )
    .limit(_ONE)
)
_SUPERSEDE = (
    update(messages)
    .where(messages.c.id == bindparam("clearing"))
    .values(
        status=Status.CANCELLED.value,
        reason=_SUPERSEDED,
        attempts=messages.c.attempts - 1,
        claim=None,
        finished_at=bindparam("at"),
    )
)


class TakeBack(NamedTuple):
    """The arguments of a TAKE_BACK."""

    clearing: Message  #: the message that clears the retained one, its origin
    entry: Entry | None  #: what the audit trail says where it is added


def _take_back(connection: Connection, asked: Sequence[tuple[Row, Entry | None]]) -> Sequence[str | None]:
    """Give for each the id of what clears it; None where the broker has nothing to forget of it."""
    return [_take_back_one(connection, to_message(clearing), entry) for clearing, entry in asked]


def _packed(take_back: TakeBack) -> tuple[Row, Entry | None]:
    return to_row(take_back.clearing), take_back.entry


def _unpacked(packed: tuple[Row, Entry | None]) -> TakeBack:
    clearing, entry = packed
    return TakeBack(to_message(clearing), entry)


def _changes(take_back: TakeBack, clearing_id: str | None) -> Sequence[Change]:
    clearing = take_back.clearing
    if clearing_id != clearing.id:  # it was under way already, or is not needed
        return ()
    return [Change(clearing.id, clearing.imei, None, clearing.status, None, clearing.created_at, clearing)]


def _take_back_one(connection: Connection, clearing: Message, entry: Entry | None) -> str | None:
    names = _names(clearing, taker=None)
    if connection.execute(_MAY_BE_RETAINED, {"origin": clearing.origin}).first() is None:
        return None
    under_way = connection.execute(_CLEARING, names).scalar()
    if under_way is not None:
        return str(under_way)
    if connection.execute(_REPLACEMENT, names).first() is not None:
        return None
    insert_messages(connection, [(None, *to_row(clearing))])
    add_entries(connection, [] if entry is None else [entry])
    return clearing.id


def supersede(connection: Connection, taken: list[Row], at: int) -> tuple[list[Row], list[Row]]:
    """Part what was taken from the clearings that would remove something newer: those end here."""
    left = list(taken)
    ended: list[Row] = []
    for row in taken:
        if row[_MICRO_OP]:
            continue
        clearing = to_message(row)
        if connection.execute(_REPLACEMENT, _names(clearing, taker=clearing.claim)).first() is not None:
            connection.execute(_SUPERSEDE, {"clearing": clearing.id, "at": at})
            left.remove(row)
            ended.append(row)
    return left, ended


def superseded(clearing: Message, at: int) -> Message:
    """A clearing that was taken, as `supersede` leaves it."""
    untried = clearing.attempts - 1
    return clearing._replace(status=Status.CANCELLED, reason=_SUPERSEDED, attempts=untried, claim=None, finished_at=at)


def _names(clearing: Message, *, taker: str | None) -> dict[str, str | None]:
    return {
        "clearing": clearing.id,
        "origin": clearing.origin,
        "imei": clearing.imei,
        "topic": clearing.topic,
        "since": first_id(time_of(clearing.origin or "") - _SKEW),
        "taker": taker,
    }


TAKE_BACK: Final[Kind[TakeBack, str | None]] = Kind(
    "take_back", _take_back, packed=_packed, changes=_changes, unpacked=_unpacked
)
