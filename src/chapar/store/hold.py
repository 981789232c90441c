"""The hold: what a restored database has unsent may have been sent since, so it waits until its owner decides."""

from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)

from chapar.model.audit import cancellation
from chapar.model.change import Change
from chapar.model.message import UNFINISHED, WAITING, Condition, Message, Status
from chapar.model.principal import Caller
from chapar.model.reason import Reason
from chapar.store.change_log import Recorder, all_written, items_of
from chapar.store.lanes import release
from chapar.store.moves import CANCEL
from chapar.store.queue import HELD_UP_TO, SETTLE, Settle, how_many_held
from chapar.store.schema import COLUMNS, has_status, installation, messages, processes, to_message

_RELEASED_AT_ONCE: Final = 5000  # messages; some ten milliseconds, for which a running gateway's commits wait
_CANCELLED_AT_ONCE: Final = 500  # messages, each with its entry in the audit trail

_AT = bindparam("at", type_=BigInteger)
_unfinished = has_status(UNFINISHED)
_once = messages.c.at_most_once.is_(True)
_is_for_contact = and_(
    messages.c.condition == Condition.CONTACT.value, messages.c.status == literal_column(f"'{Status.QUEUED.value}'")
)

_LAST_UNFINISHED = select(func.max(messages.c.seq)).where(_unfinished)
_HOLD_UP_TO = update(installation).values(held_up_to=bindparam("last", type_=BigInteger))
_MARK_HELD = (
    update(messages)
    .where(_unfinished, messages.c.seq <= HELD_UP_TO)
    .values(
        reason=Reason.HELD.value,
        contact_until=None,
        possible_duplicate=case((_once, messages.c.possible_duplicate), else_=true()),
    )
)

# For each status, whose literal an index needs.
_PAGES = {
    status: select(messages.c.seq)
    .where(
        has_status([status]),
        messages.c.seq > bindparam("behind", type_=BigInteger),
        messages.c.seq <= HELD_UP_TO,
    )
    .order_by(messages.c.seq)
    .limit(bindparam("limit"))
    for status in WAITING
}
_RELEASES = {
    status: update(messages)
    .where(messages.c.seq.in_(page))
    .values(
        status=case((_once, Status.UNCONFIRMED.value), else_=messages.c.status),
        reason=case((_once, Reason.HELD.value), (_is_for_contact, Reason.WAITING_FOR_CONTACT.value), else_=null()),
        finished_at=case((_once, _AT), else_=messages.c.finished_at),
        not_before=case((_once, null()), else_=messages.c.not_before),
    )
    .returning(messages.c.seq, messages.c.status, messages.c.micro_op, messages.c.imei, messages.c.id)
    for status, page in _PAGES.items()
}
_SOME_HELD = {
    status: select(*COLUMNS).where(messages.c.seq.in_(page)).order_by(messages.c.seq) for status, page in _PAGES.items()
}


class Released(NamedTuple):
    """Outcome for some of the messages that were held."""

    messages: int  #: may leave now, without what would clear a retained one
    unconfirmed: int  #: were to be sent at most once, and so are not
    last: int | None  #: `seq` of the last one; None: no more was held


def hold(connection: Connection, at: int) -> int:
    """Hold all that waits, and what dead processes left; gives how many messages are held."""
    settle(connection, at)
    last = connection.execute(_LAST_UNFINISHED).scalar()
    if last is None:
        return 0
    connection.execute(_HOLD_UP_TO, {"last": last})
    connection.execute(_MARK_HELD)
    return how_many_held(connection)


def hold_copy(connection: Connection, at: int) -> int:
    """Hold all that is unsent in a copy, none of whose processes lives; gives how many messages are held."""
    settle_copy(connection, at)
    return hold(connection, at)


def settle_copy(connection: Connection, at: int) -> None:
    """Put back what was on its way when a copy was made; none of its processes lives."""
    connection.execute(delete(processes))
    settle(connection, at)


def settle(connection: Connection, at: int) -> None:
    """Put back what dead processes had on its way, and log that."""
    [changes] = SETTLE.run(connection, [Settle("", at)])
    Recorder().add(connection, all_written(changes))


def release_some(connection: Connection, status: Status, behind: int, at: int) -> Released:
    """Release the next messages with this status and a higher `seq`: they may leave."""
    page = {"behind": behind, "limit": _RELEASED_AT_ONCE}
    found = connection.execute(_RELEASES[status], page | {"at": at}).all()
    release(connection, {imei for *_, imei, _ in found})
    ended = [
        Change(id_, imei, status, Status.UNCONFIRMED, Reason.HELD.value, at, None)
        for _, after, _, imei, id_ in found
        if after == Status.UNCONFIRMED
    ]
    Recorder().add(connection, all_written(ended))
    sent = [after for _, after, micro_op, *_ in found if micro_op]
    unconfirmed = sent.count(Status.UNCONFIRMED)
    return Released(len(sent) - unconfirmed, unconfirmed, max((seq for seq, *_ in found), default=None))


def cancel_some(connection: Connection, status: Status, caller: Caller, at: int) -> list[Message]:
    """Cancel the next messages with this status that are held; gives them as they were."""
    page = {"behind": 0, "limit": _CANCELLED_AT_ONCE}
    found = [to_message(tuple(row)) for row in connection.execute(_SOME_HELD[status], page)]
    cancels = [cancellation(caller, message, at, Reason.HELD.value) for message in found]
    results = CANCEL.apply(connection, cancels)
    Recorder().add(connection, items_of(CANCEL, cancels, results))
    return found


def lift(connection: Connection) -> None:
    """End the hold."""
    connection.execute(_HOLD_UP_TO, {"last": None})


def cancel_all(connection: Connection, caller: Caller, at: int) -> None:
    """Cancel all that is held in one transaction, and end the hold."""
    for status in WAITING:
        while cancel_some(connection, status, caller, at):
            pass
    lift(connection)
