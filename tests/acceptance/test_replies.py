"""Replies of devices, as plain ones send them: matched, listed, and none lost."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import func, select

from chapar.store.database import Role, open_engine
from chapar.store.schema import replies as replies_table
from support.api import client_of
from support.builtin import BuiltinBroker
from support.devices import Device, Heard
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.site import HOLDS_NOTHING_BACK, Site, until

KILLS = [(5, 400), pytest.param((50, 2000), marks=pytest.mark.long)]  # and replies between two of them
NUMBERS = itertools.count(862_000_000_000_001)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        wait_until_received(site.api)
        yield site


def wait_until_received(api: httpx.Client) -> None:
    until(lambda: api.get("/health/ready").json()["replies"] == "up")


class Way(NamedTuple):
    """A way in which devices reply, and what it makes of a message."""

    replies: tuple[dict[str, Any], ...]
    status: str
    matched_by: str
    payload: object
    mqtt5: bool = False
    profile: str = "text"
    listed: int = 1


def named(**fields: object) -> dict[str, Any]:
    return {"payload": json.dumps({"id": "ID", **fields})}


WAYS = {
    "3.1.1, text": Way(({"payload": "push_down ok"},), "succeeded", "order", "push_down ok"),
    "3.1.1, text, failure": Way(({"payload": "push_down failed: dry"},), "failed", "order", "push_down failed: dry"),
    "3.1.1, progress": Way(
        ({"payload": "push_down running"}, {"payload": "push_down done"}), "succeeded", "order", "push_down done",
        listed=2,
    ),
    "3.1.1, id in JSON": Way(
        (named(status="ok", result=7),), "succeeded", "correlation", {"id": "ID", "status": "ok", "result": 7},
        profile="chapar",
    ),
    "3.1.1, twice": Way(
        (named(status="ok"), named(status="ok")), "succeeded", "correlation", {"id": "ID", "status": "ok"},
        profile="chapar",
    ),
    "3.1.1, contradictory": Way(
        (named(status="error"), named(status="ok")), "failed", "correlation", {"id": "ID", "status": "error"},
        profile="chapar", listed=2,
    ),
    "5, correlation data": Way(
        ({"payload": b"\xff\x00", "correlation": True},), "succeeded", "correlation", {"base64": "/wA="}, mqtt5=True
    ),
    "5, user property": Way(
        ({"payload": "7 l", "correlation": True, "status": "failed"},), "failed", "correlation", "7 l", mqtt5=True
    ),
    "5, id in JSON": Way((named(),), "succeeded", "correlation", {"id": "ID"}, mqtt5=True, profile="chapar"),
    "5, QoS 0": Way(({"payload": "push_down ok", "qos": 0},), "succeeded", "order", "push_down ok", mqtt5=True),
}  # fmt: skip


def answer(device: Device, way: Way, command: Heard, message_id: str) -> None:
    for reply in way.replies:
        facts = dict(reply)
        payload = facts.pop("payload")
        if facts.pop("correlation", False):
            facts["correlation_data"] = command.correlation_data
        device.reply(payload.replace("ID", message_id) if isinstance(payload, str) else payload, **facts)


def check_way(api: httpx.Client, device: Device, way: Way) -> None:
    if way.profile != "text":
        assert api.put(f"/devices/{device.imei}", json={"profile": way.profile}).status_code == 201
    asked = {"imei": device.imei, "micro_op": "push_down", "wait": "none", "reply_within": 30}
    message_id = api.post("/messaging/send", json=asked).json()["id"]
    [command] = device.wait_for(1)
    answer(device, way, command, message_id)
    path = f"/messaging/messages/{message_id}"
    received = len(way.replies)

    def replies() -> list[dict[str, Any]] | None:
        listed: list[dict[str, Any]] = api.get(f"{path}/replies").json()["replies"]
        return listed if sum(each["count"] for each in listed) == received else None

    listed = until(replies)
    message = until(lambda: row if (row := api.get(path).json())["status"] == way.status else None)
    shown = json.dumps(message["reply"]["payload"]).replace(message_id, "ID")
    assert (json.loads(shown), message["reply"]["matched_by"]) == (way.payload, way.matched_by)
    assert (message["reply"]["status"], message["reply"]["late"]) == (way.status, False)
    assert message["finished_at"] is not None
    until(lambda: api.get(path).json()["published_at"])
    assert len(listed) == way.listed
    assert [each["status"] for each in listed if each["stands"]] == [way.status]


@pytest.mark.parametrize("way", [pytest.param(each, id=name) for name, each in WAYS.items()])
def test_a_device_replies_its_way(site: Site, way: Way) -> None:
    with site.broker.device(site.new_imei(), mqtt5=way.mqtt5) as device:
        check_way(site.api, device, way)


@pytest.fixture(scope="module")
def on_builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BuiltinBroker, httpx.Client]]:
    broker = BuiltinBroker()
    env = {**broker.settings_env, "CHAPAR_DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('builtin')}/chapar.db"}
    with (
        GatewayProcess(tmp_path_factory.mktemp("builtin"), env) as gateway,
        httpx.Client(base_url=gateway.url, timeout=90.0) as api,
    ):
        wait_until_received(api)
        yield broker, api


# Its commands carry no correlation data: a PUBLISH with properties would end its devices of MQTT 3.1.1.
WITHOUT_PROPERTIES = {name: way for name, way in WAYS.items() if not any("correlation" in each for each in way.replies)}


@pytest.mark.parametrize("way", [pytest.param(each, id=name) for name, each in WITHOUT_PROPERTIES.items()])
def test_a_device_of_the_built_in_broker_replies_its_way(
    on_builtin: tuple[BuiltinBroker, httpx.Client], way: Way
) -> None:
    broker, api = on_builtin
    with broker.device(str(next(NUMBERS)), mqtt5=way.mqtt5) as device:
        check_way(api, device, way)


def test_a_reply_that_comes_while_the_gateway_is_away_is_not_lost(site: Site) -> None:
    with site.broker.device(site.new_imei()) as device:
        message_id = site.accepted(device.imei, reply_within=60)
        device.wait_for(1)
        site.message_in(message_id, "published")
        with site.parted():
            device.reply("push_down ok")
        wait_until_received(site.api)
        assert site.message_in(message_id, "succeeded")["reply"]["late"] is False


def test_a_reply_outranks_a_cancellation_between_two_attempts(site: Site) -> None:
    with site.broker.device(site.new_imei(), mqtt5=True) as device:
        site.line.stall(to_client=True, to_server=False)  # the broker's acknowledgement is lost
        message_id = site.accepted(device.imei, reply_within=60)
        [command] = device.wait_for(1)
        site.part()
        site.message_in(message_id, "queued")
        assert site.cancel(message_id).status_code == 200
        device.reply("done", correlation_data=command.correlation_data)
        site.rejoin()
        message = site.message_in(message_id, "succeeded")

        assert (message["reply"]["late"], message["reason"], message["attempts"]) == (True, None, 1)
        assert len(device.heard) == 1


def test_a_late_reply_outranks_a_time_out(site: Site) -> None:
    with site.broker.device(site.new_imei(), mqtt5=True) as device:
        message_id = site.accepted(device.imei, reply_within=1)
        [command] = device.wait_for(1)
        given_up = site.message_in(message_id, "timed_out")
        device.reply("push_down ok")  # by order, it could answer what was given up
        strays = until(lambda: unmatched(site, device.imei))
        device.reply("ok", correlation_data=command.correlation_data)
        message = site.message_in(message_id, "succeeded")

    assert (given_up["reason"], given_up["finished_at"] is not None) == ("no_reply", True)
    assert (message["reason"], message["reply"]["late"]) == (None, True)
    assert [each["reason"] for each in strays] == ["order_off"]


def unmatched(site: Site, imei: str) -> list[dict[str, Any]]:
    replies: list[dict[str, Any]] = site.api.get("/replies", params={"matched": "false", "imei": imei}).json()[
        "replies"
    ]
    return replies


def test_a_device_answers_no_message_of_another(site: Site) -> None:
    with site.broker.device(site.new_imei()) as device, site.broker.device(site.new_imei(), mqtt5=True) as other:
        message_id = site.accepted(device.imei, reply_within=60)
        device.wait_for(1)
        other.reply("ok", correlation_data=message_id.encode())
        strays = until(lambda: unmatched(site, other.imei))
        other.reply("ok", correlation_data=message_id.encode())
        until(lambda: unmatched(site, other.imei)[0]["count"] == 2)
        assert [(each["reason"], each["payload"], each["imei"]) for each in strays] == [
            ("foreign_device", "ok", other.imei)
        ]
        assert site.message(message_id)["reply"] is None
        device.reply("push_down ok")
        site.message_in(message_id, "succeeded")


def test_what_is_retained_is_no_reply_and_what_is_published_now_is_one(site: Site) -> None:
    with site.broker.device(site.new_imei()) as device:
        device.reply("push_down ok", retain=True)
        until(lambda: unmatched(site, device.imei))
        message_id = site.accepted(device.imei, reply_within=60)
        site.message_in(message_id, "published")  # a second attempt would leave order without a say
        site.part()
        site.rejoin()  # subscribes anew, so the broker has a reason to send what it retains
        wait_until_received(site.api)
        device.reply("push_down: fail", retain=True)
        message = site.message_in(message_id, "succeeded", "failed")
        device.reply("", retain=True)

    assert message["status"] == "failed"


def test_hostile_payloads_hurt_nobody(site: Site) -> None:
    payloads = [b"\xff" * 1_000_000, b"[" * 200_000, b"\0\x1b[2J", "\u202e".encode() * 99, b'{"status":1e999}']
    with site.broker.device(site.new_imei(), mqtt5=True) as device:
        message_id = site.accepted(device.imei, reply_within=60)
        device.wait_for(1)
        for payload in payloads:
            device.reply(payload)
        device.reply("push_down ok")
        site.message_in(message_id, "succeeded")
        strays = unmatched(site, device.imei)

    assert [each["size"] for each in reversed(strays)] == [len(payload) for payload in payloads]
    assert [each["truncated"] for each in reversed(strays)] == [True, True, False, False, False]


def test_where_commands_and_replies_share_a_topic_our_own_are_no_replies(tmp_path: Path) -> None:
    with Site(tmp_path, reply_topic="devices/{imei}") as site, site.broker.device(site.new_imei()) as device:
        wait_until_received(site.api)
        message_id = site.accepted(device.imei, reply_within=60)
        device.wait_for(1)
        site.message_in(message_id, "published")
        device.publish(f"devices/{device.imei}", "push_down running")
        site.message_in(message_id, "acknowledged")
        device.publish(f"devices/{device.imei}", "push_down ok")
        site.message_in(message_id, "succeeded")

        assert unmatched(site, device.imei) == []
        assert len(site.api.get(f"/messaging/messages/{message_id}/replies").json()["replies"]) == 2


@pytest.fixture
async def fleet() -> AsyncIterator[tuple[Mosquitto, Device]]:
    """Every device there is, in one, at a broker that keeps whatever is not acknowledged."""
    with Mosquitto(*HOLDS_NOTHING_BACK) as broker:
        device = Device(broker.port, "fleet", topics=["devices/+"], mqtt5=True)
        await asyncio.to_thread(device.start)
        yield broker, device
        await asyncio.to_thread(device.stop)


@pytest.mark.parametrize("load", KILLS)
async def test_no_reply_is_lost_and_each_is_stored_once_when_the_gateway_is_killed(
    fleet: tuple[Mosquitto, Device],
    start_gateway: Callable[..., GatewayProcess],
    database_url: str,
    database_env: dict[str, str],
    load: tuple[int, int],
    figure: Callable[[str], None],
) -> None:
    broker, device = fleet
    kills, replies = load
    if (kills, replies) == KILLS[0] and database_url.startswith("postgresql"):
        pytest.skip("the long form runs on PostgreSQL, too")
    env = {**broker.settings_env, **database_env, "CHAPAR_LEASE": "2"}
    gateway = await asyncio.to_thread(start_gateway, env)
    sent: dict[str, str] = {}
    for _ in range(kills):
        sent |= await _send(gateway, device, replies)
        await asyncio.to_thread(_reply_across_a_kill, gateway, device, replies)
        await asyncio.to_thread(gateway.start)
    async with client_of(gateway.url) as client:
        await _all_answered(client, sent)
        strays = (await client.get("/replies")).json()["replies"]

    figure(f"replies: {len(sent)} over {kills} kills, each stored once")
    with open_engine(database_url, Role.READER).connect() as connection:
        listed = connection.execute(select(func.count()).select_from(replies_table)).scalar_one()
    assert len(sent) == kills * replies
    assert strays == []
    assert listed == 0  # each stands in its message, and nowhere else


async def _send(gateway: GatewayProcess, device: Device, count: int) -> dict[str, str]:
    """Send to as many new devices; gives the message of each."""
    imeis = [str(next(NUMBERS)) for _ in range(count)]
    device.heard.clear()
    messages = [{"imei": imei, "micro_op": "push_down", "wait": "none", "reply_within": 3600} for imei in imeis]
    async with client_of(gateway.url) as client:
        answer = await client.post("/messaging/bulk", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    await asyncio.to_thread(device.wait_for, count, 120.0)
    return {item["body"]["id"]: imei for item, imei in zip(answer.json()["answers"], imeis, strict=True)}


def _reply_across_a_kill(gateway: GatewayProcess, device: Device, count: int) -> None:
    """Reply to all that was heard; halfway the gateway is killed, while it receives."""
    for number, command in enumerate(device.heard):
        if number == count // 2:
            gateway.kill()
        device.publish(f"{command.topic}/reply", "push_down ok", correlation_data=command.correlation_data)


async def _all_answered(client: httpx.AsyncClient, sent: dict[str, str]) -> None:
    async with asyncio.timeout(300):
        while (counted := (await client.get("/reporting/summary")).json()["statuses"]) != {"succeeded": len(sent)}:
            assert counted.keys() <= {"succeeded", "published", "queued", "publishing"}, counted
            await asyncio.sleep(0.1)


def test_another_process_receives_when_the_one_that_did_is_killed(
    mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess], postgres_url: str
) -> None:
    env = {**mosquitto.settings_env, "CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true"}
    env["CHAPAR_LEASE"] = "2"
    first = start_gateway(env)
    with httpx.Client(base_url=first.url, timeout=30) as api:
        wait_until_received(api)
    second = start_gateway(env)
    with httpx.Client(base_url=second.url, timeout=90) as api, mosquitto.device(str(next(NUMBERS))) as device:
        assert api.get("/health/ready").json()["replies"] == "elsewhere"
        asked = {"imei": device.imei, "micro_op": "push_down", "wait": "device", "reply_within": 60}
        device.on_heard = lambda _: device.reply("push_down ok")
        answer = api.post("/messaging/send", json=asked)
        assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")

        device.on_heard = None
        message_id = api.post("/messaging/send", json=asked | {"wait": "none"}).json()["id"]
        device.wait_for(2)
        # Killed before that, the first would leave it to a second attempt, behind which order says nothing.
        until(lambda: api.get(f"/messaging/messages/{message_id}").json()["status"] == "published")
        first.kill()
        device.reply("push_down ok")
        until(lambda: api.get(f"/messaging/messages/{message_id}").json()["status"] == "succeeded")
        wait_until_received(api)


def test_a_topic_that_no_setting_names_any_longer_is_received_no_more(
    mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess], sqlite_url: str
) -> None:
    env = {**mosquitto.settings_env, "CHAPAR_DATABASE_URL": sqlite_url}
    before = start_gateway(env)
    with httpx.Client(base_url=before.url, timeout=30) as api:
        wait_until_received(api)
    before.terminate()
    after = start_gateway(env | {"CHAPAR_REPLY_TOPIC": "answers/{imei}"})
    with httpx.Client(base_url=after.url, timeout=30) as api, mosquitto.device(str(next(NUMBERS))) as device:
        wait_until_received(api)
        device.reply("where nobody listens")
        device.publish(f"answers/{device.imei}", "where somebody does")
        strays = until(lambda: api.get("/replies").json()["replies"])
        assert [(each["payload"], each["imei"]) for each in strays] == [("where somebody does", device.imei)]
