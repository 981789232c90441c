"""What a device's reply says, which message it answers, and what that makes of the message."""

import base64
import json
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from chapar.model.message import MOVES, Message, Profile, Status, first_id
from chapar.model.reason import Reason
from chapar.model.reply import (
    LONGEST_PROGRESS,
    MAX_KEPT,
    ORDER_OFF_FOR,
    Choice,
    MatchedBy,
    ReceivedReply,
    Unmatched,
    answered,
    choose,
    packed,
    read_reply,
    reply_to,
    standing,
    unmatched_reply,
    unpacked,
)
from support.fakes import EPOCH
from support.stores import new_message

DEVICE = "862000000000001"
TOPIC = f"devices/{DEVICE}/reply"
ACKNOWLEDGED, SUCCEEDED, FAILED = Status.ACKNOWLEDGED, Status.SUCCEEDED, Status.FAILED


def received(payload: bytes | str = b"", **facts: Any) -> ReceivedReply:
    """A reply of the device, just now."""
    body = payload.encode() if isinstance(payload, str) else payload
    correlation, properties = facts.pop("correlation", None), facts.pop("properties", ())
    given: dict[str, Any] = {"device": DEVICE, "topic": TOPIC, "at": EPOCH} | facts
    return read_reply(body, correlation, properties, **given)


def sent(status: Status = Status.PUBLISHED, **fields: Any) -> Message:
    """A message that its device was sent a moment ago and is to answer within ten seconds."""
    is_over = status not in {Status.PUBLISHED, Status.PUBLISHING, Status.QUEUED, ACKNOWLEDGED}
    facts: dict[str, Any] = {
        "imei": DEVICE,
        "topic": f"devices/{DEVICE}",
        "micro_op": "push_down",
        "status": status,
        "attempts": 1,
        "created_at": EPOCH - 2000,
        "published_at": EPOCH - 1000,
        "finished_at": EPOCH - 500 if is_over else None,
        "reply_within": 10_000,
        "reply_by": EPOCH + 9_000,
    }
    return new_message()._replace(**facts | fields)


ID = sent().id


class Reading(NamedTuple):
    payload: bytes
    shown: Any  #: the payload, as an answer shows it
    word: str = ""
    text: str | None = None
    message_id: str | None = None
    facts: Mapping[str, Any] = MappingProxyType({})


def _text(payload: bytes, text: str | None = None) -> Reading:
    shown = payload.decode()
    return Reading(payload, shown, text=shown if text is None else text)


READINGS = {
    "text": _text(b"push_down ok"),
    "Persian text": _text("پمپ روشن شد".encode()),
    "text of C": _text(b"push_down ok\0"),
    "nothing": _text(b""),
    "blanks": _text(b" \r\n", ""),
    "bytes": Reading(b"\xff\x00\x01", {"base64": "/wAB"}),
    "half a character": Reading(b"ok \xd9", {"base64": base64.b64encode(b"ok \xd9").decode()}),
    "a surrogate in UTF-8": Reading(b"\xed\xa0\x80", {"base64": "7aCA"}),
    "NUL": _text(b"push\0down"),
    "control characters": _text(b"\x1b[2J\x07"),
    "an override of direction": _text("\u202eok".encode()),
    "an object": Reading(b'{"status": "ok", "result": 3.5}', {"status": "ok", "result": 3.5}, "ok"),
    "an object of C": Reading(b'\t{"status":"ok"}\r\n\0', {"status": "ok"}, "ok"),
    "an id": Reading(f'{{"id":"{ID}"}}'.encode(), {"id": ID}, message_id=ID),
    "an id in capitals": Reading(f'{{"id":" {ID.upper()}"}}'.encode(), {"id": f" {ID.upper()}"}, message_id=ID),
    "an id of the device's own": Reading(b'{"id":17}', {"id": 17}),
    "another kind of id": Reading(
        b'{"id":"6b1f3c1e-8f0a-4c51-9f0f-0123456789ab"}', {"id": "6b1f3c1e-8f0a-4c51-9f0f-0123456789ab"}
    ),
    "an operation": Reading(
        b'{"micro_op":"push_down","status":"running"}',
        {"micro_op": "push_down", "status": "running"},
        "running",
        "push_down",
    ),
    "an operation that is none": Reading(b'{"micro_op":["push_down"]}', {"micro_op": ["push_down"]}),
    "a list": Reading(b"[1, 2]", [1, 2]),
    "a number": Reading(b"42", 42),
    "JSON text": Reading(b'"push_down ok"', "push_down ok", text="push_down ok"),
    "null": Reading(b"null", None),
    "no status": Reading(b'{"status":null}', {"status": None}),
    "a blank status": Reading(b'{"status":"  "}', {"status": "  "}),
    "a status that is a number": Reading(b'{"status":200}', {"status": 200}, "200"),
    "a status that is false": Reading(b'{"status":false}', {"status": False}, "false"),
    "a status that moves the cursor": Reading(b'{"status":"\\u001b[2J\\u0000"}', {"status": "\x1b[2J\0"}, r"\x1b[2J"),
    "a long status": Reading(b'{"status":"%s"}' % (b"x" * 500), {"status": "x" * 500}, "x" * 64),
    "an escaped letter": Reading(b'{"status":"\\u006fk"}', {"status": "ok"}, "ok"),
    # None of these would be read alike by every program.
    "half a pair": _text(b'{"status":"\\ud800"}'),
    "a field twice": _text(b'{"status":"failed","status":"ok"}'),
    "a field twice, deep inside": _text(b'{"result":{"a":1,"a":2}}'),
    "not a number": _text(b'{"result":NaN}'),
    "infinity": _text(b"-Infinity"),
    "a number out of range": _text(b'{"result":1e999}'),
    "a number of many digits": _text(b'{"result":%s}' % (b"9" * 5000)),
    "deep": _text(b"[" * 65 + b"]" * 65),
    "very deep": _text(b"[" * 60_000),
    "many": _text(b"[" + b"[]," * 10_000 + b"[]]"),
    "an object that does not end": _text(b'{"status":"ok"'),
    "two objects": _text(b'{"status":"ok"} {"status":"ok"}'),
    # Beside the payload.
    "correlation data": Reading(b"\xff", {"base64": "/w=="}, message_id=ID, facts={"correlation": ID.encode()}),
    "correlation data of the device's own": Reading(
        f'{{"id":"{ID}"}}'.encode(), {"id": ID}, message_id=ID, facts={"correlation": b"\xff\x00"}
    ),
    "correlation data before an id": Reading(
        b'{"id":"01890000-0000-7000-8000-000000000000"}',
        {"id": "01890000-0000-7000-8000-000000000000"},
        message_id=ID,
        facts={"correlation": ID.encode()},
    ),
    "much correlation data": Reading(b"\xff", {"base64": "/w=="}, facts={"correlation": b"0" * 60_000}),
    "a user property": Reading(
        b'{"status":"ok"}', {"status": "ok"}, "failed", facts={"properties": [("a", "b"), ("status", "failed")]}
    ),
    "a blank user property": Reading(
        b'{"status":"ok"}', {"status": "ok"}, "ok", facts={"properties": [("status", " ")]}
    ),
    "two user properties": Reading(
        b"\xff", {"base64": "/w=="}, "ok", facts={"properties": [("status", "ok"), ("status", "failed")]}
    ),
}


@pytest.mark.parametrize("reading", [pytest.param(each, id=name) for name, each in READINGS.items()])
def test_a_reply_is_read(reading: Reading) -> None:
    read = received(reading.payload, **reading.facts)

    shown = json.loads(read.payload)
    assert shown == reading.shown
    assert type(shown) is type(reading.shown)
    assert (read.message_id, read.word) == (reading.message_id, reading.word)
    assert read.text == (None if reading.text is None else reading.text[:2048].lstrip())
    assert (read.size, read.sha256) == (len(reading.payload), sha256(reading.payload).hexdigest())
    assert not read.truncated
    assert "\0" not in read.payload + read.word  # PostgreSQL takes none


@pytest.mark.parametrize(
    ("payload", "beginning"),
    [
        (b"x" * (MAX_KEPT + 1), "x" * MAX_KEPT),
        ("é".encode() * MAX_KEPT, "é" * (MAX_KEPT // 2)),
        (b"." + "é".encode() * MAX_KEPT, "." + "é" * (MAX_KEPT // 2 - 1)),
        (b"\xff" * 1_000_000, {"base64": base64.b64encode(b"\xff" * MAX_KEPT).decode()}),
    ],
)
def test_the_beginning_of_a_large_reply_is_kept(payload: bytes, beginning: object) -> None:
    read = received(payload)

    assert json.loads(read.payload) == beginning
    assert (read.truncated, read.size, read.sha256) == (True, len(payload), sha256(payload).hexdigest())


def test_a_large_reply_may_name_its_message() -> None:
    body = json.dumps({"result": "x" * 900_000, "status": "failed", "id": ID}).encode()

    read = received(body)

    assert (read.message_id, read.word, read.truncated) == (ID, "failed", True)
    assert json.loads(read.payload) == body[:MAX_KEPT].decode()


def test_a_topic_that_names_no_device_is_kept_short_and_plain() -> None:
    read = received(device=None, topic="a\0\x1b" + "b" * 60_000)

    assert (read.imei, read.topic[:9], len(read.topic)) == ("", r"a\x00\x1b", 262)


WORDS = {
    ACKNOWLEDGED: [
        "received",
        "accepted",
        "running",
        "Running",
        " running ",
        "ausgeführt",
        "OK!",
        "0",
        "true",
        "x" * 99,
    ],
    SUCCEEDED: ["ok", "done", "success", "succeeded", "OK", "Done"],
    FAILED: ["error", "fail", "failed", "rejected", "ERROR"],
}
EACH_WORD = [(word, status) for status, words in WORDS.items() for word in words]


@pytest.mark.parametrize(("word", "status"), EACH_WORD)
def test_the_word_decides(word: str, status: Status) -> None:
    as_json = received(json.dumps({"id": ID, "status": word}))
    as_property = received(b"\xff", correlation=ID.encode(), properties=[("status", word)])

    for each in (as_json, as_property):
        reply = reply_to(sent(), each, MatchedBy.CORRELATION)
        assert (reply.status, reply.word) == (status, word.strip()[:64])


@pytest.mark.parametrize(
    ("text", "word", "status"),
    [
        ("push_down", "", SUCCEEDED),
        ("push_down ok", "ok", SUCCEEDED),
        ("push_down: done.", "done", SUCCEEDED),
        ("push_down\tOK\r\n", "OK", SUCCEEDED),
        ("push_down failed: dry", "failed", FAILED),
        ("push_down_fast ok", "", SUCCEEDED),  # by correlation alone: no word that it knows how to find
        ("anything else", "", SUCCEEDED),
        # A text that is a word and nothing else.
        ("FAILED\r\n", "FAILED", FAILED),
        ("running", "running", ACKNOWLEDGED),
        ('"done"', "done", SUCCEEDED),
        ("failed: dry", "", SUCCEEDED),
    ],
)
def test_the_word_stands_behind_the_operation(text: str, word: str, status: Status) -> None:
    for by in MatchedBy:
        reply = reply_to(sent(), received(text), by)
        assert (reply.word, reply.status, reply.matched_by) == (word, status, by)


@pytest.mark.parametrize(("text", "word"), [("push_down  failed,dry", "failed,dry"), ("push_down 17 litres", "17")])
def test_a_word_that_is_not_known_is_one_only_where_order_matched(text: str, word: str) -> None:
    by_order = reply_to(sent(), received(text), MatchedBy.ORDER)
    named = reply_to(sent(), received(text), MatchedBy.CORRELATION)

    assert (by_order.word, by_order.status) == (word, ACKNOWLEDGED)
    assert (named.word, named.status) == ("", SUCCEEDED)


@pytest.mark.parametrize("payload", ["", "17 litres", b"\xff\x01", "[]", '{"result":1}', '{"status":null}'])
def test_a_reply_without_a_word_is_a_success(payload: str | bytes) -> None:
    reply = reply_to(sent(), received(payload, correlation=ID.encode()), MatchedBy.CORRELATION)

    assert (reply.status, reply.word) == (SUCCEEDED, "")


class Choosing(NamedTuple):
    reply: ReceivedReply
    choice: Choice
    named: Message | None = None
    recent: tuple[Message, ...] = ()
    earlier: Message | None = None


M1, M2 = sent(), sent()
FAST = sent(micro_op="push_down fast")
UP = sent(micro_op="push_up")
NOT_EXPECTED = {"reply_within": None, "reply_by": None, "finished_at": EPOCH - 1000}
LONG_AGO = EPOCH - ORDER_OFF_FOR
NAMED = received(correlation=ID.encode())
TEXT = received("push_down ok")
CORRELATED, ORDERED = MatchedBy.CORRELATION, MatchedBy.ORDER


def ordered(*recent: Message, to: Message | None = None, text: str | bytes = "push_down ok") -> Choosing:
    return Choosing(received(text), Choice() if to is None else Choice(to, ORDERED), recent=recent)


def unmatched(reason: Unmatched, *recent: Message, text: str | bytes = "push_down ok") -> Choosing:
    return Choosing(received(text), Choice(unmatched=reason), recent=recent)


GIVEN_UP = sent(Status.TIMED_OUT, finished_at=LONG_AGO, published_at=LONG_AGO)
TWICE = sent(attempts=2)
LONG_EXPIRED = sent(**NOT_EXPECTED | {"expires_at": EPOCH})
LIVE = sent(**NOT_EXPECTED | {"expires_at": EPOCH + 1})
CANDIDATE, AMBIGUOUS, OFF = Unmatched.NO_CANDIDATE, Unmatched.AMBIGUOUS, Unmatched.ORDER_OFF

CHOICES = {
    "by its id": Choosing(NAMED, Choice(M1, CORRELATED), M1),
    "by its id, others being there": Choosing(NAMED, Choice(M1, CORRELATED), M1, (M1, M2)),
    "by its id, whatever its state": Choosing(NAMED, Choice(GIVEN_UP, CORRELATED), GIVEN_UP),
    "a message of another device": Choosing(
        NAMED, Choice(unmatched=Unmatched.FOREIGN_DEVICE), M1._replace(imei="862000000000002")
    ),
    "no message": Choosing(NAMED, Choice(unmatched=Unmatched.UNKNOWN_MESSAGE), None, (M1,)),
    "a message that was never sent": Choosing(
        NAMED, Choice(unmatched=Unmatched.NOT_SENT), sent(Status.CANCELLED, attempts=0)
    ),
    "no device": Choosing(
        received(device=None, topic="devices/reply", correlation=ID.encode()),
        Choice(unmatched=Unmatched.NO_DEVICE),
        M1,
    ),
    "in order": ordered(M1, UP, to=M1),
    "in order, in JSON": ordered(M1, UP, to=M1, text='{"micro_op":"push_down"}'),
    "in order, by the longest name": ordered(M1, FAST, to=FAST, text="push_down fast ok"),
    "in order, by the name that was sent": ordered(M1, UP, to=M1, text="push_down fast ok"),
    "in order, with spaces before": ordered(M1, to=M1, text="\n push_down"),
    "in order, after progress": ordered(sent(ACKNOWLEDGED, id=ID), to=sent(ACKNOWLEDGED, id=ID)),
    "in order, before the PUBACK": ordered(*(each := (sent(Status.PUBLISHING, published_at=None),)), to=each[0]),
    "in order, after an attempt in doubt": ordered(*(each := (sent(Status.QUEUED, published_at=None),)), to=each[0]),
    "in order, none having been expected": ordered(LIVE, to=LIVE),
    "in order, given up long ago": ordered(GIVEN_UP, to=GIVEN_UP),
    "in order, one being given up long ago": ordered(GIVEN_UP, M1, to=M1),
    "in order, another having the answer": ordered(sent(SUCCEEDED), sent(FAILED), M1, to=M1),
    "in order, another having reached nobody": ordered(sent(subscribers=False), M1, to=M1),
    "in order, another being no text": ordered(sent(profile=Profile.CHAPAR.value), M1, to=M1),
    "in order, another being sent twice long ago": ordered(sent(attempts=2, published_at=LONG_AGO), M1, to=M1),
    "in order, none being expected any more": unmatched(CANDIDATE, LONG_EXPIRED),
    "two of one operation": unmatched(AMBIGUOUS, M1, M2),
    "two of one operation, one not expected": unmatched(AMBIGUOUS, M1, LIVE),
    "two given up": unmatched(AMBIGUOUS, GIVEN_UP, sent(Status.CANCELLED)),
    "another operation": unmatched(CANDIDATE, UP),
    "the beginning of an operation": unmatched(CANDIDATE, M1, text="push_downward ok"),
    "nothing sent": unmatched(CANDIDATE),
    "nothing unanswered": unmatched(CANDIDATE, sent(SUCCEEDED)),
    "not sent yet": unmatched(CANDIDATE, sent(Status.QUEUED, attempts=0)),
    "what clears a retained message": unmatched(CANDIDATE, sent(micro_op=""), text=" ok"),
    "bytes": unmatched(CANDIDATE, M1, text=b"push_down \xff"),
    "JSON without a name": unmatched(CANDIDATE, M1, text='{"status":"ok"}'),
    "after a time-out": unmatched(OFF, sent(Status.TIMED_OUT, finished_at=LONG_AGO + 1), M1),
    "after a time-out of another operation": unmatched(OFF, sent(Status.TIMED_OUT, micro_op="push_up"), M1),
    "after a second attempt": unmatched(OFF, TWICE),
    "after a second attempt of another": unmatched(OFF, sent(attempts=2, micro_op="push_up"), M1),
    "while a second attempt leaves": unmatched(OFF, sent(Status.PUBLISHING, attempts=2, published_at=None)),
    "after a second attempt whose PUBACK is not known": unmatched(
        OFF, sent(SUCCEEDED, attempts=2, published_at=None), M1
    ),
    "sent twice long ago": unmatched(CANDIDATE, sent(attempts=2, published_at=LONG_AGO)),
    "sent again by the broker": Choosing(TEXT, Choice(M2, ORDERED), None, (M1,), M2),
    "our own command": Choosing(received("push_down", topic=M1.topic), Choice(), None, (M1,)),
    "our own command, answered since": Choosing(
        received("push_down", topic=M1.topic), Choice(), None, (sent(SUCCEEDED),)
    ),
    "our own command by its id": Choosing(
        received("push_down", topic=M1.topic, correlation=M1.id.encode()), Choice(), M1
    ),
    "our own envelope": Choosing(
        received(M1._replace(params="{}").payload, topic=M1.topic), Choice(), M1._replace(params="{}")
    ),
    "the same words, on the topic of replies": ordered(M1, to=M1, text="push_down"),
    "other words, on the topic of commands": Choosing(
        received("push_down ok", topic=M1.topic), Choice(M1, ORDERED), None, (M1,)
    ),
}


@pytest.mark.parametrize("case", [pytest.param(each, id=name) for name, each in CHOICES.items()])
def test_a_reply_finds_its_message(case: Choosing) -> None:
    assert choose(case.reply, case.named, case.recent, case.earlier) == case.choice


MOVED = {"claim": None, "not_before": None, "reason": None, "contact_until": None}


@pytest.mark.parametrize("before", [each for each in Status if ACKNOWLEDGED in MOVES[each]])
@pytest.mark.parametrize(("word", "after"), [("ok", SUCCEEDED), ("failed", FAILED)])
def test_a_final_word_outranks_every_conclusion(before: Status, word: str, after: Status) -> None:
    message = sent(before, claim="c", not_before=1, reason=Reason.NO_REPLY.value, contact_until=2)
    reply = reply_to(message, received(f"push_down {word}"), MatchedBy.ORDER)

    now, listed = answered(message, reply)

    assert now == message._replace(**MOVED, status=after, finished_at=EPOCH, reply=packed(reply))
    assert listed is None
    assert (standing(now), reply.late) == (reply, message.finished_at is not None)


@pytest.mark.parametrize("before", [each for each in Status if ACKNOWLEDGED in MOVES[each]])
def test_progress_keeps_a_message_open(before: Status) -> None:
    message = sent(before)

    now, listed = answered(message, reply_to(message, received("push_down running"), MatchedBy.ORDER))

    assert (now.status, now.reply_by, now.finished_at, listed) == (ACKNOWLEDGED, EPOCH + 10_000, None, None)


def test_each_progress_is_listed_when_the_next_word_comes() -> None:
    message = sent()
    first = reply_to(message, received("push_down received"), ORDERED)
    message, _ = answered(message, first)
    second = reply_to(message, received("push_down running", at=EPOCH + 8000), ORDERED)

    message, listed = answered(message, second)

    assert (listed, message.reply_by, standing(message)) == (first, EPOCH + 18_000, second)
    last = reply_to(message, received("push_down ok", at=EPOCH + 9000), ORDERED)
    message, listed = answered(message, last)
    assert (listed, message.status, message.finished_at) == (second, SUCCEEDED, EPOCH + 9000)
    assert (message.reply_by, last.late) == (EPOCH + 18_000, False)


def test_progress_ends_a_day_after_the_puback() -> None:
    message = sent(published_at=EPOCH - LONGEST_PROGRESS + 3000)

    now, _ = answered(message, reply_to(message, received("push_down running"), ORDERED))
    over, _ = answered(now, reply_to(now, received("push_down running", at=EPOCH + 3000), ORDERED))

    assert (now.reply_by, now.finished_at) == (EPOCH + 3000, None)
    assert (over.status, over.reply_by, over.finished_at) == (ACKNOWLEDGED, EPOCH + 3000, EPOCH + 3000)


def test_progress_without_a_known_puback_counts_from_when_it_was_due() -> None:
    message = sent(Status.UNCONFIRMED, published_at=None, created_at=0, deliver_at=EPOCH - LONGEST_PROGRESS + 1)

    now, _ = answered(message, reply_to(message, received("push_down running"), ORDERED))

    assert now.reply_by == EPOCH + 1


def test_progress_that_nobody_expected_ends_its_message() -> None:
    message = sent(reply_within=None, reply_by=None, finished_at=EPOCH - 1000)

    now, _ = answered(message, reply_to(message, received("push_down running"), ORDERED))

    assert (now.status, now.reply_by, now.finished_at) == (ACKNOWLEDGED, None, EPOCH)


@pytest.mark.parametrize("word", ["ok", "failed", "running", "anything"])
@pytest.mark.parametrize("before", [SUCCEEDED, FAILED])
def test_the_first_final_word_stands(before: Status, word: str) -> None:
    message = sent(before)
    reply = reply_to(message, received(f"push_down {word}"), ORDERED)

    assert answered(message, reply) == (message, reply)
    assert reply.late


def test_a_reply_is_kept_whole_in_its_message() -> None:
    reply = reply_to(sent(), received('{"status":"ok","result":[1.5,"\\u0000\u202e"]}', packet_id=7), ORDERED)

    assert unpacked(packed(reply))._replace(payload="") == reply._replace(payload="")
    assert json.loads(unpacked(packed(reply)).payload) == json.loads(reply.payload)
    assert "\0" not in packed(reply)
    assert reply.packet_id == 7


def test_the_same_bytes_with_another_word_say_something_else() -> None:
    one, same, other = (
        reply_to(sent(), received(b"", at=at, properties=[("status", word)]), MatchedBy.CORRELATION)
        for at, word in [(EPOCH, "running"), (EPOCH + 1, "running"), (EPOCH + 2, "ok")]
    )

    assert (one.is_same(same), one.is_same(other)) == (True, False)


def test_a_reply_that_belongs_to_no_message_says_nothing_of_one() -> None:
    reply = unmatched_reply(received("push_down ok"))

    assert (reply.status, reply.matched_by, reply.late, json.loads(reply.payload)) == (
        None,
        None,
        False,
        "push_down ok",
    )


def test_an_id_of_a_message_is_one() -> None:
    assert received(b"", correlation=first_id(EPOCH).encode()).message_id is None  # a bound, and no message's
    assert received(b"", correlation=new_message().id.encode()).message_id is not None
