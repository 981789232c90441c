"""The form of sending: fields for the parameters of an operation, and the devices that it is for."""

from typing import Any, cast

import pytest

from chapar.devices.catalog import Operation
from chapar.devices.registry import Registry
from chapar.errors import ChaparError, FieldInvalid, OutOfReach, ScopeMissing
from chapar.model.device import Device, DeviceFilters, DevicePage, DeviceQueue, Ground, KnownDevice, Presence, State
from chapar.model.message import Command, Condition
from chapar.model.principal import ANYBODY, Caller, Scope
from chapar.web.console.parameters import parameters_of, read_parameters, takes_more
from chapar.web.console.sending import given_of, proposals, read_command
from chapar.web.console.targets import MOST_DEVICES, read_targets, targets_of
from support.benches import Bench

CALLER = Caller(ANYBODY, "")
BLIND = Caller(ANYBODY._replace(scopes=frozenset({Scope.SEND})), "")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["litres"],
    "properties": {
        "litres": {"type": "integer", "title": "Litres", "title_fa": "لیتر", "minimum": 1, "maximum": 9, "default": 5},
        "speed": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5, "unit_fa": "متر"},
        "soft": {"type": "boolean", "default": True},
        "mode": {"enum": ["a", 1, None], "names": {"a": "first", "1": "second"}, "names_fa": {"a": "یکم"}},
        "name": {"type": "string", "default": '"x"', "minLength": 1, "maxLength": 9},
        "zones": {"type": "array"},
        "any": True,
    },
    "unevaluatedProperties": False,
}


def test_each_parameter_is_a_field_of_its_kind() -> None:
    fields = {each.name: each for each in parameters_of(SCHEMA, "en")}
    assert {name: field.kind for name, field in fields.items()} == {
        "litres": "number",
        "speed": "number",
        "soft": "choice",
        "mode": "choice",
        "name": "text",
        "zones": "json",
        "any": "json",
    }
    assert [name for name, field in fields.items() if field.is_required] == ["litres"]
    assert [field.default for field in fields.values()] == ["5", "", "true", "", '"x"', "", ""]
    assert (fields["soft"].choices, fields["mode"].choices) == ((True, False), ("a", 1, None))
    assert [fields["mode"].named(value) for value in ("a", 1, None)] == ["first", "second", ""]
    assert fields["litres"].limits == [("minimum_maximum", {"minimum": 1, "maximum": 9})]
    assert fields["speed"].limits == [
        ("exclusiveMinimum", {"exclusiveMinimum": 0}),
        ("multipleOf", {"multipleOf": 0.5}),
    ]
    assert [key for key, _ in fields["name"].limits] == ["minLength", "maxLength"]


def test_a_persian_reader_has_persian_fields() -> None:
    litres, speed, _, mode, *_ = parameters_of(SCHEMA, "fa")
    assert (litres.title, litres.default, speed.unit) == ("لیتر", "۵", "متر")
    assert [mode.named(value) for value in ("a", 1)] == ["یکم", "second"]


@pytest.mark.parametrize(
    ("asked", "params"),
    [
        ({}, None),
        ({"param.litres": "۵"}, '{"litres":5}'),
        ({"param.litres": "5", "param.speed": "۱٫۵"}, '{"litres":5,"speed":1.5}'),
        ({"param.speed": "2"}, '{"speed":2}'),
        ({"param.soft": "false", "param.mode": '"a"'}, '{"soft":false,"mode":"a"}'),
        ({"param.name": '{"۵"'}, '{"name":"{\\"۵\\""}'),
        ({"param.zones": "[1, 2]", "param.any": "null"}, '{"zones":[1,2],"any":null}'),
        ({"param.unknown": "1", "params": '{"b":1}'}, None),
    ],
)
def test_what_is_filled_in_becomes_parameters(asked: dict[str, str], params: str | None) -> None:
    assert read_parameters(SCHEMA, asked) == params


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"param.litres": "many"}, "params.litres"),
        ({"param.litres": "1.5"}, "params.litres"),
        ({"param.speed": "nan"}, "params.speed"),
        ({"param.speed": "1e999"}, "params.speed"),
        ({"param.zones": "[1"}, "params.zones"),
        ({"param.zones": "[" * 40 + "]" * 40}, "params.zones"),
        ({"param.zones": "[1e999]"}, "params"),
    ],
)
def test_what_is_no_such_value_names_its_parameter(asked: dict[str, str], field: str) -> None:
    with pytest.raises(FieldInvalid) as wrong:
        read_parameters(SCHEMA, asked)
    assert wrong.value.field == field


def test_an_open_schema_takes_further_parameters() -> None:
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": True}
    assert takes_more(schema)
    assert read_parameters(schema, {"param.a": "1", "params": '{"a": 3, "b": 2}'}) == '{"a":1,"b":2}'
    assert takes_more({"unevaluatedProperties": False, "allOf": []})
    assert not takes_more(SCHEMA)
    assert not takes_more({"additionalProperties": False})
    assert parameters_of({}, "en") == []
    with pytest.raises(FieldInvalid):
        read_parameters(schema, {"params": "[]"})


def test_a_form_begins_with_what_its_operation_proposes() -> None:
    operation = Operation(expires_in=600, reply_within=90, deliver="on_contact")
    begins = proposals(operation, "fa")
    assert begins == {
        "expires_in": "۱۰",
        "expires_in_unit": "minutes",
        "reply_within": "۹۰",
        "reply_within_unit": "seconds",
        "deliver": "contact",
    }
    command = read_command({**begins, "micro_op": "open"}, operation)
    assert (command.expires_in, command.reply_within, command.condition) == (600, 90, Condition.CONTACT)
    assert proposals(Operation(only_if_online=True), "en") == {"deliver": "online"}
    assert proposals(Operation(expires_in=0.5), "en")["expires_in"] == "0.5"


def test_parameters_that_nobody_describes_are_shown_by_their_names() -> None:
    assert given_of(None, None) == []
    assert given_of('{"a":1}', None) == [(None, "a", 1)]


class FakeRegistry:
    """A registry of these devices, in pages of 400."""

    def __init__(self, *imeis: str, state: State = State.ONLINE, stale: bool = False) -> None:
        presence = Presence(state, 1, Ground.ANNOUNCED, stale)
        self.devices = [
            KnownDevice(Device(imei, None, None, {}, 1), presence, None, DeviceQueue(0, None)) for imei in imeis
        ]
        self.asked: list[DeviceFilters] = []

    async def page(self, caller: Caller, filters: DeviceFilters, *, after: str | None, limit: int) -> DevicePage:
        assert caller is CALLER
        assert limit == MOST_DEVICES + 1
        self.asked.append(filters)
        fit = [each for each in self.devices if filters.imeis is None or each.device.imei in filters.imeis]
        rest = [each for each in fit if after is None or each.device.imei > after]
        return DevicePage(rest[:400], rest[399].device.imei if len(rest) > 400 else None)

    @property
    def registry(self) -> Registry:
        return cast("Registry", self)


async def test_devices_are_listed_selected_or_those_that_were_shown() -> None:
    fake = FakeRegistry("a", "b")
    assert await read_targets(fake.registry, CALLER, {"imei": "x y، x"}) == ["x", "y"]
    assert await read_targets(fake.registry, CALLER, {"to": "x", "labels": "farm:1"}) == ["x"]
    assert fake.asked == []
    asked = {"imei": "", "labels": "farm:1\n\n row:2 ", "presence": "online", "profile": "text", "q": "pump"}
    assert await read_targets(fake.registry, CALLER, asked) == ["a", "b"]
    assert fake.asked == [DeviceFilters(State.ONLINE, "text", labels=(("farm", "1"), ("row", "2")), text="pump")]


@pytest.mark.parametrize(
    "asked",
    [
        {"imei": ""},
        {"imei": "a", "presence": "online"},
        {"labels": "farm"},
        {"to": ""},
        {"imei": " ".join(f"d{number}" for number in range(MOST_DEVICES + 1))},
    ],
    ids=lambda asked: str(asked)[:20],
)
async def test_what_means_no_devices_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(FieldInvalid):
        await read_targets(FakeRegistry("a").registry, CALLER, asked)


async def test_a_selection_has_bounds() -> None:
    fits = FakeRegistry(*(f"d{number:04}" for number in range(MOST_DEVICES)))
    assert len(await read_targets(fits.registry, CALLER, {"q": "d"})) == MOST_DEVICES
    too_many = FakeRegistry(*(f"d{number:04}" for number in range(MOST_DEVICES + 1)))
    with pytest.raises(FieldInvalid, match="at most 1,000 devices"):
        await read_targets(too_many.registry, CALLER, {"q": "d"})
    with pytest.raises(FieldInvalid, match="none fits"):
        await read_targets(FakeRegistry().registry, CALLER, {"q": "d"})
    with pytest.raises(ScopeMissing):
        await read_targets(fits.registry, BLIND, {"q": "d"})


@pytest.mark.parametrize(
    ("condition", "state", "stale", "is_away"),
    [
        (None, State.OFFLINE, False, False),
        (Condition.CONTACT, State.OFFLINE, False, False),
        (Condition.ONLINE, State.ONLINE, False, False),
        (Condition.ONLINE, State.ONLINE, True, True),
        (Condition.ONLINE, State.OFFLINE, False, True),
        (Condition.ONLINE, State.UNKNOWN, False, True),
    ],
)
async def test_a_device_that_is_away_is_shown_so_where_that_matters(
    condition: Condition | None,
    state: State,
    stale: bool,  # noqa: FBT001 - a case
    is_away: bool,  # noqa: FBT001 - a case
) -> None:
    fake = FakeRegistry("a", state=state, stale=stale)
    commands = [Command(imei, "open", condition=condition) for imei in ("a", "new")]
    refusals: list[ChaparError | None] = [None, OutOfReach("new", "open")]
    known, unknown = await targets_of(fake.registry, CALLER, commands, refusals)
    assert (known.known, known.refusal, known.is_away) == (fake.devices[0], None, is_away)
    assert (unknown.known, unknown.refusal) == (None, refusals[1])
    assert unknown.is_away is (condition is Condition.ONLINE), "nobody knows that it is online"
    unseen = await targets_of(fake.registry, BLIND, commands, refusals)
    assert [(each.known, each.is_away) for each in unseen] == [(None, False)] * 2


async def test_a_dry_run_finds_what_a_send_would_be_refused_for_and_saves_nothing() -> None:
    bench = Bench()
    commands = [
        Command("A", "open"),
        Command("A", "open", deliver_at=1),
        Command("A", "open", retain=True, reply_within=9),
    ]
    assert [type(each) for each in bench.messaging.refusals(CALLER, commands)] == [
        type(None),
        FieldInvalid,
        FieldInvalid,
    ]
    assert bench.stored() == []
