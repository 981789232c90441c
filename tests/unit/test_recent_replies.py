"""Replies in each of the last minutes."""

from chapar.delivery.recent_replies import KEPT, MINUTE, RecentReplies, ReplyCounts
from chapar.model.change import Change
from chapar.model.message import Status
from chapar.model.principal import Caller, Reach
from support.callers import CALLER
from support.fakes import EPOCH, FakeClock

START = EPOCH - EPOCH % MINUTE


def change(before: Status | None, after: Status, *, foreign: bool = False) -> Change:
    return Change("m", "A", before, after, None, EPOCH, None, foreign)


def test_replies_that_bring_a_message_on_are_counted_by_the_minute_whoever_commits_them() -> None:
    replies = RecentReplies(clock := FakeClock())
    replies.received([change(None, Status.QUEUED), change(Status.PUBLISHING, Status.PUBLISHED)])
    replies.received([change(Status.PUBLISHED, Status.ACKNOWLEDGED), change(Status.ACKNOWLEDGED, Status.ACKNOWLEDGED)])
    replies.received([change(Status.ACKNOWLEDGED, Status.SUCCEEDED), change(Status.SUCCEEDED, Status.SUCCEEDED)])
    replies.received([change(Status.TIMED_OUT, Status.FAILED, foreign=True), change(None, Status.TIMED_OUT)])
    clock.at += MINUTE
    replies.received([change(Status.PUBLISHED, Status.SUCCEEDED)])
    assert replies.counts(CALLER) == ReplyCounts(EPOCH, {START: 3, START + MINUTE: 1})


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    replies = RecentReplies(clock := FakeClock())
    for minutes in (0, 1, KEPT + 1):
        clock.at = EPOCH + minutes * MINUTE
        replies.received([change(Status.PUBLISHED, Status.SUCCEEDED)])
    counted = replies.counts(CALLER)
    assert counted is not None
    assert counted.counts == {START + MINUTE: 1, START + (KEPT + 1) * MINUTE: 1}


def test_counting_begins_anew_where_something_may_have_been_missed() -> None:
    replies = RecentReplies(clock := FakeClock())
    replies.received([change(Status.PUBLISHED, Status.SUCCEEDED)])
    clock.at += 5
    replies.begin()
    assert replies.counts(CALLER) == ReplyCounts(EPOCH + 5, {})


def test_who_does_not_reach_everything_gets_no_counts_of_all() -> None:
    narrow = CALLER.principal._replace(reach=Reach(devices=("farm1-*",)))
    assert RecentReplies(FakeClock()).counts(Caller(narrow, "127.0.0.1")) is None
