"""What a message may be called, where it may be published, and how it may move."""

import json
import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chapar.errors import FieldInvalid
from chapar.message import (
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
