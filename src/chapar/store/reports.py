"""Pages of messages and counts of them: the statements that read the table, and their answers."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, func, literal_column, select, union_all

from chapar.model.message import WAITING, Message, Status, first_id
from chapar.model.report import FAILURES, Bucket, Failure, Filters, Page, Position, Ranking, Summary, Timeline
from chapar.store.paging import how_many_fit
from chapar.store.patterns import fits_any
from chapar.store.schema import COLUMNS, each_has_status, has_status, messages, to_message

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.readers import Readers

_BUCKET_MS: Mapping[Bucket, int] = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}

TOP = 100
"""How many devices and operations a summary names, and how many kinds of failures are counted."""
BUCKETS = 1500
"""How many buckets of time a summary has, the newest ones: more than the minutes of a day."""

_PAGE = 200  # messages read at once by `pages`: more would keep everybody else waiting while they are written down


class Reports:
    """Pages of messages, and counts of them. Each may take seconds."""

    def __init__(self, reporters: "Readers") -> None:
        self._reporters = reporters

    async def page(self, filters: Filters, *, after: Position | None, limit: int) -> Page:
        """Up to `limit` messages, and `PAGE_BYTES`, newest first, older than the one at `after`.

        Raises StoreUnavailable.
        """
        return await self._reporters.read(lambda connection: newest_first(connection, filters, after, limit))

    async def pages(self, filters: Filters, size: int = _PAGE) -> AsyncIterator[list[Message]]:
        """All messages, oldest first, in lists of up to `size` and `PAGE_BYTES`; raises StoreUnavailable.

        Each list is a read of its own: memory stays small, and no transaction stays open for a slow client. Whatever
        is added, moved or removed meanwhile, no message comes twice, and none is left out that stays.
        """
        page = await self._oldest_first(filters, None, size)
        while page.next is not None:
            yield page.messages
            page = await self._oldest_first(filters, page.next, size)
        if page.messages:
            yield page.messages

    async def waiting_of(self, sender: str, size: int) -> AsyncIterator[list[Message]]:
        """Give what waits of what a principal sent, in lists of up to `size`; raises StoreUnavailable."""
        for status in WAITING:
            async for waiting in self.pages(Filters(status=(status,), sender=sender), size):
                yield waiting

    async def summary(self, filters: Filters, bucket: Bucket) -> Summary:
        """Count the messages that fit; raises StoreUnavailable."""
        return await self._reporters.read(lambda connection: summary(connection, filters, bucket))

    async def oldest(self, filters: Filters) -> Message | None:
        """The message that fits and was accepted first; raises StoreUnavailable."""
        page = await self._oldest_first(filters, None, 1)
        return page.messages[0] if page.messages else None

    async def failures(self, filters: Filters) -> list[Failure]:
        """Count the messages that fit and that failed, the most frequent kind first; raises StoreUnavailable."""
        return await self._reporters.read(lambda connection: failures(connection, filters))

    async def _oldest_first(self, filters: Filters, after: Position | None, limit: int) -> Page:
        return await self._reporters.read(lambda connection: oldest_first(connection, filters, after, limit))


def newest_first(connection: Connection, filters: Filters, after: Position | None, limit: int) -> Page:
    """Up to `limit` messages, and `PAGE_BYTES`, newest first, of those accepted before the one at `after`."""
    return _page(connection, filters, after, limit, newest_first=True)


def oldest_first(connection: Connection, filters: Filters, after: Position | None, limit: int) -> Page:
    """Up to `limit` messages, and `PAGE_BYTES`, oldest first, of those accepted after the one at `after`."""
    return _page(connection, filters, after, limit, newest_first=False)


def summary(connection: Connection, filters: Filters, bucket: Bucket) -> Summary:
    """Count the messages that fit, all as of one moment."""
    where = _conditions(filters)
    by_status = select(messages.c.status, func.count()).where(*where).group_by(messages.c.status)
    each = [by_status.where(has_one) for has_one in each_has_status(filters.status or Status)]
    statuses = {Status(status): count for status, count in connection.execute(union_all(*each))}
    if filters.status:
        where.append(has_status(filters.status))
    total = sum(statuses.values())
    start = messages.c.created_at - messages.c.created_at % literal_column(str(_BUCKET_MS[bucket]), BigInteger)
    newest = connection.execute(
        select(start, func.count()).where(*where).group_by(start).order_by(start.desc()).limit(BUCKETS)
    )
    times = tuple((int(at), int(count)) for at, count in reversed(newest.all()))
    return Summary(
        total=total,
        statuses=statuses,
        devices=_ranking(connection, messages.c.imei, where, total),
        operations=_ranking(connection, messages.c.micro_op, where, total),
        times=Timeline(times, total - sum(count for _, count in times)),
    )


def failures(connection: Connection, filters: Filters) -> list[Failure]:
    """Count the messages that fit and that failed, by how and why; the filters' own status counts for nothing."""
    count = func.count()
    # The empty string keeps planners off the index by status: what ever failed may be far more than the time asked for.
    has_failed = messages.c.status.concat("").in_([status.value for status in FAILURES])
    found = connection.execute(
        select(messages.c.status, messages.c.reason, count)
        .where(*_conditions(filters), has_failed)
        .group_by(messages.c.status, messages.c.reason)
        .order_by(count.desc(), messages.c.status, messages.c.reason)
        .limit(TOP)
    )
    return [Failure(Status(status), reason, int(number)) for status, reason, number in found]


def _ranking(
    connection: Connection, column: ColumnElement[str], where: list[ColumnElement[bool]], total: int
) -> Ranking:
    largest = connection.execute(
        select(column, func.count()).where(*where).group_by(column).order_by(func.count().desc(), column).limit(TOP)
    )
    counts = tuple((str(name), int(count)) for name, count in largest)
    return Ranking(counts, total - sum(count for _, count in counts))


def _page(connection: Connection, filters: Filters, after: Position | None, limit: int, *, newest_first: bool) -> Page:
    statuses = list(dict.fromkeys(filters.status))  # each once, in the order given
    by_status = bool(statuses) and filters.imei is None
    # The index by status is in the order of acceptance, the others are in that of ids. The two differ where the clock
    # was stepped, and each is as good for a page.
    place: ColumnElement[Any] = messages.c.seq if by_status else messages.c.id
    # Sizes first, because PostgreSQL's driver holds all that a statement finds. Neither database reads a text for them.
    size: ColumnElement[int] = func.octet_length(messages.c.micro_op)
    for text in (messages.c.params, messages.c.reply):
        size += func.coalesce(func.octet_length(text), 0)
    fitting = select(messages.c.seq, messages.c.id, size.label("size")).where(*_conditions(filters)).limit(limit + 1)
    if after is not None:
        bound = after.seq if by_status else after.id
        fitting = fitting.where(place < bound if newest_first else place > bound)
    order = place.desc() if newest_first else place.asc()
    fitting = fitting.order_by(order)
    statement: Select[*tuple[Any, ...]] = fitting
    if by_status:
        # One ordered read of the index for each status: with IN, every match would be collected and sorted.
        each = [select(fitting.where(has_status([status])).subquery()) for status in statuses]
        merged = union_all(*each).subquery()
        by_place = merged.c.seq.desc() if newest_first else merged.c.seq.asc()
        statement = select(merged).order_by(by_place).limit(limit + 1)
    elif statuses:
        # The empty string keeps a planner without statistics off the index by status: a device has fewer messages.
        statement = fitting.where(messages.c.status.concat("").in_([status.value for status in statuses]))
    found = [(Position(seq, id_), octets) for seq, id_, octets in connection.execute(statement)]
    places = [position for position, _ in found[: how_many_fit((octets for _, octets in found), limit)]]
    rows = connection.execute(
        select(*COLUMNS).where(messages.c.seq.in_([position.seq for position in places])).order_by(order)
    )
    return Page([to_message(tuple(row)) for row in rows], places[-1] if len(places) < len(found) else None)


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    """All but the status, which each query asks for in the way that its index serves."""
    conditions: list[ColumnElement[bool]] = []
    if filters.imei is not None:
        conditions.append(messages.c.imei == filters.imei)
    if filters.micro_op is not None:
        conditions.append(messages.c.micro_op == filters.micro_op)
    if filters.since is not None:
        conditions.append(messages.c.id >= first_id(filters.since))
    if filters.until is not None:
        conditions.append(messages.c.id < first_id(filters.until))
    if filters.sender is not None:
        conditions.append(messages.c.sent_by == filters.sender)
    conditions += fits_any(messages.c.imei, filters.reach.devices)
    conditions += fits_any(messages.c.micro_op, filters.reach.operations)
    return conditions


def how_many_wait_of(connection: Connection, sender: str) -> int:
    """Count the messages that wait of those that a principal sent."""
    count = select(func.count()).select_from(messages).where(has_status(WAITING), messages.c.sent_by == sender)
    return int(connection.execute(count).scalar_one())
