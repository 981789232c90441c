"""Retained commands are taken back: by their caller, and, where the broker forgets their expiry, at their expiry."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import mqtt5
import pytest

from support.api import client_of, eventually, problem_of, report, send
from support.builtin import BuiltinBroker
from support.devices import Device, Heard
from support.fake_broker import FakeBroker
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.site import Site, operations, until, until_past


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def retained(device: Device) -> list[Heard]:
    """What the broker has for a device that comes now; it goes again."""
    with device:
        device.publish(f"devices/{device.imei}/reply", b"that was all")  # it comes behind what is retained
        device.publish(device.topics[0], b"last")
        return device.wait_for(lambda heard: heard[-1:] != [] and heard[-1].payload == b"last")[:-1]


def history(site: Site, message_id: str) -> list[tuple[str, int | None]]:
    return [(each["outcome"], each["reason_code"]) for each in site.message(message_id)["history"]]


@pytest.mark.parametrize("fields", [{}, {"qos": 0}, {"qos": 2}, {"params": {"seconds": 1}}], ids=str)
def test_a_retained_command_that_is_cancelled_is_not_heard_by_who_comes_later(
    site: Site, imei: str, fields: dict[str, Any]
) -> None:
    sent = site.send(imei, "open", retain=True, **fields).json()
    assert len(retained(site.device(imei))) == 1
    answer = site.cancel(sent["id"])
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, sent["id"], sent["status"])
    assert retained(site.device(imei)) == []
    [(outcome, code)] = history(site, sent["id"])
    assert (outcome, code in {0x00, 0x10}) == ("retained_cleared", True)
    [first, empty] = site.messages_of(imei)
    assert (empty["micro_op"], empty["origin"], empty["retain"], empty["status"]) == (
        "",
        first["id"],
        True,
        "published",
    )
    audit = site.api.get("/audit", params={"subject": sent["id"]}).json()
    assert [entry["action"] for entry in audit["entries"]][:1] == ["message_cancelled"]


def test_to_cancel_it_once_more_changes_nothing(site: Site, imei: str) -> None:
    message_id = site.send(imei, retain=True).json()["id"]
    first, second = site.cancel(message_id), site.cancel(message_id)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert len(site.messages_of(imei)) == 2


def test_a_newer_retained_command_stays(site: Site, imei: str) -> None:
    older, newer = (site.send(imei, operation, retain=True).json()["id"] for operation in ("older", "newer"))
    answer = site.cancel(older)
    assert (answer.status_code, problem_of(answer)["code"]) == (409, "not_cancellable")
    assert operations(retained(site.device(imei))) == ["newer"]
    assert site.cancel(newer).status_code == 200
    assert retained(site.device(imei)) == []
    assert history(site, older) == []


def test_a_command_that_was_not_retained_does_not_stand_in_for_one(site: Site, imei: str) -> None:
    message_id = site.send(imei, "open", retain=True).json()["id"]
    assert site.send(imei, "close").status_code == 201
    assert site.cancel(message_id).status_code == 200
    assert retained(site.device(imei)) == []


def test_a_newer_command_leaves_behind_the_clearing_and_stays(site: Site, imei: str) -> None:
    """Accepted while the clearing waits for the broker."""
    older = site.send(imei, "older", retain=True).json()["id"]
    with site.parted():
        answer = site.cancel(older)
        assert answer.status_code == 202
        empty = answer.json()
        assert (empty["origin"], empty["status"], answer.headers["location"][-36:]) == (older, "queued", empty["id"])
        newer = site.accepted(imei, "newer", retain=True)
        assert site.cancel(older).json()["id"] == empty["id"], "it is on its way already"
    site.message_in(newer, "published")
    assert site.message(empty["id"])["status"] == "published"
    assert operations(retained(site.device(imei))) == ["newer"]
    assert [outcome for outcome, _ in history(site, older)] == ["retained_cleared"]


def test_a_clearing_gives_way_to_a_newer_command_that_leaves_first(site: Site, imei: str) -> None:
    older = site.send(imei, "older", retain=True).json()["id"]
    with site.parted():
        newer = site.accepted(imei, "newer", retain=True)
        answer = site.cancel(older)
        assert answer.status_code == 202
    site.message_in(newer, "published")
    empty = site.message_in(answer.json()["id"], "cancelled", "published")
    assert (empty["status"], empty["reason"], empty["attempts"]) == ("cancelled", "superseded", 0)
    assert operations(retained(site.device(imei))) == ["newer"]
    assert site.cancel(older).status_code == 409


def test_a_clearing_survives_the_gateway(
    mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess], database_env: dict[str, str], imei: str
) -> None:
    env = mosquitto.settings_env | database_env
    gateway = start_gateway(env)
    with httpx.Client(base_url=gateway.url, timeout=30) as api:
        message_id = api.post("/messaging/send", json={"imei": imei, "micro_op": "open", "retain": True}).json()["id"]
        mosquitto.pause()
        answer = api.post(f"/messaging/messages/{message_id}/cancel")
        assert (answer.status_code, answer.json()["origin"]) == (202, message_id)
    gateway.kill()
    mosquitto.resume()
    gateway = start_gateway(env)
    with httpx.Client(base_url=gateway.url, timeout=30) as api:
        empty = until(lambda: row if (row := api.get(answer.headers["location"]).json())["published_at"] else None)
        assert empty["status"] == "published"
        found = api.get(f"/messaging/messages/{message_id}").json()
    assert (found["status"], [each["outcome"] for each in found["history"]]) == ("published", ["retained_cleared"])
    assert retained(mosquitto.device(imei, mqtt5=True)) == []


async def test_a_clearing_that_the_broker_refuses_is_said_so(
    start_gateway: Callable[..., GatewayProcess], sqlite_url: str, imei: str
) -> None:
    async with FakeBroker() as broker:
        env = {"CHAPAR_BROKER_URL": broker.url, "CHAPAR_DATABASE_URL": sqlite_url}
        gateway = await asyncio.to_thread(start_gateway, env)
        async with client_of(gateway.url) as client:
            sending = asyncio.create_task(send(client, imei, retain=True))
            await answered(broker, mqtt5.PubAckReasonCode.SUCCESS)
            message_id = (await sending).json()["id"]
            cancelling = asyncio.create_task(client.post(f"/messaging/messages/{message_id}/cancel"))
            publish = await answered(broker, mqtt5.PubAckReasonCode.NOT_AUTHORIZED)
            answer = await cancelling
            rows = await eventually(lambda: report(client))
    assert (publish.payload, publish.retain, publish.topic) == (b"", True, f"devices/{imei}")
    assert (answer.status_code, problem_of(answer)["code"]) == (406, "broker_refused")
    assert rows is not None
    assert rows[message_id]["status"] == "published"


async def answered(broker: FakeBroker, code: mqtt5.PubAckReasonCode) -> mqtt5.PublishPacket:
    publish = await broker.publish()
    assert publish.packet_id is not None
    broker.send(mqtt5.PubAckPacket(publish.packet_id, reason_code=code).write())
    return publish


def test_a_clearing_is_not_sent_again(site: Site, imei: str) -> None:
    message_id = site.send(imei, retain=True).json()["id"]
    site.cancel(message_id)
    [_, empty] = site.messages_of(imei)
    answer = site.api.post(f"/messaging/messages/{empty['id']}/resend")
    assert (answer.status_code, problem_of(answer)["code"]) == (409, "not_repeatable")
    assert site.cancel(empty["id"]).status_code == 409
    assert len(site.messages_of(imei)) == 2


def test_mosquitto_forgets_what_it_retains_at_its_expiry(site: Site, imei: str) -> None:
    sent = site.send(imei, retain=True, expires_in=1.5).json()
    until_past(site.message(sent["id"])["expires_at"])
    time.sleep(1)  # MQTT counts expiry in whole seconds
    assert retained(site.device(imei)) == []
    assert len(site.messages_of(imei)) == 1


def test_the_built_in_broker_is_made_to_forget_what_it_retains_at_its_expiry(
    start_gateway: Callable[..., GatewayProcess], database_env: dict[str, str], imei: str
) -> None:
    broker = BuiltinBroker()
    gateway = start_gateway(broker.settings_env | database_env)
    with httpx.Client(base_url=gateway.url, timeout=30) as api:
        asked = {"imei": imei, "retain": True, "expires_in": 0.5}
        rows = {op: api.post("/messaging/send", json=asked | {"micro_op": op}).json()["id"] for op in ("open", "close")}
        other = api.post("/messaging/send", json=asked | {"imei": "other", "micro_op": "open", "expires_in": 60}).json()
        assert operations(retained(broker.device(imei))) == ["close"]
        until(lambda: api.get(f"/messaging/messages/{rows['close']}").json()["history"])
        assert retained(broker.device(imei)) == []
        assert [each.payload for each in retained(broker.device("other"))] == [b"open"]
        assert api.get(f"/messaging/messages/{rows['open']}").json()["history"] == [], "the newer one replaced it"
        assert api.post(f"/messaging/messages/{other['id']}/cancel").status_code == 200
        assert retained(broker.device("other")) == []
