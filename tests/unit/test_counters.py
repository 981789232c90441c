"""What is counted of what has changed."""

from chapar.delivery.counters import Counters
from chapar.model.change import Change
from chapar.model.message import Message, Status
from chapar.runtime.metrics import Metrics
from support.fakes import EPOCH
from support.stores import new_message


def change(before: Status | None, after: Status, reason: str | None = None, message: Message | None = None) -> Change:
    return Change("m", "A", before, after, reason, EPOCH, message)


def counted(*changes: Change) -> dict[str, float]:
    metrics = Metrics()
    Counters(metrics).received(changes)
    lines = metrics.exposition().decode().splitlines()
    counts = [line.rpartition(" ")[::2] for line in lines if line.startswith("chapar_messages_")]
    return {name.removeprefix("chapar_messages_"): float(value) for name, value in counts}


def test_what_is_added_is_counted_by_where_it_begins() -> None:
    added = [change(None, status) for status in (Status.QUEUED, Status.QUEUED, Status.PUBLISHING)]
    assert counted(*added, change(Status.QUEUED, Status.PUBLISHING)) == {
        'accepted_total{status="queued"}': 2,
        'accepted_total{status="publishing"}': 1,
    }


def test_what_ends_is_counted_by_how_and_why() -> None:
    ended = [
        change(Status.PUBLISHING, Status.PUBLISHED),
        change(Status.PUBLISHING, Status.PUBLISHED),
        change(Status.QUEUED, Status.EXPIRED, "expired"),
        change(Status.PUBLISHING, Status.UNCONFIRMED, "process_died"),
    ]
    assert counted(*ended) == {
        'finished_total{reason="",status="published"}': 2,
        'finished_total{reason="expired",status="expired"}': 1,
        'finished_total{reason="process_died",status="unconfirmed"}': 1,
    }


def test_what_is_with_its_device_has_not_ended_while_a_reply_is_awaited() -> None:
    awaited, answered = new_message(finished_at=None), new_message(finished_at=EPOCH)
    steps = [
        change(Status.PUBLISHING, Status.PUBLISHED, message=awaited),
        change(Status.PUBLISHED, Status.ACKNOWLEDGED, message=awaited),
        change(Status.ACKNOWLEDGED, Status.ACKNOWLEDGED, message=awaited),
        change(Status.ACKNOWLEDGED, Status.SUCCEEDED, message=answered),
        change(Status.SUCCEEDED, Status.SUCCEEDED, message=answered),  # the same reply again
    ]
    assert counted(*steps) == {'finished_total{reason="",status="succeeded"}': 1}
    assert counted(change(Status.PUBLISHED, Status.TIMED_OUT, "no_reply")) == {
        'finished_total{reason="no_reply",status="timed_out"}': 1
    }


def test_what_is_recorded_as_rejected_begins_and_ends() -> None:
    assert counted(change(None, Status.REJECTED, "broker_unreachable")) == {
        'accepted_total{status="rejected"}': 1,
        'finished_total{reason="broker_unreachable",status="rejected"}': 1,
    }


def test_what_clears_a_retained_message_was_sent_by_nobody() -> None:
    clearing = new_message(micro_op="", origin="m", retain=True)
    assert counted(change(None, Status.QUEUED, message=clearing)) == {}
    assert counted(change(None, Status.QUEUED, message=new_message())) == {'accepted_total{status="queued"}': 1}


def test_what_another_process_has_committed_is_counted_there() -> None:
    foreign = [
        change(None, Status.QUEUED)._replace(foreign=True),
        change(Status.PUBLISHING, Status.PUBLISHED)._replace(foreign=True),
    ]
    assert counted(*foreign) == {}
