"""The receiver with brokers that do what no real one does on demand."""

import asyncio
import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator

import mqtt5
import pytest
from structlog.testing import capture_logs

from chapar.app.brokers import broker_access
from chapar.errors import (
    BrokerClosed,
    BrokerMute,
    NoAnswer,
    SessionTakenOver,
    SubscriptionRefused,
)
from chapar.link import listener
from chapar.link.broker_access import BrokerAccess
from chapar.link.topics import DeviceTopics
from chapar.runtime.settings import Settings
from support.faulty_broker import CONNACK, FaultyBroker, Peer, disconnect
from support.ports import free_port
from support.receivers import Owner, receiving, until

PROBE = "devices/chapar-probe/reply"
KEPT = mqtt5.ConnAckPacket(session_present=True).write()
QOS_1 = mqtt5.QoS.AT_LEAST_ONCE


class Broker(FaultyBroker):
    """Sends what is published to whoever published it, as a probe needs it; its switches make it fail."""

    scripts_receivers = True

    def __init__(self) -> None:
        super().__init__(self._script)
        self.is_mute = False
        self.is_silent = False  #: leaves SUBSCRIBE and UNSUBSCRIBE unanswered
        self.connacks = deque[bytes]()  #: for the next sessions for replies, in place of CONNACK
        self.refusals = 0  #: so many SUBSCRIBE packets of `replies` are refused
        self.unsuback: bytes | None = None  #: the reason codes of UNSUBACK
        self.grants = 2  #: the highest QoS
        self.on_probe: Callable[[Peer], None] | None = None
        self.names: dict[Peer, str] = {}

    @property
    def access(self) -> BrokerAccess:
        return broker_access(Settings.load(broker_url=self.url, connect_timeout=1))

    def peers_of(self, link: str) -> list[Peer]:
        return [peer for peer, name in self.names.items() if name.startswith(f"chapar-{link}-")]

    def to(self, link: str, *packets: bytes) -> None:
        """Write to the newest connection of a link."""
        peer = self.peers_of(link)[-1]
        self._loop.call_soon_threadsafe(lambda: peer.write(b"".join(packets)))

    def drop(self, link: str) -> None:
        self._loop.call_soon_threadsafe(self.peers_of(link)[-1].close)

    def acknowledged(self) -> list[int]:
        return [packet.packet_id for packet in self.packets if isinstance(packet, mqtt5.PubAckPacket)]

    def _script(self, peer: Peer, packet: mqtt5.Packet) -> bool:
        match packet:
            case mqtt5.ConnectPacket():
                self.names[peer] = packet.client_id
                if self._is_replies(peer) and self.connacks:
                    peer.write(self.connacks.popleft())
                    return True
            case mqtt5.PublishPacket():
                if self.on_probe is not None:
                    self.on_probe(peer)
                if not self.is_mute:
                    fields = {"qos": QOS_1, "packet_id": 5000} if self._is_replies(peer) else {}
                    peer.write(mqtt5.PublishPacket(packet.topic, packet.payload, **fields).write())  # type: ignore[arg-type]
            case mqtt5.SubscribePacket() if self._is_replies(peer) and self.refusals:
                self.refusals -= 1
                peer.write(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]).write())
                return True
            case mqtt5.SubscribePacket() if self.grants == 0:
                peer.write(
                    mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE]).write()
                )
                return True
            case mqtt5.UnsubscribePacket() if self.unsuback is not None:
                peer.write(
                    b"\xb0" + bytes([3 + len(self.unsuback)]) + packet.packet_id.to_bytes(2) + b"\0" + self.unsuback
                )
                return True
            case mqtt5.SubscribePacket():
                return self.is_silent
        return False

    def _is_replies(self, peer: Peer) -> bool:
        return self.names[peer].startswith("chapar-replies-")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PROBE_TIMEOUT", 0.3)


def publish(packet_id: int, payload: bytes = b"ok", topic: str = "devices/1/reply", **fields: object) -> bytes:
    return mqtt5.PublishPacket(topic, payload, qos=QOS_1, packet_id=packet_id, **fields).write()  # type: ignore[arg-type]


async def outcome(owner: Owner) -> BaseException | None:
    """What ended the receiver."""
    assert owner.running is not None
    with contextlib.suppress(Exception):
        await asyncio.wait_for(asyncio.shield(owner.running), 30.0)
    return owner.running.exception()


async def test_both_links_come_up_and_say_so(broker: Broker) -> None:
    async with receiving(broker.access, client_id="chapar-replies-1") as owner:
        before = asyncio.get_running_loop().time()
        assert (owner.state, owner.receiver.life_up) == ("down", False)
        assert owner.receiver.life_down_since is not None
        assert owner.receiver.life_down_since <= before
        await until(lambda: owner.is_up)
        assert owner.receiver.life_down_since is None
        await until(lambda: owner.metric('chapar_receiver_links_up{link="life"} 1.0'))
        connects = [packet for packet in broker.packets if isinstance(packet, mqtt5.ConnectPacket)]
        subscribed = [packet for packet in broker.packets if isinstance(packet, mqtt5.SubscribePacket)]
    kept, clean = sorted(connects, key=lambda packet: packet.clean_start)
    assert (kept.client_id, kept.session_expiry_interval) == ("chapar-replies-1", 7 * 24 * 3600)
    assert clean.client_id.startswith("chapar-life-")
    assert (clean.session_expiry_interval, len(connects)) == (0, 2)
    assert {
        (each.pattern, int(each.max_qos), int(each.retain_handling), each.retain_as_published)
        for packet in subscribed
        for each in packet.topic_filters
    } == {
        ("devices/+/reply", 1, 2, False),
        ("devices/+/reply", 0, 2, False),
        ("devices/+/presence", 0, 0, False),
    }
    assert owner.metric('chapar_receiver_links_up{link="life"} 0.0')  # both ended
    await until(lambda: [type(packet) for packet in broker.packets].count(mqtt5.DisconnectPacket) == 2)


async def test_what_comes_in_one_turn_is_one_list(broker: Broker) -> None:
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up and owner.receiver.trouble is None)
        broker.to("replies", *(publish(number, str(number).encode()) for number in range(1, 6)))
        await until(lambda: len(owner.replies) == 5)
        broker.to("life", mqtt5.PublishPacket("devices/1/presence", b"online").write())
        await until(lambda: len(owner.life) == 1)
        assert owner.payloads == [b"1", b"2", b"3", b"4", b"5"]
        assert len(owner.lists) < 5
        assert owner.receiver.received == 5
        assert owner.metric('chapar_deliveries_received_total{link="replies"} 5.0')
        assert owner.metric('chapar_deliveries_received_total{link="life"} 1.0')


async def test_the_probe_is_handed_to_nobody_and_acknowledged_in_its_turn(broker: Broker) -> None:
    def backlog(peer: Peer) -> None:
        if broker.names[peer].startswith("chapar-replies"):
            peer.write(publish(1))

    broker.on_probe = backlog
    async with receiving(broker.access, keeps=True) as owner:
        await until(lambda: len(owner.replies) == 1 and owner.is_up)
        assert broker.acknowledged() == []
        owner.replies[0].acknowledge()
        await until(lambda: broker.acknowledged() == [1, 5000])
    assert {delivery.topic for delivery in owner.replies + owner.life} == {"devices/1/reply"}
    probes = [packet for packet in broker.publications if packet.topic == PROBE]
    assert len({probe.payload for probe in probes}) == len(probes) == 2


async def test_a_mute_broker_is_said_once_probed_on_and_said_to_be_back(broker: Broker) -> None:
    broker.is_mute = True
    with capture_logs() as logged:
        async with receiving(broker.access) as owner:
            await until(lambda: owner.state == "mute" and len(broker.publications) >= 5)
            await until(lambda: owner.metric('chapar_receiver_links_mute{link="replies"} 1.0'))
            trouble = owner.receiver.trouble
            assert owner.receiver.life_up  # what the presence topic brings is another matter
            broker.is_mute = False
            await until(lambda: owner.state == "up" and owner.receiver.trouble is None)
            await until(lambda: owner.metric('chapar_receiver_links_mute{link="replies"} 0.0'))
            assert broker.connections == 2
    assert isinstance(trouble, BrokerMute)
    assert str(trouble) == (
        f"{broker.url} granted the subscription to devices/+/reply, but a probe published to {PROBE} did not come back "
        f"within 0.3 s, so what devices publish may not arrive either. Let its ACL allow the gateway to read "
        f"devices/+/reply and to write {PROBE}."
    )
    assert "devices/+/reply" in trouble.sentence("fa")
    said = [(each["event"], each["link"]) for each in logged if each["log_level"] == "warning"]
    assert sorted(said) == [("receiver_link_down", "life"), ("receiver_link_down", "replies")]
    assert sorted(each["link"] for each in logged if each["event"] == "receiver_link_receives") == ["life", "replies"]


async def test_a_devices_message_proves_as_much_as_the_probe(broker: Broker) -> None:
    """An ACL may let the gateway read replies, and publish none."""
    broker.is_mute = True
    async with receiving(broker.access) as owner:
        await until(lambda: owner.state == "mute")
        broker.to("replies", publish(1, b"stored", retain=True))
        broker.to("replies", publish(2))
        broker.to("life", mqtt5.PublishPacket("devices/1/reply", b"ok").write())
        await until(lambda: owner.receiver.trouble is None)
        assert owner.state == "up"


async def test_a_refused_subscription_is_asked_for_again_on_the_same_connection(broker: Broker) -> None:
    broker.refusals = 3
    with capture_logs() as logged:
        async with receiving(broker.access) as owner:
            await until(lambda: owner.state == "refused")
            trouble = owner.receiver.trouble
            await until(lambda: owner.is_up)
            assert broker.connections == 2
    assert isinstance(trouble, SubscriptionRefused)
    assert str(trouble) == "The broker refused the subscription to devices/+/reply: Not authorized (0x87)."
    assert len([each for each in logged if each["log_level"] == "warning"]) == 1


async def test_a_subscription_that_is_not_answered_ends_the_session(broker: Broker) -> None:
    broker.is_silent = True
    async with receiving(broker.access) as owner:
        await until(lambda: isinstance(owner.receiver.trouble, NoAnswer) and broker.connections > 2)
        assert (
            str(owner.receiver.trouble) == f"{broker.url} did not answer SUBSCRIBE within 1 s (CHAPAR_CONNECT_TIMEOUT)."
        )
        assert owner.state == "down"
        broker.is_silent = False
        await until(lambda: owner.is_up)


async def test_replies_granted_without_acknowledgement_are_said(broker: Broker) -> None:
    broker.grants = 0
    with capture_logs() as logged:
        async with receiving(broker.access) as owner:
            await until(lambda: owner.is_up)
    said = [each for each in logged if each["event"] == "subscription_granted_at_lower_qos"]
    assert [(each["link"], each["filter"]) for each in said] == [("replies", "devices/+/reply")]


async def test_a_broker_that_keeps_the_session_for_less_is_said(broker: Broker) -> None:
    broker.connacks += [mqtt5.ConnAckPacket(session_expiry_interval=7200).write()]
    with capture_logs() as logged:
        async with receiving(broker.access) as owner:
            await until(lambda: owner.is_up)
    assert [each["seconds"] for each in logged if each["event"] == "broker_keeps_session_for_less"] == [7200]


async def test_two_templates_of_one_filter_are_subscribed_to_once(broker: Broker) -> None:
    async with receiving(broker.access, replies=DeviceTopics("devices/r-{imei}/presence")) as owner:
        await until(lambda: owner.is_up)
        broker.to(
            "life",
            *(mqtt5.PublishPacket(f"devices/{name}/presence", b"online", retain=True).write() for name in ("r-1", "2")),
        )
        await until(lambda: bool(owner.life))
    subscribed = [packet for packet in broker.packets if isinstance(packet, mqtt5.SubscribePacket)]
    options = [(int(each.max_qos), int(each.retain_handling)) for packet in subscribed for each in packet.topic_filters]
    assert sorted(options) == [(0, 0), (1, 2)]
    assert [delivery.topic for delivery in owner.life] == ["devices/2/presence"]


async def test_a_broker_that_forgets_the_session_is_said_and_counted(broker: Broker) -> None:
    broker.connacks += [CONNACK, KEPT, CONNACK]
    with capture_logs() as logged:
        async with receiving(broker.access) as owner:
            for session, lost in ((1, 0), (2, 0), (3, 1)):
                await until(lambda number=session: len(broker.peers_of("replies")) == number and owner.is_up)  # type: ignore[misc]
                assert owner.receiver.sessions_lost == lost
                broker.drop("replies")
            assert owner.metric("chapar_reply_sessions_lost_total 1.0")
    assert [each["event"] for each in logged].count("broker_forgot_session") == 1


@pytest.mark.parametrize(("earlier", "connack", "lost"), [((), CONNACK, 0), (("a",), CONNACK, 1), (("a",), KEPT, 0)])
async def test_the_first_session_is_lost_only_where_there_was_one(
    broker: Broker, earlier: tuple[str, ...], connack: bytes, lost: int
) -> None:
    broker.connacks += [connack]
    broker.unsuback = b"\0"
    async with receiving(broker.access, earlier=earlier) as owner:
        await until(lambda: owner.is_up and bool(owner.filters))
        assert owner.receiver.sessions_lost == lost
        assert owner.filters == [("devices/+/reply",)]


async def test_a_broker_that_ends_with_the_gateway_has_nothing_to_forget(broker: Broker) -> None:
    brokers = tuple(dataclasses.replace(address, outlives_us=False) for address in broker.access.brokers)
    async with receiving(dataclasses.replace(broker.access, brokers=brokers), earlier=["devices/+/reply"]) as owner:
        await until(lambda: owner.is_up)
        assert owner.receiver.sessions_lost == 0
        broker.drop("replies")
        await until(lambda: len(broker.peers_of("replies")) == 2 and owner.is_up)
        assert owner.receiver.sessions_lost == 1


async def test_the_loser_of_a_session_does_not_fight_for_it(broker: Broker) -> None:
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up)
        broker.to("replies", disconnect(0x8E))
        error = await outcome(owner)
        assert isinstance(error, SessionTakenOver)
        assert str(error) == f"Another client has taken over the session with {broker.url} by its client id."
        assert (len(broker.peers_of("replies")), owner.state, owner.receiver.life_up) == (1, "down", False)
        assert owner.receiver.life_down_since is not None


async def test_a_session_is_not_taken_without_the_lease(broker: Broker) -> None:
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up)
        owner.is_holder = False
        broker.drop("replies")
        assert isinstance(await outcome(owner), SessionTakenOver)
        assert len(broker.peers_of("replies")) == 1


async def test_any_other_end_is_followed_by_another_session(broker: Broker) -> None:
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up and owner.receiver.trouble is None)
        broker.to("life", disconnect(0x8E))  # of a client id that nobody else can know
        broker.to("replies", disconnect(0x8B))
        await until(lambda: broker.connections == 4 and owner.is_up)
        assert owner.running is not None
        assert not owner.running.done()


async def test_a_receiver_runs_again(broker: Broker) -> None:
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up)
        broker.to("replies", disconnect(0x8E))
        await outcome(owner)
        owner.running = asyncio.create_task(owner.receiver.run("chapar-replies-1", [], lambda: True))
        await until(lambda: owner.is_up)


async def test_filters_of_an_earlier_configuration_are_unsubscribed(broker: Broker) -> None:
    broker.connacks += [KEPT, KEPT]
    broker.unsuback = b"\0\0"
    earlier = ("old/+/reply", "devices/+/reply", "older/+", "old/+/reply")
    async with receiving(broker.access, earlier=earlier) as owner:
        await until(lambda: owner.is_up and bool(owner.filters))
        assert owner.filters == [("devices/+/reply",)]
        broker.drop("replies")
        await until(lambda: len(owner.filters) == 2)
    left = [packet.patterns for packet in broker.packets if isinstance(packet, mqtt5.UnsubscribePacket)]
    assert left == [["old/+/reply", "older/+"]]


@pytest.mark.parametrize(
    ("unsuback", "reason"),
    [
        (b"\x87", "The broker refused to end the subscription to old/+: Not authorized (0x87)."),
        (None, "did not answer UNSUBSCRIBE within 1 s"),
    ],
)
async def test_filters_that_the_broker_keeps_are_said_and_tried_again(
    broker: Broker, unsuback: bytes | None, reason: str
) -> None:
    broker.connacks += [KEPT, KEPT]
    broker.unsuback = unsuback
    with capture_logs() as logged:
        async with receiving(broker.access, earlier=["old/+"]) as owner:
            await until(lambda: bool(owner.filters))
            assert owner.filters == [("devices/+/reply", "old/+")]
            await until(lambda: owner.is_up and owner.receiver.trouble is None)
            broker.unsuback = b"\0"
            broker.drop("replies")
            await until(lambda: len(owner.filters) == 2)
            assert owner.filters[1] == ("devices/+/reply",)
    [said] = [each for each in logged if each["event"] == "broker_keeps_subscription"]
    assert reason in said["reason"]


async def test_a_filter_holds_until_every_broker_was_met(broker: Broker) -> None:
    with Broker() as other:
        access = dataclasses.replace(broker.access, brokers=broker.access.brokers + other.access.brokers)
        for each in (broker, other):
            each.connacks += [KEPT]
            each.unsuback = b"\0"
        async with receiving(access, earlier=["old/+"]) as owner:
            await until(lambda: bool(owner.filters))
            assert owner.filters == [("devices/+/reply", "old/+")]
            broker.drop("replies")
            await until(lambda: len(owner.filters) == 2)
            assert owner.filters[1] == ("devices/+/reply",)
            assert owner.receiver.sessions_lost == 0


async def test_what_an_owner_fails_to_take_comes_again(broker: Broker) -> None:
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up and owner.receiver.trouble is None)
        owner.fault = RuntimeError("a fault of ours")
        broker.to("replies", publish(1))
        await until(lambda: broker.connections == 3 and owner.is_up)
        assert (owner.payloads, broker.acknowledged().count(1)) == ([], 0)
        assert owner.metric('chapar_loop_failures_total{loop="receiver_replies"} 1.0')
        broker.to("replies", publish(1, duplicate=True))
        await until(lambda: broker.acknowledged().count(1) == 1)
    assert owner.payloads == [b"ok"]


async def test_what_comes_with_connack_is_handed_over_once_there_is_a_session(broker: Broker) -> None:
    broker.connacks += [KEPT + publish(1) + publish(2)]
    async with receiving(broker.access) as owner:
        await until(lambda: broker.acknowledged()[:2] == [1, 2])
    assert owner.payloads == [b"ok", b"ok"]


async def test_what_cannot_be_read_is_counted_over_all_sessions(broker: Broker) -> None:
    bad = publish(1, b"", "devices/@@/reply").replace(b"@@", b"\xff\xfe")
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up and owner.receiver.trouble is None)
        broker.to("replies", bad, publish(2))
        await until(lambda: broker.acknowledged()[-2:] == [1, 2])
        broker.drop("replies")
        await until(lambda: broker.connections == 3 and owner.is_up)
        broker.to("replies", bad, bad)
        await until(lambda: owner.receiver.undecodable == 3)
        await until(lambda: owner.metric('chapar_deliveries_undecodable_total{link="replies"} 3.0'))
        assert broker.connections == 3
    assert owner.payloads == [b"ok"]


async def test_what_is_stored_is_no_reply_and_no_sign_of_life(broker: Broker) -> None:
    """Also where a broker sends it although it was asked not to."""
    async with receiving(broker.access) as owner:
        await until(lambda: owner.is_up)
        broker.to("replies", publish(1, b"stored", retain=True), publish(2, b"live"))
        for topic, payload in (("reply", b"stored"), ("presence", b"online")):
            broker.to("life", mqtt5.PublishPacket(f"devices/1/{topic}", payload, retain=True).write())
        await until(lambda: bool(owner.life) and {1, 2} <= set(broker.acknowledged()))
    assert owner.payloads == [b"live"]
    assert [(each.topic, each.retain) for each in owner.life] == [("devices/1/presence", True)]


async def test_a_probe_that_ends_sessions_is_deferred(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_DEFERRED", 0.2)
    broker.is_mute = True
    broker.on_probe = lambda peer: peer.write(disconnect(0x87)) or peer.close()  # type: ignore[func-returns-value]
    with capture_logs() as logged:
        async with receiving(broker.access) as owner:
            await until(lambda: len(broker.peers_of("replies")) >= 5)
            broker.on_probe, broker.is_mute = None, False
            await until(lambda: owner.is_up and owner.receiver.trouble is None)
    deferred = [
        each["seconds"] for each in logged if each["event"] == "receiver_probe_deferred" and each["link"] == "replies"
    ]
    assert deferred[:3] == [0.2, 0.4, 0.8]
    assert deferred == sorted(deferred)


async def test_a_broker_without_properties_gets_none(broker: Broker) -> None:
    brokers = tuple(dataclasses.replace(address, properties=False) for address in broker.access.brokers)
    async with receiving(dataclasses.replace(broker.access, brokers=brokers)) as owner:
        await until(lambda: owner.is_up and len(broker.publications) == 2)
    for probe in broker.publications:
        assert (probe.correlation_data, probe.user_properties, probe.message_expiry_interval) == (None, [], None)


async def test_a_broker_that_is_away_is_dialled_until_it_comes() -> None:
    port = free_port()
    access = broker_access(Settings.load(broker_url=f"mqtt://127.0.0.1:{port}"))
    async with receiving(access, replies=DeviceTopics("{imei}/r")) as owner:
        await until(lambda: owner.receiver.trouble is not None)
        assert (owner.state, owner.receiver.life_up) == ("down", False)
        broker = Broker()
        broker.port = port
        with broker:
            await until(lambda: owner.is_up and owner.receiver.trouble is None)
            assert owner.filters == [("+/r",)]
            down_since = asyncio.get_running_loop().time()
            broker.drop("life")
            await until(lambda: owner.receiver.life_down_since is not None or len(broker.peers_of("life")) == 2)
            assert (owner.receiver.life_down_since or down_since) >= down_since
    assert isinstance(owner.receiver.trouble, BrokerClosed | type(None))
