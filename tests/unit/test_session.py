"""One session against a broker that does what no real one does on demand."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import mqtt5
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from chapar.errors import (
    BrokerClosed,
    BrokerError,
    BrokerSilent,
    ConnectionRefused,
    LinkDown,
    LinkLost,
    MalformedPacket,
    NoAnswer,
    ProtocolUnsupported,
    PublicationInvalid,
    SubscriptionRefused,
)
from chapar.link import session as session_module
from chapar.link.inbox import MOST_HELD, MOST_UNACKNOWLEDGED
from chapar.link.publication import Delivery, Publication, SignOn, Will
from chapar.link.publisher import MAX_BATCH
from chapar.link.session import Session
from chapar.runtime.settings import Settings
from support.fake_broker import FakeBroker
from support.links import connected, open_session, publication, published
from support.receivers import until

# The codec reports its panic through sys.unraisablehook too.
MAY_PANIC = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
INVALID_UTF_8 = b"\x30\x05\x00\x02\xff\xfe\x00"  # PUBLISH whose topic is ff fe


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    async with FakeBroker() as fake:
        yield fake


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def refusal(broker: FakeBroker, settings: Settings | None = None) -> BrokerError:
    """Why dialling `broker` failed."""
    with pytest.raises(BrokerError) as error:
        async with open_session(broker.url, settings=settings):
            pass
    return error.value


async def end(session: Session) -> BrokerError:
    """Why `session` ended."""
    with pytest.raises(BrokerError) as error:
        await asyncio.wait_for(session.ended(), 60.0)
    return error.value


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x02\x00\x00", b"\x20\x03\x00\x84\x00"])
async def test_an_mqtt_3_broker_is_told_from_a_broken_one(broker: FakeBroker, answer: bytes) -> None:
    broker.connack = answer
    assert isinstance(await refusal(broker), ProtocolUnsupported)


async def test_a_refusal_names_its_reason(broker: FakeBroker) -> None:
    broker.connack = b"\x20\x03\x00\x86\x00"
    error = await refusal(broker)
    assert isinstance(error, ConnectionRefused)
    assert str(error) == f"{broker.url} refused the session: Bad User Name or Password (0x86)."


async def test_a_broker_that_hangs_up_on_connect_may_be_an_mqtt_3_one() -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerClosed, match="may not speak MQTT 5"):
            async with open_session(f"mqtt://127.0.0.1:{port}"):
                pass


async def test_no_answer_to_connect_is_an_error_that_names_its_setting(broker: FakeBroker) -> None:
    broker.connack = b""
    error = await refusal(broker, Settings(connect_timeout=0.5))
    assert isinstance(error, NoAnswer)
    assert str(error) == f"{broker.url} did not answer CONNECT within 0.5 s (CHAPAR_CONNECT_TIMEOUT)."
    assert "در ۰٫۵ ثانیه به CONNECT پاسخ نداد" in error.sentence("fa")
    assert await broker.packet() is None  # and no connection is left behind


async def test_a_dial_that_is_cancelled_leaves_no_connection(broker: FakeBroker) -> None:
    broker.connack = b""
    dialling = asyncio.create_task(refusal(broker))
    await broker.connected.wait()
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    assert await broker.packet() is None


async def test_connect_says_what_it_was_told(broker: FakeBroker) -> None:
    heard: list[mqtt5.ConnectPacket] = []
    broker.on_connect = heard.append
    sign_on = SignOn("gate", 7, username="u", password="p", clean_start=False, session_expiry=60)
    async with open_session(broker.url, sign_on=sign_on):
        connect = heard[0]
    assert (connect.client_id, connect.keep_alive, connect.clean_start) == ("gate", 7, False)
    assert (connect.username, connect.password) == ("u", b"p")
    assert connect.session_expiry_interval == 60
    assert connect.max_packet_size == session_module.MAX_INCOMING_PACKET


async def test_connect_carries_a_will_which_a_dropped_connection_leaves_to_the_broker(broker: FakeBroker) -> None:
    heard: list[mqtt5.ConnectPacket] = []
    broker.on_connect = heard.append
    sign_on = SignOn("gate", 7, will=Will("devices/1/presence", b"offline", 1, retain=True))
    async with open_session(broker.url, sign_on=sign_on) as session:
        session.drop()
        assert await broker.packet() is None, "no DISCONNECT, which would take the will back"
        await session.ended()
    will = heard[0].will
    assert will is not None
    assert (will.topic, will.payload, int(will.qos), will.retain) == ("devices/1/presence", b"offline", 1, True)


async def test_a_reply_carries_the_data_of_its_request_and_no_message_id(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        reply = Publication("devices/1/reply", b"ok", 1, retain=False, message_id="", correlation_data=b"\xff")
        published(session, reply)
        packet = await broker.publish()
        published(session, reply._replace(correlation_data=None))
        without = await broker.publish()
    assert (packet.correlation_data, packet.user_properties) == (b"\xff", [])
    assert (without.correlation_data, without.user_properties) == (None, [])


async def test_the_properties_of_a_publication(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        first_attempt = Publication("devices/1", b"x", 1, retain=True, message_id="id-1", deadline=in_seconds(30.9))
        published(session, first_attempt)
        first = await broker.publish()
        published(session, first_attempt._replace(attempt=2, deadline=None, response_topic="r"))
        second = await broker.publish()
    assert (first.topic, first.payload, int(first.qos), first.retain) == ("devices/1", b"x", 1, True)
    assert (first.correlation_data, first.user_properties) == (b"id-1", [("message-id", "id-1")])
    assert (first.message_expiry_interval, first.response_topic) == (30, None)
    assert second.user_properties == [("message-id", "id-1"), ("attempt", "2")]
    assert second.response_topic == "r"
    assert not second.duplicate


async def test_a_broker_that_cannot_bear_properties_gets_none(broker: FakeBroker) -> None:
    async with open_session(broker.url, sign_on=SignOn("gate", 10, properties=False)) as session:
        published(session, publication(b"x")._replace(attempt=2, deadline=in_seconds(3), response_topic="r"))
        packet = await broker.publish()
    assert packet.write() == mqtt5.PublishPacket("devices/1", b"x", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1).write()


@pytest.mark.parametrize("reason_code", [0x00, 0x10, 0x80, 0x87, 0x97])
async def test_every_reason_code_is_a_result(broker: FakeBroker, reason_code: int) -> None:
    async with open_session(broker.url) as session:
        outcome = published(session, publication())
        packet = await broker.publish()
        broker.send(bytes([0x40, 3, 0, packet.packet_id or 0, reason_code]))
        assert await outcome == reason_code
        assert session.met_no_subscribers == (reason_code == 0x10)


async def test_where_the_session_ends_doubt_is_told_from_certainty(broker: FakeBroker) -> None:
    broker.connack = mqtt5.ConnAckPacket(receive_max=2).write()
    async with open_session(broker.url) as session:
        outcomes = [published(session, publication(str(number))) for number in range(5)]
        assert [(await broker.publish()).payload for _ in range(2)] == [b"0", b"1"]
        broker.hang_up()
        results = await asyncio.gather(*outcomes, return_exceptions=True)
        cause = await end(session)
        with pytest.raises(LinkDown):
            await published(session, publication())
    assert [type(result) for result in results] == [LinkLost, LinkLost, LinkDown, LinkDown, LinkDown]
    assert isinstance(results[0], LinkLost)
    assert results[0].cause is cause


async def test_our_own_close_is_no_error(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        outcome = published(session, publication())
        await broker.publish()
        await session.close()
        assert isinstance(await broker.packet(), mqtt5.DisconnectPacket)
        assert await broker.packet() is None
        await session.ended()
    with pytest.raises(LinkLost) as lost:
        await outcome
    assert lost.value.cause is None


async def test_limits_are_checked_before_anything_leaves(broker: FakeBroker) -> None:
    broker.connack = mqtt5.ConnAckPacket(
        max_packet_size=200, retain_available=False, max_qos=mqtt5.QoS.AT_LEAST_ONCE
    ).write()
    async with open_session(broker.url) as session:
        for bad, limit in (
            (publication(b"x" * 201), "Maximum Packet Size"),
            (publication(b"x" * 100), "Maximum Packet Size"),
            (publication(qos=2), "Maximum QoS"),
            (Publication("devices/1", b"x", 1, retain=True, message_id="id"), "Retain Available"),
        ):
            with pytest.raises(PublicationInvalid) as error:
                await published(session, bad)
            assert error.value.limit == limit
        published(session, publication(b"fits"))
        assert (await broker.publish()).payload == b"fits"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_one_that_cannot_be_sent_after_all_takes_none_of_its_batch_along(broker: FakeBroker, qos: int) -> None:
    async with open_session(broker.url) as session:
        encoded = session._publisher.encode

        def fails(sent: Publication, packet_id: int) -> bytes:
            if sent.message_id == "bad":
                raise MemoryError
            return encoded(sent, packet_id)

        session._publisher.encode = fails  # type: ignore[method-assign]
        good, bad, behind = (
            published(session, publication(b"x", qos=qos if name == "bad" else 1)._replace(message_id=name))
            for name in ("good", "bad", "behind")
        )
        for _ in range(2):
            sent = await broker.publish()
            assert sent.packet_id is not None
            broker.send(mqtt5.PubAckPacket(sent.packet_id).write())
        assert (await good, await behind) == (0, 0)
        with pytest.raises(MemoryError):
            await bad
        assert (session.up, session.in_flight, session.waiting) == (True, 0, 0)


async def test_one_that_cannot_be_encoded_fails_its_caller_alone(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        published(session, publication(b"before"))
        with pytest.raises(ValueError, match="65535"):
            await published(session, publication(topic="x" * 70_000))
        published(session, publication(b"after"))
        assert [(await broker.publish()).payload for _ in range(2)] == [b"before", b"after"]


async def test_a_broker_that_does_not_read_holds_the_queue_back() -> None:
    """With 64 KiB a publication, a batch is one publication, and the transport pauses after each."""
    session, transport = connected()
    outcomes = [published(session, publication(b"x" * MAX_BATCH)) for _ in range(3)]
    session.pause_writing()
    await asyncio.sleep(0)
    assert session.waiting == 3
    transport.pause_at_next_write = True
    session.resume_writing()
    await asyncio.sleep(0)
    assert (session.in_flight, session.waiting) == (1, 2)
    session.connection_lost(None)
    results = await asyncio.gather(*outcomes, return_exceptions=True)
    assert [type(result) for result in results] == [LinkLost, LinkDown, LinkDown]


async def test_what_one_turn_of_the_loop_publishes_is_one_write() -> None:
    session, transport = connected()
    writes = len(transport.written)
    for number in range(20):
        published(session, publication(str(number)))
    await asyncio.sleep(0)
    assert len(transport.written) == writes + 1


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 84, id="another protocol"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", id="an endless length"),
        pytest.param(b"\x36\x07\x00\x01a\x00\x01\x00x", id="a quality of service that there is not"),
        pytest.param(b"\x32\x07\x00\x01a\x00\x00\x00x", id="a PUBLISH without a packet id"),
        pytest.param(b"\x32\x02\xff\xff", id="a topic beyond the end of its packet"),
        pytest.param(b"\x00\x00", id="a reserved type"),
    ],
)
@MAY_PANIC
async def test_malformed_bytes_end_the_session_with_their_sentence(broker: FakeBroker, garbage: bytes) -> None:
    async with open_session(broker.url, on_delivery=lambda _: None) as session:
        broker.send(garbage)
        error = await end(session)
        assert isinstance(error, MalformedPacket)
        assert str(error).startswith(f"{broker.url} sent bytes that are not MQTT 5: ")
        disconnect = await broker.packet()
        assert isinstance(disconnect, mqtt5.DisconnectPacket)
        assert int(disconnect.reason_code) == 0x81


async def test_a_packet_larger_than_we_announced_ends_the_session_before_it_is_read(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        broker.send(b"\x30\xff\xff\xff\x7f")
        assert isinstance(await end(session), MalformedPacket)
        disconnect = await broker.packet()
        assert isinstance(disconnect, mqtt5.DisconnectPacket)
        assert int(disconnect.reason_code) == 0x95


@MAY_PANIC
async def test_malformed_bytes_instead_of_connack(broker: FakeBroker) -> None:
    broker.connack = INVALID_UTF_8
    assert isinstance(await refusal(broker), MalformedPacket)


@pytest.mark.parametrize("reason_code", [0x8B, 0x8E, 0x93, 0x95])
async def test_the_brokers_disconnect_keeps_its_reason(broker: FakeBroker, reason_code: int) -> None:
    async with open_session(broker.url) as session:
        broker.send(bytes([0xE0, 1, reason_code]))
        error = await end(session)
    assert isinstance(error, BrokerClosed)
    assert error.reason_code == reason_code


async def test_a_silent_broker_is_asked_and_then_given_up(broker: FakeBroker) -> None:
    broker.connack = mqtt5.ConnAckPacket(server_keep_alive=1).write()  # less than our 10
    async with open_session(broker.url) as session:
        outcome = published(session, publication())
        await broker.publish()
        assert isinstance(await broker.packet(), mqtt5.PingReqPacket)
        error = await end(session)
    assert isinstance(error, BrokerSilent)
    assert error.seconds >= 1  # the moment itself is the keep-alive's, see its tests
    with pytest.raises(LinkLost):
        await outcome


async def test_a_delivery_is_the_brokers_until_we_acknowledge_it(broker: FakeBroker) -> None:
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    async with open_session(broker.url, on_delivery=deliveries.put_nowait) as session:
        for packet_id in (7, 8):
            broker.send(
                mqtt5.PublishPacket(
                    "devices/1/reply",
                    b"done",
                    qos=mqtt5.QoS.AT_LEAST_ONCE,
                    packet_id=packet_id,
                    correlation_data=b"id",
                    user_properties=[("k", "v")],
                ).write()
            )
        first, second = await deliveries.get(), await deliveries.get()
        first.acknowledge()
        first.acknowledge()
        answer = await broker.packet()
        assert isinstance(answer, mqtt5.PubAckPacket)
        assert answer.packet_id == 7
        await session.close()
        second.acknowledge()  # too late, and no error
        assert isinstance(await broker.packet(), mqtt5.DisconnectPacket)
    assert (first.topic, first.payload, first.qos, first.retain) == ("devices/1/reply", b"done", 1, False)
    assert (first.correlation_data, first.response_topic, first.user_properties) == (b"id", None, (("k", "v"),))


async def test_a_refused_subscription_names_its_filter(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        subscribing = asyncio.create_task(session.subscribe(["mine", "yours"]))
        packet = await broker.packet()
        assert isinstance(packet, mqtt5.SubscribePacket)
        assert [topic_filter.pattern for topic_filter in packet.topic_filters] == ["mine", "yours"]
        codes = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, mqtt5.SubAckReasonCode.NOT_AUTHORIZED]
        broker.send(mqtt5.SubAckPacket(packet.packet_id, codes).write())
        with pytest.raises(SubscriptionRefused) as error:
            await subscribing
    assert str(error.value) == "The broker refused the subscription to yours: Not authorized (0x87)."


async def test_a_subscription_ends_with_the_session(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        subscribing = asyncio.create_task(session.subscribe(["mine"]))
        await broker.packet()
        broker.hang_up()
        with pytest.raises(BrokerClosed) as ended:
            await subscribing
        with pytest.raises(BrokerClosed) as later:
            await session.subscribe(["mine"])
        assert ended.value is later.value is await end(session)


async def test_a_subscription_ends_with_our_own_close(broker: FakeBroker) -> None:
    async with open_session(broker.url) as session:
        subscribing = asyncio.create_task(session.subscribe(["mine"]))
        await broker.packet()
        await session.close()
        for asked in (subscribing, session.subscribe(["mine"])):
            with pytest.raises(LinkDown):
                await asked


async def test_a_broker_may_send_more_ahead_than_it_was_asked_to(broker: FakeBroker) -> None:
    """Mosquitto 2.0.11 does, and would send the same again in the next session."""
    ids = range(1, 2 * session_module.MAX_UNACKNOWLEDGED)
    deliveries: list[Delivery] = []
    have_come = asyncio.Event()

    def take(delivery: Delivery) -> None:
        deliveries.append(delivery)
        if len(deliveries) == len(ids):
            have_come.set()

    async with open_session(broker.url, on_delivery=take) as session:
        broker.send(b"".join(b"\x32\x06\x00\x01a" + each.to_bytes(2, "big") + b"\x00" for each in ids))
        await have_come.wait()
        for delivery in deliveries:
            delivery.acknowledge()
        assert session.up


async def test_an_owner_that_does_not_keep_up_bounds_what_the_broker_may_send(broker: FakeBroker) -> None:
    async with open_session(broker.url, on_delivery=lambda _: None) as session:
        ids = [*range(1, MOST_UNACKNOWLEDGED + 1), 1]
        broker.send(b"".join(b"\x32\x06\x00\x01a" + each.to_bytes(2, "big") + b"\x00" for each in ids))
        assert isinstance(await end(session), MalformedPacket)
        disconnect = await broker.packet()
        assert isinstance(disconnect, mqtt5.DisconnectPacket)
        assert int(disconnect.reason_code) == 0x93


async def test_large_deliveries_are_read_as_their_owner_acknowledges_them(broker: FakeBroker) -> None:
    taken: list[Delivery] = []
    size, count = 256 * 1024, 2 * MOST_HELD // (256 * 1024)

    def delivery(packet_id: int) -> bytes:
        return mqtt5.PublishPacket("a", bytes(size), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write()

    async with open_session(broker.url, on_delivery=taken.append) as session:
        for packet_id in range(1, count + 1):
            broker.send(delivery(packet_id))
        await until(lambda: session._inbox.is_full)
        session._keep_alive.heard_at -= 3600  # nothing was read for long, and the broker is not taken for silent
        session._watch()
        assert session.up
        assert len(taken) * size < MOST_HELD + 2 * size
        while len(taken) < count or session._inbox.owed:
            for each in taken:
                each.acknowledge()
            await asyncio.sleep(0.01)
        assert session.up
    heard = [await broker.packet() for _ in range(count)]
    assert [packet.packet_id for packet in heard if isinstance(packet, mqtt5.PubAckPacket)] == [*range(1, count + 1)]


@trials(max_examples=50)
@given(
    reason_codes=st.lists(st.sampled_from([0x00, 0x10, 0x87]), min_size=1, max_size=20),
    payloads=st.lists(st.binary(max_size=200), max_size=5),
    places=st.lists(st.integers(0, 2000)),
)
def test_outcomes_and_deliveries_are_the_same_wherever_the_stream_is_cut(
    reason_codes: list[int], payloads: list[bytes], places: list[int]
) -> None:
    async def scenario() -> None:
        deliveries: list[Delivery] = []
        session, _ = connected(deliveries)
        outcomes = [published(session, publication()) for _ in reason_codes]
        await asyncio.sleep(0)
        stream = b"".join(bytes([0x40, 3, 0, index + 1, code]) for index, code in enumerate(reason_codes))
        stream += b"".join(mqtt5.PublishPacket("t", payload).write() for payload in payloads)
        edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
        for start, stop in pairwise(edges):
            session.data_received(stream[start:stop])
        assert await asyncio.gather(*outcomes) == reason_codes
        assert [delivery.payload for delivery in deliveries] == payloads
        await session.close()

    asyncio.run(scenario())
