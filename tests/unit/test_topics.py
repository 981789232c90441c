"""Topics of devices, read from the topic to the device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.link.topics import DeviceTopics

REPLIES = "devices/{imei}/reply"


@pytest.mark.parametrize(
    ("template", "topic_filter"),
    [
        (REPLIES, "devices/+/reply"),
        ("{imei}", "+"),
        ("{imei}/r", "+/r"),
        ("/{imei}", "/+"),
        ("a/b/{imei}", "a/b/+"),
        ("devices/d-{imei}-x/reply", "devices/+/reply"),  # the wildcard takes a whole level
    ],
)
def test_a_template_is_a_filter(template: str, topic_filter: str) -> None:
    topics = DeviceTopics(template)
    assert topics.filter == topic_filter
    assert topics.device(topics.of("861234.A_b-1")) == "861234.A_b-1"


@pytest.mark.parametrize(
    ("template", "topic"),
    [
        pytest.param(REPLIES, "", id="nothing"),
        pytest.param(REPLIES, "devices/reply", id="no level"),
        pytest.param(REPLIES, "devices//reply", id="an empty level"),
        pytest.param(REPLIES, "devices/1/reply/more", id="more behind it"),
        pytest.param(REPLIES, "x/devices/1/reply", id="more before it"),
        pytest.param(REPLIES, "devices/1/2/reply", id="two levels"),
        pytest.param(REPLIES, "devices/1/replY", id="other letters"),
        pytest.param(REPLIES, "devices/+/reply", id="a wildcard"),
        pytest.param(REPLIES, "devices/1 /reply", id="a space"),
        pytest.param(REPLIES, "devices/1\n/reply", id="a line's end"),
        pytest.param(REPLIES, "devices/\x00/reply", id="NUL"),
        pytest.param(REPLIES, "devices/\u202e1/reply", id="a change of direction"),
        pytest.param(REPLIES, "devices/۱۲۳/reply", id="Persian digits: a broker's ACL takes them for another device"),
        pytest.param(REPLIES, f"devices/{'1' * 65}/reply", id="too long"),
        pytest.param("devices/d-{imei}/reply", "devices/1/reply", id="not in the level"),
        pytest.param("a{imei}a", "a", id="before and behind overlap"),
    ],
)
def test_what_is_no_devices_topic(template: str, topic: str) -> None:
    assert DeviceTopics(template).device(topic) is None


@given(topic=st.text(max_size=40) | st.text("devics/reply+#1٣", max_size=40).map("devices/{}/reply".format))
def test_a_device_read_from_a_topic_makes_that_topic_again(topic: str) -> None:
    topics = DeviceTopics(REPLIES)
    device = topics.device(topic)
    assert device is None or topics.of(device) == topic
