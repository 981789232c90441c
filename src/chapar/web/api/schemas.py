"""Shapes of what goes in and comes out as JSON, and their documentation."""

import json
import re
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Final, Literal

import orjson
from fastapi import Query
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from chapar.errors import FieldInvalid, Phrase
from chapar.model.message import (
    DEFAULT_REPLY_WITHIN,
    LONGEST_REPLY_WITHIN,
    LONGEST_WAIT,
    MAX_COLLAPSE_KEY,
    MAX_OPERATION_BYTES,
    SHORTEST_REPLY_WITHIN,
    Attempt,
    Command,
    Condition,
    Message,
    Status,
    Wait,
    check_collapse_key,
    check_device_id,
    check_operation,
)
from chapar.model.reply import unpacked
from chapar.model.report import Bucket, Filters, Format, Position, Ranking, Summary
from chapar.model.times import check_time, milliseconds, rfc3339

MAX_PAGE: Final = 1000  # messages; more belongs to `GET /reporting/all`

_WAITS: Final = {wait.value: wait for wait in Wait}
_ONLINE: Final = Condition.ONLINE.value  # plain, as rows have it
_CONTACT: Final = Condition.CONTACT.value

_EXAMPLE_ID = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"

# The rules of `message.py` as JSON Schema knows them; those functions hold them, and say so in both languages.
DEVICE_ID: Final[JsonDict] = {"pattern": "^[A-Za-z0-9._\\-\u06f0-\u06f9\u0660-\u0669]{1,64}$"}
FORBIDDEN: Final = "\\u0000-\\u001F\\u007F-\\u009F\\uFDD0-\\uFDEF\\uFFFE\\uFFFF"
_OPERATION: Final[JsonDict] = {
    "pattern": f"^[^{FORBIDDEN}]*[^\\s{FORBIDDEN}][^{FORBIDDEN}]*$",
    "maxLength": MAX_OPERATION_BYTES,
}

_COLLAPSE_KEY: Final[JsonDict] = {"pattern": _OPERATION["pattern"], "minLength": 1, "maxLength": MAX_COLLAPSE_KEY}

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


def _whole(value: object) -> object:
    """To Python `true` and 1.0 equal 1; to a caller neither is a QoS."""
    if type(value) is not int:
        raise PydanticCustomError("int_type", "must be a whole number")
    return value


def _time(value: object) -> datetime:
    """A time as a caller writes it; to pydantic `20261125` is one too, of 1970: a message for then leaves at once."""
    time = None
    with suppress(ValueError):
        if isinstance(value, str) and _TIME.fullmatch(value):
            time = datetime.fromisoformat(value.upper())
    if time is None:
        raise PydanticCustomError("timezone_aware", "must be an RFC 3339 time with an offset")
    check_time(time)
    return time


_TIME_SCHEMA: Final[JsonDict] = {"type": "string", "format": "date-time", "pattern": "^(19[7-9][0-9]|[2-9][0-9]{3})-"}

Time = Annotated[AwareDatetime, BeforeValidator(_time), WithJsonSchema(_TIME_SCHEMA)]


class SendRequest(BaseModel):
    """One operation for one device."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"imei": "861234567890123", "micro_op": "push_down"}]},
    )

    imei: str = Field(
        description="The device: 1 to 64 of `A-Z a-z 0-9 . _ -`. Persian and Arabic digits are read as ASCII.",
        examples=["861234567890123"],
        json_schema_extra=DEVICE_ID,
    )
    micro_op: str = Field(
        description=f"The operation; the device receives its bytes: at most {MAX_OPERATION_BYTES} of UTF-8.",
        examples=["push_down"],
        json_schema_extra=_OPERATION,
    )
    params: dict[str, JsonValue] | None = Field(
        default=None, description="Parameters; with them the device receives `{id, micro_op, params}` as JSON."
    )
    qos: Annotated[Literal[0, 1, 2], BeforeValidator(_whole)] = Field(
        default=1, description="MQTT QoS. 0 is never acknowledged, so its message ends `unconfirmed` and answers 202."
    )
    retain: bool = Field(default=False, description="Whether the broker keeps it for later subscribers.")
    at_most_once: bool = Field(
        default=False, description="Never send again when the outcome of an attempt is unknown; ends `unconfirmed`."
    )
    expires_in: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which it is not sent any more, counted from when it is due. Default: one hour.",
        examples=[600],
    )
    deliver_at: Time | None = Field(
        default=None, description="Not sent before this time (RFC 3339), which may not be more than a minute ago."
    )
    reply_within: float | None = Field(
        default=None,
        ge=SHORTEST_REPLY_WITHIN,
        le=LONGEST_REPLY_WITHIN,
        description="Seconds in which the device is to reply once the broker has the message; after that it is "
        f"`timed_out`. Default: no reply is expected, and with `wait: device` {DEFAULT_REPLY_WITHIN} s.",
        examples=[60],
    )
    only_if_online: bool = Field(
        default=False,
        description="Send it only where the device is known to be online now. It never waits for the device: 406 else.",
    )
    deliver: Literal["now", "on_contact"] = Field(
        default="now",
        description="`on_contact`: it waits until the device speaks, and leaves within seconds of that.",
    )
    collapse_key: str | None = Field(
        default=None,
        description="It takes the place of what waits for the device with the same key: that is `cancelled`, reason "
        f"`superseded`. 1 to {MAX_COLLAPSE_KEY} printable characters, compared as they are.",
        examples=["valve-3"],
        json_schema_extra=_COLLAPSE_KEY,
    )
    urgent: bool = Field(
        default=False,
        description="It leaves before everything that waits, of its device and of others. Needs `messages:urgent`.",
    )
    purge: bool = Field(
        default=False,
        description="It withdraws all that waits for its device: `cancelled`, reason `purged`. Needs "
        "`messages:cancel`, and reach to every operation.",
    )
    wait: Literal["broker", "none", "device"] = Field(
        default="broker",
        description="`broker`: answer when the broker has it. `none`: answer once it is committed; it is delivered as "
        "soon as the broker is there. `Prefer: respond-async` says the same. `device`: answer when the device has said "
        "its last word; not in a bulk call.",
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        le=LONGEST_WAIT,
        description="Seconds to wait for the broker or the device before the answer is 202. Default: "
        "CHAPAR_PUBLISH_TIMEOUT, and for the device `reply_within` besides.",
    )

    def command(self) -> Command:
        """The command it asks for; raises FieldInvalid naming the first rule that it breaks."""
        asked = vars(self)  # to read a field by its name takes five times as long
        key = asked["collapse_key"]
        return Command(
            imei=check_device_id(asked["imei"]),
            micro_op=check_operation(asked["micro_op"]),
            params=None if asked["params"] is None else self._params_as_text(),
            qos=asked["qos"],
            retain=asked["retain"],
            at_most_once=asked["at_most_once"],
            expires_in=asked["expires_in"],
            deliver_at=milliseconds(asked["deliver_at"]),
            wait=_WAITS[asked["wait"]],
            patience=asked["timeout"],
            reply_within=asked["reply_within"],
            condition=self._condition() if asked["only_if_online"] or asked["deliver"] != "now" else None,
            collapse_key=None if key is None else check_collapse_key(key),
            urgent=asked["urgent"],
            purge=asked["purge"],
        )

    def _condition(self) -> Condition:
        if self.deliver == "now":
            return Condition.ONLINE
        if self.only_if_online:
            raise FieldInvalid("deliver", Phrase("rule.two_conditions"))
        return Condition.CONTACT

    def _params_as_text(self) -> str:
        try:
            return json.dumps(self.params, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except ValueError:
            raise FieldInvalid("params", Phrase("rule.not_finite")) from None


class ReplyView(BaseModel):
    """A reply of the device."""

    at: str = Field(description="When it came.", examples=["2026-11-24T06:30:00.420Z"])
    status: Literal["acknowledged", "succeeded", "failed"] = Field(examples=["succeeded"])
    payload: JsonValue = Field(
        description='JSON where it was JSON, a string where it was text, else `{"base64": …}`.', examples=[{"ok": True}]
    )
    matched_by: Literal["correlation", "state", "order"] = Field(
        description="How the message was found: `correlation` data or an id, a `state`, or the `order` of replies.",
        examples=["correlation"],
    )
    late: bool = Field(description="Whether it came after the message had timed out or ended.")


class SentAnswer(BaseModel):
    """201: committed, and the broker, or the device, answered."""

    detail: str = Field(examples=["Send `push_down` to topic `devices/861234567890123`"])
    id: str = Field(examples=[_EXAMPLE_ID])
    status: Status = Field(examples=[Status.PUBLISHED])
    topic: str = Field(examples=["devices/861234567890123"])
    subscribers: bool | None = Field(
        description="`false`: nobody listened (PUBACK 0x10). `true`: somebody did. `null`: the broker does not say.",
        examples=[True],
    )
    reply: ReplyView | None = Field(default=None, description="The device's reply; left out where there is none.")


class AcceptedAnswer(BaseModel):
    """202: committed; `Location` says where to look for the end of it."""

    detail: str = Field(examples=["Accepted `push_down` for topic `devices/861234567890123`"])
    id: str = Field(examples=[_EXAMPLE_ID])
    status: Status = Field(examples=[Status.PUBLISHING])
    topic: str = Field(examples=["devices/861234567890123"])
    reason: str | None = Field(
        default=None,
        description="What it waits for besides its turn, such as `paused`; left out where it does not.",
        examples=["paused"],
    )
    reply: ReplyView | None = Field(
        default=None, description="What the device said so far; left out where it said nothing."
    )


class MessageView(BaseModel):
    """A message, wherever it is shown. Times are RFC 3339, UTC, with milliseconds."""

    id: str = Field(examples=[_EXAMPLE_ID])
    imei: str = Field(examples=["861234567890123"])
    micro_op: str = Field(examples=["push_down"])
    params: dict[str, JsonValue] | None
    topic: str = Field(examples=["devices/861234567890123"])
    qos: int = Field(examples=[1])
    retain: bool
    at_most_once: bool
    status: Status = Field(examples=[Status.PUBLISHED])
    reason: str | None = Field(description="Why it ended as it did; a stable code.", examples=[None])
    reason_code: int | None = Field(description="The broker's MQTT 5 reason code.", examples=[0])
    attempts: int = Field(examples=[1])
    possible_duplicate: bool
    subscribers: bool | None
    created_at: str = Field(examples=["2026-11-24T06:30:00.000Z"])
    deliver_at: str | None = Field(description="Not sent before.", examples=[None])
    expires_at: str | None = Field(description="Not sent any more.", examples=["2026-11-24T07:30:00.000Z"])
    not_before: str | None = Field(description="Next attempt, where the broker put it off.", examples=[None])
    origin: str | None = Field(description="The message that this one repeats.", examples=[None])
    published_at: str | None = Field(examples=["2026-11-24T06:30:00.004Z"])
    finished_at: str | None = Field(examples=["2026-11-24T06:30:00.004Z"])
    reply_within: float | None = Field(description="Seconds in which the device is to reply.", examples=[None])
    reply_by: str | None = Field(description="Until when its reply is awaited.", examples=[None])
    reply: ReplyView | None = Field(description="The reply that stands.", examples=[None])
    only_if_online: bool
    deliver: Literal["now", "on_contact"]
    contact_until: str | None = Field(description="Until when a contact lets it leave.", examples=[None])
    profile: str = Field(description="The form in which the device takes it.", examples=["text"])
    collapse_key: str | None = Field(examples=[None])
    superseded_by: str | None = Field(description="The newer message that took its place.", examples=[None])
    urgent: bool


class AttemptView(BaseModel):
    """One attempt that was not the plain first success."""

    attempt: int = Field(
        description="Counted from 1. 0: no attempt, but the message was taken back from the broker that retained it.",
        examples=[1],
    )
    at: str = Field(description="When its outcome was known.", examples=["2026-11-24T06:30:00.004Z"])
    process: str = Field(description="Token of the process that made it.", examples=["9f86d081884c7d65"])
    outcome: str = Field(examples=["link_lost"])
    reason_code: int | None = Field(examples=[None])


class MessageDetail(MessageView):
    """A message, and its attempts."""

    history: list[AttemptView] = Field(description="Empty where the first attempt plainly succeeded.")


class MessagePage(BaseModel):
    """One page of messages, newest first."""

    messages: list[MessageView]
    next: str | None = Field(
        description="`cursor` of the next page; null on the last one.", examples=[f"{_EXAMPLE_ID}.1"]
    )


class RankingView(BaseModel):
    """The largest groups."""

    counts: dict[str, int] = Field(description="Messages of each, largest first.", examples=[{"861234567890123": 120}])
    others: int = Field(description="Messages of all that are not named.", examples=[0])


class TimelineView(BaseModel):
    """Messages by the time at which they were accepted."""

    counts: dict[str, int] = Field(
        description="Start of each bucket that has messages, oldest first.",
        examples=[{"2026-11-24T06:00:00.000Z": 120}],
    )
    others: int = Field(description="Messages before the first bucket.", examples=[0])


class SummaryView(BaseModel):
    """Counts of messages, all as of one moment."""

    total: int = Field(examples=[120])
    statuses: dict[Status, int] = Field(examples=[{"published": 118, "rejected": 2}])
    devices: RankingView
    operations: RankingView
    times: TimelineView


# A query string has no null: what is absent is just not there.
Moment = Annotated[Time | None, WithJsonSchema(_TIME_SCHEMA)]

_CURSOR: Final = r"^[0-9A-Fa-f-]{36}\.[0-9]{1,18}$"


class Shown(BaseModel):
    """A message that is to be shown, and what is waited for before that."""

    id: Annotated[str, StringConstraints(to_lower=True, max_length=64)] = Field(
        description="The `id` of the answer that accepted the message, in either case.",
        json_schema_extra={"type": "string", "maxLength": 64},
    )
    wait: Literal["none", "broker", "device"] = Field(
        "none",
        description="`broker`, `device`: answer once that has answered, or `timeout` is over.",
        json_schema_extra={"type": "string", "enum": ["none", "broker", "device"], "default": "none"},
    )
    timeout: float | None = Field(
        None,
        gt=0,
        le=LONGEST_WAIT,
        description="Seconds to wait. Default: as of a send.",
        json_schema_extra={"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_WAIT},
    )


class FilterQuery(BaseModel):
    """Conditions on messages; what is absent does not narrow."""

    imei: Annotated[str | None, WithJsonSchema({"type": "string", **DEVICE_ID})] = Field(
        None, description="This device only."
    )
    micro_op: Annotated[str | None, WithJsonSchema({"type": "string", **_OPERATION})] = Field(
        None, description="This operation only."
    )
    status: list[Status] = Field([], max_length=len(Status), description="These states only; may be repeated.")
    since: Moment = Field(None, description="Accepted at this time or later (RFC 3339).")
    until: Moment = Field(None, description="Accepted before this time (RFC 3339).")

    def filters(self) -> Filters:
        """Return them as the gateway takes them; raises FieldInvalid."""
        return Filters(
            imei=None if self.imei is None else check_device_id(self.imei),
            micro_op=None if self.micro_op is None else check_operation(self.micro_op),
            status=tuple(dict.fromkeys(self.status)),
            since=milliseconds(self.since),
            until=milliseconds(self.until),
        )


class PageQuery(FilterQuery):
    """Conditions on messages, and which page of them."""

    cursor: Annotated[str | None, WithJsonSchema({"type": "string", "pattern": _CURSOR})] = Field(
        None, pattern=_CURSOR, description="`next` of the page before."
    )
    limit: int = Field(
        100,
        ge=1,
        le=MAX_PAGE,
        description="Messages on a page, at most: it also ends at 256 KiB of text. Follow `next`.",
    )

    def position(self) -> Position | None:
        """Return where the page begins; None: at the newest message."""
        if self.cursor is None:
            return None
        message_id, seq = self.cursor.lower().split(".")
        return Position(int(seq), message_id)


class ReportQuery(FilterQuery):
    """Conditions on messages, and how they are written."""

    format: Annotated[Format, WithJsonSchema({"type": "string", "enum": list(Format)})] = Field(
        Format.JSON, description="One JSON array, one object a line, CSV, or a spreadsheet whose cells are all text."
    )
    bom: bool = Field(
        default=False, description="Whether CSV begins with a byte order mark, by which Excel finds that it is UTF-8."
    )


class SummaryQuery(FilterQuery):
    """Conditions on messages, and how wide a time bucket is."""

    bucket: Bucket = Field("hour", description="Width of a time bucket, UTC.")


Filtered = Annotated[FilterQuery, Query()]
Paged = Annotated[PageQuery, Query()]
Reported = Annotated[ReportQuery, Query()]
Summarised = Annotated[SummaryQuery, Query()]


def cursor_of(position: Position | None) -> str | None:
    """Return what a caller gives back to go on behind a message."""
    return None if position is None else f"{position.id}.{position.seq}"


def message_view(message: Message) -> dict[str, object]:
    """A message as `MessageView` documents it, but for what is JSON already; the claim is nobody's business."""
    # All at once: to ask for each field by its name takes a third more time, and under load this runs very often.
    (
        id_, imei, micro_op, _, topic, qos, retain, at_most_once, status, _, created_at, expires_at, attempts,
        possible_duplicate, not_before, reply_by, contact_until, reason, reason_code, subscribers, published_at,
        finished_at, deliver_at, origin, reply_within, profile, condition, collapse_key, _, superseded_by, urgent,
    ) = message  # fmt: skip
    return {
        "id": id_,
        "imei": imei,
        "micro_op": micro_op,
        "params": None,
        "topic": topic,
        "qos": qos,
        "retain": retain,
        "at_most_once": at_most_once,
        "status": status,
        "reason": reason,
        "reason_code": reason_code,
        "attempts": attempts,
        "possible_duplicate": possible_duplicate,
        "subscribers": subscribers,
        "created_at": rfc3339(created_at),
        "deliver_at": rfc3339(deliver_at),
        "expires_at": rfc3339(expires_at),
        "not_before": rfc3339(not_before),
        "origin": origin,
        "published_at": rfc3339(published_at),
        "finished_at": rfc3339(finished_at),
        "reply_within": None if reply_within is None else reply_within / 1000,
        "reply_by": rfc3339(reply_by),
        "reply": None,
        "only_if_online": condition == _ONLINE,
        "deliver": "on_contact" if condition == _CONTACT else "now",
        "contact_until": rfc3339(contact_until),
        "profile": profile,
        "collapse_key": collapse_key,
        "superseded_by": superseded_by,
        "urgent": urgent,
    }


def message_json(message: Message, **further: object) -> bytes:
    """A message as `MessageView` documents it, and what is shown with it, as JSON."""
    return orjson.dumps(message_fields(message) | further)


def message_fields(message: Message) -> dict[str, object]:
    """A message as `MessageView` documents it, for `orjson` to write."""
    view = message_view(message)
    if message.params is not None:
        view["params"] = orjson.Fragment(message.params)
    if message.reply is not None:
        view["reply"] = orjson.Fragment(reply_json(message.reply))
    return view


def reply_json(reply: str) -> bytes:
    """The reply that stands as `ReplyView` documents it."""
    kept = unpacked(reply)
    view = {
        "at": rfc3339(kept.at),
        "status": kept.status,
        "payload": orjson.Fragment(kept.payload),
        "matched_by": kept.matched_by,
        "late": kept.late,
    }
    return orjson.dumps(view)


def attempt_view(attempt: Attempt) -> dict[str, object]:
    """An attempt as `AttemptView` documents it."""
    return {
        "attempt": attempt.attempt,
        "at": rfc3339(attempt.at),
        "process": attempt.process,
        "outcome": attempt.outcome,
        "reason_code": attempt.reason_code,
    }


def summary_view(summary: Summary) -> SummaryView:
    """A summary as JSON."""
    return SummaryView(
        total=summary.total,
        statuses=dict(summary.statuses),
        devices=_ranking_view(summary.devices),
        operations=_ranking_view(summary.operations),
        times=TimelineView(
            counts={str(rfc3339(start)): count for start, count in summary.times.counts}, others=summary.times.others
        ),
    )


def _ranking_view(ranking: Ranking) -> RankingView:
    return RankingView(counts=dict(ranking.counts), others=ranking.others)
