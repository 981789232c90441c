"""The queue: take what is due, under a lease, settle what a dead process left, and count what waits."""

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from chapar.model.change import Change
from chapar.model.message import WAITING, Attempt, Condition, Message, Status
from chapar.model.queue import Backlog, Lease, Taken
from chapar.model.reason import Reason
from chapar.store.contacts import NEXT_WINDOW_OVER, end_windows
from chapar.store.generations import advance
from chapar.store.lanes import release
from chapar.store.moves import keep_attempts
from chapar.store.online import absent
from chapar.store.operations import Kind
from chapar.store.pauses import (
    HAS_PAUSE,
    HOW_MANY_PAUSED,
    IS_PASSED_OVER,
    IS_PAUSED,
    NEXT_RESUMED,
    attend,
    be_only_taker,
    paused_among,
)
from chapar.store.retained import supersede, superseded
from chapar.store.schema import (
    COLUMNS,
    DATABASE_TIME,
    IS_READY,
    IS_URGENT,
    IS_WAITING,
    PROCESS_LENGTH,
    Row,
    has_status,
    installation,
    messages,
    processes,
    shortened,
    to_message,
    to_row,
    whole,
)
from chapar.store.timeouts import NEXT_TIMEOUT, time_out

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_AT: ColumnElement[int] = bindparam("at", type_=BigInteger)
_PROCESS = func.substr(messages.c.claim, 1, PROCESS_LENGTH)

_CONDITION = Message._fields.index("condition")
_IMEI = Message._fields.index("imei")
_first_of = itemgetter(0)
_QUEUED = Status.QUEUED.value
_CONTACT = Reason.WAITING_FOR_CONTACT.value
_is_for_contact = messages.c.condition == Condition.CONTACT.value
_EXPIRED = Reason.EXPIRED.value
_DIED = Reason.PROCESS_DIED.value  # also the outcome of the attempt
_SUPERSEDED = Reason.SUPERSEDED.value
_NO_REPLY = Reason.NO_REPLY.value


def _due(before: Status) -> Update:
    """Apply time to what waits: what is too late expires; what was scheduled or put off joins the queue.

    What was to leave at a contact waits for one from then on; where there was one, it has waited long enough.
    """
    too_late = and_(messages.c.expires_at.is_not(None), messages.c.expires_at <= _AT)
    waits_for_contact: tuple[ColumnElement[bool], ColumnElement[Any]]
    if before is Status.SCHEDULED:
        waits_for_contact = and_(_is_for_contact, messages.c.reason.is_(None)), literal(_CONTACT)
    else:
        waits_for_contact = messages.c.reason == _CONTACT, null()
    return (
        update(messages)
        # The empty string keeps every planner at the index by `wake_at`.
        .where(messages.c.wake_at <= _AT, messages.c.status.concat("") == before.value)
        .values(
            status=case((too_late, Status.EXPIRED.value), else_=Status.QUEUED.value),
            reason=case((too_late, _EXPIRED), waits_for_contact, else_=messages.c.reason),
            finished_at=case((too_late, _AT), else_=messages.c.finished_at),
            not_before=None,
        )
        .returning(messages.c.id, messages.c.imei, messages.c.status, messages.c.reason, messages.c.condition)
    )


# One for each state before, which is not known after it.
_DUE = {before: _due(before) for before in WAITING}
_next_wake = select(func.min(messages.c.wake_at)).where(messages.c.wake_at.is_not(None)).scalar_subquery()
_NEXT = select(_next_wake, NEXT_WINDOW_OVER, NEXT_TIMEOUT, NEXT_RESUMED)
_PRESENT = _NEXT.add_columns(HAS_PAUSE)

# It stands in the statement as a number: where LIMIT has a parameter, SQLite plans anew at each execution.
_limit = bindparam("limit", type_=Integer, literal_execute=True)
_urgent_limit = bindparam("urgent_limit", type_=Integer, literal_execute=True)

HELD_UP_TO: Final = select(func.coalesce(func.max(installation.c.held_up_to), 0)).scalar_subquery()
"""The last `seq` that is held, 0 for none. Its reason keeps what is held in the queue; it may expire meanwhile."""
_is_publishing = has_status([Status.PUBLISHING])

# A device whose front message was put off, or is in another process's hands, keeps what is behind it. So does one that
# has a whole page on its way: answered late, it must not fill all that a process may have taken.
_put_off = (
    select(messages.c.imei, messages.c.seq, messages.c.urgent)
    .where(messages.c.not_before.is_not(None), messages.c.reason.is_(None))
    .cte("put_off")
)
_is_elsewhere = case((_PROCESS.is_distinct_from(bindparam("process")), 1), else_=0)
_busy = (
    select(messages.c.imei)
    .where(_is_publishing)
    .group_by(messages.c.imei)
    .having(or_(func.max(_is_elsewhere) == 1, func.count() >= _limit))
    .cte("busy")
)
_is_behind = exists().where(
    _put_off.c.imei == messages.c.imei, or_(_put_off.c.seq <= messages.c.seq, _put_off.c.urgent)
)


def _first(condition: str, *more: ColumnElement[bool], limit: ColumnElement[int], name: str) -> CTE:
    """The first that may leave. A CTE, because PostgreSQL may run a plain subquery with LIMIT more than once."""
    first = select(messages.c.seq).where(text(condition), *more, ~IS_PASSED_OVER)
    first = first.order_by(messages.c.seq).limit(limit)
    return first.with_for_update(skip_locked=True, of=messages).cte(name)


# What is urgent waits for nothing of its device, but where the broker put off itself.
_is_untried: ColumnElement[bool] = messages.c.not_before.is_(None)
_urgent = _first(IS_URGENT, _is_untried, limit=_urgent_limit, name="picked_first")
_last_urgent = select(func.coalesce(func.max(_urgent.c.seq), 0)).scalar_subquery()
_more_urgent = select(messages.c.imei).where(text(IS_URGENT), _is_untried, messages.c.seq > _last_urgent)
# Many may wait for a contact, a reply or their owner: an index of its own has what may leave, and one what is urgent.
_picked = _first(
    IS_READY,
    ~_is_behind,
    messages.c.imei.not_in(select(_busy.c.imei)),
    messages.c.imei.not_in(_more_urgent),
    limit=_limit,
    name="picked",
)
_TAKE = (
    update(messages)
    .where(messages.c.seq.in_(union_all(select(_urgent.c.seq), select(_picked.c.seq))))
    .values(status=Status.PUBLISHING.value, attempts=messages.c.attempts + 1, claim=bindparam("taker"))
)
_TAKEN = (
    select(*COLUMNS)
    .where(_is_publishing, messages.c.claim == bindparam("taker"))
    .order_by(messages.c.urgent.desc(), messages.c.seq)
)

_ON_ITS_WAY_PAUSED = (
    select(messages.c.imei).where(_is_publishing, bindparam("process") == _PROCESS, IS_PAUSED).distinct()
)

_STILL_QUEUED = (
    select(*COLUMNS)
    .where(messages.c.id.in_(bindparam("ids", expanding=True)), messages.c.status.concat("") == _QUEUED)
    .with_for_update()
)
_END = (
    update(messages)
    .where(messages.c.id == bindparam("of_message"))
    .values(
        status=bindparam("to"),
        reason=bindparam("why"),
        attempts=bindparam("made"),
        claim=None,
        finished_at=bindparam("ended_at", type_=BigInteger),
    )
)

_until = DATABASE_TIME + bindparam("lasts", type_=BigInteger)
_ACQUIRE_LEASE = {
    "postgresql": postgresql.insert(processes)
    .values(lease_until=_until)
    .on_conflict_do_update(index_elements=["token"], set_={"lease_until": _until}),
    "sqlite": sqlite.insert(processes)
    .values(lease_until=_until)
    .on_conflict_do_update(index_elements=["token"], set_={"lease_until": _until}),
}
_RELEASE_LEASE = delete(processes).where(processes.c.token == bindparam("process"))
_FORGET_OTHERS = delete(processes).where(processes.c.token != bindparam("process"))

_FORGET_DEAD = delete(processes).where(processes.c.lease_until <= DATABASE_TIME)
_WAITING_FOR_REPLY = (
    select(messages.c.imei).where(text(IS_WAITING), messages.c.reason == Reason.WAITING_FOR_REPLY.value).distinct()
)

_alive = select(processes.c.token).where(processes.c.lease_until > DATABASE_TIME)
_left_behind = and_(
    _is_publishing,
    or_(
        messages.c.claim.is_(None),
        and_(_PROCESS.is_distinct_from(bindparam("process")), _PROCESS.not_in(_alive)),
    ),
)
_OWNERS = select(_PROCESS).where(_left_behind).distinct()
_once = messages.c.at_most_once.is_(True)
_is_superseded = messages.c.superseded_by.is_not(None)
_TAKE_OVER = (
    update(messages)
    .where(_left_behind, _PROCESS.is_not_distinct_from(bindparam("owner")))
    .values(
        status=case((or_(_once, _is_superseded), Status.UNCONFIRMED.value), else_=Status.QUEUED.value),
        reason=case((_is_superseded, _SUPERSEDED), (_once, _DIED), else_=messages.c.reason),
        possible_duplicate=case((or_(_once, _is_superseded), messages.c.possible_duplicate), else_=true()),
        claim=None,
        finished_at=case((or_(_once, _is_superseded), _AT), else_=messages.c.finished_at),
    )
    .returning(messages.c.id, messages.c.imei, messages.c.status, messages.c.reason, messages.c.attempts)
)


_LEASE = select(processes.c.token).where(
    processes.c.token == bindparam("process"), processes.c.lease_until > DATABASE_TIME
)
_depth = select(messages.c.status, func.count(), func.min(messages.c.seq)).group_by(messages.c.status)
# Three statements, because an index alone answers each of the first two.
_DEPTHS: Final = (
    _depth.where(_is_publishing),
    _depth.where(has_status([Status.QUEUED])),
    _depth.where(has_status([Status.SCHEDULED]), messages.c.micro_op != ""),
)
_HELD = select(func.count()).where(
    has_status(WAITING),
    messages.c.seq <= HELD_UP_TO,
    messages.c.micro_op != "",
)
_FRONT = select(*COLUMNS).where(messages.c.seq == bindparam("front"))


class Queue:
    """The queue of what waits to be delivered, and the leases of the processes that deliver it."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    async def take(
        self,
        claim: str,
        limit: int,
        at: int,
        *,
        urgent: int = 0,
        reaches_broker: bool = True,
        lanes: Collection[str] = (),
    ) -> Taken:
        """At the time `at` (ms since the epoch): make due what is due, expire what is too late, take what is next.

        Up to `limit` messages become PUBLISHING, their attempt counted, and up to `urgent` urgent ones beside them.
        `claim` begins with the token of this process and must not have been used before. What is sent only where its
        device is online ends where it may not leave now. `lanes` are devices of which something may have been left
        waiting for a reply, as two processes changed them at the same time.
        """
        return await self._commits.one(TAKE, Take(claim, limit, at, urgent, reaches_broker, tuple(lanes)))

    async def acquire_lease(self, lease: Lease) -> None:
        """Begin or extend the lease of this process: what it holds is its own until that is over."""
        await self._commits.one(ACQUIRE_LEASE, lease)

    async def release_lease(self, process: str) -> None:
        """Give the lease up, so that others take over at once what this process still holds."""
        await self._commits.one(RELEASE_LEASE, process)

    async def settle(self, process: str, at: int) -> int:
        """Settle what dead processes have PUBLISHING, seen from `process`; gives how many messages those were.

        Nobody knows whether they left: they are queued again as possible duplicates, or UNCONFIRMED where they may
        be sent at most once.
        """
        settled = await self._commits.one(SETTLE, Settle(process, at))
        return len(settled)

    async def is_alive(self, process: str) -> bool:
        """Return whether a process holds a lease that is not over; raises StoreUnavailable."""
        found = await self._lookups.read(
            lambda connection: connection.execute(_LEASE, {"process": process}).one_or_none()
        )
        return found is not None

    async def backlog(self) -> Backlog:
        """Count the unfinished messages of all devices, and find the one accepted first; raises StoreUnavailable.

        What waits to clear a retained message at its expiry is not counted: nobody sent it.
        """
        return await self._lookups.read(backlog)


def backlog(connection: Connection) -> Backlog:
    """Count the unfinished messages by status, and find the one accepted first."""
    depths: dict[Status, int] = {}
    front: int | None = None
    for counted in _DEPTHS:
        for status, count, first in connection.execute(counted):
            depths[Status(status)] = count
            front = first if front is None else min(front, first)
    paused = connection.execute(HOW_MANY_PAUSED).scalar_one()
    if front is None:
        return Backlog(depths, None, paused=paused)
    oldest = to_message(tuple(connection.execute(_FRONT, {"front": front}).one()))
    return Backlog(depths, oldest, how_many_held(connection), paused)


def how_many_held(connection: Connection) -> int:
    """Count the messages that are held, without what would clear a retained one."""
    return int(connection.execute(_HELD).scalar_one())


class Take(NamedTuple):
    """The arguments of a TAKE."""

    claim: str  #: must be new each time: it is how a repeated TAKE finds what it took
    limit: int
    at: int  #: the time, ms since the epoch
    urgent: int = 0  #: how many urgent ones may be taken beside them
    reaches_broker: bool = True  #: there is a session with the broker
    lanes: tuple[str, ...] = ()  #: devices of which it is to be looked at what waits for a reply


class Settle(NamedTuple):
    """The arguments of a SETTLE."""

    process: str  #: token of the one that settles
    at: int  #: the time, ms since the epoch


_Woken = tuple[str, str, str, str, str | None]
"""Id and device of what time has moved, its states before and after, and its reason."""
_Ended = list[tuple[str, Row]]
"""What may not leave: the state of each before, and its row now."""
_Found = tuple[list[Row], list[_Woken], _Ended, int | None, list[str]]
"""What a TAKE found: the rows taken, short where they can be, what time has moved, what may not leave, when there is
something to do, and the paused devices of which this process has something on its way."""
_Settled = tuple[str, str, str, str | None]
"""Id, device, state and reason of what a dead process had PUBLISHING."""


def _take(connection: Connection, takes: Sequence[Take]) -> Sequence[_Found]:
    return [_take_one(connection, take) for take in takes]


def _take_one(connection: Connection, take: Take) -> _Found:
    release(connection, take.lanes)
    woken, for_online, has_pause = _wake(connection, take.at)
    ended: _Ended = []
    taken = _of_claim(connection, take.claim)  # of a TAKE that was committed, and its answer lost
    takes = not taken and bool(take.limit or take.urgent)
    process = take.claim[:PROCESS_LENGTH]
    if takes or has_pause:
        be_only_taker(connection)  # order per device: two must not split one device's messages between them
    if has_pause:
        attend(connection)
    if takes:
        found = connection.execute(
            _TAKE, {"taker": take.claim, "process": process, "limit": take.limit, "urgent_limit": take.urgent}
        )
        taken = _of_claim(connection, take.claim) if found.rowcount else []
        if taken:
            advance(connection)
        taken, clearings = supersede(connection, taken, take.at)
        ended += [(_QUEUED, to_row(superseded(to_message(row), take.at))) for row in clearings]
        taken, unfit = _part_from_absent(connection, taken, take.at)
        ended += unfit
    ended += _refuse(connection, take, for_online, taken)
    if ended:
        release(connection, {str(row[_IMEI]) for _, row in ended})
    next_at = min((at for at in connection.execute(_NEXT).one() if at is not None), default=None)
    paused = connection.scalars(_ON_ITS_WAY_PAUSED, {"process": process}).all() if has_pause else ()
    return list(map(shortened, taken)), woken, ended, next_at, list(paused)


def _part_from_absent(connection: Connection, taken: list[Row], at: int) -> tuple[list[Row], _Ended]:
    """Part what was taken from what is sent only where its device is online, and the device is not: that ends here."""
    bound = [row for row in taken if row[_CONDITION] == Condition.ONLINE.value]
    reasons = absent(connection, {str(row[_IMEI]) for row in bound}, at)
    unfit = [to_message(row) for row in bound if row[_IMEI] in reasons]
    ended = [(message, _unfit(message, reasons[message.imei], at)) for message in unfit]
    for _, after in ended:
        connection.execute(_END, _ending(after))
    gone = {message.id for message in unfit}
    return [row for row in taken if row[0] not in gone], [(_QUEUED, to_row(after)) for _, after in ended]


def _unfit(message: Message, reason: str, at: int) -> Message:
    """A message that was taken, and may not leave: nobody knows of one that was sent before whether it arrived."""
    status = Status.UNCONFIRMED if message.possible_duplicate else Status.REJECTED
    return message.moved(status, reason=reason, attempts=message.attempts - 1, claim=None, finished_at=at)


def _refuse(connection: Connection, take: Take, due: Sequence[str], taken: Sequence[Row]) -> _Ended:
    """End what became due, is sent only where its device is online, and would have to wait now; it never does."""
    here = {row[0] for row in taken}
    left = [id_ for id_ in due if id_ not in here]
    if not left:
        return []
    waiting = [to_message(tuple(row)) for row in connection.execute(_STILL_QUEUED, {"ids": left})]
    reasons = dict.fromkeys(paused_among(connection, {each.imei for each in waiting}), Reason.PAUSED)
    has_room = len(taken) < take.limit  # else it is next
    other = Reason.DEVICE_BUSY if take.reaches_broker else Reason.BROKER_UNREACHABLE
    if take.reaches_broker and not has_room:
        waiting = [each for each in waiting if each.imei in reasons]
    ended = [
        each.moved(Status.REJECTED, reason=reasons.get(each.imei, other).value, finished_at=take.at) for each in waiting
    ]
    for after in ended:
        connection.execute(_END, _ending(after))
    return [(_QUEUED, to_row(after)) for after in ended]


def _ending(after: Message) -> dict[str, object]:
    return {
        "of_message": after.id,
        "to": after.status.value,
        "why": after.reason,
        "made": after.attempts,
        "ended_at": after.finished_at,
    }


def _wake(connection: Connection, at: int) -> tuple[list[_Woken], list[str], bool]:
    """Apply time to what waits; also gives what is queued now and is sent only where its device is online.

    And whether there are pauses.
    """
    for_online: list[str] = []
    wake_at, window_over, reply_by, _, has_pause = connection.execute(_PRESENT).one()
    woken: list[_Woken] = []
    if reply_by is not None and reply_by <= at:
        woken += [(*each, _NO_REPLY) for each in time_out(connection, at)]
    if wake_at is not None and wake_at <= at:
        for before, statement in _DUE.items():
            for id_, imei, status, reason, condition in sorted(
                connection.execute(statement, {"at": at}), key=_first_of
            ):
                woken.append((id_, imei, before.value, status, reason))
                if condition == Condition.ONLINE.value and status == _QUEUED:
                    for_online.append(id_)
    if window_over is not None and window_over <= at:
        woken += [(id_, imei, _QUEUED, _QUEUED, _CONTACT) for id_, imei in end_windows(connection, at)]
    release(connection, {imei for _, imei, *_ in woken})
    return woken, for_online, bool(has_pause)


def _taken(take: Take, found: _Found) -> Taken:
    rows, woken, ended, next_at, paused = found
    others = [_woken(take.at, *each) for each in woken]
    for before, row in ended:
        message = to_message(row)
        others.append(
            Change(message.id, message.imei, Status(before), message.status, message.reason, take.at, message)
        )
    return Taken([to_message(whole(row)) for row in rows], next_at, others, paused)


def _woken(at: int, id_: str, imei: str, before: str, after: str, reason: str | None) -> Change:
    return Change(id_, imei, Status(before), Status(after), reason, at, None)


def _changes_of_take(take: Take, taken: Taken) -> Sequence[Change]:
    moved = [
        Change(message.id, message.imei, Status.QUEUED, message.status, None, take.at, message)
        for message in taken.messages
    ]
    return [*(change for change in taken.others if change.before is not change.after), *moved]


def _of_claim(connection: Connection, claim: str) -> list[Row]:
    return [tuple(row) for row in connection.execute(_TAKEN, {"taker": claim})]


def _acquire_lease(connection: Connection, leases: Sequence[Lease]) -> Sequence[None]:
    for lease in leases:
        if lease.alone:
            connection.execute(_FORGET_OTHERS, {"process": lease.process})
        held = {"token": lease.process, "name": lease.name, "lasts": round(lease.seconds * 1000)}
        connection.execute(_ACQUIRE_LEASE[connection.dialect.name], held)
    return [None] * len(leases)


def _release_lease(connection: Connection, left: Sequence[str]) -> Sequence[None]:
    connection.execute(_RELEASE_LEASE, [{"process": process} for process in left])
    advance(connection)
    return [None] * len(left)


def _settle(connection: Connection, settles: Sequence[Settle]) -> Sequence[list[_Settled]]:
    """Settle what was in the hands of processes that are dead: no lease, or one that is over."""
    return [_settle_one(connection, process, at) for process, at in settles]


def _settle_one(connection: Connection, process: str, at: int) -> list[_Settled]:
    owners = connection.scalars(_OWNERS, {"process": process}).all()
    if owners:
        # Of two that settle the same, the second one locks what the first has queued, and who takes would pass it over.
        be_only_taker(connection)
    settled = [settled for owner in owners for settled in _take_over(connection, process, owner, at)]
    if connection.execute(_FORGET_DEAD).rowcount:
        # It may have died before it saw to the lanes that it changed at the same time as another.
        release(connection, connection.scalars(_WAITING_FOR_REPLY).all())
    return settled


def _take_over(connection: Connection, process: str, owner: str | None, at: int) -> list[_Settled]:
    """Settle what one dead process left.

    In one statement: a lease may end, and the dead process's writer commit its last batch, between any two.
    """
    found = connection.execute(_TAKE_OVER, {"process": process, "owner": owner, "at": at}).all()
    if found:
        keep_attempts(connection, [Attempt(id_, n, at, owner or "", _DIED, None) for id_, *_, n in found])
        release(connection, {imei for _, imei, *_ in found})
    return sorted((id_, imei, status, reason) for id_, imei, status, reason, _ in found)


def _settled(settle: Settle, found: list[_Settled]) -> list[Change]:
    changes = []
    for id_, imei, status, reason in found:
        changes.append(Change(id_, imei, Status.PUBLISHING, Status(status), reason, settle.at, None))
    return changes


TAKE: Final[Kind[Take, Taken]] = Kind("take", _take, named=_taken, changes=_changes_of_take)
ACQUIRE_LEASE: Final[Kind[Lease, None]] = Kind("acquire_lease", _acquire_lease)
RELEASE_LEASE: Final[Kind[str, None]] = Kind("release_lease", _release_lease)
SETTLE: Final[Kind[Settle, Sequence[Change]]] = Kind(
    "settle", _settle, named=_settled, changes=lambda _, changes: changes
)
