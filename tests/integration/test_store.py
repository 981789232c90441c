"""The store with both databases, without faults."""

import asyncio
import itertools
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from chapar.errors import DatabaseInUse, NotSaved, SettingInvalid
from chapar.model.acceptance import IdempotencyKey, Sender
from chapar.model.message import Message, Status, new_id
from chapar.model.principal import Reach
from chapar.model.report import Failure, Filters, Page, Position
from chapar.runtime.metrics import Metrics
from chapar.store import queue, reports, retention
from chapar.store.administration import administer
from chapar.store.database import Role, open_engine
from chapar.store.paging import PAGE_BYTES
from chapar.store.schema import keys
from chapar.store.store import Store
from support.plans import avoid_scans, plans_on
from support.stores import (
    CLAIM,
    PROCESS,
    add_one,
    measured,
    move_one,
    new_message,
    now,
    open_store,
    published,
    writer_processes,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def store(shared_store: Store) -> Store:
    return shared_store


async def add(store: Store, *messages: Message) -> None:
    await asyncio.gather(*(add_one(store, message) for message in messages))


async def every(store: Store, filters: Filters, size: int = 1000) -> list[Message]:
    return [message async for page in store.reports.pages(filters, size) for message in page]


async def test_what_is_added_is_found(store: Store) -> None:
    plain = new_message()
    full = new_message(
        micro_op="آبیاری 🚿",
        params='{"a": "\\u0000"}',
        qos=2,
        retain=True,
        at_most_once=True,
        reason="broker_refused",
        reason_code=0x87,
        possible_duplicate=True,
        subscribers=False,
        claim=None,
        published_at=1,
        finished_at=2,
    )
    await add(store, plain, full)
    assert await store.messages.find(plain.id) == plain
    assert await store.messages.find(full.id) == full
    assert await store.messages.find("unknown") is None


async def test_what_is_read_has_the_types_of_a_message(store: Store) -> None:
    message = new_message(subscribers=True)
    await add_one(store, message)
    found = await store.messages.find(message.id)
    assert found is not None
    assert [type(value) for value in found] == [type(value) for value in message]


async def test_an_add_may_be_repeated(store: Store) -> None:
    message = new_message()
    await add(store, message, message)
    await add_one(store, message)
    assert await every(store, Filters()) == [message]


async def test_a_move_changes_the_message(store: Store) -> None:
    before = new_message()
    after = published(before)._replace(subscribers=True, reason_code=0)
    await add_one(store, before)
    assert await move_one(store, before, after) is True
    assert await store.messages.find(before.id) == after


async def test_a_move_may_be_repeated(store: Store) -> None:
    before = new_message()
    after = published(before)
    await add_one(store, before)
    assert all(await asyncio.gather(move_one(store, before, after), move_one(store, before, after)))
    assert await move_one(store, before, after) is True


async def test_of_two_moves_one_wins(store: Store) -> None:
    before = new_message()
    await add_one(store, before)
    winner = published(before)
    loser = before.moved(Status.REJECTED)
    first, second = move_one(store, before, winner), move_one(store, before, loser)
    assert (await first, await second) == (True, False)
    assert await store.messages.find(before.id) == winner


@pytest.mark.parametrize("other", [{"status": Status.QUEUED}, {"attempts": 2}, {"claim": None}, {"claim": "another"}])
async def test_a_move_is_fenced_by_status_attempt_and_claim(store: Store, other: dict[str, Any]) -> None:
    there = new_message(**other)
    await add_one(store, there)
    believed = there._replace(status=Status.PUBLISHING, attempts=1, claim=CLAIM)
    assert await move_one(store, believed, published(believed)) is False
    assert await store.messages.find(there.id) == there


async def test_a_message_without_a_claim_can_be_moved(store: Store) -> None:
    queued = new_message(status=Status.QUEUED, claim=None)
    await add_one(store, queued)
    assert await move_one(store, queued, queued.moved(Status.PUBLISHING)._replace(claim=CLAIM, attempts=2)) is True


async def test_a_message_that_is_not_there_is_not_moved(store: Store) -> None:
    message = new_message()
    assert await move_one(store, message, published(message)) is False


async def test_what_is_given_back_is_in_the_queue_before_another_is_put_behind_it(store: Store) -> None:
    first, second = new_message(), new_message()
    await add_one(store, first)
    move_one(store, first, first.moved(Status.QUEUED)._replace(claim=None, attempts=0))
    assert (await add_one(store, second))[:2] == (Status.QUEUED, None)


async def test_one_bad_operation_fails_alone(store: Store) -> None:
    good = [new_message() for _ in range(5)]
    bad = new_message(attempts=1 << 70)
    futures = [add_one(store, message) for message in (*good[:3], bad, *good[3:])]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(results.pop(3), NotSaved)
    assert [result[:2] for result in results] == [(Status.PUBLISHING, CLAIM)] * 5
    assert len(await every(store, Filters())) == 5


async def test_a_cancelled_future_does_not_cancel_the_commit(store: Store) -> None:
    message = new_message()
    add_one(store, message).cancel()
    await add_one(store, new_message())
    assert await store.messages.find(message.id) == message


async def test_operations_of_one_turn_share_a_commit(database_url: str) -> None:
    metrics = Metrics()
    async with open_store(database_url, metrics) as store:
        await store.health.check(60)
        before = measured(metrics, "chapar_commit_batch_operations_count")
        await add(store, *(new_message() for _ in range(100)))
    assert measured(metrics, "chapar_commit_batch_operations_count") == before + 1


async def test_leaving_commits_what_is_queued_and_leaves_no_process(database_url: str) -> None:
    messages = [new_message() for _ in range(2000)]
    others = writer_processes()
    async with open_store(database_url) as store:
        futures = [add_one(store, message) for message in messages]
    assert [future.result()[:2] for future in futures] == [(Status.PUBLISHING, CLAIM)] * 2000
    assert writer_processes() == others
    with pytest.raises(NotSaved):
        await add_one(store, new_message())
    async with open_store(database_url) as store:
        assert len(await every(store, Filters())) == 2000


async def test_a_page_has_the_newest_first_and_the_next_goes_on_behind_it(store: Store) -> None:
    messages = [new_message() for _ in range(10)]
    await add(store, *messages)
    first = await store.reports.page(Filters(), after=None, limit=4)
    # What is accepted meanwhile shifts nothing.
    await add(store, *(new_message() for _ in range(3)))
    second = await store.reports.page(Filters(), after=first.next, limit=4)
    third = await store.reports.page(Filters(), after=second.next, limit=4)
    assert [*first.messages, *second.messages, *third.messages] == messages[::-1]
    assert third.next is None
    assert await store.reports.page(Filters(), after=Position(0, ""), limit=4) == Page([], None)


@pytest.mark.parametrize("size", [1, 3, 9, 10, 11])
async def test_pages_give_each_message_once_oldest_first(store: Store, size: int) -> None:
    messages = [new_message() for _ in range(10)]
    await add(store, *reversed(messages))
    assert await every(store, Filters(), size) == messages


async def test_a_page_ends_at_its_bytes_before_it_ends_at_its_messages(store: Store) -> None:
    text = '{"text":"' + "ب" * 30_000 + '"}'  # of 60 KB
    long = [new_message("A", Status.PUBLISHED, params=text, claim=None) for _ in range(10)]
    [vast] = [new_message("A", Status.PUBLISHED, params=f'{{"text":"{"x" * PAGE_BYTES}"}}', claim=None)]
    short = [new_message("A", Status.PUBLISHED, claim=None) for _ in range(10)]
    messages = [*long, vast, *short]
    await add(store, *messages)
    for filters in WAYS:
        pages = [page async for page in store.reports.pages(filters)]
        assert [message for page in pages for message in page] == messages, filters
        assert list(map(len, pages)) == [4, 4, 2, 1, 10], filters
        sizes, page = [], await store.reports.page(filters, after=None, limit=1000)
        while page.next is not None:
            sizes.append(len(page.messages))
            page = await store.reports.page(filters, after=page.next, limit=1000)
        assert [*sizes, len(page.messages)] == [10, 1, 4, 4, 2], filters


async def test_the_last_page_says_that_nothing_follows_also_where_it_is_full(store: Store) -> None:
    await add(store, *(new_message() for _ in range(4)))
    assert (await store.reports.page(Filters(), after=None, limit=3)).next is not None
    assert (await store.reports.page(Filters(), after=None, limit=4)).next is None
    assert (await store.reports.page(Filters(), after=None, limit=5)).next is None


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_what_waits_of_one_sender_comes_once(store: Store, size: int) -> None:
    states = (Status.QUEUED, Status.PUBLISHED, Status.SCHEDULED)
    sent = [new_message("A", status, claim=None, deliver_at=now() + 10**6) for status in states * 3]
    await asyncio.gather(*(add_one(store, message, sender=Sender("key:one", "one", "")) for message in sent))
    await add_one(store, new_message("B", Status.QUEUED), sender=Sender("key:other", "other", ""))
    found = [message async for page in store.reports.waiting_of("key:one", size) for message in page]
    assert sorted(found) == sorted(message for message in sent if message.status is not Status.PUBLISHED)


WAYS = [
    Filters(),
    Filters(status=(Status.PUBLISHED,)),
    Filters(status=(Status.QUEUED, Status.PUBLISHED, Status.REJECTED)),
    Filters(status=(Status.PUBLISHING, Status.PUBLISHED)),
    Filters(imei="A", status=(Status.QUEUED, Status.PUBLISHED)),
    Filters(imei="A"),
]


async def only_mixed(store: Store, shared_url: str) -> list[Message]:
    """Nothing but finished and waiting messages of long ago, which retention would remove or keep, oldest first."""
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(delete(reports.messages))
    begun, messages = now() - 1_000_000, []
    for number in range(40):
        status = (Status.PUBLISHED, Status.QUEUED, Status.PUBLISHED, Status.REJECTED)[number % 4]
        at = begun + number * 10
        messages.append(new_message("A", status, id=new_id(at * 1_000_000), created_at=at, claim=None))
    await add(store, *messages)
    return messages


async def removed_up_to(store: Store, message: Message) -> None:
    """Let retention remove what is finished and not younger than this message."""
    async for _ in store.retention.prune(message.created_at + 1, now()):
        pass


def fits(filters: Filters, message: Message) -> bool:
    return not filters.status or message.status in filters.status


async def test_outlived_keys_are_forgotten_in_batches_and_messages_stay(
    store: Store, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_FORGOTTEN", 2)
    sent = [new_message("A", Status.PUBLISHED, claim=None) for _ in range(6)]
    for number, message in enumerate(sent):
        key = IdempotencyKey(
            "me", f"key-{number}", "", message.id, "", None, None, kept_until=now() + (number - 4) * 10**6
        )
        await add_one(store, message, key=key)
    assert [removed async for removed in store.retention.prune(0, now())] == [0, 0, 0]
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection:  # which keeps none open
        assert connection.scalars(select(keys.c.key).order_by(keys.c.key)).all() == ["key-5"]
    assert len(await every(store, Filters())) == 6


async def test_a_report_goes_on_behind_a_message_that_is_gone(store: Store, shared_url: str) -> None:
    for filters in WAYS:
        expected = [message for message in await only_mixed(store, shared_url) if fits(filters, message)]
        seen: list[Message] = []
        async for page in store.reports.pages(filters, 4):
            seen += page
            await removed_up_to(store, page[-1])
        assert seen == expected, filters


async def test_the_next_page_goes_on_behind_a_message_that_is_gone(store: Store, shared_url: str) -> None:
    for filters in WAYS:
        messages = await only_mixed(store, shared_url)
        expected = [message for message in messages if fits(filters, message)][::-1]
        first = await store.reports.page(filters, after=None, limit=4)
        assert first.messages == expected[:4], filters
        await removed_up_to(store, messages[-1])
        rest = await store.reports.page(filters, after=first.next, limit=100)
        assert rest.messages == [message for message in expected[4:] if message.status is Status.QUEUED], filters


async def test_while_pages_are_read_what_stays_comes_once(store: Store, shared_url: str) -> None:
    """Messages are added, move from status to status and are removed between any two pages."""
    for filters, oldest_first in itertools.product(WAYS, (True, False)):
        messages = await only_mixed(store, shared_url)
        waiting = [message for message in messages if message.status is Status.QUEUED]
        seen: list[Message] = []
        page = await page_of(store, filters, None, oldest_first=oldest_first)
        while True:
            seen += page.messages
            if waiting:
                await add(store, new_message("A", Status.QUEUED, claim=None))
                moving = waiting.pop(0 if len(waiting) % 2 else -1)
                assert await move_one(store, moving, moving._replace(status=Status.PUBLISHED))
            if len(seen) > 20:
                await removed_up_to(store, messages[5])
            if page.next is None:
                break
            page = await page_of(store, filters, page.next, oldest_first=oldest_first)
        ids = [message.id for message in seen]
        assert ids == sorted(set(ids), reverse=not oldest_first), filters
        stayed = [message for message in messages[6:] if message.status is not Status.QUEUED]
        assert {message.id for message in stayed if fits(filters, message)} <= set(ids), filters


async def page_of(store: Store, filters: Filters, after: Position | None, *, oldest_first: bool) -> Page:
    return await (
        store.reports._oldest_first(filters, after, 3)
        if oldest_first
        else store.reports.page(filters, after=after, limit=3)
    )


async def test_a_status_that_is_asked_for_twice_makes_no_message_come_twice(store: Store) -> None:
    message = new_message(status=Status.QUEUED)
    await add(store, message)
    assert await every(store, Filters(status=(Status.QUEUED, Status.QUEUED))) == [message]


async def test_a_page_is_read_from_an_index_in_its_order(store: Store, shared_url: str) -> None:
    await only_mixed(store, shared_url)
    with store.reports._reporters._engine.connect() as connection:
        avoid_scans(connection)
        plans = plans_on(connection)
        for filters, read in itertools.product(WAYS, (reports.newest_first, reports.oldest_first)):
            plans.clear()
            read(connection, filters, Position(20, new_id(time.time_ns())), 5)
            plan, _ = plans
            by_status = bool(filters.status) and filters.imei is None
            used = Counter(re.findall(r"ix_messages_(\w+)", plan))
            if by_status:
                on_its_way = filters.status.count(Status.PUBLISHING)
                expected = {"status_seq": len(filters.status) - on_its_way, "unfinished": on_its_way}
                assert used == Counter(expected)
            else:
                assert used == {"imei_id" if filters.imei else "id": 1}
            assert "SCAN messages" not in plan
            if not by_status:
                assert "TEMP B-TREE" not in plan
                assert "Sort" not in plan


BY_STATUS = {
    "those on their way": [Status.PUBLISHING],
    "those that failed": [Status.REJECTED, Status.EXPIRED],
    "some of each": [Status.PUBLISHING, Status.QUEUED, Status.REJECTED],
}


@pytest.mark.parametrize("statuses", BY_STATUS.values(), ids=BY_STATUS)
async def test_counts_of_a_status_read_no_others(store: Store, shared_url: str, statuses: list[Status]) -> None:
    await only_mixed(store, shared_url)
    await add(store, *(new_message() for _ in range(3)))
    with store.reports._reporters._engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plans = plans_on(connection)
        summary = reports.summary(connection, Filters(status=tuple(statuses)), "day")
    counts = {Status.PUBLISHING: 3, Status.QUEUED: 10, Status.REJECTED: 10}
    assert summary.statuses == {status: counts[status] for status in statuses if status in counts}
    indexes = {"unfinished" if status is Status.PUBLISHING else "status_seq" for status in statuses}
    assert len(plans) == 4
    for plan in plans:
        assert set(re.findall(r"ix_messages_(\w+)", plan)) == indexes
        assert "SCAN messages" not in plan


# Indexes that have nothing but what they are read for.
OF_WHAT_WAITS = re.compile(r"SCAN messages USING (COVERING )?INDEX ix_messages_(ready|urgent|reply_by|contact_until)")


async def test_the_queue_reads_only_what_waits_or_is_on_its_way(store: Store, shared_url: str) -> None:
    """Beside finished messages of long ago, however many there are."""
    await only_mixed(store, shared_url)
    with store.reports._reporters._engine.connect() as connection:
        avoid_scans(connection)
        plans = plans_on(connection)
        queue.backlog(connection)
        reports.how_many_wait_of(connection, "me")
        assert len(plans) == 7
        assert all("SCAN messages" not in plan and "ix_messages_id" not in plan for plan in plans)
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection, connection.begin():
        avoid_scans(connection)
        plans = plans_on(connection)
        queue.SETTLE.run(connection, [queue.Settle(PROCESS, now())])
        queue.TAKE.run(connection, [queue.Take(f"{PROCESS}.7", 5, now())])
        on_messages = [plan for plan in plans if "messages" in plan]
        assert len(on_messages) > 4
        for plan in on_messages:
            assert "SCAN messages" not in OF_WHAT_WAITS.sub("", plan)
            assert "ix_messages_id" not in plan
        taking = next(plan for plan in on_messages if "ix_messages_ready" in plan)
        assert "unfinished" in taking


async def test_filters_combine(store: Store) -> None:
    kinds = list(itertools.product(("A", "B"), ("open", "close"), (Status.PUBLISHED, Status.QUEUED, Status.REJECTED)))
    messages = [new_message(imei, status, micro_op=op) for imei, op, status in kinds]
    await add(store, *messages)
    statuses = [(), (Status.QUEUED,), (Status.REJECTED, Status.PUBLISHED), (Status.EXPIRED,)]
    for imei, op, status in itertools.product((None, "A"), (None, "open"), statuses):
        expected = [
            message
            for message in messages
            if imei in {None, message.imei} and op in {None, message.micro_op} and message.status in (status or Status)
        ]
        filters = Filters(imei=imei, micro_op=op, status=status)
        assert await every(store, filters, 2) == expected
        assert (await store.reports.page(filters, after=None, limit=100)).messages == expected[::-1]
        assert (await store.reports.summary(filters, "day")).total == len(expected)


async def test_since_is_inclusive_and_until_exclusive(store: Store) -> None:
    # An id begins with its time: here 0x10000, 0x10001 and 0x10002 ms after the epoch.
    messages = [new_message(id=f"00000001-000{digit}-7000-8000-000000000000") for digit in range(3)]
    await add(store, *messages)
    assert await every(store, Filters(since=0x10001)) == messages[1:]
    assert await every(store, Filters(until=0x10001)) == messages[:1]
    assert await every(store, Filters(since=0x10001, until=0x10002)) == messages[1:2]


async def test_a_summary_counts_by_status_device_operation_and_time(store: Store) -> None:
    hour = 3_600_000
    messages = [
        new_message("A", Status.PUBLISHED, created_at=hour),
        new_message("A", Status.PUBLISHED, created_at=hour + 1),
        new_message("B", Status.REJECTED, created_at=2 * hour, micro_op="open"),
    ]
    await add(store, *messages)
    summary = await store.reports.summary(Filters(), "hour")
    assert summary.total == 3
    assert summary.statuses == {Status.PUBLISHED: 2, Status.REJECTED: 1}
    assert summary.devices.counts == (("A", 2), ("B", 1))
    assert summary.operations.counts == (("push_down", 2), ("open", 1))
    assert summary.times.counts == ((hour, 2), (2 * hour, 1))
    assert (summary.devices.others, summary.operations.others, summary.times.others) == (0, 0, 0)


async def test_a_summary_is_bounded_and_says_how_much_it_left_out(store: Store) -> None:
    minute = 60_000
    await add(store, *(new_message(f"device-{n:04}", created_at=n * minute) for n in range(1600)))
    summary = await store.reports.summary(Filters(), "minute")
    assert (len(summary.devices.counts), summary.devices.others) == (100, 1500)
    assert (len(summary.times.counts), summary.times.others) == (1500, 100)
    assert summary.times.counts[-1] == (1599 * minute, 1)


async def test_failures_are_counted_by_how_and_why_within_time_and_reach(store: Store, shared_url: str) -> None:
    ended = [
        *[("A", Status.REJECTED, "device_offline")] * 3,
        *[("A", Status.FAILED, None), ("B", Status.FAILED, None)],
        ("B", Status.TIMED_OUT, "no_reply"),
        ("B", Status.CANCELLED, "superseded"),
        ("A", Status.QUEUED, "waiting_for_contact"),
        ("A", Status.PUBLISHED, None),
    ]
    early = new_message("A", Status.REJECTED, id="00000001-0000-7000-8000-000000000000", reason="device_offline")
    messages = [
        new_message(imei, status, id=f"00000002-00{number:02}-7000-8000-000000000000", reason=reason)
        for number, (imei, status, reason) in enumerate(ended)
    ]
    await add(store, early, *messages)
    recent = Filters(since=0x20000)
    rejected = Failure(Status.REJECTED, "device_offline", 3)
    no_reply = Failure(Status.TIMED_OUT, "no_reply", 1)
    assert await store.reports.failures(recent) == [rejected, Failure(Status.FAILED, None, 2), no_reply]
    assert await store.reports.failures(Filters()) == [
        Failure(Status.REJECTED, "device_offline", 4),
        Failure(Status.FAILED, None, 2),
        no_reply,
    ]
    of_b = await store.reports.failures(Filters(since=0x20000, reach=Reach(("B",))))
    assert of_b == [Failure(Status.FAILED, None, 1), no_reply]
    with administer(shared_url) as connection:
        avoid_scans(connection)
        plans = plans_on(connection)
        reports.failures(connection, recent)
    assert "ix_messages_id" in plans[0]
    assert "SCAN messages" not in plans[0]


async def test_a_check_passes_while_the_database_works(store: Store) -> None:
    await store.health.check(60)


async def test_a_reader_cannot_write(store: Store) -> None:
    with (
        pytest.raises(Exception, match=r"readonly|read-only"),
        store.reports._reporters._engine.connect() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM messages")


async def test_a_second_process_is_refused_on_one_sqlite_file(sqlite_url: str) -> None:
    async with open_store(sqlite_url):
        with pytest.raises(DatabaseInUse, match="Another Chapar already serves"):
            async with open_store(sqlite_url):
                pass
    async with open_store(sqlite_url):
        pass


async def test_a_folder_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="cannot hold the database: no such file or directory"):
        async with open_store(f"sqlite:///{tmp_path}/missing/chapar.db"):
            pass
