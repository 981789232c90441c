"""What devices publish, received from real brokers, on both event loops."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from chapar.app.brokers import broker_access
from chapar.errors import BrokerMute, SessionTakenOver
from chapar.link import listener
from chapar.link.broker_access import BrokerAccess
from chapar.link.embedded import EmbeddedBroker
from chapar.link.topics import DeviceTopics
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from support.builtin import BuiltinBroker
from support.devices import Device
from support.links import open_session, publication, published
from support.mosquitto import Mosquitto, installed
from support.ports import LOOPBACK
from support.receivers import Owner, new_client_id, receiving, until
from support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.skipif(not installed(), reason="Mosquitto is not installed")

FILTERS = ("devices/+/reply",)


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto("max_queued_messages 0") as broker:
        yield broker


@pytest.fixture
def access(mosquitto: Mosquitto) -> BrokerAccess:
    return access_to(mosquitto)


def access_to(broker: Mosquitto) -> BrokerAccess:
    return broker_access(Settings.load(broker_url=broker.url))


@pytest.fixture
async def builtin() -> AsyncIterator[BuiltinBroker]:
    broker = BuiltinBroker()
    async with EmbeddedBroker(broker.port, Metrics()):
        yield broker


@pytest.fixture
def builtin_access(builtin: BuiltinBroker) -> BrokerAccess:
    return broker_access(Settings.load(embedded_port=builtin.port))


async def publish_all(device: Device, numbers: range) -> list[bytes]:
    """Let a device reply with each number; returns what it sent."""
    for number in numbers:
        await asyncio.to_thread(device.reply, str(number))
    return [str(number).encode() for number in numbers]


async def proven(owner: Owner) -> None:
    """Wait until both links have received their probe."""
    await until(lambda: owner.is_up and owner.receiver.trouble is None)


async def test_replies_and_signs_of_life_are_handed_over(mosquitto: Mosquitto, access: BrokerAccess) -> None:
    with mosquitto.device("1", mqtt5=True) as device:
        await asyncio.to_thread(device.publish, "devices/1/presence", "online", retain=True)
        await asyncio.to_thread(device.publish, "devices/1/reply", "an old one", retain=True)
        async with receiving(access) as owner:
            await proven(owner)
            await asyncio.to_thread(device.reply, "push_down ok", correlation_data=b"id")
            await asyncio.to_thread(device.publish, "devices/1/presence", "offline", retain=True)
            await until(lambda: len(owner.replies) == 1 and len(owner.life) == 3)
    [reply] = owner.replies
    assert (reply.topic, reply.payload, reply.correlation_data) == ("devices/1/reply", b"push_down ok", b"id")
    # The flag says that the broker had it stored: what is published to be stored comes without.
    assert [(each.topic, each.payload, each.retain) for each in owner.life] == [
        ("devices/1/presence", b"online", True),
        ("devices/1/reply", b"push_down ok", False),
        ("devices/1/presence", b"offline", False),
    ]
    assert (owner.filters, owner.receiver.trouble) == ([FILTERS], None)


async def test_replies_are_kept_while_nobody_receives(mosquitto: Mosquitto, access: BrokerAccess) -> None:
    name = new_client_id()
    with mosquitto.device("2") as device:
        async with receiving(access, client_id=name) as owner:
            await proven(owner)
        sent = await publish_all(device, range(100))
        async with receiving(access, client_id=name, earlier=FILTERS) as owner:
            await until(lambda: len(owner.replies) == 100)
            await proven(owner)
    assert owner.payloads == sent
    assert owner.receiver.sessions_lost == 0


async def test_a_takeover_gets_what_was_not_acknowledged_in_order(mosquitto: Mosquitto, access: BrokerAccess) -> None:
    name = new_client_id()
    with mosquitto.device("3") as device:
        async with receiving(access, client_id=name, keeps=True) as loser:
            await proven(loser)
            sent = await publish_all(device, range(60))
            await until(lambda: len(loser.replies) == 60)
            for delivery in loser.replies[:5]:
                delivery.acknowledge()
            await asyncio.to_thread(
                mosquitto.program.wait_for_lines, f"Received PUBACK from {name}", 6
            )  # and the probe
            loser.is_holder = False
            async with receiving(access, client_id=name, earlier=FILTERS) as winner:
                await until(lambda: len(winner.replies) == 55)
                assert loser.running is not None
                await asyncio.wait([loser.running])
                assert isinstance(loser.running.exception(), SessionTakenOver)
                await proven(winner)
    assert winner.payloads == sent[5:]
    assert {delivery.duplicate for delivery in winner.replies} == {True}


async def test_no_reply_is_lost_and_none_overtakes_where_the_line_is_cut_again_and_again(mosquitto: Mosquitto) -> None:
    with mosquitto.device("7") as device, TcpProxy(mosquitto.port) as proxy:
        access = broker_access(Settings.load(broker_url=f"mqtt://{LOOPBACK}:{proxy.port}"))
        async with receiving(access) as owner:
            await proven(owner)
            publishing = asyncio.create_task(publish_all(device, range(300)))
            for count in range(50, 300, 50):
                await until(lambda enough=count: len(set(owner.payloads)) >= enough)  # type: ignore[misc]
                await asyncio.to_thread(proxy.cut)
            sent = await publishing
            await until(lambda: len(set(owner.payloads)) == 300)
            assert owner.receiver.sessions_lost == 0
    assert list(dict.fromkeys(owner.payloads)) == sent
    again = [delivery for number, delivery in enumerate(owner.replies) if delivery.payload in owner.payloads[:number]]
    assert all(delivery.duplicate for delivery in again)


async def test_a_broker_started_anew_has_forgotten_the_session() -> None:
    with Mosquitto() as broker:
        async with receiving(access_to(broker)) as owner:
            await proven(owner)
            await asyncio.to_thread(broker.stop)
            await until(lambda: owner.state == "down" and owner.receiver.life_down_since is not None)
            await asyncio.to_thread(broker.start)
            await proven(owner)
            assert owner.receiver.sessions_lost == 1


async def test_a_filter_of_an_earlier_configuration_brings_nothing_any_more(
    mosquitto: Mosquitto, access: BrokerAccess
) -> None:
    name = new_client_id()
    async with receiving(access, client_id=name, replies=DeviceTopics("old/{imei}")) as owner:
        await proven(owner)
        old = owner.filters[-1]
    with mosquitto.device("4") as device:
        await asyncio.to_thread(device.publish, "old/4", "kept by the broker")
        async with receiving(access, client_id=name, earlier=old) as owner:
            await until(lambda: owner.filters == [FILTERS] and bool(owner.replies))
            await asyncio.to_thread(device.publish, "old/4", "of no filter")
            await asyncio.to_thread(device.reply, "ok")
            await until(lambda: b"ok" in owner.payloads)
    assert b"kept by the broker" in owner.payloads
    assert b"of no filter" not in owner.payloads


async def test_an_acl_that_grants_and_delivers_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PROBE_TIMEOUT", 0.5)
    acl = "user gate\ntopic write devices/#\ntopic read devices/+/presence\n"
    with Mosquitto(users={"gate": "secret"}, acl=acl) as broker:
        async with receiving(access_to(broker)) as owner:
            await until(lambda: owner.state == "mute")
            assert isinstance(owner.receiver.trouble, BrokerMute)
            assert owner.receiver.life_up
            broker.acl = acl + "topic read devices/+/reply\n"
            await asyncio.to_thread(broker.reload)
            await proven(owner)


async def test_an_acl_that_forbids_the_probe_is_no_reason_to_be_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PROBE_TIMEOUT", 0.5)
    acl = "user gate\ntopic read devices/#\npattern write devices/%u/x\nuser device\ntopic devices/#\n"
    with Mosquitto(users={"gate": "secret", "device": "secret"}, acl=acl) as broker:
        async with receiving(access_to(broker)) as owner:
            await until(lambda: owner.state == "mute")
            async with open_session(broker.url.replace("gate", "device")) as device:
                assert await published(device, publication(topic="devices/1/reply")) == 0
            await proven(owner)
            assert len(owner.replies) == 1


@pytest.mark.parametrize("size", [1_000_000, 1_048_000])
async def test_a_large_reply_arrives_and_one_over_our_limit_ends_nothing(
    mosquitto: Mosquitto, access: BrokerAccess, size: int
) -> None:
    async with receiving(access) as owner:
        await proven(owner)
        with mosquitto.device("5") as device:
            await asyncio.to_thread(device.reply, b"x" * size)
            await asyncio.to_thread(device.reply, b"x" * 1_100_000)
            await asyncio.to_thread(device.reply, b"next")
            await until(lambda: len(owner.replies) == 2)
        assert [len(payload) for payload in owner.payloads] == [size, 4]
        assert mosquitto.program.running


async def test_replies_of_qos_2_and_0(mosquitto: Mosquitto, access: BrokerAccess) -> None:
    async with receiving(access) as owner:
        await proven(owner)
        with mosquitto.device("6") as device:
            for qos in (2, 0, 1):
                await asyncio.to_thread(device.publish, "devices/6/reply", str(qos), qos=qos)
            await until(lambda: len(owner.replies) == 3)
    assert [(delivery.payload, delivery.qos) for delivery in owner.replies] == [(b"2", 1), (b"0", 0), (b"1", 1)]


class TestBuiltin:
    """The broker that comes with Chapar: it keeps a session for as long as it runs, and takes no properties."""

    @pytest.mark.parametrize("mqtt_5", [False, True])
    async def test_replies_are_received_and_kept(
        self, builtin: BuiltinBroker, builtin_access: BrokerAccess, *, mqtt_5: bool
    ) -> None:
        name = new_client_id()
        with builtin.device("1", mqtt5=mqtt_5) as device:
            await asyncio.to_thread(device.publish, "devices/1/presence", "online", retain=True)
            async with receiving(builtin_access, client_id=name) as owner:
                await proven(owner)
                await publish_all(device, range(3))
                await until(lambda: len(owner.replies) == 3 and len(owner.life) == 4)
                assert [each.retain for each in owner.life] == [True, False, False, False]
            sent = await publish_all(device, range(100))
            async with receiving(builtin_access, client_id=name, earlier=FILTERS) as owner:
                await until(lambda: len(owner.replies) == 100)
                await proven(owner)
        assert owner.payloads == sent
        assert owner.receiver.sessions_lost == 0

    async def test_a_takeover_gets_what_was_not_acknowledged(
        self, builtin: BuiltinBroker, builtin_access: BrokerAccess
    ) -> None:
        name = new_client_id()
        with builtin.device("1") as device:
            async with receiving(builtin_access, client_id=name, keeps=True) as loser:
                await proven(loser)
                sent = await publish_all(device, range(10))
                await until(lambda: len(loser.replies) == 10)
                for delivery in loser.replies[:5]:
                    delivery.acknowledge()
                loser.is_holder = False
                async with receiving(builtin_access, client_id=name, earlier=FILTERS) as winner:
                    assert loser.running is not None
                    await asyncio.wait([loser.running])
                    assert isinstance(loser.running.exception(), SessionTakenOver)
                    await until(lambda: winner.payloads[-5:] == sent[5:])
                    await proven(winner)
