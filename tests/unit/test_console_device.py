"""One device in the console: its story, and what a form that describes it means."""

import pytest

from chapar.devices.registry import Description
from chapar.errors import FieldInvalid
from chapar.model.device import Device, Ground, Presence, State
from chapar.model.message import Message, Profile, Status
from chapar.model.reply import Listed, MatchedBy, Reply, Unmatched, packed
from chapar.web.console.device import Asked, as_it_stands, read_description, story
from support.stores import new_message

UNKNOWN = Presence(State.UNKNOWN, None, None, stale=False)


def reply(at: int, status: Status | None = Status.SUCCEEDED) -> Reply:
    return Reply(at, status, "ok", '"ok"', 2, "0" * 64, truncated=False, matched_by=MatchedBy.ORDER)


def sent(**fields: object) -> Message:
    return new_message("a", claim=None, **fields)


@pytest.mark.parametrize(
    ("message", "kinds"),
    [
        (sent(status=Status.QUEUED, created_at=1), ["accepted"]),
        (sent(status=Status.PUBLISHED, created_at=1, published_at=1, finished_at=1), ["published", "accepted"]),
        (
            sent(status=Status.TIMED_OUT, created_at=1, published_at=2, finished_at=9),
            ["ended", "published", "accepted"],
        ),
        (
            sent(status=Status.SUCCEEDED, created_at=1, published_at=2, finished_at=3, reply=packed(reply(3))),
            ["replied", "published", "accepted"],
        ),
        (sent(status=Status.CANCELLED, created_at=1, finished_at=1), ["ended", "accepted"]),
        # The device may answer before the broker's acknowledgement is committed.
        (
            sent(status=Status.SUCCEEDED, created_at=1, published_at=4, finished_at=3, reply=packed(reply(3))),
            ["published", "replied", "accepted"],
        ),
    ],
)
def test_the_steps_of_a_message_come_once_and_newest_first(message: Message, kinds: list[str]) -> None:
    assert [each.kind for each in story([message], [], UNKNOWN)] == kinds


def test_the_story_of_a_device_joins_messages_replies_and_presence() -> None:
    messages = [sent(status=Status.QUEUED, created_at=7), sent(status=Status.QUEUED, created_at=3)]
    stray = Listed(1, "a", None, Unmatched.AMBIGUOUS, "t", reply(5, None))
    online = Presence(State.ONLINE, 4, Ground.SPOKE, stale=False)
    happened = story(messages, [stray], online)
    assert [(each.at, each.kind) for each in happened] == [
        (7, "accepted"),
        (5, "unmatched"),
        (4, "presence"),
        (3, "accepted"),
    ]
    assert (happened[1].unmatched, happened[2].presence) == (Unmatched.AMBIGUOUS, online)


def test_a_form_describes_a_device_as_people_write_it() -> None:
    assert read_description(Asked("", "", "", "")) == Description(None, None, {})
    described = read_description(Asked("پمپ ۲", "chapar", "مزرعه: ۱\r\n\r\n kind:a:b \nempty:", ""))
    assert described == Description("پمپ ۲", Profile.CHAPAR, {"empty": "", "kind": "a:b", "مزرعه": "۱"})


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Asked("n" * 101, "", "", ""), "name"),
        (Asked("a\u202eb", "", "", ""), "name"),
        (Asked("", "", "farm", ""), "labels"),
        (Asked("", "", "farm:1\nfarm:2", ""), "labels"),
        (Asked("", "", ":1", ""), "labels"),
        (Asked("", "", "\n".join(f"n{n}:1" for n in range(17)), ""), "labels"),
    ],
)
def test_a_form_that_breaks_a_rule_names_the_field(asked: Asked, field: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        read_description(asked)
    assert caught.value.field == field


def test_what_stands_is_read_as_it_was_and_every_change_is_another_version() -> None:
    device = Device("a", "pump", "text", {"farm": "1", "kind": "x:y"}, 5)
    form = as_it_stands(device)
    assert read_description(form) == Description("pump", Profile.TEXT, {"farm": "1", "kind": "x:y"})
    others = [device._replace(name=None), device._replace(profile=None), device._replace(labels={"farm": "1"})]
    assert len({as_it_stands(each).version for each in [device, *others]}) == 4
    assert as_it_stands(device._replace(created_at=6)) == form
