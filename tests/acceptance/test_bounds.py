"""Past a bound of the queue: a clear 429 that names the bound and what is in front, and nothing stored."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.api import problem_of
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess
from support.site import Site, operations, until, written

PER_DEVICE = 3
IN_ALL = 12


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway that keeps little for one device."""
    with Site(tmp_path_factory.mktemp("site"), max_device_queue=PER_DEVICE) as site:
        yield site


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway that keeps little in all."""
    with Site(tmp_path_factory.mktemp("site"), max_queue=IN_ALL) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def refusal(answer: httpx.Response) -> str:
    """The sentence of a 429, which says when to come back in its header and in itself."""
    problem = problem_of(answer)
    assert (answer.status_code, problem["code"], problem["detail"]) == (429, "queue_full", problem["reason"])
    assert int(answer.headers["retry-after"]) > 0
    assert f"{answer.headers['retry-after']} s" in problem["reason"]
    reason: str = problem["reason"]
    return reason


def test_a_device_with_a_full_queue_is_refused_by_name_and_others_are_not(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        with site.parted():
            ids = [site.accepted(imei, f"step-{number}") for number in range(PER_DEVICE)]
            for _ in range(2):
                reason = refusal(site.send(imei, "too-much", wait="none"))
                assert f"CHAPAR_MAX_DEVICE_QUEUE allows {PER_DEVICE} " in reason
                assert ids[0] in reason
            scheduled = site.send(imei, "too-much", deliver_at=written(time.time() + 60))
            assert ids[0] in refusal(scheduled)
            site.accepted(site.new_imei())
            assert [row["id"] for row in site.messages_of(imei)] == ids
        device.wait_for(PER_DEVICE)
        site.settled(imei)
        site.accepted(imei, "afterwards")
        assert operations(device.wait_for(PER_DEVICE + 1))[-1] == "afterwards"


def test_room_is_made_by_cancelling_the_message_that_is_named(site: Site, imei: str) -> None:
    with site.parted():
        ids = [site.accepted(imei) for _ in range(PER_DEVICE)]
        assert ids[0] in refusal(site.send(imei, wait="none"))
        assert site.cancel(ids[0]).status_code == 200
        site.accepted(imei)
        assert ids[1] in refusal(site.send(imei, wait="none"))


def test_what_waits_behind_a_full_queue_is_refused_too_and_what_is_recorded_is_not(site: Site, imei: str) -> None:
    with site.parted():
        for _ in range(PER_DEVICE):
            site.accepted(imei)
        assert site.send(imei).status_code == 406, "it is recorded, and is in nobody's way"


def test_what_is_on_its_way_to_the_broker_counts_too(site: Site, imei: str) -> None:
    with ThreadPoolExecutor(2 * PER_DEVICE) as callers, site.silent_broker():
        calls = [callers.submit(site.send, imei, timeout=0.5) for _ in range(2 * PER_DEVICE)]
        answers = [call.result() for call in calls]
        assert sorted(answer.status_code for answer in answers) == [202] * PER_DEVICE + [429] * PER_DEVICE
        [oldest, *_] = [row["id"] for row in site.messages_of(imei)]
        assert all(oldest in refusal(answer) for answer in answers if answer.status_code == 429)
        assert site.send(site.new_imei(), timeout=0.1).status_code == 202
    site.settled(imei)
    assert site.send(imei).status_code == 201


def test_the_language_of_a_refusal_is_the_caller_s(site: Site, imei: str) -> None:
    with site.parted():
        for _ in range(PER_DEVICE):
            site.accepted(imei)
        answer = site.send(imei, wait="none", headers={"Accept-Language": "fa"})
    assert (answer.status_code, answer.headers["content-language"]) == (429, "fa")
    assert "صف پر است" in problem_of(answer)["reason"]


def test_a_key_whose_call_was_refused_for_want_of_room_is_still_unused(site: Site, imei: str) -> None:
    headers = {"Idempotency-Key": imei}
    with site.parted():
        for _ in range(PER_DEVICE):
            site.accepted(imei)
        refusal(site.send(imei, "with-key", wait="none", headers=headers))
    site.settled(imei)
    sent = site.send(imei, "with-key", wait="none", headers=headers)
    assert (sent.status_code, "idempotency-replayed" in sent.headers) == (202, False)
    assert [row["micro_op"] for row in site.messages_of(imei)].count("with-key") == 1


def test_one_bulk_call_does_not_pass_the_bound_of_a_device(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        with site.parted():
            told = bulk(site, [imei] * (2 * PER_DEVICE))
        heard = device.wait_for(PER_DEVICE)
        assert site.send(imei, "afterwards").status_code == 201
        assert len(device.wait_for(PER_DEVICE + 1)) == PER_DEVICE + 1
    assert [item["status"] for item in told] == [202] * PER_DEVICE + [429] * PER_DEVICE
    assert {item["body"]["code"] for item in told[PER_DEVICE:]} == {"queue_full"}
    assert operations(heard) == [f"step-{number}" for number in range(PER_DEVICE)]


def test_a_refusal_in_a_bulk_call_names_the_message_in_front(site: Site, imei: str) -> None:
    with site.parted():
        told = bulk(site, [imei] * (PER_DEVICE + 1))
    assert told[0]["body"]["id"] in told[-1]["body"]["reason"]


def test_past_the_bound_of_the_whole_queue_every_device_is_refused_until_it_drains(small_site: Site) -> None:
    site, imei = small_site, small_site.new_imei()
    with site.parted():
        ids = [site.accepted(site.new_imei()) for _ in range(IN_ALL)]
        reason = refusal(site.send(imei, wait="none"))
        assert f"CHAPAR_MAX_QUEUE allows {IN_ALL} " in reason
        assert ids[0] in reason
        assert site.messages_of(imei) == []
    for message_id in ids:
        site.message_in(message_id, "published")
    # A count may be a moment old when it refuses a message.
    sent = until(lambda: answer if (answer := site.send(imei, wait="none")).status_code == 202 else None)
    site.message_in(sent.json()["id"], "published")


def test_many_calls_a_second_that_do_not_wait_are_no_full_queue(small_site: Site) -> None:
    for _ in range(5 * IN_ALL):
        message_id = small_site.accepted(small_site.new_imei())
        small_site.message_in(message_id, "published")


def test_one_bulk_call_does_not_pass_the_bound_of_the_whole_queue(small_site: Site) -> None:
    with small_site.parted():
        told = bulk(small_site, [small_site.new_imei() for _ in range(3 * IN_ALL)])
    statuses = [item["status"] for item in told]
    # Counted twice while a count ran, a message may be refused too early: a later one may then find room again.
    assert 0 < statuses.count(202) <= IN_ALL
    assert statuses.count(202) + statuses.count(429) == len(statuses)


def bulk(site: Site, imeis: list[str]) -> list[dict[str, Any]]:
    """Send a numbered step to each of these in one call that does not wait; gives the answers."""
    messages = [{"imei": imei, "micro_op": f"step-{number}"} for number, imei in enumerate(imeis)]
    answer = site.api.post("/messaging/bulk", json={"messages": messages}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 200
    told: list[dict[str, Any]] = answer.json()["answers"]
    return told


LARGEST_PACKET = 262_144  # bytes of a PUBLISH behind its fixed header that the built-in broker takes


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_the_built_in_broker_cannot_take_is_refused_before_it_is_sent(
    start_gateway: Callable[..., GatewayProcess], qos: int
) -> None:
    broker = BuiltinBroker()
    gateway = start_gateway(broker.settings_env | {"CHAPAR_MAX_BODY_BYTES": "1048576"})
    head = len("\0\0devices/8612") + (2 if qos else 0) + 1  # topic, packet id, no properties
    envelope = len(f'{{"id":"{uuid.uuid4()}","micro_op":"fill","params":{{"x":""}}}}')
    fits = LARGEST_PACKET - head - envelope
    messages = [
        {"imei": "8612", "micro_op": "fill", "params": {"x": "y" * length}, "qos": qos}
        for length in (fits, fits + 1, fits + 500_000)
    ]
    taken = 202 if qos == 0 else 201
    with broker.device("8612") as device, httpx.Client(base_url=gateway.url, timeout=30.0) as api:
        for message, status in zip(messages, (taken, 406, 406), strict=True):
            answer = api.post("/messaging/send", json=message)
            assert answer.status_code == status, answer.text
            if status == 406:
                assert answer.json()["code"] == "broker_refused"
                assert "0x95" in answer.json()["reason"]
                assert api.get(f"/messaging/messages/{answer.json()['id']}").json()["attempts"] == 0
        told = api.post("/messaging/bulk", json={"messages": [*messages, messages[0]]}).json()["answers"]
        assert [item["status"] for item in told] == [taken, 406, 406, taken]
        heard = device.wait_for(3)
    assert {len(each.payload) for each in heard} == {fits + envelope}
    assert not any("broker_link_down" in line for line in gateway.lines)
