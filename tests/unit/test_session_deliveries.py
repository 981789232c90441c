"""What one session receives: acknowledged in its order, whatever is in it."""

import asyncio

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chapar.errors import BrokerClosed, LinkDown, UnsubscriptionRefused
from chapar.link.frames import FrameInvalid
from chapar.link.packets import check_text, read_packet
from chapar.link.publication import Delivery
from support.fake_broker import CONNACK
from support.links import connected

QOS_1, QOS_2 = mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE
TOPIC = "devices/1/reply"
BAD = b"\xff\xfe"
WILDCARDS = str.maketrans("+#\0", "۱۲۳")


def publish(packet_id: int, payload: bytes = b"ok", qos: mqtt5.QoS = QOS_1, **fields: object) -> bytes:
    return mqtt5.PublishPacket(TOPIC, payload, qos=qos, packet_id=packet_id, **fields).write()  # type: ignore[arg-type]


def unreadable(packet_id: int, qos: mqtt5.QoS = QOS_1) -> bytes:
    return publish(packet_id, qos=qos, user_properties=[("k", "@@")]).replace(b"@@", BAD)


PING = mqtt5.PingReqPacket().write()


def puback(packet_id: int) -> bytes:
    return mqtt5.PubAckPacket(packet_id).write()


def pubrec(packet_id: int) -> bytes:
    return mqtt5.PubRecPacket(packet_id).write()


@given(st.permutations(range(8)))
def test_acknowledgements_leave_in_the_order_of_the_deliveries(order: list[int]) -> None:
    async def scenario() -> bytes:
        deliveries: list[Delivery] = []
        session, transport = connected(deliveries)
        session.data_received(b"".join(publish(10 + number) for number in range(8)))
        for number in order:
            deliveries[number].acknowledge()
            await asyncio.sleep(0)
        assert session.owed == 0
        await session.close()
        return b"".join(each for each in transport.written if each != PING)  # which a busy machine's time brings about

    assert asyncio.run(scenario()).startswith(b"".join(puback(10 + number) for number in range(8)))


async def test_one_that_is_kept_holds_back_those_behind_it() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(publish(1) + publish(2) + publish(3))
    deliveries[2].acknowledge()
    deliveries[0].acknowledge()
    await asyncio.sleep(0)
    assert (transport.written, session.owed) == ([puback(1)], 2)
    deliveries[1].acknowledge()
    await asyncio.sleep(0)
    assert transport.written == [puback(1), puback(2) + puback(3)]


async def test_a_second_acknowledgement_is_not_taken_for_a_later_packet_of_its_id() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(publish(1))
    deliveries[0].acknowledge()
    session.data_received(publish(1, b"later"))
    deliveries[0].acknowledge()
    await asyncio.sleep(0)
    assert (transport.written, session.owed) == ([puback(1)], 1)


async def test_what_cannot_be_read_is_acknowledged_in_its_turn_and_counted() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(unreadable(1) + publish(2, b"a") + unreadable(3) + publish(4, b"b") + unreadable(5, QOS_2))
    await asyncio.sleep(0)
    assert [delivery.payload for delivery in deliveries] == [b"a", b"b"]
    assert transport.written == [puback(1)]
    for delivery in deliveries:
        delivery.acknowledge()
    await asyncio.sleep(0)
    assert transport.written[1:] == [puback(2) + puback(3) + puback(4) + pubrec(5)]
    assert (session.up, session.undecodable, session.strays) == (True, 3, {})


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(publish(7).replace(b"devices", b"dev\xff\xfees"), id="a topic that is not UTF-8"),
        pytest.param(publish(7).replace(b"devices", b"dev\xed\xa0\x80s"), id="a topic with a surrogate"),
        pytest.param(publish(7, content_type="@@").replace(b"@@", BAD), id="a content type"),
        pytest.param(publish(7, response_topic="@@").replace(b"@@", BAD), id="a response topic"),
        pytest.param(publish(7, user_properties=[("@@", "v")]).replace(b"@@", BAD), id="a user property's name"),
        pytest.param(unreadable(7), id="a user property's value"),
        pytest.param(
            publish(
                7,
                payload_format_indicator=1,
                message_expiry_interval=200,
                correlation_data=BAD,
                subscription_ids=[200],
                response_topic="devices/۱/reply",
                user_properties=[("نام", "@@")],
            ).replace(b"@@", BAD),
            id="text behind every other property",
        ),
        pytest.param(b"\x32\x0a\x00\x01a\x00\x07\x02\x7f\x00ok", id="a property that there is not"),
        pytest.param(b"\x32\x08\x00\x01a\x00\x07\x01\x26\xff", id="a property that is cut off"),
        pytest.param(b"\x32\x06\x00\x01a\x00\x07\x7f", id="properties beyond the end"),
    ],
)
async def test_no_content_ends_a_session_that_has_an_owner(frame: bytes) -> None:
    """The codec's panic would be a warning here, which is an error in these tests."""
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(frame + publish(8, b"next"))
    for delivery in deliveries:
        delivery.acknowledge()
    await asyncio.sleep(0)
    assert [delivery.payload for delivery in deliveries] == [b"next"]
    assert transport.written == [puback(7) + puback(8)]
    assert (session.up, session.undecodable) == (True, 1)


@given(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=3),
    st.sampled_from([mqtt5.QoS.AT_MOST_ONCE, QOS_1, QOS_2]),
    st.integers(1, 268_435_455),
)
def test_text_in_utf_8_passes(
    text: str, data: bytes, pairs: list[tuple[str, str]], qos: mqtt5.QoS, number: int
) -> None:
    frame = memoryview(
        mqtt5.PublishPacket(
            "t" + text.translate(WILDCARDS),
            data,
            qos=qos,
            packet_id=9 if int(qos) else None,
            content_type=text,
            correlation_data=data,
            message_expiry_interval=number,
            subscription_ids=[number],
            user_properties=pairs,
        ).write()
    )
    check_text(frame)


@given(st.binary(min_size=1, max_size=60), st.binary(max_size=4), st.integers(0, 100))
def test_no_bytes_make_the_codec_panic(body: bytes, noise: bytes, place: int) -> None:
    frame = bytearray(publish(7, response_topic="a", user_properties=[("k", "v")], correlation_data=body))
    place = 2 + place % (len(frame) - 2)
    frame[place : place + len(noise)] = noise[: len(frame) - place]
    try:
        check_text(memoryview(frame))
        read_packet(memoryview(frame))
    except FrameInvalid:
        pass


async def test_a_delivery_of_qos_2_is_released() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(publish(1, qos=QOS_2) + publish(1, qos=QOS_2, duplicate=True) + publish(2))
    await asyncio.sleep(0)
    assert ([delivery.qos for delivery in deliveries], transport.written) == ([2, 1], [])
    deliveries[1].acknowledge()
    deliveries[0].acknowledge()
    await asyncio.sleep(0)
    assert transport.written == [pubrec(1) + pubrec(1) + puback(2)]
    session.data_received(mqtt5.PubRelPacket(1).write() + publish(1, b"new", qos=QOS_2))
    await asyncio.sleep(0)
    assert transport.written[1:] == [mqtt5.PubCompPacket(1).write()]
    assert [delivery.payload for delivery in deliveries] == [b"ok", b"ok", b"new"]


async def test_what_nobody_asked_for_is_acknowledged_in_its_turn() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(publish(1) + publish(2, topic_alias=3))
    await asyncio.sleep(0)
    assert transport.written == []
    deliveries[0].acknowledge()
    await asyncio.sleep(0)
    assert (transport.written, session.strays) == ([puback(1) + puback(2)], {"PUBLISH": 1})


async def test_what_a_broker_kept_may_come_with_connack() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries, connack=CONNACK + publish(1, duplicate=True))
    assert [(delivery.duplicate, delivery.packet_id) for delivery in deliveries] == [(True, 1)]
    assert (session.up, transport.written) == (True, [])


@pytest.mark.parametrize(("retained", "handling"), [(True, 0), (False, 2)])
async def test_a_subscription_asks_for_what_is_stored_or_not_and_for_flags_that_say_so(
    *, retained: bool, handling: int
) -> None:
    session, transport = connected([])
    subscribing = asyncio.create_task(session.subscribe(["a/+"], 0, retained=retained))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    [packet] = transport.written
    assert packet == b"\x82\x09\xfa\x01\x00\x00\x03a/+" + bytes([handling << 4])  # no Retain As Published
    session.data_received(b"\x90\x04\xfa\x01\x00\x00")
    assert await subscribing == 0


async def test_the_lowest_granted_qos_is_known() -> None:
    session, _ = connected([])
    subscribing = asyncio.create_task(session.subscribe(["a", "b"]))
    await asyncio.sleep(0)
    session.data_received(b"\x90\x05\xfa\x01\x00\x01\x00")
    assert await subscribing == 0


async def test_a_filter_is_unsubscribed() -> None:
    session, transport = connected([])
    leaving = asyncio.create_task(session.unsubscribe(["a", "b"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.written == [mqtt5.UnsubscribePacket(64_001, ["a", "b"]).write()]
    session.data_received(b"\xb0\x05\xfa\x01\x00\x00\x11")  # there was none of the second
    await leaving


async def test_every_code_of_an_unsuback_is_taken_by_its_class() -> None:
    session, _ = connected([])
    for number, code in enumerate(range(256)):
        leaving = asyncio.create_task(session.unsubscribe(["good", f"filter/{code}"]))
        await asyncio.sleep(0)
        session.data_received(b"\xb0\x05" + (64_001 + number).to_bytes(2, "big") + b"\x00\x00" + bytes([code]))
        if code < 0x80:
            await leaving
            continue
        with pytest.raises(UnsubscriptionRefused, match=f"filter/{code}: .*0x{code:02X}") as refused:
            await leaving
        assert refused.value.reason_code == code
    assert (session.up, session.strays) == (True, {})


async def test_unsubscribing_ends_with_the_session() -> None:
    session, _ = connected([])
    leaving = asyncio.create_task(session.unsubscribe(["a"]))
    await asyncio.sleep(0)
    session.connection_lost(None)
    for asked in (leaving, session.unsubscribe(["a"])):
        with pytest.raises(BrokerClosed):
            await asked


async def test_unsubscribing_ends_with_our_own_close() -> None:
    session, _ = connected([])
    leaving = asyncio.create_task(session.unsubscribe(["a"]))
    await asyncio.sleep(0)
    await session.close()
    for asked in (leaving, session.unsubscribe(["a"])):
        with pytest.raises(LinkDown):
            await asked


async def test_an_answer_to_a_caller_that_went_is_no_stray() -> None:
    session, _ = connected([])
    subscribing = asyncio.create_task(session.subscribe(["a"]))
    await asyncio.sleep(0)
    subscribing.cancel()
    await asyncio.wait([subscribing])
    with capture_logs() as logged:
        session.data_received(b"\x90\x04\xfa\x01\x00\x00")
    assert (session.strays, logged) == ({}, [])
