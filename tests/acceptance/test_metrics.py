"""What `/metrics` says is what was sent: every name, every label, every count."""

import time
from collections.abc import Iterator

import pytest

from support.measures import Measures, measures
from support.site import Site, until, written

FAMILIES = {
    "chapar_stage_seconds": "histogram",
    "chapar_commit_batch_operations": "histogram",
    "chapar_writer_deaths": "counter",
    "chapar_log_lines_lost": "counter",
    "chapar_messages_accepted": "counter",
    "chapar_messages_finished": "counter",
    "chapar_link_reconnects": "counter",
    "chapar_link_stray_packets": "counter",
    "chapar_loop_failures": "counter",
    "chapar_key_set_failures": "counter",
    "chapar_link_unanswered": "counter",
    "chapar_requests_turned_away": "counter",
    "chapar_queue_messages": "gauge",
    "chapar_queue_held_messages": "gauge",
    "chapar_queue_oldest_seconds": "gauge",
    "chapar_devices_paused": "gauge",
    "chapar_database_up": "gauge",
    "chapar_link_up": "gauge",
    "chapar_link_in_flight": "gauge",
    "chapar_link_window": "gauge",
    "chapar_replies_matched": "counter",
    "chapar_replies_unmatched": "counter",
    "chapar_replies_ignored": "counter",
    "chapar_deliveries_received": "counter",
    "chapar_deliveries_undecodable": "counter",
    "chapar_reply_sessions_lost": "counter",
    "chapar_receiver_links_up": "gauge",
    "chapar_receiver_links_mute": "gauge",
    "chapar_event_listeners": "gauge",
    "chapar_event_listeners_cut": "counter",
}
ACCEPTED = "chapar_messages_accepted_total"
FINISHED = "chapar_messages_finished_total"
QUEUE = "chapar_queue_messages"
RECONNECTS = "chapar_link_reconnects_total"
STAGES = "chapar_stage_seconds_count"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


@pytest.fixture
def before(site: Site) -> Measures:
    return measures(site.api)


def increase(before: Measures, after: Measures, name: str) -> dict[tuple[str, ...], float]:
    """By how much each counter of this name grew, where it did."""
    old, new = before.labelled(name), after.labelled(name)
    return {labels: value - old.get(labels, 0) for labels, value in new.items() if value != old.get(labels)}


def test_every_family_has_its_type_and_says_what_it_is(site: Site, imei: str) -> None:
    assert site.send(imei).status_code == 201
    families = measures(site.api).families
    # The library adds to each when it was created.
    assert {name: family.type for name, family in families.items() if not name.endswith("_created")} == FAMILIES
    assert all(families[name].documentation.endswith(".") for name in FAMILIES)


def test_what_was_acknowledged_is_counted_once_at_every_stage(site: Site, imei: str, before: Measures) -> None:
    for _ in range(5):
        assert site.send(imei).status_code == 201
    after = measures(site.api)
    assert increase(before, after, ACCEPTED) == {("publishing",): 5}
    assert increase(before, after, FINISHED) == {("", "published"): 5}
    assert increase(before, after, STAGES) == {("commit",): 5, ("publish",): 5, ("whole",): 5}
    for stage in ("commit", "publish", "whole"):
        assert after.value("chapar_stage_seconds_bucket", stage=stage, le="+Inf") == after.value(STAGES, stage=stage)
    for part in ("commit", "publish"):
        assert 0 < took(before, after, part) <= took(before, after, "whole")


def took(before: Measures, after: Measures, stage: str) -> float:
    name = "chapar_stage_seconds_sum"
    return after.value(name, stage=stage) - before.value(name, stage=stage)


def test_what_was_queued_is_counted_where_it_began_and_where_it_ended(site: Site, imei: str, before: Measures) -> None:
    ids = [site.accepted(imei) for _ in range(3)]
    ids.append(site.accepted(imei, deliver_at=written(time.time() + 0.1)))
    for message_id in ids:
        site.message_in(message_id, "published")
    after = measures(site.api)
    assert increase(before, after, ACCEPTED) == {("queued",): 3, ("scheduled",): 1}
    assert increase(before, after, FINISHED) == {("", "published"): 4}


def test_what_shares_a_commit_is_counted_as_one_batch(site: Site, imei: str, before: Measures) -> None:
    items = [{"imei": imei, "micro_op": "push_down"}] * 100
    assert site.api.post("/messaging/bulk", json={"messages": items}).json()["summary"] == {"201": 100}
    after = measures(site.api)
    name = "chapar_commit_batch_operations"
    batches, committed = [after.value(f"{name}_{part}") - before.value(f"{name}_{part}") for part in ("count", "sum")]
    assert committed >= 200, "each message was added, and moved"
    assert 2 <= batches <= committed / 4


def test_what_was_refused_stored_nothing_and_is_not_counted(site: Site, imei: str, before: Measures) -> None:
    assert site.send(imei, "").status_code == 422
    assert site.send(f"{imei}/#").status_code == 422
    after = measures(site.api)
    assert increase(before, after, ACCEPTED) == {}
    assert increase(before, after, FINISHED) == {}


def test_devices_are_counted_while_their_queue_is_paused(site: Site, imei: str) -> None:
    assert measures(site.api).value("chapar_devices_paused") == 0
    assert site.api.post(f"/devices/{imei}/queue/pause").status_code == 200
    until(lambda: measures(site.api).value("chapar_devices_paused") == 1)
    assert site.api.post(f"/devices/{imei}/queue/resume").status_code == 200
    until(lambda: measures(site.api).value("chapar_devices_paused") == 0)


def test_a_repetition_is_counted_once(site: Site, imei: str, before: Measures) -> None:
    assert [site.send(imei, headers={"Idempotency-Key": imei}).status_code for _ in range(3)] == [201] * 3
    after = measures(site.api)
    assert increase(before, after, ACCEPTED) == {("publishing",): 1}
    assert increase(before, after, FINISHED) == {("", "published"): 1}


def test_what_nobody_confirms_and_what_expires_ends_with_its_reason(site: Site, imei: str, before: Measures) -> None:
    assert site.send(imei, qos=0).status_code == 202
    with site.parted():
        site.message_in(site.accepted(imei, expires_in=0.05), "expired")
    until(lambda: increase(before, measures(site.api), FINISHED) == {("qos_0", "unconfirmed"): 1, ("expired",) * 2: 1})


def test_what_was_rejected_for_want_of_a_broker_ends_with_its_reason(site: Site, imei: str, before: Measures) -> None:
    with site.parted():
        assert site.send(imei).status_code == 406
    after = measures(site.api)
    assert increase(before, after, ACCEPTED) == {("rejected",): 1}
    assert increase(before, after, FINISHED) == {("broker_unreachable", "rejected"): 1}


def test_what_was_cancelled_ends_with_its_reason(site: Site, imei: str, before: Measures) -> None:
    message_id = site.accepted(imei, deliver_at=written(time.time() + 3600))
    for _ in range(2):
        assert site.cancel(message_id).status_code == 200
    assert increase(before, measures(site.api), FINISHED) == {("cancelled", "cancelled"): 1}


def test_the_queue_is_shown_by_status_with_the_age_of_what_is_in_front(site: Site, imei: str) -> None:
    until(lambda: not measures(site.api).labelled(QUEUE))
    assert measures(site.api).value("chapar_queue_oldest_seconds") == 0
    began = time.monotonic()
    with site.parted():
        ids = [site.accepted(imei) for _ in range(3)]
        later = site.accepted(imei, deliver_at=written(time.time() + 3600))
        counts = {("queued",): 3, ("scheduled",): 1}
        shown = until(lambda: now if (now := measures(site.api)).labelled(QUEUE) == counts else None)
        assert 0 < shown.value("chapar_queue_oldest_seconds") <= time.monotonic() - began
        older = until(lambda: now if (now := measures(site.api)).value("chapar_queue_oldest_seconds") > 0.5 else None)
        assert older.value("chapar_queue_oldest_seconds") <= time.monotonic() - began
    for message_id in ids:
        site.message_in(message_id, "published")
    site.cancel(later)
    until(lambda: not measures(site.api).labelled(QUEUE))
    assert measures(site.api).value("chapar_queue_oldest_seconds") == 0


def test_the_link_is_shown_as_it_is(site: Site, imei: str) -> None:
    up = measures(site.api)
    assert (up.value("chapar_link_up"), up.value("chapar_link_in_flight")) == (1, 0)
    assert up.value("chapar_link_window") == 20, "what Mosquitto announces as Receive Maximum"
    with site.silent_broker():
        site.message_in(site.accepted(imei), "publishing")
        until(lambda: measures(site.api).value("chapar_link_in_flight") == 1)
    until(lambda: measures(site.api).value("chapar_link_in_flight") == 0)
    with site.parted():
        down = measures(site.api)
        assert (down.value("chapar_link_up"), down.value("chapar_link_window")) == (0, 0)
    again = measures(site.api)
    assert again.value("chapar_link_up") == 1
    assert again.value(RECONNECTS) == up.value(RECONNECTS) + 1


def test_no_label_grows_with_what_callers_send(site: Site) -> None:
    def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
        families = measures(site.api).families.values()
        return {(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples}

    def calls(number: int) -> None:
        imei = site.new_imei()
        assert site.send(imei, f"operation-{number}", headers={"Idempotency-Key": imei}).status_code == 201
        assert site.send(imei, f"operation-{number}", qos=7).status_code == 422
        site.api.get(f"/messaging/messages/{imei}")

    calls(0)
    known = series()
    for number in range(1, 20):
        calls(number)
    assert series() == known
