"""Where the messages of a bulk body stand, however the body is cut into steps."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chapar.errors import BodyMalformed, BodyTooDeep, FieldInvalid
from chapar.web.api import items

texts = st.text(st.sampled_from('a"\\,[]{}: \né\u200c'), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
steps_of = st.sampled_from([2, 3, 7, 16, 31, 16 * 1024])  # bytes


def found(body: bytes, bytes_at_a_time: int = 16 * 1024) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "AT_A_TIME", bytes_at_a_time)
        return [body[place] for place in items.in_list(body) if place is not None]


@given(messages=st.lists(values, max_size=5), ascii_only=st.booleans(), indent=st.sampled_from([None, 1]), at=steps_of)
def test_every_message_of_a_list_is_found(
    messages: list[Any], *, ascii_only: bool, indent: int | None, at: int
) -> None:
    body = json.dumps({"messages": messages}, ensure_ascii=ascii_only, indent=indent).encode()
    assert [json.loads(each) for each in found(body, at)] == messages


@given(st.lists(values, max_size=5), st.data(), steps_of)
def test_a_body_that_is_cut_off_is_refused(messages: list[Any], data: st.DataObject, at: int) -> None:
    body = json.dumps({"messages": messages}).encode()
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises((BodyMalformed, FieldInvalid)):
        found(body[:cut], at)


@given(st.lists(texts.filter(lambda text: text.strip() and not {"\n", "\r"}.intersection(text)), max_size=5), steps_of)
@example(["{}", "{}"], 2)
def test_every_line_is_found(lines: list[str], at: int) -> None:
    for end in ("\n", "\r\n", "\n \n\n"):
        body = "".join(line + end for line in lines).encode()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(items, "AT_A_TIME", at)
            places = [place for place in items.in_lines(body) if place is not None]
        assert [body[place].decode().strip() for place in places] == [line.strip() for line in lines]


@given(steps_of)
def test_values_side_by_side_are_one_message(at: int) -> None:
    assert found(b'{"messages":[{}{"a":[]}[] {},[][{}],{}]}', at) == [b'{}{"a":[]}[] {}', b"[][{}]", b"{}"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", BodyMalformed),
        (b"x", BodyMalformed),
        (b"{}", FieldInvalid),
        (b"[]", FieldInvalid),
        (b'{"messages":{}}', FieldInvalid),
        (b'{"messages":[],"messages":[]}', FieldInvalid),
        (b'{"messages":[],"more":1}', FieldInvalid),
        (b'{"more":1,"messages":[]}', FieldInvalid),
        (b'{"messages":[]}}', BodyMalformed),
        (b'{"messages":[]} x', BodyMalformed),
        (b'{"messages":[}', BodyMalformed),
        (b'{"messages":[{}', BodyMalformed),
        (b'{"messages":["]}', BodyMalformed),
        (b'{"messages":[' + b"[" * (items.MAX_DEPTH + 1), BodyTooDeep),
        (b" " * 100_000, FieldInvalid),  # too large to say whether it is JSON
    ],
)
def test_what_is_no_list_of_messages_is_refused(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        found(body)
