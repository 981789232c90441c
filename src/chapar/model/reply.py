"""Replies of devices: what one says, which message it answers, and what that makes of the message. No I/O."""

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

from chapar.model.json_text import depth_of
from chapar.model.lines import plain
from chapar.model.message import FINAL_WORDS, MAX_OPERATION_BYTES, Message, Profile, Status

MAX_KEPT: Final = 64 * 1024  # bytes of a reply's payload
LONGEST_PROGRESS: Final = 24 * 3600 * 1000  # ms behind the PUBACK for which progress may keep a message open
ORDER_OFF_FOR: Final = 30_000
"""Milliseconds for which order says nothing after a second attempt or a time-out: the device may answer twice, or the
one that was given up."""

_MAX_BRACKETS: Final = 10_000  # lists and objects of a JSON reply; one has some 100 bytes of memory
_MAX_DEPTH: Final = 64  # of them in each other
_LONGEST_NUMBER: Final = 308  # digits; what is longer fits no other program's numbers (RFC 8259 §6)
_LONGEST_WORD: Final = 64  # characters
_LONGEST_TEXT: Final = MAX_OPERATION_BYTES + 1024  # characters of which order looks for an operation's name
_LONGEST_TOPIC: Final = 256  # characters kept of a topic that names no device
_BLANKS: Final = " \t\r\n\v\f\0"  # and the end of a text in C, which firmware likes to send along
_BEHIND_NAME: Final = _BLANKS + ":"
_BEHIND_WORD: Final = ":;,.!"
_JSON_BEGINS: Final = frozenset('{["-0123456789tfn')

_MESSAGE_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

WORDS: Final[Mapping[str, Status]] = {
    "": Status.SUCCEEDED,
    **dict.fromkeys(("received", "accepted", "running"), Status.ACKNOWLEDGED),
    **dict.fromkeys(("ok", "done", "success", "succeeded"), Status.SUCCEEDED),
    **dict.fromkeys(("error", "fail", "failed", "rejected"), Status.FAILED),
}
"""The states that the words of devices make, in small letters; any other word makes `acknowledged`."""


class MatchedBy(StrEnum):
    """The proof that a reply belongs to its message."""

    CORRELATION = "correlation"  #: It names the message: as MQTT 5 correlation data, or as `id` in its JSON.
    STATE = "state"  #: The device reported the state that the message asked for.
    ORDER = "order"  #: It begins with an operation's name, and one message alone of that operation had no answer.


class Unmatched(StrEnum):
    """The reason why a reply belongs to no message."""

    FOREIGN_DEVICE = "foreign_device"  #: It names a message of another device.
    UNKNOWN_MESSAGE = "unknown_message"  #: It names a message that there is not, or not any more.
    NOT_SENT = "not_sent"  #: It names a message of which no attempt was made yet.
    NO_CANDIDATE = "no_candidate"  #: It names no message, and none without an answer fits what it begins with.
    AMBIGUOUS = "ambiguous"  #: It names no message, and several without an answer fit what it begins with.
    #: It names no message, and the order of the device's replies says nothing now: in the last 30 seconds a message was
    #: sent twice, or given up.
    ORDER_OFF = "order_off"
    NO_DEVICE = "no_device"  #: Its topic names no device.


class ReceivedReply(NamedTuple):
    """A reply as it was received and read; plain values, because it crosses to the writer."""

    imei: str  #: the device that its topic names; empty: none
    topic: str
    at: int  #: ms since the epoch
    message_id: str | None  #: the message that it names
    text: str | None  #: what may begin with an operation's name; None: it is no text
    word: str  #: the word that is beside the text; empty: none
    payload: str  #: JSON: what it was, a string where it was text, `{"base64": …}` else
    size: int  #: bytes of the whole payload
    sha256: str  #: of the whole payload
    truncated: bool  #: whether only the beginning is kept
    packet_id: int = 0  #: the broker's for this delivery, the same each time that it sends it; 0: it is of QoS 0
    is_repeated: bool = False  #: whether the broker may have sent it before


class Reply(NamedTuple):
    """A reply of a message, or one that belongs to none."""

    at: int  #: ms since the epoch
    status: Status | None  #: what it says of the message; None: it has none
    word: str  #: in the device's own words; empty: none
    payload: str  #: JSON, see `ReceivedReply`
    size: int  #: bytes of the whole payload
    sha256: str  #: of the whole payload
    truncated: bool  #: whether only the beginning is kept
    matched_by: MatchedBy | None = None
    late: bool = False  #: whether the message was timed out or finished when it came
    times: int = 1  #: how often the same was received
    packet_id: int = 0  #: the broker's for its first delivery, where order matched it; 0: unknown

    def is_same(self, other: "Reply") -> bool:
        """Return whether another reply says the same in the same bytes."""
        return (self.sha256, self.word) == (other.sha256, other.word)


class Listed(NamedTuple):
    """A reply in a list of replies."""

    seq: int  #: its place; 0: it stands in its message
    imei: str  #: empty: its topic names no device
    message_id: str | None
    reason: Unmatched | None  #: why it belongs to no message
    topic: str
    reply: Reply


class Choice(NamedTuple):
    """The message that a reply belongs to, or why to none. Neither: it is what Chapar itself had published."""

    message: Message | None = None
    by: MatchedBy | None = None
    unmatched: Unmatched | None = None


class Answered(NamedTuple):
    """The effect of a reply on its message."""

    message: Message  #: as it stands next; as it was, where a final word stands already
    listed: Reply | None  #: the reply that does not stand, or no more; None: none is to be listed


class Receipt(NamedTuple):
    """The result of storing a reply."""

    before: Status | None  #: the state in which it found its message
    message: Message | None  #: as it stands now; None: it belongs to none
    by: MatchedBy | None
    unmatched: Unmatched | None  #: with neither message nor this, it is what Chapar itself had published
    again: bool  #: the same was stored before


def read_reply(
    payload: bytes,
    correlation_data: bytes | None,
    user_properties: Iterable[tuple[str, str]],
    *,
    device: str | None,
    topic: str,
    at: int,
    packet_id: int = 0,
    is_repeated: bool = False,
) -> ReceivedReply:
    """Read a reply, whatever a device made of it.

    JSON that no other program would read as it was written counts as text: with a field twice, too deep, with numbers
    out of all range, with half a character.
    """
    text = _decoded(payload)
    document = _NO_JSON if text is None else _parsed(text)
    fields: Mapping[str, object] = document if isinstance(document, dict) else {}
    word = next((value for name, value in user_properties if name == "status"), None)
    if not (word or "").strip(_BLANKS):
        word = _word_of(fields.get("status"))
    spoken = text if document is _NO_JSON else document if isinstance(document, str) else fields.get("micro_op")
    return ReceivedReply(
        imei=device or "",
        topic=topic if device else plain(topic[:_LONGEST_TOPIC]),
        at=at,
        message_id=_id_in(correlation_data) or _id_of(fields.get("id")),
        text=spoken.lstrip(_BLANKS)[:_LONGEST_TEXT] if isinstance(spoken, str) else None,
        word=_short(word or ""),
        payload=_kept(payload, text, is_json=document is not _NO_JSON),
        size=len(payload),
        sha256=sha256(payload).hexdigest(),
        truncated=len(payload) > MAX_KEPT,
        packet_id=packet_id,
        is_repeated=is_repeated,
    )


def choose(
    reply: ReceivedReply, named: Message | None, recent: Sequence[Message], earlier: Message | None = None
) -> Choice:
    """Choose the message that a reply answers.

    `named` is the one whose id it gives, of whatever device; `recent` are those that its device was sent lately, or has
    yet to answer; `earlier` is the one that got this delivery when the broker sent it before. Only the device's own
    messages can be answered by it.
    """
    if not reply.imei:
        return Choice(unmatched=Unmatched.NO_DEVICE)
    if any(_is_echo(reply, message) for message in (recent if named is None else (named, *recent))):
        return Choice()
    if reply.message_id is not None:
        return _by_name(reply, named)
    return _by_order(reply, recent) if earlier is None else Choice(earlier, MatchedBy.ORDER)


def _by_name(reply: ReceivedReply, named: Message | None) -> Choice:
    if named is None:
        return Choice(unmatched=Unmatched.UNKNOWN_MESSAGE)
    if named.imei != reply.imei:
        return Choice(unmatched=Unmatched.FOREIGN_DEVICE)
    if not named.attempts:
        return Choice(unmatched=Unmatched.NOT_SENT)
    return Choice(named, MatchedBy.CORRELATION)


def reply_to(message: Message, received: ReceivedReply, by: MatchedBy) -> Reply:
    """The reply to a message that was received.

    Its word may be behind the operation's name, or be all that it says. Where it names its message, any other text has
    none: a value that was asked for, say.
    """
    word = received.word or _word_in(received.text or "", message.micro_op, by)
    status = WORDS.get(word.lower(), Status.ACKNOWLEDGED)
    return Reply(
        at=received.at,
        status=status,
        word=word,
        payload=received.payload,
        size=received.size,
        sha256=received.sha256,
        truncated=received.truncated,
        matched_by=by,
        late=message.finished_at is not None,
        packet_id=received.packet_id if by is MatchedBy.ORDER else 0,
    )


def _word_in(text: str, operation: str, by: MatchedBy) -> str:
    """The word in a text that answers an operation; empty where there is none."""
    behind = _behind(text, operation)
    word = _short(text if behind is None else behind)
    is_word = word.lower() in WORDS or (by is MatchedBy.ORDER and behind is not None)
    return word if is_word else ""


def unmatched_reply(received: ReceivedReply) -> Reply:
    """The reply that belongs to no message."""
    return Reply(received.at, None, received.word, received.payload, received.size, received.sha256, received.truncated)


def answered(message: Message, reply: Reply) -> Answered:
    """The effect of a reply on its message: the first final word stands, before it the latest progress."""
    assert reply.status is not None  # noqa: S101 - it has a message
    if message.status in FINAL_WORDS:
        return Answered(message, reply)
    is_over = reply.status is not Status.ACKNOWLEDGED
    after = _over(message, reply.status, reply.at) if is_over else progressed(message, reply.at)
    return Answered(after._replace(reply=packed(reply)), standing(message))


def progressed(message: Message, at: int) -> Message:
    """The message after its device has said that it is at work: a reply is awaited anew, where one was expected."""
    if message.reply_within is None:
        return _over(message, Status.ACKNOWLEDGED, at)
    sent_at = message.published_at or max(message.created_at, message.deliver_at or 0)
    reply_by = min(at + message.reply_within, sent_at + LONGEST_PROGRESS)
    return _over(message, Status.ACKNOWLEDGED, at).moved(
        Status.ACKNOWLEDGED, reply_by=reply_by, finished_at=None if reply_by > at else at
    )


def packed(reply: Reply) -> str:
    """A reply as the JSON in its message's row."""
    fields = reply._asdict()
    del fields["payload"]
    return f'{json.dumps(fields, separators=(",", ":"))[:-1]},"payload":{reply.payload}}}'


def unpacked(text: str) -> Reply:
    """The reply in a message's row."""
    fields = json.loads(text)
    return Reply(
        **fields
        | {
            "status": Status(fields["status"]),
            "matched_by": MatchedBy(fields["matched_by"]),
            "payload": json.dumps(fields["payload"], ensure_ascii=False),
        }
    )


def standing(message: Message) -> Reply | None:
    """The reply that stands in a message: its first final word, else the latest progress."""
    return None if message.reply is None else unpacked(message.reply)


_NO_JSON: Final = object()


def _decoded(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _parsed(text: str) -> object:
    """The JSON in a text; `_NO_JSON` where there is none, or none that every program would read alike."""
    text = text.strip(_BLANKS)
    if not text or text[0] not in _JSON_BEGINS or text.count("[") + text.count("{") > _MAX_BRACKETS:
        return _NO_JSON
    try:
        if depth_of(text.encode()) > _MAX_DEPTH:
            return _NO_JSON
        document: object = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, RecursionError):
        return _NO_JSON
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError
    return fields


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError
    return number


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_no_number
)


def _kept(payload: bytes, text: str | None, *, is_json: bool) -> str:
    """The part of a payload that is kept, as JSON."""
    beginning = payload[:MAX_KEPT]
    if text is None:
        return json.dumps({"base64": base64.b64encode(beginning).decode()})
    if len(payload) > MAX_KEPT:
        return json.dumps(beginning.decode(errors="ignore"), ensure_ascii=False)
    return text.strip(_BLANKS) if is_json else json.dumps(text, ensure_ascii=False)


def _id_in(correlation_data: bytes | None) -> str | None:
    if correlation_data is None or len(correlation_data) > _LONGEST_WORD:
        return None
    return _id_of(correlation_data.decode("ascii", "replace"))


def _id_of(value: object) -> str | None:
    """The message id in a value; None where it is none, and something else is to say which message is meant."""
    if not isinstance(value, str) or len(value) > _LONGEST_WORD:
        return None
    text = value.strip(_BLANKS).lower()
    return text if _MESSAGE_ID.fullmatch(text) else None


def _word_of(value: object) -> str:
    """The word in the field `status` of a reply's JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _short(word: str) -> str:
    return plain(word.strip(_BLANKS)[:_LONGEST_WORD])


def _behind(text: str, operation: str) -> str | None:
    """The word behind an operation's name with which a text begins; None where it does not, empty where it ends so."""
    if not operation or not text.startswith(operation):
        return None
    rest = text[len(operation) :]
    if rest and rest[0] not in _BEHIND_NAME:
        return None
    words = rest.strip(_BEHIND_NAME).split(maxsplit=1)
    return words[0].rstrip(_BEHIND_WORD) if words else ""


def _is_echo(reply: ReceivedReply, message: Message) -> bool:
    """Return whether a reply is what the gateway itself published: the topics of commands and of replies may be one."""
    return message.attempts > 0 and message.topic == reply.topic and sha256(message.payload).hexdigest() == reply.sha256


def _by_order(reply: ReceivedReply, recent: Sequence[Message]) -> Choice:
    """Choose by order: by the operation that the reply begins with."""
    fitting = [message for message in recent if _may_answer(message, reply.at) and _names(reply, message)]
    if not fitting:
        return Choice(unmatched=Unmatched.NO_CANDIDATE)
    if any(_confuses_order(message, reply.at) for message in recent):
        return Choice(unmatched=Unmatched.ORDER_OFF)
    # `push_down fast ok` answers `push_down fast`, if that was sent.
    operation = max((message.micro_op for message in fitting), key=len)
    fitting = [message for message in fitting if message.micro_op == operation and message.attempts == 1]
    # What was given up may be answered yet, but not before what is under way.
    candidates = [message for message in fitting if not _is_given_up(message)] or fitting
    if len(candidates) == 1:
        return Choice(candidates[0], MatchedBy.ORDER)
    return Choice(unmatched=Unmatched.AMBIGUOUS if candidates else Unmatched.NO_CANDIDATE)


def _names(reply: ReceivedReply, message: Message) -> bool:
    return _behind(reply.text or "", message.micro_op) is not None


def _may_answer(message: Message, at: int) -> bool:
    """Return whether a device may have yet to answer a message without naming it."""
    if (
        not message.attempts
        or message.status in FINAL_WORDS
        or message.profile != _TEXT
        or message.subscribers is False
    ):
        return False
    is_over = message.reply_within is None and message.expires_at is not None and message.expires_at <= at
    return not is_over


def _is_given_up(message: Message) -> bool:
    return message.finished_at is not None and message.status not in _WITH_DEVICE


def _confuses_order(message: Message, at: int) -> bool:
    """Return whether a device may lately have had a message twice, or answer one that was given up."""
    if message.attempts > 1:
        sent_at = message.published_at or message.finished_at
        return sent_at is None or at - sent_at < ORDER_OFF_FOR
    return message.status is Status.TIMED_OUT and at - (message.finished_at or at) < ORDER_OFF_FOR


def _over(message: Message, status: Status, at: int) -> Message:
    """The message that is in the device's hands: no process claims it, and nothing waits for it."""
    return message.moved(status, reason=None, claim=None, not_before=None, contact_until=None, finished_at=at)


_TEXT: Final = Profile.TEXT.value  # as the rows have it
_WITH_DEVICE: Final = frozenset({Status.PUBLISHED, Status.ACKNOWLEDGED})
