"""Forms of the console become commands, and a message's parts become its story."""

import pytest

from chapar.delivery.recent_replies import ReplyCounts
from chapar.errors import FieldInvalid
from chapar.model.message import Attempt, Condition, Message, Status, Wait
from chapar.model.reply import Listed, MatchedBy, Reply
from chapar.model.report import Ranking, Summary, Timeline
from chapar.web.console.message import story
from chapar.web.console.overview import MINUTES, answered_per_minute, per_minute
from chapar.web.console.sending import read_commands
from chapar.web.console.targets import MOST_DEVICES

FORM = {"imei": "a", "micro_op": "open"}


def test_a_form_with_nothing_but_a_device_and_an_operation_is_a_plain_command() -> None:
    [command] = read_commands(FORM)
    assert (command.imei, command.micro_op, command.params, command.qos) == ("a", "open", None, 1)
    assert command.wait is Wait.BROKER
    assert command.condition is None


def test_every_field_is_read() -> None:
    [command] = read_commands(
        FORM
        | {"params": '{ "a": "ب" }', "qos": "2", "at_most_once": "on", "queue": "on", "deliver": "contact"}
        | {"expires_in": "۱٫۵", "expires_in_unit": "hours", "reply_within": "30", "reply_within_unit": "seconds"}
        | {"collapse_key": "valve", "urgent": "on", "deliver_at": "1405-09-09 12:00", "offset": "210"}
    )
    assert command.params == '{"a":"ب"}'
    assert (command.qos, command.at_most_once, command.urgent) == (2, True, True)
    assert (command.wait, command.condition) == (Wait.NONE, Condition.CONTACT)
    assert (command.expires_in, command.reply_within, command.collapse_key) == (5400, 30, "valve")
    assert command.deliver_at == 1_796_027_400_000


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"imei": "a/b"}, "imei"),
        ({"imei": ""}, "imei"),
        ({"imei": " ".join(f"d{n}" for n in range(MOST_DEVICES + 1))}, "imei"),
        ({"micro_op": ""}, "micro_op"),
        ({"params": "[" * 99}, "params"),
        ({"params": '{"a":' * 40 + "1" + "}" * 40}, "params"),
        ({"params": '{"a": NaN}'}, "params"),
        ({"params": '{"a": 1, "a": 1}'}, "a"),
        ({"expires_in": "0"}, "expires_in"),
        ({"expires_in": "nan"}, "expires_in"),
        ({"expires_in": "1e999"}, "expires_in"),
        ({"reply_within": "0.5", "reply_within_unit": "seconds"}, "reply_within"),
        ({"reply_within": "2", "reply_within_unit": "days"}, "reply_within"),
        ({"deliver_at": "soon"}, "deliver_at"),
        ({"collapse_key": "x" * 65}, "collapse_key"),
    ],
)
def test_what_breaks_a_rule_names_its_field(fields: dict[str, str], field: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        read_commands(FORM | fields)
    assert caught.value.field == field


def test_a_story_is_in_the_order_of_time() -> None:
    message = Message("id", "a", "open", None, "t", 1, False, False, Status.SUCCEEDED, None, 100, 900, 2, True)  # noqa: FBT003
    message = message._replace(published_at=300, finished_at=400, deliver_at=150)
    reply = Reply(400, Status.SUCCEEDED, "ok", "1", 1, "", truncated=False, matched_by=MatchedBy.ORDER)
    steps = story(
        message,
        [Attempt("id", 1, 200, "p", "link_lost", None)],
        [Listed(0, "a", "id", None, "t", reply)],
    )
    assert [step.kind for step in steps] == ["accepted", "due", "attempt", "published", "reply"]
    rejected = message._replace(published_at=None, finished_at=250, deliver_at=None)
    assert [step.kind for step in story(rejected, [], [])] == ["accepted", "ended"]
    scheduled = message._replace(status=Status.SCHEDULED, published_at=None, finished_at=None)
    assert [step.kind for step in story(scheduled, [], [])] == ["accepted"]


def test_a_minute_without_messages_is_counted_as_none() -> None:
    nothing = Ranking((), 0)
    minutes = per_minute(Summary(3, {}, nothing, nothing, Timeline(((120_000, 3),), 0)), 60_000)
    assert len(minutes) == MINUTES
    assert minutes[:3] == [(60_000, 0), (120_000, 3), (180_000, 0)]


def test_a_minute_before_replies_were_counted_is_not_counted_as_none() -> None:
    answered = answered_per_minute(ReplyCounts(150_000, {180_000: 7}), 60_000)
    assert len(answered) == MINUTES
    assert answered[:4] == [None, 0, 7, 0]
