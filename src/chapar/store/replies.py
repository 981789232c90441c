"""Replies of devices: stored with the messages that they answer, and listed where they do not stand in one."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Dialect,
    Integer,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from chapar.errors import NotSaved
from chapar.model.change import Change
from chapar.model.message import FINAL_WORDS, Message, Status, first_id
from chapar.model.principal import EVERYWHERE, Reach
from chapar.model.reply import (
    Listed,
    MatchedBy,
    Receipt,
    ReceivedReply,
    Reply,
    Unmatched,
    answered,
    choose,
    packed,
    progressed,
    reply_to,
    standing,
    unmatched_reply,
)
from chapar.store.database import run_on_driver
from chapar.store.generations import advance
from chapar.store.lanes import leaves_lane, release
from chapar.store.messages import find
from chapar.store.operations import Kind, array, batch_table, run_batch
from chapar.store.paging import how_many_fit
from chapar.store.patterns import fits_any
from chapar.store.schema import COLUMNS, Row, messages, replies, to_message, to_row

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

MAX_OF_MESSAGE: Final = 100  # replies, the one that stands included; the oldest go
MAX_OF_DEVICE: Final = 100  # unmatched replies of one device
MAX_UNMATCHED: Final = 10_000  # of all devices
MAX_UNMATCHED_BYTES: Final = 64 * 1024 * 1024

_RECENT: Final = 24 * 3600 * 1000  # ms for which a device may answer a message without naming it …
_RECENT_OF_DEVICE: Final = 200  # … among so many newest ones

_FREED: Final = MAX_UNMATCHED_BYTES // 8  # bytes by which more goes than must, so that all are seldom measured
_BOUND: Final = "unmatched_bytes"  # what a connection remembers: the size of all unmatched replies, or more

_NEWEST = "SELECT id FROM messages WHERE imei = {imei} AND id >= {first} ORDER BY imei DESC, id DESC LIMIT {limit}"
# What is in the device's hands may have been accepted long before it was due.
_OPEN = """SELECT id FROM messages WHERE imei = {imei} AND finished_at IS NULL
    AND status IN ('publishing', 'published', 'acknowledged') LIMIT {limit}"""
# Where commands and replies share a topic, and where the broker repeats itself, also what has its answer counts.
_MATTERS = """attempts > 0 AND (status NOT IN ('succeeded', 'failed') OR attempts > 1
    OR messages.topic = {topic} OR {also_answered} = 1)"""
_RECENT_SQL: Final = {
    "sqlite": f"""
        SELECT id FROM messages WHERE id IN (SELECT * FROM ({_NEWEST}) UNION SELECT * FROM ({_OPEN})) AND {_MATTERS}
    """.format(  # noqa: S608 - every value is a parameter
        imei="?1", first="?2", limit=_RECENT_OF_DEVICE, topic="?3", also_answered="?4"
    ),
    "postgresql": f"""
        SELECT messages.imei, messages.id
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) AS device (imei, first, topic, also_answered)
        CROSS JOIN LATERAL (({_NEWEST}) UNION ({_OPEN})) AS recent JOIN messages USING (id)
        WHERE {_MATTERS}
    """.format(  # noqa: S608
        imei="device.imei",
        first="device.first",
        limit=_RECENT_OF_DEVICE,
        topic="device.topic",
        also_answered="device.also_answered",
    ),
}

_IDS: BindParameter[Sequence[str]] = bindparam("ids", expanding=True)
# In the order in which a batch of moves takes its locks, too.
_LOCKED = select(*COLUMNS).where(messages.c.id.in_(_IDS)).order_by(messages.c.id).with_for_update()

_ANSWER: Final = ("status", "reason", "claim", "not_before", "finished_at", "reply_by", "reply", "contact_until")
_set = itemgetter(*(Message._fields.index(name) for name in (*_ANSWER, "id")))

_said_the_same = (replies.c.sha256 == bindparam("digest"), replies.c.word == bindparam("said"))
_of_message = replies.c.message_id == bindparam("of_message")
_is_unmatched = replies.c.message_id.is_(None)
_of_device = replies.c.imei == bindparam("device")
_SAME = select(replies.c.seq).where(_of_message, *_said_the_same)
_SAME_UNMATCHED = select(replies.c.seq).where(
    _is_unmatched, _of_device, *_said_the_same, replies.c.reason == bindparam("why")
)
_SAME_BY_ORDER = (
    select(replies.c.message_id)
    .where(
        replies.c.message_id.in_(_IDS),
        replies.c.sha256 == bindparam("digest"),
        replies.c.matched_by == MatchedBy.ORDER.value,
    )
    .order_by(replies.c.seq.desc())
    .limit(1)
)
_COUNT = (
    update(replies)
    .where(replies.c.seq == bindparam("of_reply"))
    .values(count=replies.c.count + bindparam("more", type_=Integer))
)
_LIST = insert(replies)

_kept: BindParameter[int] = bindparam("kept", type_=Integer)
_oldest_kept = select(replies.c.seq).order_by(replies.c.seq.desc()).offset(_kept).limit(1)
_BOUND_MESSAGE = delete(replies).where(_of_message, replies.c.seq <= _oldest_kept.where(_of_message).scalar_subquery())
_BOUND_DEVICE = delete(replies).where(
    _is_unmatched, _of_device, replies.c.seq <= _oldest_kept.where(_is_unmatched, _of_device).scalar_subquery()
)
_BOUND_ALL = delete(replies).where(_is_unmatched, replies.c.seq <= _oldest_kept.where(_is_unmatched).scalar_subquery())
_HOW_MANY = select(func.count()).select_from(replies).where(_is_unmatched)
_SIZES = select(replies.c.seq, func.octet_length(replies.c.payload)).where(_is_unmatched).order_by(replies.c.seq.desc())
_UP_TO = delete(replies).where(_is_unmatched, replies.c.seq <= bindparam("last", type_=BigInteger))

_LISTED = select(replies).where(_of_message).order_by(replies.c.seq)


class Replies:
    """The replies of devices."""

    def __init__(self, commits: "Commits", lookups: "Readers", reporters: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups
        self._reporters = reporters

    async def receive(self, received: Sequence[ReceivedReply]) -> list[Receipt | NotSaved]:
        """Store replies with the messages that they answer, in this order.

        They are tried until they are committed: the broker keeps them as long. One that no database would take is a
        NotSaved in the list. Raises NotSaved, OutcomeUnknown where the gateway stops meanwhile.
        """
        return await self._commits.submit(RECEIVE, received)

    async def of_message(self, message_id: str) -> list[Listed]:
        """All replies of a message, in the order in which they came; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: replies_of(connection, message_id))

    async def unmatched(
        self, imei: str | None, reach: Reach, *, before: int | None, limit: int
    ) -> tuple[list[Listed], int | None]:
        """Replies that belong to no message, newest first: up to `limit`, and `PAGE_BYTES`, and the last one's place.

        Those of one device, where it is given, within reach, and `before` a place. The place is None where nothing
        follows. Raises StoreUnavailable.
        """
        return await self._reporters.read(
            lambda connection: unmatched_page(connection, imei, reach, before=before, limit=limit)
        )


def replies_of(connection: Connection, message_id: str) -> list[Listed]:
    """All replies of a message, the one that stands among them."""
    found = [_listed(tuple(row)) for row in connection.execute(_LISTED, {"of_message": message_id})]
    message = find(connection, message_id)
    if message is not None and (reply := standing(message)) is not None:
        found.append(Listed(0, message.imei, message_id, None, "", reply))
    return sorted(found, key=_when)


def _when(listed: Listed) -> tuple[int, int]:
    """The place of a reply among those of its message: in one millisecond, progress came before what stands."""
    behind = -1 if listed.reply.status is Status.ACKNOWLEDGED else 1
    return listed.reply.at, behind if listed.seq else 0


def unmatched_of(connection: Connection, imei: str, since: int, limit: int) -> list[Listed]:
    """The newest replies of a device that belong to no message and came at `since` (ms since the epoch) or later."""
    found = select(replies).where(_is_unmatched, replies.c.imei == imei, replies.c.at >= since)
    return [_listed(tuple(row)) for row in connection.execute(found.order_by(replies.c.seq.desc()).limit(limit))]


def unmatched_page(
    connection: Connection, imei: str | None, reach: Reach, *, before: int | None, limit: int
) -> tuple[list[Listed], int | None]:
    """The replies that belong to no message, newest first, and the last one's place where more follow."""
    where = [_is_unmatched, *fits_any(replies.c.imei, reach.devices)]
    if reach != EVERYWHERE:
        where.append(replies.c.imei != "")
    if imei is not None:
        where.append(replies.c.imei == imei)
    if before is not None:
        where.append(replies.c.seq < before)
    # Sizes first, because PostgreSQL's driver holds all that a statement finds.
    sizes = select(replies.c.seq, func.octet_length(replies.c.payload)).where(*where)
    found = connection.execute(sizes.order_by(replies.c.seq.desc()).limit(limit + 1)).all()
    places = [place for place, _ in found[: how_many_fit((size for _, size in found), limit)]]
    rows = connection.execute(select(replies).where(replies.c.seq.in_(places)).order_by(replies.c.seq.desc()))
    return [_listed(tuple(row)) for row in rows], places[-1] if len(places) < len(found) else None


def _listed(row: tuple[Any, ...]) -> Listed:
    seq, imei, message_id, at, status, word, payload, size, digest, truncated, by, late, times, reason, topic = row
    reply = Reply(
        at,
        None if status is None else Status(status),
        word or "",
        payload,
        size,
        digest,
        truncated,
        None if by is None else MatchedBy(by),
        late,
        times,
    )
    return Listed(seq, imei, message_id, None if reason is None else Unmatched(reason), topic, reply)


_Received = tuple[str | None, Row | None, str | None, str | None, bool]
"""The fields of a Receipt, as they cross."""


@dataclass(slots=True)
class _Unmatched:
    """A reply that belongs to no message, and how often a batch has it."""

    received: ReceivedReply
    why: Unmatched
    place: int | None  #: where it is kept already
    times: int = 1


class _Batch:
    """The effect of a batch of replies, one after the other; `write()` writes it."""

    def __init__(self, connection: Connection, received: Sequence[ReceivedReply]) -> None:
        self._connection = connection
        self._recent = _recent(connection, [reply for reply in received if reply.imei and reply.message_id is None])
        ids = {id_ for recent in self._recent.values() for id_ in recent}
        ids |= {reply.message_id for reply in received if reply.imei and reply.message_id is not None}
        self._before = _locked(connection, ids)
        self._now = dict(self._before)
        self._listed: defaultdict[str, list[Reply]] = defaultdict(list)  # by message, not written yet
        self._unmatched: dict[tuple[str, ...], _Unmatched] = {}

    def receive(self, received: ReceivedReply) -> _Received:
        """Find the message that a reply answers, and let it answer it."""
        named = None if received.message_id is None else self._now.get(received.message_id)
        recent = [self._now[id_] for id_ in self._recent.get(received.imei, ()) if id_ in self._now]
        message, by, unmatched = choose(received, named, recent, self._earlier(received, recent))
        if message is not None and by is not None:
            again = self._answer(message, received, reply_to(message, received, by))
            return message.status.value, to_row(self._now[message.id]), by.value, None, again
        if unmatched is None:
            return None, None, None, None, False
        return None, None, None, unmatched.value, self._keep(received, unmatched)

    def write(self) -> None:
        """Write what has changed, and let go of what is beyond the bounds."""
        moved = [message for id_, message in self._now.items() if message is not self._before[id_]]
        if moved:
            run_batch(self._connection, _answer_sql(self._connection.dialect), list(map(_set, map(to_row, moved))))
        if any(self._before[message.id].status is Status.QUEUED for message in moved):
            advance(self._connection)
        release(self._connection, {message.imei for message in moved if leaves_lane(message)})
        for id_, listed in self._listed.items():
            self._connection.execute(_LIST, [_row(self._now[id_].imei, id_, reply, None, "") for reply in listed])
            self._connection.execute(_BOUND_MESSAGE, {"of_message": id_, "kept": MAX_OF_MESSAGE - 1})
        if self._unmatched:
            _keep_unmatched(self._connection, self._unmatched.values())

    def _earlier(self, received: ReceivedReply, recent: Sequence[Message]) -> Message | None:
        """The message that got this delivery when the broker sent it before, where only order says which that is.

        The broker repeats the packet id; a reply that stands no more did not keep it.
        """
        if not received.is_repeated or received.message_id is not None:
            return None
        # The newest first: in time, a broker gives a packet id once more.
        with_reply = {message.id: reply for message in reversed(recent) if (reply := standing(message)) is not None}
        for id_, reply in with_reply.items():
            delivery = (reply.matched_by, reply.sha256, reply.packet_id)
            if delivery == (MatchedBy.ORDER, received.sha256, received.packet_id):
                return self._now[id_]
        found = self._connection.execute(_SAME_BY_ORDER, {"ids": list(with_reply), "digest": received.sha256}).scalar()
        return None if found is None else self._now[found]

    def _answer(self, message: Message, received: ReceivedReply, reply: Reply) -> bool:
        """Let a reply answer a message; answer whether the message has the same reply already."""
        again = message.reply is not None and self._count_again(message, reply)
        if not again:
            self._now[message.id], listed = answered(message, reply)
            if listed is not None:
                self._listed[message.id].append(listed)
        elif reply.status is Status.ACKNOWLEDGED and message.status not in FINAL_WORDS and not received.is_repeated:
            self._now[message.id] = progressed(self._now[message.id], reply.at)
        return again

    def _count_again(self, message: Message, reply: Reply) -> bool:
        stands = standing(message)
        if stands is not None and stands.is_same(reply):
            self._now[message.id] = message._replace(reply=packed(stands._replace(times=stands.times + 1)))
            return True
        listed = self._listed.get(message.id, [])
        for place, each in enumerate(listed):
            if each.is_same(reply):
                listed[place] = each._replace(times=each.times + 1)
                return True
        same = {"of_message": message.id, "digest": reply.sha256, "said": reply.word}
        found = self._connection.execute(_SAME, same).scalar()
        if found is not None:
            self._connection.execute(_COUNT, {"of_reply": found, "more": 1})
        return found is not None

    def _keep(self, received: ReceivedReply, why: Unmatched) -> bool:
        """Keep a reply that belongs to no message; answer whether the same is kept already."""
        key = (received.imei, received.sha256, received.word, why.value)
        if (kept := self._unmatched.get(key)) is not None:
            kept.times += 1
            return True
        imei, digest, word, reason = key
        same = {"device": imei, "digest": digest, "said": word, "why": reason}
        place = self._connection.execute(_SAME_UNMATCHED, same).scalar()
        self._unmatched[key] = _Unmatched(received, why, place)
        return place is not None


def _receive(connection: Connection, rows: Sequence[Row]) -> Sequence[_Received]:
    received = [ReceivedReply._make(row) for row in rows]
    batch = _Batch(connection, received)
    results = list(map(batch.receive, received))
    batch.write()
    return results


def _recent(connection: Connection, received: Sequence[ReceivedReply]) -> Mapping[str, Sequence[str]]:
    """The ids of the messages that replies without one may answer, by device, in the order of acceptance."""
    devices = {
        reply.imei: (reply.imei, first_id(reply.at - _RECENT), reply.topic, int(reply.is_repeated))
        for reply in received
    }
    devices |= {reply.imei: (*devices[reply.imei][:3], 1) for reply in received if reply.is_repeated}
    found: defaultdict[str, list[str]] = defaultdict(list)
    sql = _RECENT_SQL[connection.dialect.name]
    if devices and connection.dialect.name == "postgresql":
        columns = [array(values) for values in zip(*devices.values(), strict=True)]
        for imei, id_ in run_on_driver(connection, sql, columns).fetchall():
            found[imei].append(id_)
    else:
        for imei, device in devices.items():
            found[imei] = [id_ for (id_,) in run_on_driver(connection, sql, device).fetchall()]
    return {imei: sorted(ids) for imei, ids in found.items()}


def _locked(connection: Connection, ids: Collection[str]) -> dict[str, Message]:
    rows = connection.execute(_LOCKED, {"ids": sorted(ids)}) if ids else ()
    return {message.id: message for message in (to_message(tuple(row)) for row in rows)}


@cache
def _answer_sql(dialect: Dialect) -> str:
    """The statement that sets what a reply sets. The order of the parameters is that of the values in `_set`."""
    types = {f"now_{name}": messages.c[name].type for name in (*_ANSWER, "id")}
    given: Callable[[str], ColumnElement[Any]]
    given = batch_table(types).c.__getitem__ if dialect.name == "postgresql" else bindparam
    values = [(messages.c[name], given(f"now_{name}")) for name in _ANSWER]
    statement = update(messages).ordered_values(*values).where(messages.c.id == given("now_id"))
    return str(statement.compile(dialect=dialect))


def _row(
    imei: str, message_id: str | None, reply: Reply, why: str | None, topic: str, times: int = 1
) -> dict[str, Any]:
    return {
        "imei": imei,
        "message_id": message_id,
        "at": reply.at,
        "status": reply.status and reply.status.value,
        "word": reply.word,
        "payload": reply.payload,
        "size": reply.size,
        "sha256": reply.sha256,
        "truncated": reply.truncated,
        "matched_by": reply.matched_by and reply.matched_by.value,
        "late": reply.late,
        "count": reply.times * times,
        "reason": why,
        "topic": topic,
    }


def _keep_unmatched(connection: Connection, unmatched: Collection[_Unmatched]) -> None:
    """Keep replies that belong to no message, within the bounds."""
    for each in unmatched:
        if each.place is not None:
            connection.execute(_COUNT, {"of_reply": each.place, "more": each.times})
    new = [each for each in unmatched if each.place is None]
    if not new:
        return
    rows = [
        _row(each.received.imei, None, unmatched_reply(each.received), each.why.value, each.received.topic, each.times)
        for each in new
    ]
    connection.execute(_LIST, rows)
    for imei in {each.received.imei for each in new}:
        connection.execute(_BOUND_DEVICE, {"device": imei, "kept": MAX_OF_DEVICE})
    if connection.execute(_HOW_MANY).scalar_one() > MAX_UNMATCHED:
        connection.execute(_BOUND_ALL, {"kept": MAX_UNMATCHED})
    size = connection.info.get(_BOUND, MAX_UNMATCHED_BYTES) + sum(len(row["payload"].encode()) for row in rows)
    connection.info[_BOUND] = size if size <= MAX_UNMATCHED_BYTES else _bound_size(connection)


def _bound_size(connection: Connection) -> int:
    """Measure the replies that belong to no message; the oldest go where that is too much. Gives what is left."""
    found = connection.execute(_SIZES).all()
    total = sum(int(size) for _, size in found)
    if total <= MAX_UNMATCHED_BYTES:
        return total
    left = 0
    for place, size in found:
        if left + size > MAX_UNMATCHED_BYTES - _FREED:
            connection.execute(_UP_TO, {"last": place})
            break
        left += size
    return left


def _receipt(_: ReceivedReply, crossed: _Received) -> Receipt:
    before, row, by, unmatched, again = crossed
    return Receipt(
        None if before is None else Status(before),
        None if row is None else to_message(row),
        None if by is None else MatchedBy(by),
        None if unmatched is None else Unmatched(unmatched),
        again,
    )


def _change_of_receipt(received: ReceivedReply, receipt: Receipt) -> Sequence[Change]:
    """Return how a message stands now, also where it has the reply already: this may be repeated."""
    if (message := receipt.message) is None:
        return ()
    return [Change(message.id, message.imei, receipt.before, message.status, message.reason, received.at, message)]


RECEIVE: Final[Kind[ReceivedReply, Receipt]] = Kind(
    "receive",
    _receive,
    packed=tuple,
    named=_receipt,
    changes=_change_of_receipt,
    unpacked=ReceivedReply._make,
)
