"""The fields of a send: what each takes, which exclude each other, and how a message shows them."""

import json
from typing import Any

import pytest

from chapar.delivery.acceptance import check_rights
from chapar.errors import FieldInvalid, OutOfReach, RequestError, ScopeMissing
from chapar.model.combinations import check_combination
from chapar.model.message import Command, Condition, Status, Wait
from chapar.model.principal import EVERY_SCOPE, Principal, Reach, Scope
from chapar.model.reply import MatchedBy, Reply, packed
from chapar.web.api.rows import Columns
from chapar.web.api.schemas import MessageView, SendRequest, message_json, message_view
from chapar.web.api.sending import read_command
from chapar.web.http.headers import without_waiting
from support.stores import new_message

ASKED = {"imei": "pump-7", "micro_op": "push_down"}


def command_of(**fields: object) -> Command:
    command = read_command(json.dumps(ASKED | fields).encode())
    check_combination(command)
    return command


def broken_field(**fields: object) -> str:
    """The field that the gateway names."""
    with pytest.raises(RequestError) as caught:
        command_of(**fields)
    broken: Any = caught.value
    [field] = {each.field for each in getattr(broken, "violations", [broken])}
    return str(field)


def test_a_plain_send_asks_for_none_of_it() -> None:
    assert command_of() == Command("pump-7", "push_down")


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"reply_within": 1}, {"reply_within": 1.0}),
        ({"reply_within": 86400}, {"reply_within": 86400.0}),
        ({"only_if_online": True}, {"condition": Condition.ONLINE}),
        ({"only_if_online": False, "deliver": "on_contact"}, {"condition": Condition.CONTACT}),
        ({"deliver": "now"}, {}),
        ({"collapse_key": "valve 3"}, {"collapse_key": "valve 3"}),
        ({"collapse_key": "شیر ۳" * 12}, {"collapse_key": "شیر ۳" * 12}),
        ({"urgent": True, "purge": True}, {"urgent": True, "purge": True}),
        ({"wait": "device", "timeout": 300}, {"wait": Wait.DEVICE, "patience": 300.0}),
    ],
)
def test_each_field_reaches_the_command(fields: dict[str, object], meant: dict[str, object]) -> None:
    assert command_of(**fields) == Command("pump-7", "push_down")._replace(**meant)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("reply_within", value) for value in (0, 0.999, -1, 86400.1, 1e400, "30", True, [])),
        *(("only_if_online", value) for value in (1, "true", "yes")),
        *(("deliver", value) for value in ("later", "ON_CONTACT", "", True, 1)),
        *(("collapse_key", value) for value in ("", "  ", "x" * 65, "ش" * 65, "a\0", "a\nb", "\x1b[2J", "\ufdd0", 7)),
        *(("urgent", value) for value in (1, "true")),
        *(("purge", value) for value in (1, "true")),
        *(("wait", value) for value in ("DEVICE", "devices", True, "")),
        *(("timeout", value) for value in (0, 300.1)),
    ],
)
def test_what_a_field_does_not_take_names_it(field: str, value: object) -> None:
    assert broken_field(**{field: value}) == field


# Every pair of what may be asked for, and the field that is named where the two exclude each other.
CHOICES: dict[str, dict[str, object]] = {
    "retain": {"retain": True},
    "qos 0": {"qos": 0},
    "reply": {"reply_within": 60},
    "wait": {"wait": "device"},
    "online": {"only_if_online": True},
    "contact": {"deliver": "on_contact"},
    "collapse": {"collapse_key": "valve"},
    "urgent": {"urgent": True},
    "purge": {"purge": True},
    "once": {"at_most_once": True},
    "later": {"deliver_at": "2999-01-01T00:00:00Z"},
    "none": {"wait": "none"},
}
EXCLUSIVE = {
    frozenset({"retain", "reply"}): "reply_within",
    frozenset({"retain", "wait"}): "wait",
    frozenset({"retain", "online"}): "only_if_online",
    frozenset({"retain", "contact"}): "deliver",
    frozenset({"retain", "collapse"}): "collapse_key",
    frozenset({"qos 0", "online"}): "only_if_online",
    frozenset({"qos 0", "contact"}): "deliver",
    frozenset({"qos 0", "collapse"}): "collapse_key",
    frozenset({"online", "contact"}): "deliver",
}


@pytest.mark.parametrize("one", CHOICES)
@pytest.mark.parametrize("other", CHOICES)
def test_two_fields_exclude_each_other_or_do_not(one: str, other: str) -> None:
    fields = CHOICES[one] | CHOICES[other]
    named = EXCLUSIVE.get(frozenset({one, other}))
    if named is None:
        command_of(**fields)
    else:
        assert broken_field(**fields) == named


def test_who_waits_for_the_device_expects_a_reply() -> None:
    assert command_of().reply_awaited is None
    assert command_of(wait="device").reply_awaited == 30
    assert command_of(wait="device", reply_within=5).reply_awaited == 5
    assert command_of(reply_within=5).reply_awaited == 5
    assert without_waiting(command_of(wait="device")).reply_awaited == 30, "also where the answer comes at once"


URGENT = Command("pump-7", "stop", urgent=True)
PURGE = Command("pump-7", "stop", purge=True)


@pytest.mark.parametrize(
    ("command", "scopes", "reach", "refused"),
    [
        (Command("pump-7", "stop"), {Scope.SEND}, Reach(("pump-*",), ("st*",)), None),
        (Command("pump-7", "stop"), EVERY_SCOPE, Reach(("pump-*",), ("open",)), OutOfReach("pump-7", "stop")),
        (URGENT, {Scope.SEND, Scope.CANCEL}, Reach(), ScopeMissing("messages:urgent")),
        (URGENT, {Scope.SEND, Scope.URGENT}, Reach(("pump-*",), ("st*",)), None),
        (PURGE, {Scope.SEND, Scope.URGENT}, Reach(), ScopeMissing("messages:cancel")),
        (PURGE, {Scope.SEND, Scope.CANCEL}, Reach(("pump-*",), ("st*",)), OutOfReach("pump-7", "*")),
        (PURGE, {Scope.SEND, Scope.CANCEL}, Reach(("pump-*",)), None),
    ],
)
def test_what_takes_more_than_the_right_to_send(
    command: Command, scopes: set[Scope], reach: Reach, refused: Exception | None
) -> None:
    principal = Principal("key:1", "one", frozenset(scopes), reach)
    if refused is None:
        check_rights(principal, command)
        return
    with pytest.raises(type(refused)) as caught:
        check_rights(principal, command)
    assert vars(caught.value) == vars(refused)


def test_csv_has_a_column_for_each_field() -> None:
    names = [
        "imei",
        "micro_op",
        "reply_within",
        "only_if_online",
        "deliver",
        "collapse_key",
        "urgent",
        "purge",
        "wait",
        "timeout",
    ]
    cells = "pump-7,stop,60,FALSE,on_contact,12,true,TRUE,none,2.5"
    message = json.loads(Columns(",".join(names).encode()).message(cells.encode()))
    command = SendRequest.model_validate_json(json.dumps(message)).command()
    assert command == Command(
        "pump-7",
        "stop",
        reply_within=60,
        condition=Condition.CONTACT,
        collapse_key="12",
        urgent=True,
        purge=True,
        wait=Wait.NONE,
        patience=2.5,
    )


def reply_of(payload: str) -> str:
    """A reply as its message's row has it."""
    reply = Reply(
        1764000000420, Status.SUCCEEDED, "ok", payload, 2, "00", truncated=False, matched_by=MatchedBy.CORRELATION
    )
    return packed(reply)


def test_a_message_shows_every_field_that_is_documented() -> None:
    message = new_message(
        reply_within=1500,
        reply_by=1764000001500,
        reply=reply_of('{"ok": true}'),
        condition="contact",
        contact_until=1764000015000,
        collapse_key="valve",
        superseded_by="0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55",
        urgent=True,
        profile="chapar",
    )
    shown = json.loads(message_json(message))
    MessageView.model_validate(shown)
    assert [*shown] == [*message_view(message)] == [*MessageView.model_fields]
    assert {name: shown[name] for name in [*shown][-10:]} == {
        "reply_within": 1.5,
        "reply_by": "2025-11-24T16:00:01.500Z",
        "reply": {
            "at": "2025-11-24T16:00:00.420Z",
            "status": "succeeded",
            "payload": {"ok": True},
            "matched_by": "correlation",
            "late": False,
        },
        "only_if_online": False,
        "deliver": "on_contact",
        "contact_until": "2025-11-24T16:00:15.000Z",
        "profile": "chapar",
        "collapse_key": "valve",
        "superseded_by": "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55",
        "urgent": True,
    }
    assert json.loads(message_json(new_message(condition="online")))["only_if_online"] is True


HOSTILE = [
    '{"params":null,"reply":null}',
    '"\\"params\\":null"',
    '"\\u202e\\u001b[2J"',
    '{"base64":"AA=="}',
    "null",
]


@pytest.mark.parametrize("params", HOSTILE)
@pytest.mark.parametrize("payload", HOSTILE)
def test_parameters_and_replies_do_not_get_into_each_other(params: str, payload: str) -> None:
    message = new_message(params=params, reply=reply_of(payload), collapse_key='"reply":null')
    shown = json.loads(message_json(message, history=[]))
    assert shown["params"] == json.loads(params)
    assert shown["reply"]["payload"] == json.loads(payload)
    assert shown["collapse_key"] == '"reply":null'


def test_a_field_that_is_broken_is_named_before_what_excludes_it() -> None:
    with pytest.raises(FieldInvalid) as caught:
        command_of(collapse_key=" ", retain=True)
    assert caught.value.field == "collapse_key"
