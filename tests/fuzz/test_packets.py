"""The reading of what leaves is strict: it takes what the standard allows, and nothing else."""

import pytest

from fuzz.packets import Illegal, parse

_TOPIC = b"\x00\x01a"


def publish(head: int, body: bytes) -> bytes:
    return bytes([head, len(body)]) + body


@pytest.mark.parametrize(
    ("data", "topic", "payload", "qos"),
    [
        (publish(0x30, _TOPIC + b"\x00x"), "a", b"x", 0),
        (publish(0x33, _TOPIC + b"\x00\x07\x00"), "a", b"", 1),
        (publish(0x3C, _TOPIC + b"\x00\x07\x05\x02\x00\x00\x00\x01"), "a", b"", 2),
        (publish(0x32, b"\x00\x02\xc3\xa9" + b"\x00\x01\x07\x26\x00\x01k\x00\x01v" + b"\xff"), "é", b"\xff", 1),
    ],
)
def test_what_a_client_may_send_is_read_as_it_is(data: bytes, topic: str, payload: bytes, qos: int) -> None:
    [packet] = parse(b"\xc0\x00" + data + b"\x62\x02\x00\x01")
    assert (packet.topic, packet.payload, packet.qos) == (topic, payload, qos)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(publish(0x30, b"\x00\x00\x00"), id="no topic"),
        pytest.param(publish(0x30, b"\x00\x03a/+\x00"), id="a wildcard"),
        pytest.param(publish(0x30, b"\x00\x01\x00\x00"), id="NUL"),
        pytest.param(publish(0x30, b"\x00\x02\xc2\x85\x00"), id="a control character"),
        pytest.param(publish(0x30, b"\x00\x03\xef\xbf\xbf\x00"), id="a non-character"),
        pytest.param(publish(0x30, b"\x00\x03\xed\xa0\x80\x00"), id="a surrogate"),
        pytest.param(publish(0x30, b"\x00\x01\xff\x00"), id="no UTF-8"),
        pytest.param(publish(0x36, _TOPIC + b"\x00\x01\x00"), id="quality of service 3"),
        pytest.param(publish(0x38, _TOPIC + b"\x00"), id="a duplicate of quality of service 0"),
        pytest.param(publish(0x32, _TOPIC + b"\x00\x00\x00"), id="packet id 0"),
        pytest.param(publish(0x30, _TOPIC), id="no properties"),
        pytest.param(publish(0x30, _TOPIC + b"\x02\x0b\x01"), id="a subscription identifier"),
        pytest.param(publish(0x30, _TOPIC + b"\x04\x01\x00\x01\x00"), id="a property twice"),
        pytest.param(publish(0x30, _TOPIC + b"\x04\x08\x00\x01#"), id="a response topic with a wildcard"),
        pytest.param(publish(0x30, _TOPIC + b"\x05\x26\x00\x01k\x00"), id="half a property"),
        pytest.param(b"\x30\x84\x00" + _TOPIC + b"\x00", id="a length that is longer than it need be"),
        pytest.param(b"\x30\x05" + _TOPIC + b"\x00", id="a cut packet"),
        pytest.param(b"\x10\x00", id="another packet"),
        pytest.param(b"\x60\x02\x00\x01", id="a PUBREL without its flags"),
    ],
)
def test_what_no_client_may_send_is_illegal(data: bytes) -> None:
    with pytest.raises(Illegal):
        parse(data)
