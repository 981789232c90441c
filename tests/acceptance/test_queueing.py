"""Who does not wait is answered at the commit; it is delivered when the broker is there, each device in order."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import count

import mqtt5
import pytest

from support.api import client_of, message, message_in, problem_of, send
from support.devices import Heard
from support.fake_broker import FakeBroker
from support.gateway import GatewayProcess
from support.promises import hearings
from support.site import Site, operations, until

NOT_WAITING = [
    ({"wait": "none"}, {}),
    ({}, {"Prefer": "respond-async"}),
    ({"wait": "broker"}, {"Prefer": "handling=lenient, Respond-Async; wait=10"}),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), publish_timeout=20) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


@pytest.mark.parametrize(("fields", "headers"), NOT_WAITING)
def test_who_does_not_wait_is_told_where_to_look_and_the_message_is_delivered(
    site: Site, imei: str, fields: dict[str, str], headers: dict[str, str]
) -> None:
    with site.device(imei) as device:
        answer = site.send(imei, headers=headers, **fields)
        [heard] = device.wait_for(1)
    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/messaging/messages/{body['id']}"
    assert answer.headers.get("preference-applied") == ("respond-async" if headers else None)
    assert body == {
        "detail": f"Accepted `push_down` for topic `devices/{imei}`",
        "id": body["id"],
        "status": "queued",
        "topic": f"devices/{imei}",
    }
    assert (heard.payload, heard.correlation_data) == (b"push_down", body["id"].encode())
    row = site.message_in(body["id"], "published")
    assert (row["attempts"], row["possible_duplicate"], row["history"]) == (1, False, [])


def test_a_preference_that_is_not_known_changes_nothing(site: Site, imei: str) -> None:
    answer = site.send(imei, headers={"Prefer": "return=minimal"})
    assert (answer.status_code, "preference-applied" in answer.headers) == (201, False)


def test_with_the_broker_down_who_waits_is_refused_and_who_does_not_is_queued_until_it_comes(
    site: Site, imei: str
) -> None:
    with site.device(imei) as device:
        site.broker.stop()
        until(lambda: site.api.get("/health/ready").status_code == 503)
        queued = [site.accepted(imei, f"step-{number}") for number in range(30)]
        refused = site.send(imei, "who-waits")
        assert (refused.status_code, problem_of(refused)["code"]) == (406, "broker_unreachable")
        assert {site.message(message_id)["status"] for message_id in queued} == {"queued"}
        site.broker.start()
        device.wait_until_subscribed()
        site.gateway.wait_until("ready")
        for message_id in queued:
            site.message_in(message_id, "published")
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(lambda heard: heard[-1:] != [] and heard[-1].payload == b"afterwards")
    # Nobody heard what left before the device was back; nothing overtook, and what was refused was not sent.
    assert operations(heard) == [f"step-{number}" for number in range(31 - len(heard), 30)] + ["afterwards"]


def test_what_is_queued_leaves_in_order_and_once_when_the_session_is_back(site: Site, imei: str) -> None:
    steps = [f"step-{number}" for number in range(50)]
    with site.device(imei) as device:
        with site.parted():
            for step in steps:
                site.accepted(imei, step)
        device.wait_for(len(steps))
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(len(steps) + 1)
    assert operations(heard) == [*steps, "afterwards"]


def test_a_message_waits_behind_the_backlog_of_its_device_also_where_its_caller_waits(site: Site, imei: str) -> None:
    backlog = [f"step-{number}" for number in range(100)]
    answers = []
    with site.device(imei) as device:
        with site.parted():
            for step in backlog:
                site.accepted(imei, step)
            answers.append(site.send(imei, "refused"))
            site.line.resume()
            while answers[-1].status_code == 406:  # until the very moment at which the session is back
                answers.append(site.send(imei, "who-waits"))
        heard = device.wait_for(len(backlog) + 1)
    assert answers[-1].status_code == 201
    assert operations(heard) == [*backlog, "who-waits"]


def test_calls_that_wait_and_calls_that_do_not_keep_the_order_of_their_device(site: Site, imei: str) -> None:
    steps = [f"step-{number}" for number in range(60)]
    with site.device(imei) as device:
        for number, step in enumerate(steps):
            assert site.send(imei, step, wait="none" if number % 3 else "broker").status_code in {201, 202}
        heard = device.wait_for(len(steps))
    assert operations(heard) == steps


def test_a_silent_broker_holds_the_order_of_a_device_whatever_the_callers_wait_for(site: Site, imei: str) -> None:
    steps = [f"step-{number}" for number in range(40)]  # more than Mosquitto takes before it acknowledges
    with site.device(imei) as device:
        with site.silent_broker():
            for number, step in enumerate(steps):
                wait = {"wait": "none"} if number % 2 else {"wait": "broker", "timeout": 0.01}
                assert site.send(imei, step, **wait).status_code == 202
        heard = device.wait_for(len(steps))
    assert operations(heard) == steps
    assert {row["status"] for row in site.settled(imei)} == {"published"}


def test_the_order_of_each_device_outlives_cut_lines_and_a_restart_of_the_gateway(site: Site) -> None:
    imeis = [site.new_imei() for _ in range(3)]
    numbers = count()

    def send_some() -> None:
        for _ in range(20):
            number = next(numbers)
            for imei in imeis:
                site.accepted(imei, f"step-{number:03}")

    with site.device(*imeis) as device:
        for _ in range(3):
            send_some()
            site.line.cut()  # in the middle of whatever is under way
            send_some()
            site.gateway.wait_until("ready")
        site.part()
        send_some()
        site.gateway.terminate()
        site.line.resume()
        site.gateway.start()
        send_some()
        steps = [f"step-{number:03}" for number in range(next(numbers))]
        heard = device.wait_for(lambda heard: len(first_hearings(heard, "")) == len(imeis) * len(steps), timeout=20.0)
    for imei in imeis:
        assert first_hearings(heard, imei) == steps
        rows = {row["id"]: row for row in site.settled(imei)}
        assert {row["status"] for row in rows.values()} == {"published"}
        twice = {id_ for id_, attempts in hearings(heard).items() if len(attempts) > 1 and id_ in rows}
        assert twice <= {id_ for id_, row in rows.items() if row["possible_duplicate"]}, "twice only where it is said"


def first_hearings(heard: list[Heard], imei: str) -> list[str]:
    """What each device heard, without what it had heard before."""
    of_device = [each for each in heard if each.topic.endswith(imei)]
    return [operation for _, operation in dict.fromkeys((each.topic, each.payload.decode()) for each in of_device)]


def test_the_history_of_a_message_that_left_twice_shows_the_attempt_that_was_lost(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        site.line.stall(to_server=False)  # the broker gets it, and its acknowledgement is lost
        message_id = site.accepted(imei)
        device.wait_for(1)
        site.line.cut()
        site.line.resume()
        heard = device.wait_for(2)
    row = site.message_in(message_id, "published")
    assert (row["attempts"], row["possible_duplicate"]) == (2, True)
    lost, made = row["history"]
    assert (lost["attempt"], lost["outcome"], lost["reason_code"]) == (1, "link_lost", None)
    assert (made["attempt"], made["outcome"], made["reason_code"]) == (2, "published", 0)
    assert lost["process"] == made["process"]
    assert row["created_at"] <= lost["at"] <= made["at"] <= row["published_at"]
    assert hearings(heard) == {message_id: [1, 2]}


async def test_a_device_whose_front_message_was_put_off_waits_and_no_other_does(
    start_gateway: Callable[..., GatewayProcess], sqlite_url: str
) -> None:
    """No real broker has a quota for one topic alone, so this one is told what to say."""
    busy, other = "861000000000991", "861000000000992"
    async with FakeBroker() as broker:
        env = {"CHAPAR_BROKER_URL": broker.url, "CHAPAR_DATABASE_URL": sqlite_url, "CHAPAR_PUBLISH_TIMEOUT": "20"}
        gateway = await asyncio.to_thread(start_gateway, env)
        async with client_of(gateway.url) as client:

            async def hears(payload: bytes, code: mqtt5.PubAckReasonCode = mqtt5.PubAckReasonCode.SUCCESS) -> None:
                publish = await broker.publish()
                assert publish.payload == payload
                assert publish.packet_id is not None
                broker.send(mqtt5.PubAckPacket(publish.packet_id, reason_code=code).write())

            front = (await send(client, busy, "front", wait="none")).json()["id"]
            await hears(b"front", mqtt5.PubAckReasonCode.QUOTA_EXCEEDED)
            row = await message_in(client, front, "queued")
            assert row["not_before"] > row["created_at"]
            behind = asyncio.create_task(send(client, busy, "behind"))
            too_late = await send(client, busy, "too-late", expires_in=0.1)
            assert (too_late.status_code, problem_of(too_late)["code"]) == (406, "expired")
            waiting = asyncio.create_task(send(client, other, "of-another"))
            await hears(b"of-another")
            assert (await waiting).status_code == 201
            assert not behind.done()
            await hears(b"front")
            await hears(b"behind")
            assert (await behind).status_code == 201
            row = await message(client, front)
            assert (row["status"], row["attempts"], row["possible_duplicate"]) == ("published", 2, False)
            assert [attempt["outcome"] for attempt in row["history"]] == ["quota_exceeded", "published"]
