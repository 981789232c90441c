"""Withdraw a message that waits, and send the same operation again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import mqtt5
import pytest

from support.api import Row, client_of, eventually, message_in, problem_of, report, send
from support.fake_broker import FakeBroker
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.promises import hearings
from support.site import Site, operations, seconds_of, written

NOBODY = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"
RACING = 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def resend(site: Site, message_id: str, **query: object) -> httpx.Response:
    return site.api.post(f"/messaging/messages/{message_id}/resend", params={k: str(v) for k, v in query.items()})


def test_a_scheduled_message_that_is_cancelled_is_never_heard(site: Site, imei: str) -> None:
    due = time.time() + 0.4
    with site.device(imei) as device:
        cancelled = site.accepted(imei, "cancelled", deliver_at=written(due))
        site.accepted(imei, "afterwards", deliver_at=written(due + 0.05))
        answer = site.cancel(cancelled)
        assert operations(device.wait_for(1)) == ["afterwards"]
        assert site.send(imei, "last").status_code == 201
        assert operations(device.wait_for(2)) == ["afterwards", "last"]
    row = answer.json()
    assert answer.status_code == 200
    assert (row["id"], row["status"], row["reason"], row["attempts"]) == (cancelled, "cancelled", "cancelled", 0)
    assert row["created_at"] <= row["finished_at"] < row["deliver_at"]
    found = site.message(cancelled)
    assert found.pop("history") == []
    assert found == row


def test_a_queued_message_that_is_cancelled_leaves_a_gap_and_nothing_else(site: Site, imei: str) -> None:
    steps = [f"step-{number}" for number in range(9)]
    with site.device(imei) as device:
        with site.parted():
            ids = [site.accepted(imei, step) for step in steps]
            assert [site.cancel(message_id).json()["status"] for message_id in ids[::3]] == ["cancelled"] * 3
        device.wait_for(6)
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(7)
    assert operations(heard) == [step for step in steps if step not in steps[::3]] + ["afterwards"]


def test_to_cancel_once_more_changes_nothing(site: Site, imei: str) -> None:
    message_id = site.accepted(imei, deliver_at=written(time.time() + 3600))
    first, second = site.cancel(message_id), site.cancel(message_id)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()


def test_what_is_past_waiting_cannot_be_cancelled_and_the_answer_says_where_it_is(site: Site, imei: str) -> None:
    ids = {"published": site.send(imei).json()["id"]}
    with site.parted():
        ids["rejected"] = site.send(imei).json()["id"]
        ids["expired"] = site.accepted(imei, expires_in=0.05)
        site.message_in(ids["expired"], "expired")
    ids["unconfirmed"] = site.send(imei, qos=0).json()["id"]
    with site.silent_broker():
        publishing = site.accepted(imei)
        site.message_in(publishing, "publishing")
        answer = site.cancel(publishing)
        assert (answer.status_code, "publishing" in problem_of(answer)["reason"]) == (409, True)
    site.message_in(publishing, "published")
    for status, message_id in ids.items():
        before = site.message(message_id)
        answer = site.cancel(message_id)
        problem = problem_of(answer)
        assert (answer.status_code, problem["code"]) == (409, "not_cancellable")
        assert message_id in problem["reason"]
        assert status in problem["reason"]
        assert site.message(message_id) == before


@pytest.mark.parametrize("message_id", [NOBODY, "nobody", "%00", "%FF"])
@pytest.mark.parametrize("asked", ["cancel", "resend"])
def test_what_is_not_there_is_neither_cancelled_nor_sent_again(site: Site, asked: str, message_id: str) -> None:
    answer = site.api.post(f"/messaging/messages/{message_id}/{asked}")
    assert (answer.status_code, problem_of(answer)["code"]) == (404, "message_not_found")


def test_an_id_that_no_database_can_hold_is_not_there(
    postgres_url: str, mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess]
) -> None:
    env = {"CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true"}
    gateway = start_gateway(mosquitto.settings_env | env)
    answers = [
        httpx.post(f"{gateway.url}/messaging/messages/%00/{asked}", timeout=30) for asked in ("cancel", "resend")
    ]
    assert [(answer.status_code, problem_of(answer)["code"]) for answer in answers] == [(404, "message_not_found")] * 2


def test_each_message_is_either_cancelled_or_heard_while_the_broker_comes_back(
    site: Site, imei: str, figure: Callable[[str], None]
) -> None:
    answers = {}
    with site.device(imei) as device:
        site.part()
        ids = [site.accepted(imei, f"step-{number}") for number in range(RACING)]
        comes_back = threading.Thread(target=site.rejoin, name="broker")
        for number, message_id in enumerate(reversed(ids)):  # against the direction in which they leave
            if number == RACING // 4:
                comes_back.start()
            answers[message_id] = site.cancel(message_id)
        comes_back.join()
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(lambda heard: heard[-1:] != [] and heard[-1].payload == b"afterwards")
    withdrawn = {id_ for id_, answer in answers.items() if answer.status_code == 200}
    refused = {id_ for id_, answer in answers.items() if answer.status_code == 409}
    figure(f"cancel: of {RACING} while the broker came back, {len(withdrawn)} were withdrawn, {len(refused)} had gone")
    assert withdrawn | refused == set(ids)
    told = hearings(heard)
    assert withdrawn.isdisjoint(told)
    assert refused <= told.keys()
    rows = {row["id"]: row["status"] for row in site.settled(imei)}
    assert {rows[id_] for id_ in withdrawn} == {"cancelled"}
    assert {rows[id_] for id_ in refused} <= {"published"}


async def test_who_waits_for_a_message_is_told_that_it_was_cancelled(
    start_gateway: Callable[..., GatewayProcess], sqlite_url: str, imei: str
) -> None:
    async with FakeBroker() as broker:
        env = {"CHAPAR_BROKER_URL": broker.url, "CHAPAR_DATABASE_URL": sqlite_url}
        gateway = await asyncio.to_thread(start_gateway, env)
        async with client_of(gateway.url) as client:
            front = (await send(client, imei, "front", wait="none")).json()["id"]
            put_off = await broker.publish()
            assert put_off.packet_id is not None
            code = mqtt5.PubAckReasonCode.QUOTA_EXCEEDED
            broker.send(mqtt5.PubAckPacket(put_off.packet_id, reason_code=code).write())
            await message_in(client, front, "queued")
            waiting = asyncio.create_task(send(client, imei, "behind", timeout=1.5))
            rows = await eventually(lambda: both(client))
            assert (await client.post(f"/messaging/messages/{rows[-1]['id']}/cancel")).status_code == 200
            answer = await waiting
    assert answer.status_code == 406
    assert problem_of(answer)["code"] == "cancelled"


async def both(client: httpx.AsyncClient) -> list[Row] | None:
    rows = list((await report(client)).values())
    return rows if len(rows) > 1 else None


def test_what_is_sent_again_is_a_message_of_its_own_that_names_its_origin(site: Site, imei: str) -> None:
    params = {"seconds": 30, "zone": "باغ شمالی"}
    with site.device(imei) as device:
        first = site.send(imei, "open", params=params, retain=True, at_most_once=True, qos=2, expires_in=90).json()
        answer = resend(site, first["id"])
        heard = device.wait_for(2)
    again = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/messaging/messages/{again['id']}"
    assert again["id"] != first["id"]
    assert set(hearings(heard)) == {first["id"], again["id"]}
    before, after = site.message(first["id"]), site.message(again["id"])
    assert (before["origin"], after["origin"]) == (None, first["id"])
    for name in ("imei", "micro_op", "params", "topic", "qos", "retain", "at_most_once", "status"):
        assert after[name] == before[name]
    assert after["created_at"] >= before["finished_at"]


def test_what_is_sent_again_has_its_whole_time_again(site: Site, imei: str) -> None:
    due = written(time.time() + 3600)
    scheduled = site.accepted(imei, deliver_at=due, expires_in=120)
    again = site.message(resend(site, scheduled).json()["id"])
    assert (again["status"], again["deliver_at"]) == ("published", None)
    assert site.message(scheduled)["status"] == "scheduled", "the first one is as it was"
    assert seconds_of(again["expires_at"]) - seconds_of(again["created_at"]) == pytest.approx(120)


def test_what_was_rejected_can_be_sent_again(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        with site.parted():
            first = site.send(imei)
            assert first.status_code == 406
            refused = resend(site, first.json()["id"])
            assert (refused.status_code, problem_of(refused)["code"]) == (406, "broker_unreachable")
            queued = resend(site, first.json()["id"], wait="none")
            assert (queued.status_code, queued.json()["status"]) == (202, "queued")
        site.message_in(queued.json()["id"], "published")
        assert resend(site, refused.json()["id"], timeout=20).status_code == 201
        heard = device.wait_for(2)
    origins = [row["origin"] for row in site.messages_of(imei)]
    assert origins == [None, first.json()["id"], first.json()["id"], refused.json()["id"]]
    assert len(hearings(heard)) == 2


@pytest.mark.parametrize("query", [{"wait": "nobody"}, {"timeout": 0}, {"timeout": "soon"}, {"timeout": 301}], ids=str)
def test_a_resend_that_cannot_be_understood_sends_nothing(site: Site, imei: str, query: dict[str, object]) -> None:
    first = site.send(imei).json()["id"]
    answer = resend(site, first, **query)
    assert answer.status_code == 422
    assert [error["field"] for error in problem_of(answer)["errors"]] == list(query)
    assert len(site.messages_of(imei)) == 1
