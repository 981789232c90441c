"""What a message may be called, where it may be published, and how it may move."""

import json
import re
import string
import uuid
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chapar.errors import FieldInvalid
from chapar.model import message as message_module
from chapar.model.message import (
    MAX_OPERATION_BYTES,
    MAX_TOPIC_BYTES,
    MAX_TOPIC_LEVELS,
    MOVES,
    UNFINISHED,
    Status,
    check_device_id,
    check_operation,
    check_topic_template,
    has_forbidden_character,
    new_id,
    time_of,
)
from support.stores import new_message

ALLOWED = string.ascii_letters + string.digits + "._-"
PERSIAN, ARABIC = "۰۱۲۳۴۵۶۷۸۹", "٠١٢٣٤٥٦٧٨٩"
FINAL = set(Status) - UNFINISHED

device_ids = st.text(st.sampled_from(ALLOWED), min_size=1, max_size=64)


@given(device_ids)
def test_a_device_id_of_the_allowed_characters_is_left_as_it_is(text: str) -> None:
    assert check_device_id(text) == text


@given(st.text(st.sampled_from(PERSIAN + ARABIC + string.digits), min_size=1, max_size=64))
def test_digits_are_folded_to_ascii(text: str) -> None:
    assert check_device_id(text) == "".join(str(int(digit)) for digit in text)


@given(st.text(max_size=80))
def test_what_passes_for_a_device_id_can_never_break_out_of_its_topic(text: str) -> None:
    try:
        device_id = check_device_id(text)
    except FieldInvalid:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", device_id)
    assert not set("/+#$\0") & set(device_id)


@pytest.mark.parametrize("text", ["", "a" * 65, "a/b", "a+", "#", "$SYS", "a b", "a\n", "é", "a\0", "८६"])
def test_other_device_ids_are_refused(text: str) -> None:
    with pytest.raises(FieldInvalid):
        check_device_id(text)


@given(device_ids, st.text("/abc", min_size=0, max_size=20))
def test_each_device_id_makes_a_legal_topic_of_each_template(device_id: str, fixed: str) -> None:
    topic = check_topic_template(fixed + "{imei}/commands").replace("{imei}", check_device_id(device_id))
    assert not set("+#\0{}") & set(topic)
    assert 0 < len(topic.encode()) <= MAX_TOPIC_BYTES


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_topic_template_is_taken_as_it_is_or_refused_with_a_sentence(before: str, after: str) -> None:
    template = before + "{imei}" + after
    fixed = before + after
    if set("+#{}") & set(fixed) or has_forbidden_character(fixed) or before.startswith("$"):
        with pytest.raises(ValueError, match="it must"):
            check_topic_template(template)
    else:
        assert check_topic_template(template) == template


@pytest.mark.parametrize(
    "template",
    [
        "devices",
        "{imei}/{imei}",
        "devices/+/{imei}",
        "devices/{imei}/#",
        "$share/{imei}",
        "devices\0/{imei}",
        "devices/{imei}/{op}",
        "/" * MAX_TOPIC_LEVELS + "{imei}",
        "a" * MAX_TOPIC_BYTES + "{imei}",
    ],
)
def test_other_topic_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        check_topic_template(template)


@given(st.text(min_size=1, max_size=MAX_OPERATION_BYTES))
def test_an_operation_is_taken_as_it_is_or_refused_with_a_sentence(text: str) -> None:
    if not text.strip() or has_forbidden_character(text) or len(text.encode()) > MAX_OPERATION_BYTES:
        with pytest.raises(FieldInvalid) as raised:
            check_operation(text)
        assert raised.value.field == "micro_op"
        assert raised.value.sentence("en") != raised.value.sentence("fa")
    else:
        assert check_operation(text) == text


@pytest.mark.parametrize("text", ["push_down", "باز کن", "open valve 3", "🚰", "a" * MAX_OPERATION_BYTES, "é" * 512])
def test_operations_are_any_text(text: str) -> None:
    assert check_operation(text) == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "\t\n", "a\0b", "a\x1fb", "\x7f", "\ud800", "\ufffe", "\U0001ffff", "\ufdd0", "a" * 1025, "é" * 513],
)
def test_operations_that_no_broker_takes_are_refused(text: str) -> None:
    with pytest.raises(FieldInvalid):
        check_operation(text)


@given(st.characters())
def test_a_character_is_forbidden_as_mqtt_says(character: str) -> None:
    code_point = ord(character)
    assume(not 0xE000 <= code_point <= 0xF8FF)
    is_control = code_point <= 0x1F or 0x7F <= code_point <= 0x9F
    is_surrogate = 0xD800 <= code_point <= 0xDFFF
    is_noncharacter = code_point & 0xFFFF in {0xFFFE, 0xFFFF} or 0xFDD0 <= code_point <= 0xFDEF
    assert has_forbidden_character(character) == (is_control or is_surrogate or is_noncharacter)


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_a_message_moves_as_it_may_and_not_otherwise(before: Status, after: Status) -> None:
    message = new_message(status=before)
    if after in MOVES[before]:
        assert message.moved(after) == message._replace(status=after)
    else:
        with pytest.raises(ValueError, match=f"{before} to {after}"):
            message.moved(after)


def test_each_state_has_its_moves_and_only_unfinished_messages_can_still_be_sent() -> None:
    assert set(MOVES) == set(Status)
    assert {before for before, afters in MOVES.items() if Status.PUBLISHING in afters} <= UNFINISHED
    for status in FINAL:
        assert not MOVES[status] & UNFINISHED


def test_the_payload_is_the_operations_name_alone() -> None:
    assert new_message(micro_op="باز کن").payload == "باز کن".encode()


@given(st.text(max_size=50).filter(lambda text: not has_forbidden_character(text)))
def test_with_parameters_the_payload_is_an_envelope_of_json(micro_op: str) -> None:
    message = new_message(micro_op=micro_op, params='{"seconds":5,"note":"ü"}')
    assert json.loads(message.payload) == {
        "id": message.id,
        "micro_op": micro_op,
        "params": {"seconds": 5, "note": "ü"},
    }


def test_the_moves_are_these_and_no_others() -> None:
    moves = {(before.value, after.value) for before, afters in MOVES.items() for after in afters}
    assert moves == {
        ("scheduled", "queued"),
        ("scheduled", "expired"),
        ("scheduled", "cancelled"),
        ("scheduled", "unconfirmed"),
        ("queued", "publishing"),
        ("queued", "expired"),
        ("queued", "cancelled"),
        ("queued", "unconfirmed"),
        ("queued", "rejected"),
        ("publishing", "publishing"),
        ("publishing", "queued"),
        ("publishing", "published"),
        ("publishing", "rejected"),
        ("publishing", "unconfirmed"),
        ("publishing", "expired"),
        ("publishing", "cancelled"),
        ("published", "timed_out"),
        ("acknowledged", "timed_out"),
    } | {
        (before, after)
        for before in ("queued", "publishing", "published", "acknowledged", "timed_out")
        for after in ("acknowledged", "succeeded", "failed")
    } | {
        (before, after)
        for before in ("rejected", "unconfirmed", "expired", "cancelled")  # where an attempt was made
        for after in ("acknowledged", "succeeded", "failed")
    }
    assert {status.value for status in UNFINISHED} == {"scheduled", "queued", "publishing"}


@pytest.mark.parametrize(
    ("character", "forbidden"),
    [
        ("\ufdcf", False),
        ("\ufdd0", True),
        ("\ufdef", True),
        ("\ufdf0", False),
        ("\ufffd", False),
        ("\ufffe", True),
        ("\uffff", True),
        ("\U0001fffd", False),
        ("\U0010ffff", True),
        ("\u200c", False),
        ("\ue000", False),
        (" ", False),
        ("\x1f", True),
        ("\x7f", True),
        ("\udfff", True),
    ],
)
def test_what_is_no_text_ends_where_unicode_says(character: str, *, forbidden: bool) -> None:
    assert has_forbidden_character(character) is forbidden
    assert has_forbidden_character(f"a{character}\u200cb") is forbidden, "nor beside what is not printed but is text"


@pytest.mark.parametrize("nanoseconds", [0, 1, 500_000, 999_999, 1_700_000_000_123_456_789, 1_700_000_000_999_999_999])
def test_an_id_is_a_uuid_of_version_7_in_the_order_of_time(nanoseconds: int) -> None:
    made = uuid.UUID(new_id(nanoseconds))
    assert str(made) == new_id(nanoseconds)[:19] + str(made)[19:], "what is not chance is the time"
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == nanoseconds // 1_000_000
    assert (made.int >> 64) & 0xFFF == nanoseconds % 1_000_000 * 4096 // 1_000_000


def test_an_id_ends_in_62_bits_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = 0x2AAA_AAAA_AAAA_AAAB

    def getrandbits(count: int) -> int:
        assert count == 62
        return bits

    monkeypatch.setattr(message_module, "random", SimpleNamespace(getrandbits=getrandbits))
    assert uuid.UUID(new_id(1)).int & (2**62 - 1) == bits
    assert len({new_id(1) for _ in range(2)}) == 1


def test_the_field_that_breaks_a_rule_is_named() -> None:
    for check, wrong in (
        (check_device_id, ""),
        (check_operation, ""),
        (check_operation, "\0"),
        (check_operation, "a" * 1025),
    ):
        with pytest.raises(FieldInvalid) as named:
            check(wrong, "messages[3]")
        assert named.value.field == "messages[3]"
        with pytest.raises(FieldInvalid) as unnamed:
            check(wrong)
        assert unnamed.value.field == ("imei" if check is check_device_id else "micro_op")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("devices", "exactly once"),
        ("{imei}{imei}", "exactly once"),
        ("+/{imei}", "must not contain"),
        ("a{/{imei}", "must not contain"),
        ("a}/{imei}", "must not contain"),
        ("a\0/{imei}", "must not contain"),
        ("$a/{imei}", "must not begin with"),
        ("/" * MAX_TOPIC_LEVELS + "{imei}", "at most 128 levels and 65471 bytes"),
        ("a" * (MAX_TOPIC_BYTES - 69) + "{imei}", "at most 128 levels and 65471 bytes"),
    ],
)
def test_why_a_topic_template_is_refused_is_told(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_topic_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "/" * (MAX_TOPIC_LEVELS - 1) + "{imei}",
        "a" * (MAX_TOPIC_BYTES - 70) + "{imei}",
        "a/$b/{imei}",
        "{imei}$",
        "X/{imei}",
    ],
)
def test_a_topic_template_may_be_as_long_and_as_deep_as_a_topic(template: str) -> None:
    assert check_topic_template(template) == template


def test_an_id_says_when_it_was_made() -> None:
    assert time_of(new_id(1_800_000_000_123_456_789)) == 1_800_000_000_123
    assert time_of("abc") == 0
    assert time_of("") == 0
