"""The use cases: what a caller is promised, whatever the database and the broker say."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from chapar.access.trail import AuditTrail
from chapar.delivery import cancellation as cancellation_module
from chapar.delivery import capacity as capacity_module
from chapar.delivery import dispatcher as dispatcher_module
from chapar.delivery.idempotency import KEY_KEPT, Replay
from chapar.delivery.reports import Reporting
from chapar.delivery.retention import Forgetting, prune
from chapar.errors import (
    BrokerClosed,
    BrokerRefused,
    BrokerUnanswered,
    BrokerUnreachable,
    ChaparError,
    FieldInvalid,
    KeyInFlight,
    KeyMismatch,
    LinkDown,
    LinkLost,
    MessageCancelled,
    MessageNotFound,
    MessageSuperseded,
    NotCancellable,
    NotRepeatable,
    NotSaved,
    OutcomeUnknown,
    OutOfReach,
    PresenceUnknown,
    QueueFull,
    QueuePaused,
    StoreUnavailable,
)
from chapar.model.acceptance import Addition, IdempotencyKey, KeptAnswer
from chapar.model.audit import Action, AuditFilters
from chapar.model.message import Command, Condition, Message, Status, Wait
from chapar.model.principal import EVERY_SCOPE, Caller, Principal, Reach
from chapar.model.queue import Lease
from chapar.model.report import Filters, Position
from chapar.store.acceptance import packed_addition
from chapar.store.idempotency import ANSWER
from chapar.store.pauses import PauseQueue
from support.benches import ASKED, USE, Bench, Given, for_a_moment
from support.callers import CALLER
from support.fakes import EPOCH, PROCESS, until
from support.stores import entry_about, new_message

OTHER = "fedcba9876543210"

NOT_AUTHORIZED = 0x87

LATER = ASKED._replace(wait=Wait.NONE)


async def resend(bench: Bench, message_id: str, caller: Caller = CALLER) -> Message:
    """Send the same operation once more."""
    again = await bench.messaging.repetition(caller, message_id, Wait.NONE, None)
    return await bench.messaging.send(caller, again)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_message_is_saved_then_published_then_told(bench: Bench) -> None:
    sending = bench.in_flight()
    await until(lambda: bench.link.waiting)
    (row,) = bench.stored()
    assert (row.status, row.attempts, row.claim) == (Status.PUBLISHING, 1, f"{PROCESS}.0")
    bench.link.answer(row.id, 0x00)
    sent = await sending
    assert sent == bench.store.now(row)
    assert sent.status is Status.PUBLISHED


async def test_a_message_says_what_was_asked(bench: Bench) -> None:
    bench.link.answers.append(0x00)
    asked = Command("12", "open", params='{"s":1}', qos=2, retain=True, at_most_once=True)
    sent = await bench.send(asked)
    assert (sent.imei, sent.micro_op, sent.params, sent.topic) == ("12", "open", '{"s":1}', "devices/12")
    assert (sent.qos, sent.retain, sent.at_most_once, sent.created_at) == (2, True, True, EPOCH)


async def test_what_is_sent_with_qos_0_is_sent_at_most_once(bench: Bench) -> None:
    bench.link.answers.append(0x00)
    assert (await bench.send(ASKED._replace(qos=0))).at_most_once is True


@pytest.mark.parametrize(
    ("answer", "error"),
    [(NOT_AUTHORIZED, BrokerRefused), (0x97, BrokerRefused), (LinkDown(), BrokerUnreachable)],
)
async def test_a_caller_who_waits_is_told_at_once_that_it_was_not_sent(
    bench: Bench, answer: int | Exception, error: type[ChaparError]
) -> None:
    bench.link.answers.append(answer)
    with pytest.raises(error):
        await bench.send()
    assert bench.stored()[0].status is Status.REJECTED


async def test_a_caller_who_waits_is_answered_at_once_where_the_device_is_paused(bench: Bench) -> None:
    """How long that is, nobody knows; and what never waits is not sent."""
    asked = PauseQueue(entry_about(ASKED.imei, Action.QUEUE_PAUSED), "Anna", None, 100)
    assert await bench.store.pauses.pause(asked, 30)
    for wait in Wait:
        sent = await bench.send(ASKED._replace(wait=wait, patience=300, urgent=wait is Wait.BROKER))
        assert (sent.status, sent.reason, sent.attempts, sent.claim) == (Status.QUEUED, "paused", 0, None)
        assert bench.store.now(sent) == sent
    with pytest.raises(QueuePaused):
        await bench.send(ASKED._replace(condition=Condition.ONLINE))
    assert bench.stored()[-1].reason == "paused"
    assert bench.link.published == []


async def test_without_a_link_a_message_is_recorded_as_rejected_and_never_sent(bench: Bench) -> None:
    bench.link.up = False
    with pytest.raises(BrokerUnreachable) as raised:
        await bench.send()
    (row,) = bench.stored()
    assert (row.id, row.status, row.reason) == (raised.value.id, Status.REJECTED, "broker_unreachable")
    assert row.finished_at == EPOCH


async def test_without_a_link_a_message_that_nobody_waits_for_is_queued(bench: Bench) -> None:
    bench.link.up = False
    assert (await bench.send(LATER)).status is Status.QUEUED
    await until(bench.dispatcher._work.is_set)


async def test_a_caller_whose_time_runs_out_is_told_where_the_message_stands_and_the_delivery_goes_on(
    bench: Bench,
) -> None:
    sent = await bench.send(ASKED._replace(patience=0.01))
    assert sent.status is Status.PUBLISHING
    bench.link.answer(sent.id, LinkDown())
    await until(lambda: not bench.dispatcher._under_way)
    assert bench.store.now(sent).status is Status.QUEUED, "it was promised"


async def test_a_caller_who_is_told_that_the_outcome_is_in_doubt_is_told_the_truth(bench: Bench) -> None:
    bench.link.answers.append(LinkLost(BrokerClosed("mqtt://fake", "reset")))
    sent = await bench.send()
    assert (sent.status, sent.possible_duplicate) == (Status.QUEUED, True)


async def test_a_caller_who_goes_away_during_the_commit_stops_nothing(bench: Bench) -> None:
    sending = bench.in_flight()
    await asyncio.sleep(0)
    sending.cancel()
    await until(lambda: bench.link.waiting)
    (row,) = bench.stored()
    bench.link.answer(row.id, 0x00)
    await until(lambda: bench.store.now(row).status is Status.PUBLISHED)


async def test_a_caller_who_goes_away_before_a_message_is_queued_stops_nothing(bench: Bench) -> None:
    sending = bench.in_flight(LATER)
    await asyncio.sleep(0)
    sending.cancel()
    await until(lambda: not bench.sending._landing)
    assert [row.status for row in bench.stored()] == [Status.QUEUED]


async def test_nobody_is_told_what_went_wrong_once_nobody_waits(bench: Bench) -> None:
    bench.store.commits.failing["add"] = NotSaved("a test says so.")
    sending = bench.in_flight()
    await asyncio.sleep(0)
    sending.cancel()
    await until(lambda: not bench.sending._landing)
    assert sending.cancelled()


async def test_a_message_behind_another_of_its_device_waits_in_the_queue(bench: Bench) -> None:
    await bench.send(LATER)
    sent = await bench.send(ASKED._replace(patience=0.01))
    assert (sent.status, sent.attempts, sent.claim) == (Status.QUEUED, 0, None)
    assert bench.link.published == []


async def test_a_message_that_waits_in_the_queue_is_told_when_it_was_published(bench: Bench) -> None:
    await bench.send(LATER)
    sending = bench.in_flight()
    bench.link.answers.extend([0x00, 0x00])
    run = asyncio.create_task(bench.dispatcher.run())
    sent = await sending
    assert isinstance(sent, Message)
    assert sent.status is Status.PUBLISHED
    bench.dispatcher.stop()
    await run


async def test_many_are_saved_together_and_each_has_its_own_answer(bench: Bench) -> None:
    bench.link.answers.extend([0x00, NOT_AUTHORIZED, LinkLost(BrokerClosed("mqtt://fake", "reset"))])
    devices = ["A1", "A2", "B", "A3", "A4", "A5"]
    commands = [ASKED._replace(imei=imei) for imei in devices]
    commands[3] = commands[3]._replace(expires_in=1e9)
    commands[4] = commands[4]._replace(deliver_at=EPOCH - 60_001)
    sent = await bench.messaging.send_all(reaching(devices="A*"), commands)
    assert [type(each) for each in sent] == [Message, BrokerRefused, OutOfReach, FieldInvalid, FieldInvalid, Message]
    first, *_, last = sent
    assert isinstance(first, Message)
    assert isinstance(last, Message)
    assert (first.imei, first.status, last.imei, last.possible_duplicate) == ("A1", Status.PUBLISHED, "A5", True)
    assert [row.imei for row in bench.stored()] == ["A1", "A2", "A5"]
    assert [kind for kind, _ in bench.store.commits.asked[:3]] == ["add"] * 3


async def test_many_of_which_none_is_accepted_save_nothing(bench: Bench) -> None:
    [sent] = await bench.messaging.send_all(reaching(devices="B"), [ASKED])
    assert isinstance(sent, OutOfReach)
    assert bench.store.commits.asked == []


async def test_a_fault_in_saving_is_nobody_s_answer(bench: Bench) -> None:
    bench.store.commits.failing["add"] = RuntimeError("a test says so.")
    with pytest.raises(RuntimeError):
        await bench.messaging.send_all(CALLER, [ASKED, LATER])
    assert not bench.waiters._waiting


async def test_a_fault_in_saving_leaves_nothing_of_a_caller_who_is_gone(bench: Bench) -> None:
    bench.store.commits.failing["add"] = RuntimeError("a test says so.")
    sending = asyncio.create_task(bench.messaging.send_all(CALLER, [ASKED]))
    await asyncio.sleep(0)
    sending.cancel()
    await until(lambda: not bench.waiters._waiting)
    assert sending.cancelled()


async def test_many_that_are_not_saved_all_say_so(bench: Bench) -> None:
    for error in (NotSaved("a test says so."), OutcomeUnknown()):
        bench.store.commits.failing["add"] = error
        assert await bench.messaging.send_all(CALLER, [ASKED, LATER]) == [error, error]
    await bench.sending.drain()
    assert [row.reason for row in bench.stored()] == ["outcome_unknown"] * 2


async def test_many_are_answered_at_the_deadline_with_what_is_known(bench: Bench) -> None:
    commands = [ASKED._replace(imei=imei) for imei in ("A", "B")]
    sending = asyncio.create_task(bench.messaging.send_all(CALLER, commands))
    await until(lambda: len(bench.link.waiting) == 2)
    bench.link.answer(bench.link.ids[0], 0x00)
    await until(lambda: bench.stored()[0].status is Status.PUBLISHED)
    await until(lambda: len(bench.waiters._waiting) == 1)
    bench.waiters.release_all()
    first, second = await sending
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert (first.status, second.status) == (Status.PUBLISHED, Status.PUBLISHING)
    bench.link.answer(second.id, LinkDown())
    await until(lambda: not bench.dispatcher._under_way)
    assert bench.store.now(second).status is Status.QUEUED, "it was promised"


async def test_many_whose_caller_goes_away_before_they_are_saved_take_no_room() -> None:
    bench = Bench(max_queue=1)
    async with bench.capacity._counting:
        sending = asyncio.create_task(bench.messaging.send_all(CALLER, [LATER, LATER]))
        await until(lambda: bench.capacity._joining)
        sending.cancel()
        await until(sending.done)
    assert bench.capacity._joining == {}
    assert bench.stored() == []


async def test_an_expiry_counts_from_now_or_from_when_the_message_is_due(bench: Bench) -> None:
    now = await bench.send(LATER._replace(expires_in=1.5))
    due = await bench.send(LATER._replace(expires_in=1.5, deliver_at=EPOCH + 60_000))
    default = await bench.send(LATER)
    assert (now.expires_at, due.expires_at) == (EPOCH + 1500, EPOCH + 61_500)
    assert default.expires_at == EPOCH + 3_600_000
    assert (due.status, due.deliver_at) == (Status.SCHEDULED, EPOCH + 60_000)


@pytest.mark.parametrize("deliver_at", [EPOCH, EPOCH - 1])
async def test_what_was_due_before_is_sent_at_once(bench: Bench, deliver_at: int) -> None:
    bench.link.answers.append(0x00)
    sent = await bench.send(ASKED._replace(deliver_at=deliver_at))
    assert (sent.status, sent.deliver_at) == (Status.PUBLISHED, None)


@pytest.mark.parametrize(
    ("field", "far", "farthest"),
    [
        ("expires_in", {"expires_in": 86_401}, {"expires_in": 86_400}),
        ("deliver_at", {"deliver_at": EPOCH + 86_400_001}, {"deliver_at": EPOCH + 86_400_000}),
    ],
)
async def test_what_lies_too_far_ahead_is_refused_and_named(
    field: str, far: dict[str, Any], farthest: dict[str, Any]
) -> None:
    bench = Bench(max_expiry=86_400)
    with pytest.raises(FieldInvalid) as raised:
        await bench.send(LATER._replace(**far))
    assert raised.value.field == field
    assert bench.stored() == []
    await bench.send(LATER._replace(**farthest))


async def test_a_message_without_an_expiry_of_its_own_has_no_more_than_the_longest() -> None:
    bench = Bench(max_expiry=600)
    assert (await bench.send(LATER)).expires_at == EPOCH + 600_000


async def test_a_full_device_is_named_with_its_oldest_message() -> None:
    bench = Bench(max_device_queue=2)
    first = await bench.send(LATER)
    await bench.send(LATER)
    with pytest.raises(QueueFull) as raised:
        await bench.send(LATER)
    assert (raised.value.bound, raised.value.limit) == ("CHAPAR_MAX_DEVICE_QUEUE", 2)
    assert raised.value.oldest == first.id
    await bench.send(LATER._replace(imei="B"))


async def test_the_whole_queue_is_bounded_also_between_two_counts() -> None:
    bench = Bench(max_queue=3)
    first = bench.store.put(new_message("Z", Status.QUEUED, created_at=EPOCH))
    await bench.counted()
    await bench.send(LATER)
    await bench.send(LATER._replace(deliver_at=EPOCH + 1000))
    with pytest.raises(QueueFull) as raised:
        await bench.send(LATER)
    assert (raised.value.bound, raised.value.oldest) == ("CHAPAR_MAX_QUEUE", first.id)
    assert len(bench.stored()) == 3


async def test_a_full_queue_names_its_oldest_message_to_those_only_who_may_see_it() -> None:
    bench = Bench(max_device_queue=1)
    first = await bench.send(LATER)
    for caller, named in (
        (reaching(devices="A"), first.id),
        (reaching(operations="push_*"), None),
        (CALLER, first.id),
    ):
        with pytest.raises(QueueFull) as raised:
            await bench.messaging.send(caller, LATER)
        assert raised.value.oldest == named
    for language in ("en", "fa"):
        assert first.id not in QueueFull("CHAPAR_MAX_QUEUE", 1, None, 5).sentence(language)

    bench = Bench(max_queue=1)
    first = bench.store.put(new_message("Z", Status.QUEUED, created_at=EPOCH))
    await bench.counted()
    for caller, asked, named in (
        (reaching(devices="Z*"), LATER._replace(imei="Z"), first.id),
        (reaching(devices="A"), LATER, None),
        (reaching(operations="open"), LATER._replace(imei="Z", micro_op="open"), None),
    ):
        with pytest.raises(QueueFull) as raised:
            await bench.messaging.send(caller, asked)
        assert raised.value.oldest == named


async def test_a_queue_full_of_what_is_not_saved_yet_names_it_to_nobody_who_is_narrowed() -> None:
    bench = Bench(max_queue=1)
    first = bench.in_flight(LATER)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as raised:
        await bench.messaging.send(reaching(devices="B"), LATER._replace(imei="B"))
    assert raised.value.oldest is None
    await first


async def test_what_was_accepted_before_the_queue_was_full_is_answered_again() -> None:
    bench = Bench(max_queue=1)
    await bench.once(LATER)
    [first] = bench.stored()
    assert await bench.once(LATER) == Replay(first.id, 202, "{}")
    with pytest.raises(QueueFull):
        await bench.send(LATER)
    for use in (USE._replace(key="another"), USE._replace(principal="somebody else")):
        with pytest.raises(QueueFull):
            await bench.once(LATER, use)
    bench.clock.at += KEY_KEPT
    with pytest.raises(QueueFull):
        await bench.once(LATER)


async def test_what_was_due_a_minute_ago_is_refused_and_what_was_accepted_before_is_answered_again(
    bench: Bench,
) -> None:
    due = LATER._replace(deliver_at=EPOCH)
    await bench.once(due)
    [first] = bench.stored()
    bench.clock.at = EPOCH + 60_000
    await bench.send(due)
    bench.clock.at += 1
    assert await bench.once(due) == Replay(first.id, 202, "{}")
    for asked in (bench.send(due), bench.once(due, USE._replace(key="another"))):
        with pytest.raises(FieldInvalid) as raised:
            await asked
        assert raised.value.field == "deliver_at"


async def test_a_burst_does_not_pass_the_bound_of_the_whole_queue() -> None:
    bench = Bench(max_queue=3)
    sent = await asyncio.gather(*(bench.in_flight(LATER) for _ in range(10)), return_exceptions=True)
    assert [isinstance(each, QueueFull) for each in sent] == [False] * 3 + [True] * 7
    assert len(bench.stored()) == 3


async def test_what_goes_out_at_once_does_not_need_room_in_the_queue() -> None:
    bench = Bench(max_queue=1)
    await bench.send(LATER._replace(imei="Z"))
    bench.link.answers.append(0x00)
    assert (await bench.send()).status is Status.PUBLISHED


async def test_the_outcomes_of_a_list_are_committed_together_and_nobody_else_waits_for_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_TOGETHER", 60)
    sending = asyncio.create_task(bench.messaging.send_all(CALLER, [ASKED] * 3))
    await until(lambda: len(bench.link.waiting) == 3)
    for message_id in bench.link.ids:
        assert bench.store.asked("move") == []
        bench.link.answer(message_id, 0x00)
        for _ in range(3):
            await asyncio.sleep(0)
    await sending
    assert len(bench.store.asked("move")) == 3
    together = asyncio.create_task(bench.messaging.send_all(CALLER, [ASKED] * 2)), bench.in_flight()
    await until(lambda: len(bench.link.waiting) == 3)
    bench.link.answer(bench.link.ids[5], 0x00)
    await together[1]
    bench.link.answer(bench.link.ids[3], 0x00)
    bench.link.answer(bench.link.ids[4], 0x00)
    await together[0]


async def test_what_is_certain_not_to_be_saved_is_told_so(bench: Bench) -> None:
    bench.store.commits.failing["add"] = NotSaved("a test says so.")
    with pytest.raises(NotSaved):
        await bench.send()
    assert bench.stored() == []


async def test_a_request_with_a_key_that_is_not_saved_may_repeat_one_that_was(bench: Bench) -> None:
    bench.link.answers.append(0x00)
    await bench.once()
    [first] = bench.stored()
    bench.store.commits.failing["add"] = NotSaved("a test says so.")
    with pytest.raises(OutcomeUnknown):
        await bench.once()
    bench.store.commits.failing.clear()
    assert await bench.once() == Replay(first.id, 202, "{}")


async def test_what_may_have_been_saved_is_withdrawn_with_its_key(bench: Bench) -> None:
    bench.store.commits.failing["add"] = OutcomeUnknown()
    with pytest.raises(OutcomeUnknown):
        await bench.once()
    with pytest.raises(KeyInFlight):
        await bench.once()
    await until(bench.stored)
    (row,) = bench.stored()
    assert (row.status, row.reason, row.attempts) == (Status.REJECTED, "outcome_unknown", 0)
    assert await bench.store.keys.owner(("me", "key"), EPOCH) is None
    bench.store.commits.failing.clear()
    await bench.sending.drain()
    bench.link.answers.append(0x00)
    assert sent_of(await bench.once()).status is Status.PUBLISHED


async def test_an_answered_key_replays_its_answer(bench: Bench) -> None:
    bench.link.answers.append(0x00)
    first = sent_of(await bench.once())
    assert await bench.once() == Replay(first.id, 202, "{}")
    assert bench.stored() == [first]


async def test_a_refusal_is_an_answer_too(bench: Bench) -> None:
    bench.link.answers.append(NOT_AUTHORIZED)
    given = await bench.once()
    assert isinstance(given, Given)
    assert isinstance(given.sent, BrokerRefused)
    assert await bench.once() == Replay(given.sent.id, 202, "{}")


@pytest.mark.parametrize("answered", [True, False])
async def test_a_key_for_another_request_is_a_mismatch(bench: Bench, *, answered: bool) -> None:
    first = asyncio.create_task(bench.once())
    await until(lambda: bench.link.waiting)
    if answered:
        bench.link.answer(bench.link.ids[0], 0x00)
        await first
    with pytest.raises(KeyMismatch):
        await bench.once(use=USE._replace(fingerprint="another"))
    assert len(bench.stored()) == 1
    first.cancel()


async def test_a_list_is_saved_together_and_its_answers_are_kept_together_each_for_itself(bench: Bench) -> None:
    await bench.once(LATER)
    [before] = bench.stored()
    bench.store.commits.asked.clear()
    numbered = [USE._replace(key=f"key {number}") for number in range(5)]
    given = await bench.all_once(
        (LATER, numbered[0]),
        (LATER, USE),
        (LATER, USE._replace(fingerprint="another")),
        (LATER._replace(expires_in=10**9), numbered[1]),
        (LATER._replace(deliver_at=EPOCH - 60_001), numbered[2]),
        (LATER, numbered[3]),
        (LATER, numbered[3]),
    )
    first, replay, mismatch, too_far, too_late, last, twice = given
    assert [each.id for each in bench.stored()] == [before.id, sent_of(first).id, sent_of(last).id]
    assert replay == Replay(before.id, 202, "{}")
    assert list(map(type, (mismatch, too_far, too_late, twice))) == [
        KeyMismatch,
        FieldInvalid,
        FieldInvalid,
        KeyInFlight,
    ]
    assert [kind for kind, _ in bench.store.commits.asked] == ["add"] * 3 + ["answer"] * 2
    again = await bench.all_once((LATER, numbered[0]), (LATER, numbered[2]), (LATER, numbered[3]))
    assert again[0] == Replay(sent_of(first).id, 202, "{}")
    assert again[2] == Replay(sent_of(last).id, 202, "{}")
    assert sent_of(again[1]).status is Status.QUEUED


@pytest.mark.parametrize("alone", [set(), {"answer"}], ids=["all", "one"])
@pytest.mark.parametrize("error", [OutcomeUnknown(), NotSaved("a test says so.")], ids=lambda error: error.code)
async def test_an_answer_that_cannot_be_kept_is_not_given(bench: Bench, error: ChaparError, alone: set[str]) -> None:
    """The message was saved, and may have been published: 406 would be untrue."""
    bench.store.commits.alone |= alone
    bench.store.commits.failing["answer"] = error
    other = USE._replace(key="other")
    assert list(map(type, await bench.all_once((LATER, USE), (LATER, other)))) == [OutcomeUnknown, OutcomeUnknown]
    bench.store.commits.failing.clear()
    for use, message in zip((USE, other), bench.stored(), strict=True):
        assert sent_of(await bench.once(LATER, use)) == message


async def test_a_caller_who_goes_away_leaves_every_key_of_a_list_once_its_messages_are_saved(bench: Bench) -> None:
    uses = [USE._replace(key=name) for name in "abc"]
    sending = asyncio.create_task(bench.all_once(*((LATER, use) for use in uses)))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.sleep(0)
    for use in uses:
        with pytest.raises(KeyInFlight):
            await bench.once(LATER, use)
    await bench.sending.drain()
    for use, message in zip(uses, bench.stored(), strict=True):
        assert sent_of(await bench.once(LATER, use)) == message


async def test_keys_of_two_principals_have_nothing_to_do_with_each_other(bench: Bench) -> None:
    bench.link.answers.extend([0x00, 0x00])
    first = sent_of(await bench.once())
    second = sent_of(await bench.once(use=USE._replace(principal="you")))
    assert first.id != second.id


async def test_a_key_whose_first_request_is_not_answered_is_in_flight(bench: Bench) -> None:
    sending = asyncio.create_task(bench.once())
    await until(lambda: bench.link.waiting)
    with pytest.raises(KeyInFlight):
        await bench.once()
    bench.link.answer(bench.link.ids[0], 0x00)
    await until(lambda: bench.store.asked("answer"))
    with pytest.raises(KeyInFlight):
        await bench.once()
    assert sent_of(await sending).status is Status.PUBLISHED


async def test_a_caller_who_goes_away_leaves_its_key_to_the_next_once_the_message_is_saved(bench: Bench) -> None:
    sending = asyncio.create_task(bench.once())
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.sleep(0)
    with pytest.raises(KeyInFlight):
        await bench.once()
    await bench.sending.drain()
    [row] = bench.stored()
    assert sent_of(await bench.once()) == row
    assert await bench.once() == Replay(row.id, 202, "{}")


async def test_an_answer_that_is_being_kept_is_kept_also_where_its_caller_is_gone(bench: Bench) -> None:
    sending = asyncio.create_task(bench.once(LATER))
    await until(lambda: bench.store.asked("answer"))
    sending.cancel()
    with pytest.raises(KeyInFlight):
        await bench.once(LATER)
    for _ in range(3):
        await asyncio.sleep(0)
    [row] = bench.stored()
    assert await bench.once(LATER) == Replay(row.id, 202, "{}")


async def test_a_key_that_a_living_process_is_to_answer_is_in_flight(bench: Bench) -> None:
    await bench.store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    message = key_of_another(bench)
    with pytest.raises(KeyInFlight):
        await bench.once()
    await bench.store.queue.release_lease(OTHER)
    assert sent_of(await bench.once()) == message


@pytest.mark.parametrize("status", [Status.PUBLISHED, Status.QUEUED])
async def test_a_key_that_a_dead_process_left_unanswered_is_answered_with_how_its_message_stands(
    bench: Bench, status: Status
) -> None:
    message = key_of_another(bench, status)
    assert sent_of(await bench.once()) == message
    assert await bench.once() == Replay(message.id, 202, "{}")
    assert bench.link.published == []


async def test_a_key_that_a_dead_process_left_with_a_rejected_message_is_answered_with_the_refusal(
    bench: Bench,
) -> None:
    message = key_of_another(bench, Status.REJECTED, reason_code=NOT_AUTHORIZED)
    given = await bench.once()
    assert isinstance(given, Given)
    assert isinstance(given.sent, BrokerRefused)
    assert given.sent.id == message.id


async def test_a_key_that_was_left_unanswered_with_a_message_that_was_forgotten_says_so(bench: Bench) -> None:
    message = key_of_another(bench)
    bench.store.database.driver.execute("DELETE FROM messages")
    with pytest.raises(MessageNotFound) as raised:
        await bench.once()
    assert raised.value.id == message.id


async def test_a_key_is_kept_for_a_day_and_past_the_expiry_of_its_message(bench: Bench) -> None:
    await bench.once(LATER)
    await bench.once(LATER._replace(expires_in=2 * 86_400), USE._replace(key="long"))
    short, long = [await bench.store.keys.owner(("me", key), EPOCH) for key in ("key", "long")]
    assert short is not None
    assert short.kept_until == EPOCH + KEY_KEPT
    assert long is not None
    assert long.kept_until == EPOCH + 2 * KEY_KEPT


async def test_a_message_that_waits_is_cancelled_and_who_waits_for_it_is_told(bench: Bench) -> None:
    await bench.send(LATER)
    sending = bench.in_flight()
    await until(lambda: len(bench.stored()) == 2)
    second = bench.stored()[1]
    assert (await bench.cancellation.cancel(CALLER, second.id)).status is Status.CANCELLED
    with pytest.raises(MessageCancelled):
        await sending
    assert (await bench.cancellation.cancel(CALLER, second.id)).status is Status.CANCELLED, "once more is no mistake"


def at_broker(bench: Bench, **fields: Any) -> Message:
    """A message that the broker retains."""
    return bench.store.put(
        new_message("A", **{"status": Status.PUBLISHED, "retain": True, "claim": None, "created_at": EPOCH} | fields)
    )


@pytest.fixture
async def running(bench: Bench) -> AsyncIterator[Bench]:
    """A gateway that takes from its queue."""
    run = asyncio.create_task(bench.dispatcher.run())
    yield bench
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": Status.UNCONFIRMED, "qos": 0},
        {"status": Status.EXPIRED, "possible_duplicate": True},
        {"status": Status.QUEUED, "possible_duplicate": True, "not_before": EPOCH + 60_000},
    ],
)
async def test_a_message_that_the_broker_may_retain_is_taken_back(running: Bench, fields: dict[str, Any]) -> None:
    message = at_broker(running, **fields)
    cancelling = asyncio.create_task(running.cancellation.cancel(CALLER, message.id))
    await until(lambda: running.link.waiting)
    [publication] = running.link.published
    assert (publication.topic, publication.payload, publication.retain) == (message.topic, b"", True)
    assert not cancelling.done()
    running.link.answer(publication.message_id, 0x00)
    cancelled = await cancelling
    is_withdrawn = message.status is Status.QUEUED
    assert cancelled == running.store.now(message)
    assert cancelled.status is (Status.CANCELLED if is_withdrawn else message.status)
    assert await running.cancellation.cancel(CALLER, message.id) == cancelled, "once more changes nothing"
    assert len(running.link.published) == 1
    [attempt] = await running.messaging.attempts(message.id)
    assert attempt.outcome == "retained_cleared"


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.EXPIRED},
        {"status": Status.REJECTED},
        {"status": Status.PUBLISHING},
        {"retain": False},
        {"micro_op": "", "origin": "m"},
    ],
)
async def test_what_no_broker_retains_is_not_taken_back(bench: Bench, fields: dict[str, Any]) -> None:
    message = at_broker(bench, **fields)
    with pytest.raises(NotCancellable):
        await bench.cancellation.cancel(CALLER, message.id)
    assert bench.stored() == [message]


@pytest.mark.parametrize(
    ("status", "claim"),
    [(Status.PUBLISHED, None), (Status.UNCONFIRMED, None), (Status.PUBLISHING, f"{OTHER}.1")],
)
async def test_what_a_newer_one_replaces_is_not_taken_back(bench: Bench, status: Status, claim: str | None) -> None:
    message, newer = at_broker(bench), at_broker(bench, status=status, claim=claim)
    with pytest.raises(NotCancellable):
        await bench.cancellation.cancel(CALLER, message.id)
    assert bench.stored() == [message, newer]


async def test_a_clearing_that_a_newer_one_overtakes_ends(bench: Bench) -> None:
    message = at_broker(bench)
    newer = at_broker(bench, status=Status.QUEUED, attempts=0)
    cancelling = asyncio.create_task(bench.cancellation.cancel(CALLER, message.id))
    await until(lambda: len(bench.stored()) == 3)
    run = asyncio.create_task(bench.dispatcher.run())
    await until(lambda: bench.link.waiting)
    assert bench.link.ids == [newer.id]
    bench.link.answer(newer.id, 0x00)
    with pytest.raises(NotCancellable):
        await asyncio.wait_for(cancelling, 60)
    assert (bench.stored()[2].status, bench.stored()[2].reason) == (Status.CANCELLED, "superseded")
    run.cancel()


async def test_a_clearing_waits_for_the_broker_and_its_caller_does_not(bench: Bench) -> None:
    bench.link.up = False
    message = at_broker(bench)
    empty = await bench.cancellation.cancel(CALLER, message.id)
    assert (empty.origin, empty.status, empty.clears) == (message.id, Status.QUEUED, True)
    assert await bench.cancellation.cancel(CALLER, message.id) == empty, "it is on its way already"
    with pytest.raises(NotRepeatable):
        await resend(bench, empty.id)
    assert (await bench.cancellation.cancel(CALLER, empty.id)).status is Status.CANCELLED
    another = await bench.cancellation.cancel(CALLER, message.id)
    assert (another.id != empty.id, another.clears) == (True, True)


async def test_a_clearing_that_the_broker_refuses_is_no_success(running: Bench) -> None:
    message = at_broker(running)
    running.link.answers.append(NOT_AUTHORIZED)
    with pytest.raises(BrokerRefused):
        await running.cancellation.cancel(CALLER, message.id)
    assert running.store.now(message) == message


async def test_a_message_on_its_way_is_not_cancelled(bench: Bench) -> None:
    row = bench.store.put(new_message())
    with pytest.raises(NotCancellable) as raised:
        await bench.cancellation.cancel(CALLER, row.id)
    assert (raised.value.id, raised.value.status) == (row.id, "publishing")


async def test_a_message_that_is_not_there_is_neither_found_nor_cancelled_nor_sent_again(bench: Bench) -> None:
    for asked in (
        bench.messaging.find(CALLER, "m"),
        bench.cancellation.cancel(CALLER, "m"),
        resend(bench, "m"),
    ):
        with pytest.raises(MessageNotFound):
            await asked


@pytest.mark.parametrize("due", [None, EPOCH - 5000])
async def test_a_message_sent_again_is_a_new_one_that_names_its_origin(bench: Bench, due: int | None) -> None:
    first = bench.store.put(
        new_message(
            "B",
            Status.PUBLISHED,
            created_at=EPOCH - 9000,
            deliver_at=due,
            expires_at=(due or EPOCH - 9000) + 1500,
            params="{}",
            qos=2,
            retain=True,
        )
    )
    again = await resend(bench, first.id)
    assert (again.origin, again.deliver_at, again.expires_at) == (first.id, None, EPOCH + 1500)
    assert again.id != first.id
    same = ("imei", "micro_op", "params", "qos", "retain", "at_most_once", "topic")
    assert [getattr(again, name) for name in same] == [getattr(first, name) for name in same]


async def test_readiness_names_what_is_missing(bench: Bench) -> None:
    assert await bench.monitor.readiness() == (None, None, 0, "elsewhere")
    bench.link.up = False
    bench.store.readers.failing = True
    database, broker, *_ = await bench.monitor.readiness()
    assert isinstance(database, StoreUnavailable)
    assert str(broker) == "The broker has not answered yet."


async def test_a_broker_that_leaves_messages_unanswered_is_not_ready(bench: Bench) -> None:
    bench.link.unanswered = BrokerUnanswered("mqtt://fake", 12.0)
    broker = (await bench.monitor.readiness()).broker
    assert str(broker) == "mqtt://fake is alive, and has not answered a message for 12 s."


async def test_what_the_link_has_not_sent_is_cancelled(bench: Bench) -> None:
    sending = bench.in_flight()
    await until(lambda: bench.link.waiting)
    (id_,) = bench.link.waiting
    cancelled = await bench.cancellation.cancel(CALLER, id_)
    assert (cancelled.status, cancelled.attempts) == (Status.CANCELLED, 0)
    with pytest.raises(MessageCancelled):
        await sending


async def test_a_gateway_that_stops_answers_who_waits(bench: Bench) -> None:
    sending = bench.in_flight()
    await until(lambda: bench.link.waiting)
    bench.waiters.release_all()
    sent = await sending
    assert isinstance(sent, Message)
    assert sent.status is Status.PUBLISHING


def reaching(*, devices: str = "*", operations: str = "*") -> Caller:
    """Somebody who reaches these devices and operations only."""
    reach = Reach((devices,), (operations,))
    return Caller(Principal("key:some", "some", EVERY_SCOPE, reach), "192.0.2.7")


@pytest.mark.parametrize("caller", [reaching(devices="B"), reaching(operations="open")])
async def test_what_is_out_of_reach_is_neither_sent_nor_withdrawn_nor_sent_again_nor_seen(
    bench: Bench, caller: Caller
) -> None:
    with pytest.raises(OutOfReach) as raised:
        await bench.messaging.send(caller, LATER)
    assert (raised.value.imei, raised.value.micro_op) == ("A", "push_down")
    assert bench.stored() == []
    sent = await bench.send(LATER)
    for asked in (
        bench.cancellation.cancel(caller, sent.id),
        resend(bench, sent.id, caller),
        bench.messaging.find(caller, sent.id),
    ):
        with pytest.raises(MessageNotFound):
            await asked
    assert bench.stored() == [sent]


async def test_whatever_waits_of_what_somebody_sent_is_withdrawn_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation_module, "CANCELLED_AT_ONCE", 2)
    sender = reaching(devices="*")
    sent = [await bench.messaging.send(sender, LATER._replace(imei=f"D{number}")) for number in range(5)]
    of_others = await bench.send(LATER)
    assert await bench.cancellation.cancel_all_of(CALLER, "key:some") == 5
    for message in sent:
        assert isinstance(message, Message)
        assert bench.store.now(message).status is Status.CANCELLED
    assert bench.store.now(of_others).status is Status.QUEUED
    assert {entry[-1] for entry in bench.store.asked("cancel")} == {"key revoked"}
    assert await bench.cancellation.cancel_all_of(CALLER, "key:some") == 0


async def test_what_alone_cannot_be_saved_is_not_saved(bench: Bench) -> None:
    not_saved = NotSaved("a test says so.")
    sent = await bench.messaging.send(reaching(devices="*"), LATER)
    bench.store.commits.alone |= {"add", "cancel"}
    bench.store.commits.failing |= {"add": not_saved, "cancel": not_saved}
    with pytest.raises(NotSaved):
        await bench.send(LATER)
    with pytest.raises(NotSaved):
        await bench.cancellation.cancel(CALLER, sent.id)
    with pytest.raises(NotSaved):
        await bench.cancellation.cancel_all_of(CALLER, "key:some")


async def test_what_is_within_reach_is_sent_seen_and_withdrawn(bench: Bench) -> None:
    caller = reaching(devices="A*", operations="push_*")
    sent = await bench.messaging.send(caller, LATER)
    assert isinstance(sent, Message)
    assert await bench.messaging.find(caller, sent.id) == sent
    assert (await resend(bench, sent.id, caller)).origin == sent.id
    assert (await bench.cancellation.cancel(caller, sent.id)).status is Status.CANCELLED
    (entry,) = bench.store.asked("cancel")
    assert entry == (EPOCH, "key:some", "some", "192.0.2.7", "message_cancelled", sent.id, "A", "push_down", None)


async def test_every_list_is_narrowed_to_what_the_caller_reaches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def recorder(name: str) -> Any:
        async def record(filters: Any, *arguments: Any, **options: Any) -> str:
            asked[name] = (filters.reach, arguments, options)
            return name

        return record

    for name in ("page", "summary", "failures", "oldest"):
        monkeypatch.setattr(bench.store.reports, name, recorder(name))
    monkeypatch.setattr(bench.store.trail, "page", recorder("audit"))
    monkeypatch.setattr(bench.store.reports, "pages", lambda filters: asked.update(pages=(filters.reach, (), {})))
    caller = reaching(devices="B")
    reporting = Reporting(bench.store.reports)
    reporting.report(caller, Filters())
    for answer in (
        reporting.page(caller, Filters(), after=Position(6, "m"), limit=7),
        reporting.summary(caller, Filters(), "day"),
        reporting.failures(caller, 5),
        reporting.oldest(caller, Filters()),
        AuditTrail(bench.store.trail).page(caller, AuditFilters(), before=9, limit=8),
    ):
        assert await answer
    within = Reach(("B",))
    assert asked == {
        "pages": (within, (), {}),
        "page": (within, (), {"after": Position(6, "m"), "limit": 7}),
        "summary": (within, ("day",), {}),
        "failures": (within, (), {}),
        "oldest": (within, (), {}),
        "audit": (within, (), {"before": 9, "limit": 8}),
    }


async def test_the_attempts_of_a_message_are_told(bench: Bench) -> None:
    bench.link.answers.append(NOT_AUTHORIZED)
    with pytest.raises(BrokerRefused):
        await bench.send()
    (row,) = bench.stored()
    assert [attempt.outcome for attempt in await bench.messaging.attempts(row.id)] == ["not_authorized"]


async def test_no_message_has_an_id_that_a_database_cannot_hold(bench: Bench) -> None:
    bench.store.readers.failing = True
    with pytest.raises(MessageNotFound):
        await bench.messaging.find(CALLER, "m\0")


async def test_a_message_that_is_forgotten_while_it_is_withdrawn_is_not_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await bench.send(LATER)

    async def forgotten(*_: object) -> list[None]:
        return [None]

    monkeypatch.setattr(bench.store.messages, "cancel", forgotten)
    with pytest.raises(MessageNotFound):
        await bench.cancellation.cancel(CALLER, sent.id)


@pytest.mark.parametrize(("status", "body"), [(202, "first"), (201, "{}")])
async def test_an_answer_that_another_process_gave_first_is_the_one_to_give(
    bench: Bench, status: int, body: str
) -> None:
    message = key_of_another(bench)
    asking = asyncio.create_task(bench.once())
    await until(lambda: bench.store.asked("answer"))
    first = KeptAnswer(key_for(message), status, body)
    bench.store.database.commit([("answer", ANSWER.crossing([first]))])
    assert await asking == Replay(message.id, status, body)


async def test_a_key_that_was_withdrawn_before_it_was_answered_is_in_flight(bench: Bench) -> None:
    asking = asyncio.create_task(bench.once(LATER))
    await until(lambda: bench.store.asked("answer"))
    bench.store.database.driver.execute("DELETE FROM idempotency_keys")
    with pytest.raises(KeyInFlight):
        await asking


@pytest.mark.parametrize(("days", "before"), [(1.5, EPOCH - 129_600_000), (None, 0)])
async def test_what_is_old_enough_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, days: float | None, before: int
) -> None:
    bench = Bench()
    asked: list[tuple[int, int]] = []

    async def pruned(before: int, at: int) -> AsyncIterator[int]:
        asked.append((before, at))
        yield 3

    monkeypatch.setattr(bench.store.retention, "prune", pruned)
    await for_a_moment(Forgetting(bench.store.retention, bench.store.log, bench.clock, days, events_days=2).run())
    assert asked == [(before, EPOCH)]
    assert bench.store.asked("forget_changes") == [EPOCH - 2 * 86_400_000]


async def test_what_is_pruned_by_hand_is_in_the_trail(bench: Bench) -> None:
    old = {"claim": None, "created_at": EPOCH - 2 * 86_400_000}
    bench.store.put(new_message("old", Status.PUBLISHED, **old))
    bench.store.put(new_message("waiting", Status.QUEUED, **old))
    shown: list[int] = []
    assert await prune(bench.store, bench.clock, 1.5, shown.append) == 1
    assert shown == [1]
    page = await AuditTrail(bench.store.trail).page(CALLER, AuditFilters(), before=None, limit=9)
    assert [entry.detail for _, entry in page.entries] == [
        "accepted longer ago than 1.5 days: 1 removed",
        "accepted longer ago than 1.5 days: begun",
    ]


async def test_a_clock_that_was_stepped_is_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drift = 0
    monkeypatch.setattr(bench.clock, "drift", lambda: drift)
    with capture_logs() as logged:
        for drift in (1000, 1001, 1500, -1):  # noqa: B007 - the clock reads it
            bench.monitor.exposition()
    assert [(entry["event"], entry["by_ms"]) for entry in logged] == [
        ("system_clock_stepped", 1001),
        ("system_clock_stepped", -1),
    ]


async def test_the_measurements_say_how_it_stands(bench: Bench) -> None:
    bench.store.put(new_message("A", Status.QUEUED, claim=None, attempts=0, created_at=EPOCH - 5000))
    await bench.counted()
    bench.link.up, bench.link.in_flight, bench.link.window, bench.link.reconnects = False, 3, 19, 2
    bench.link.strays = Counter(PUBACK=2)
    bench.monitor.exposition()
    bench.link.strays = Counter(PUBACK=3, PUBLISH=1)
    told = bench.monitor.exposition().decode()
    for line in (
        'chapar_queue_messages{status="queued"} 1.0',
        'chapar_queue_messages{status="scheduled"} 0.0',
        "chapar_queue_oldest_seconds 5.0",
        "chapar_link_up 0.0",
        "chapar_link_in_flight 3.0",
        "chapar_link_window 19.0",
        "chapar_link_reconnects_total 2.0",
        'chapar_link_stray_packets_total{packet="PUBACK"} 3.0',
        'chapar_link_stray_packets_total{packet="PUBLISH"} 1.0',
    ):
        assert line in told, told


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_full_queue_is_counted_again_unless_it_just_was(
    monkeypatch: pytest.MonkeyPatch, *, fresh: bool
) -> None:
    monkeypatch.setattr(capacity_module, "FRESH", float("inf") if fresh else 0.0)
    bench = Bench(max_queue=1)
    only = bench.store.put(new_message("Z", Status.QUEUED, claim=None, created_at=EPOCH))
    await bench.counted()
    bench.store.put(only._replace(status=Status.CANCELLED))
    if fresh:
        with pytest.raises(QueueFull) as raised:
            await bench.send(LATER)
        assert raised.value.oldest == only.id
    else:
        assert (await bench.send(LATER)).status is Status.QUEUED


def sent_of(given: Given | Replay | ChaparError) -> Message:
    """The message of an answer that is no replay."""
    assert isinstance(given, Given)
    assert isinstance(given.sent, Message)
    return given.sent


def key_of_another(bench: Bench, status: Status = Status.QUEUED, **fields: Any) -> Message:
    """A message that another process made, with the key, which it has not answered."""
    message = new_message(status=status, claim=None, created_at=EPOCH, **fields)
    bench.store.database.commit([("add", [packed_addition(Addition(message, key=key_for(message)))])])
    return message


def key_for(message: Message) -> IdempotencyKey:
    return IdempotencyKey(*USE, message.id, OTHER, None, None, EPOCH + KEY_KEPT)


async def test_what_is_for_a_contact_waits_for_one_whoever_is_there(bench: Bench) -> None:
    bench.link.up = False
    sent = await bench.send(ASKED._replace(condition=Condition.CONTACT, patience=0.01))
    assert (sent.status, sent.reason, sent.attempts) == (Status.QUEUED, "waiting_for_contact", 0)


@pytest.mark.parametrize("wait", [Wait.BROKER, Wait.NONE])
async def test_what_is_for_a_device_that_is_online_never_waits(bench: Bench, wait: Wait) -> None:
    online = ASKED._replace(condition=Condition.ONLINE, wait=wait)
    with pytest.raises(PresenceUnknown):
        await bench.send(online)
    bench.link.up = False
    with pytest.raises(BrokerUnreachable):
        await bench.send(online)
    (unknown, unreachable) = bench.stored()
    assert (unknown.status, unknown.reason, unknown.attempts) == (Status.REJECTED, "presence_unknown", 0)
    assert unreachable.expires_at == EPOCH + 15_000, "no broker keeps it longer"


async def test_who_waits_for_what_is_superseded_is_answered(bench: Bench) -> None:
    keyed = ASKED._replace(condition=Condition.CONTACT, collapse_key="valve")
    first = bench.in_flight(keyed)
    await until(bench.stored)
    second = bench.in_flight(keyed)
    with pytest.raises(MessageSuperseded):
        await first
    await bench.messaging.send(CALLER, keyed._replace(wait=Wait.NONE, purge=True))
    with pytest.raises(MessageSuperseded):
        await second
