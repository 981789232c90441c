import asyncio

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.errors import ConnectionRefused, MalformedPacket, ProtocolUnsupported, SubscriptionRefused
from chapar.link.frames import Frames
from chapar.link.mqtt3 import Mqtt3, to_mqtt3, to_mqtt5
from chapar.link.publication import Delivery, Publication, SignOn, Will
from chapar.link.session import Session
from support.links import RecordingTransport, published

WILL = mqtt5.Will("w", payload=b"offline", qos=mqtt5.QoS(1), retain=True, will_delay_interval=300, content_type="text")
EXACTLY_ONCE, AT_LEAST_ONCE = mqtt5.QoS(2), mqtt5.QoS(1)

# What leaves, as a session writes it, and its bytes in MQTT 3.1.1.
LEAVING = [
    (
        mqtt5.ConnectPacket("id", clean_start=True, keep_alive=30, session_expiry_interval=9, receive_max=5),
        "10 0e  0004 4d515454 04 02 001e  0002 6964",
    ),
    (
        mqtt5.ConnectPacket("i", will=WILL, username="u", password=b"p", user_properties=[("a", "b" * 200)]),
        "10 1f  0004 4d515454 04 ec 0000  0001 69  0001 77  0007 6f66666c696e65  0001 75  0001 70",
    ),
    (
        mqtt5.SubscribePacket(7, [mqtt5.TopicFilter("a"), mqtt5.TopicFilter("b/c", max_qos=AT_LEAST_ONCE)]),
        "82 0c  0007  0001 61 02  0003 622f63 01",
    ),
    (
        mqtt5.PublishPacket("t", b"x", message_expiry_interval=5, user_properties=[("k", "v" * 200)]),
        "30 04  0001 74  78",
    ),
    (mqtt5.PublishPacket("t", b"x", qos=AT_LEAST_ONCE, packet_id=9, retain=True), "33 06  0001 74  0009  78"),
    (mqtt5.PubAckPacket(9, reason_code=mqtt5.PubAckReasonCode.QUOTA_EXCEEDED), "40 02  0009"),
    (mqtt5.PubCompPacket(9, reason_code=mqtt5.PubCompReasonCode.PACKET_ID_NOT_FOUND), "70 02  0009"),
    (mqtt5.PingReqPacket(), "c0 00"),
    (mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.MALFORMED_PACKET), "e0 00"),
]


@pytest.mark.parametrize(("packet", "written"), LEAVING, ids=[type(packet).__name__ for packet, _ in LEAVING])
def test_what_leaves_has_nothing_that_mqtt_3_does_not_know(packet: mqtt5.Packet, written: str) -> None:
    assert to_mqtt3(memoryview(packet.write())) == bytes.fromhex(written)


@given(
    topic=st.text(st.characters(codec="ascii", min_codepoint=48), min_size=1, max_size=200),
    payload=st.binary(max_size=20_000),
    qos=st.sampled_from([0, 1]),
)
def test_a_publication_is_the_same_on_both_sides(topic: str, payload: bytes, qos: int) -> None:
    sent = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=qos or None, correlation_data=b"gone")
    [frame] = Frames(1 << 20).feed(to_mqtt5(memoryview(to_mqtt3(memoryview(sent.write())))))
    received, _ = mqtt5.read(frame)
    assert isinstance(received, mqtt5.PublishPacket)
    assert (received.topic, received.payload, received.qos) == (topic, payload, sent.qos)
    assert received.correlation_data is None


@given(kind=st.integers(0, 255), body=st.binary(max_size=300))
def test_any_packet_of_a_broker_stays_one_packet(kind: int, body: bytes) -> None:
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    assert len(list(Frames(1 << 20).feed(to_mqtt5(memoryview(bytes([kind]) + length + body))))) == 1


def opened(connack: str, on_delivery: list[Delivery] | None = None) -> tuple[Session, Mqtt3, RecordingTransport]:
    sign_on = SignOn("test", 10, will=Will("w", b"offline", 1, retain=True), version=3)
    session = Session("mqtt://test", sign_on, None if on_delivery is None else on_delivery.append)
    connection = Mqtt3(session)
    transport = RecordingTransport(session)
    connection.connection_made(transport)
    connection.data_received(bytes.fromhex(connack))
    transport.written.clear()
    return session, connection, transport


async def test_a_session_in_mqtt_3() -> None:
    deliveries: list[Delivery] = []
    session, connection, transport = opened("20 02 01 00", deliveries)
    assert session.session_present
    answer = published(session, Publication("r", b"ok", 1, retain=False, message_id="", correlation_data=b"id"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert transport.written == [bytes.fromhex("32 07  0001 72  0001  6f6b")]
    connection.data_received(bytes.fromhex("40 02 0001  33 07 0001 63 0005 6869"))
    assert await answer == 0
    [delivery] = deliveries
    assert (delivery.topic, delivery.payload, delivery.retain, delivery.user_properties) == ("c", b"hi", True, ())
    delivery.acknowledge()
    await asyncio.sleep(0)
    assert transport.written[-1] == bytes.fromhex("40 02 0005")
    await session.close()
    assert transport.written[-1] == bytes.fromhex("e0 00")


async def test_a_refused_subscription_in_mqtt_3() -> None:
    session, connection, transport = opened("20 02 00 00")
    subscribing = asyncio.create_task(session.subscribe(["a", "b"]))
    for _ in range(3):
        await asyncio.sleep(0)
    packet_id = transport.written[0][2:4]
    connection.data_received(b"\x90\x04" + packet_id + b"\x01\x80")
    with pytest.raises(SubscriptionRefused, match="b"):
        await subscribing
    await session.close()


@pytest.mark.parametrize(
    ("connack", "error"),
    [("20 02 00 01", ProtocolUnsupported), ("20 02 00 05", ConnectionRefused), ("20 ff ff ff 7f", MalformedPacket)],
)
async def test_what_ends_a_session_in_mqtt_3(connack: str, error: type[Exception]) -> None:
    session, _, _ = opened(connack)
    with pytest.raises(error):
        await session.established()
