"""Whatever reason code a broker answers with, and whatever it sends that nobody waits for, the session stays."""

import asyncio

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chapar.errors import BrokerClosed, ConnectionRefused, LinkLost, ReleaseRefused, SubscriptionRefused
from chapar.link.packets import read_packet, read_puback
from chapar.link.publication import Delivery
from chapar.link.reason_codes import reason_slug
from support.links import connected, publication, published

EVERY_CODE = range(256)
ENDPOINT = "mqtt://test"


def answer(kind: int, packet_id: int, code: int | None = None) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP with any reason code, or without one."""
    body = packet_id.to_bytes(2, "big") + (b"" if code is None else bytes([code]))
    return bytes([kind, len(body)]) + body


PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70


async def test_every_code_of_a_puback_is_the_outcome_of_its_publication() -> None:
    session, _ = connected()
    outcomes = [published(session, publication()) for _ in EVERY_CODE]
    await asyncio.sleep(0)
    for code in EVERY_CODE:
        session.data_received(answer(PUBACK, code + 1, code))
    assert [await outcome for outcome in outcomes] == [*EVERY_CODE]
    assert session.up
    assert session.strays == {}


@given(st.binary(min_size=2, max_size=3), st.sampled_from([b"", b"\x00", b"\x01", b"\x05\x1f\x00\x02ok"]))
def test_a_puback_says_the_same_with_and_without_the_codec(begin: bytes, properties: bytes) -> None:
    body = begin + properties
    frame = memoryview(bytes([PUBACK, len(body)]) + body)
    short = read_puback(frame)
    if short is None:
        assert len(body) > 3
        return
    packet, unlisted = read_packet(frame)
    assert isinstance(packet, mqtt5.PubAckPacket)
    assert short == (packet.packet_id, unlisted[0] if unlisted else int(packet.reason_code))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x41\x02\x00\x01", id="flags"),
        pytest.param(b"\x40\x82\x00\x00\x01", id="a length in two bytes"),
        pytest.param(b"\x40\x04\x00\x01\x00\x01", id="properties beyond its end"),
        pytest.param(b"\x40\x01\x00", id="half a packet id"),
        pytest.param(b"\x40\x00", id="nothing"),
        pytest.param(b"\x50\x02\x00\x01", id="PUBREC"),
    ],
)
def test_anything_else_is_left_to_the_codec(frame: bytes) -> None:
    assert read_puback(memoryview(frame)) is None


async def test_a_code_with_properties_behind_it_counts_too() -> None:
    session, _ = connected()
    outcome = published(session, publication())
    await asyncio.sleep(0)
    session.data_received(b"\x40\x0d\x00\x01\x95\x09\x1f\x00\x06too so")
    assert await outcome == 0x95


async def test_every_code_of_a_pubrec_is_a_refusal_or_is_released() -> None:
    session, transport = connected()
    outcomes = [published(session, publication(qos=2)) for _ in EVERY_CODE]
    await asyncio.sleep(0)
    transport.written.clear()
    for code in EVERY_CODE:
        session.data_received(answer(PUBREC, code + 1, code))
    await asyncio.sleep(0)
    assert b"".join(transport.written) == b"".join(answer(PUBREL, code + 1) for code in range(0x80))
    assert [await outcome for outcome in outcomes[0x80:]] == [*range(0x80, 256)]
    assert not any(outcome.done() for outcome in outcomes[:0x80])
    for code in range(0x80):
        session.data_received(answer(PUBCOMP, code + 1))
    assert [await outcome for outcome in outcomes[:0x80]] == [*range(0x80)]
    assert session.strays == {}


async def test_every_code_of_a_pubcomp_confirms_what_pubrec_said_or_leaves_it_in_doubt() -> None:
    session, _ = connected()
    outcomes = [published(session, publication(qos=2)) for _ in EVERY_CODE]
    await asyncio.sleep(0)
    for code in EVERY_CODE:
        session.data_received(answer(PUBREC, code + 1) + answer(PUBCOMP, code + 1, code))
    assert [await outcome for outcome in outcomes[:0x80]] == [0] * 0x80
    for code, outcome in enumerate(outcomes[0x80:], 0x80):
        with pytest.raises(LinkLost) as lost:
            await outcome
        assert isinstance(lost.value.cause, ReleaseRefused)
        assert lost.value.cause.reason_code == code
    assert session.up


async def test_every_code_of_a_suback_is_taken_by_its_class() -> None:
    session, _ = connected()
    for number, code in enumerate(EVERY_CODE):
        subscribing = asyncio.create_task(session.subscribe(["good", f"filter/{code}"]))
        await asyncio.sleep(0)
        packet_id = (64_001 + number).to_bytes(2, "big")
        session.data_received(b"\x90\x05" + packet_id + b"\x00\x00" + bytes([code]))
        if code < 0x80:
            await subscribing
            continue
        with pytest.raises(SubscriptionRefused, match=f"(?i)filter/{code}: .*0x{code:02x}") as refused:
            await subscribing
        assert refused.value.reason_code == code
    assert session.up


@pytest.mark.parametrize("code", EVERY_CODE)
async def test_every_code_of_a_connack_is_taken_by_its_class(code: int) -> None:
    session, _ = connected(connack=bytes([0x20, 3, 0, code, 0]))
    assert session.up is (code < 0x80)
    if code < 0x80 or code == 0x84:
        return
    with pytest.raises(ConnectionRefused, match=f"0x{code:02X}") as refused:
        await session.established()
    assert refused.value.reason_code == code


@pytest.mark.parametrize("code", EVERY_CODE)
@pytest.mark.parametrize("end", [b"", b"\x00"])
async def test_every_code_of_a_disconnect_ends_the_session_with_its_number(code: int, end: bytes) -> None:
    session, transport = connected()
    session.data_received(bytes([0xE0, 1 + len(end), code]) + end)
    with pytest.raises(BrokerClosed, match=f"0x{code:02X}") as closed:
        await session.ended()
    assert closed.value.reason_code == code
    assert transport.written == []


@pytest.mark.parametrize(
    ("code", "slug"),
    [(0x87, "not_authorized"), (0x95, "packet_too_large"), (0xC1, "reason_0xc1"), (0xFF, "reason_0xff")],
)
def test_a_code_without_a_name_is_known_by_its_number(code: int, slug: str) -> None:
    assert reason_slug(code) == slug


@pytest.mark.parametrize(
    ("stray", "kind", "replies"),
    [
        pytest.param(answer(PUBACK, 7), "PUBACK", b"", id="PUBACK of nothing"),
        pytest.param(answer(PUBACK, 7, 0xC1), "PUBACK", b"", id="PUBACK of nothing, refused"),
        pytest.param(answer(PUBACK, 0), "PUBACK", b"", id="PUBACK of no packet"),
        pytest.param(answer(PUBACK, 2), "PUBACK", b"", id="PUBACK of a QoS 2 packet"),
        pytest.param(answer(PUBREC, 7), "PUBREC", answer(PUBREL, 7, 0x92), id="PUBREC of nothing"),
        pytest.param(answer(PUBREC, 1), "PUBREC", answer(PUBREL, 1, 0x92), id="PUBREC of a QoS 1 packet"),
        pytest.param(answer(PUBREC, 7, 0x97), "PUBREC", b"", id="PUBREC of nothing, refused"),
        pytest.param(answer(PUBCOMP, 7), "PUBCOMP", b"", id="PUBCOMP of nothing"),
        pytest.param(answer(PUBCOMP, 2), "PUBCOMP", b"", id="PUBCOMP before PUBREC"),
        pytest.param(answer(PUBREL, 7), "PUBREL", answer(PUBCOMP, 7, 0x92), id="PUBREL of nothing"),
        pytest.param(b"\x30\x05\x00\x01n\x00!", "PUBLISH", b"", id="PUBLISH of QoS 0"),
        pytest.param(b"\x32\x07\x00\x01n\x00\x07\x00!", "PUBLISH", answer(PUBACK, 7), id="PUBLISH of QoS 1"),
        pytest.param(b"\x34\x07\x00\x01n\x00\x07\x00!", "PUBLISH", answer(PUBREC, 7), id="PUBLISH of QoS 2"),
        pytest.param(b"\x32\x09\x00\x00\x00\x07\x03\x23\x00\x01!", "PUBLISH", answer(PUBACK, 7), id="a topic alias"),
        pytest.param(
            b"\x32\x09\x00\x02\xff\xfe\x00\x07\x00ab", "PUBLISH", answer(PUBACK, 7), id="a topic not in UTF-8"
        ),
        pytest.param(b"\x90\x04\x00\x07\x00\x01", "SUBACK", b"", id="SUBACK"),
        pytest.param(b"\x90\x04\x00\x07\x00\xc1", "SUBACK", b"", id="SUBACK, refused"),
        pytest.param(b"\xb0\x04\x00\x07\x00\x00", "UNSUBACK", b"", id="UNSUBACK"),
        pytest.param(b"\xb0\x04\x00\x07\x00\xc1", "UNSUBACK", b"", id="UNSUBACK, refused"),
        pytest.param(b"\xf0\x02\x18\x00", "AUTH", b"", id="AUTH"),
        pytest.param(b"\xf0\x02\xc1\x00", "AUTH", b"", id="AUTH with a code of its own"),
        pytest.param(b"\x20\x03\x00\x00\x00", "CONNACK", b"", id="a second CONNACK"),
        pytest.param(b"\xc0\x00", "PINGREQ", b"", id="PINGREQ"),
        pytest.param(b"\x82\x07\x00\x07\x00\x00\x01a\x00", "SUBSCRIBE", b"", id="SUBSCRIBE"),
    ],
)
async def test_what_nobody_waits_for_is_answered_dropped_counted_and_logged_once(
    stray: bytes, kind: str, replies: bytes
) -> None:
    session, transport = connected()
    first, second = published(session, publication()), published(session, publication(qos=2))
    await asyncio.sleep(0)
    transport.written.clear()
    with capture_logs() as logged:
        for _ in range(3):
            session.data_received(stray)
    await asyncio.sleep(0)
    assert b"".join(transport.written) == replies * 3
    assert session.strays == {kind: 3}
    assert [(entry["event"], entry["packet"]) for entry in logged] == [("broker_sent_stray_packet", kind)]
    assert (session.up, session.in_flight, first.done(), second.done()) == (True, 2, False, False)
    session.data_received(answer(PUBACK, 1) + answer(PUBREC, 2) + answer(PUBCOMP, 2))
    assert (await first, await second) == (0, 0)


async def test_an_unasked_pingresp_is_a_sign_of_life() -> None:
    session, transport = connected()
    session.data_received(b"\xd0\x00" * 3)
    assert (session.up, session.strays, transport.written) == (True, {}, [])


async def test_a_second_pubrec_is_released_again() -> None:
    session, transport = connected()
    outcome = published(session, publication(qos=2))
    await asyncio.sleep(0)
    transport.written.clear()
    session.data_received(answer(PUBREC, 1) * 2 + answer(PUBREC, 1, 0x97))
    await asyncio.sleep(0)
    assert transport.written == [answer(PUBREL, 1) * 2]
    assert not outcome.done()
    session.data_received(answer(PUBCOMP, 1) * 2)
    assert await outcome == 0
    assert session.strays == {"PUBREC": 2, "PUBCOMP": 1}


async def test_a_second_puback_settles_nothing_else() -> None:
    session, _ = connected()
    outcomes = [published(session, publication()) for _ in range(3)]
    await asyncio.sleep(0)
    session.data_received(answer(PUBACK, 1) * 2 + answer(PUBACK, 1, 0x87))
    assert (await outcomes[0], outcomes[1].done(), outcomes[2].done()) == (0, False, False)
    assert session.strays == {"PUBACK": 2}


async def test_unasked_publications_of_qos_2_are_completed() -> None:
    session, transport = connected()
    for packet_id in range(1, 3001):  # more than we announced that we would take at a time
        session.data_received(b"\x34\x06\x00\x01n" + packet_id.to_bytes(2, "big") + b"\x00")
    transport.written.clear()
    session.data_received(answer(PUBREL, 3000, 0x92) + answer(PUBREL, 3000))
    await asyncio.sleep(0)
    assert transport.written[-1].endswith(answer(PUBCOMP, 3000) + answer(PUBCOMP, 3000, 0x92))
    assert session.up


async def test_an_owner_gets_only_what_it_can_have_asked_for() -> None:
    deliveries: list[Delivery] = []
    session, transport = connected(deliveries)
    session.data_received(b"\x32\x09\x00\x00\x00\x01\x03\x23\x00\x01!")  # a topic alias
    session.data_received(b"\x30\x05\x00\x01n\x00!")
    await asyncio.sleep(0)
    assert [(delivery.topic, delivery.qos) for delivery in deliveries] == [("n", 0)]
    assert transport.written == [answer(PUBACK, 1)]
    assert session.strays == {"PUBLISH": 1}


@pytest.mark.parametrize(("ours", "theirs", "interval"), [(10, None, 10), (10, 120, 10), (10, 4, 4), (10, 0, 10)])
async def test_the_shorter_keep_alive_counts(ours: int, theirs: int | None, interval: int) -> None:
    connack = mqtt5.ConnAckPacket(server_keep_alive=theirs).write()
    session, _ = connected(connack=connack, keep_alive=ours)
    assert session._keep_alive.interval == interval
