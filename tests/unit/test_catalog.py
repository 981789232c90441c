"""The catalog: what a file of it may say, what it refuses with which sentence, and which parameters it lets through."""

import re
from pathlib import Path

import pytest

from chapar.devices.catalog import NO_CATALOG, Catalog, in_language
from chapar.devices.catalog_file import MAX_OPERATIONS, load_catalog
from chapar.errors import FieldInvalid, OperationNotFound, OutOfReach, ParamsInvalid, SettingInvalid
from chapar.model.message import Command
from chapar.model.principal import ANYBODY, Caller, Reach
from chapar.web.http.problems import status_of
from support.benches import Bench

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "catalog.toml"
CALLER = Caller(ANYBODY, "")

FARM = """
[operations.irrigate.params]
required = ["minutes"]
[operations.irrigate.params.properties]
minutes = { type = "integer", minimum = 5, maximum = 120, multipleOf = 5 }
valve = { enum = ["north", "south"] }
speed = { type = "number", exclusiveMinimum = 0, exclusiveMaximum = 1.5, multipleOf = 0.1 }
note = { type = "string", minLength = 2, maxLength = 5, pattern = "^[a-z]+$" }
soft = { type = "boolean" }
mixed = { type = ["integer", "null"] }
fixed = { const = 7 }
zones = { type = "array", items = { type = "integer" }, maxItems = 2 }
deep = { type = "object", properties = { a = { type = "integer" } } }
other = { not = { type = "null" } }

[operations.stop]

[operations.free.params]
additionalProperties = true
"""


@pytest.fixture
def read(tmp_path: Path) -> "Reader":
    return Reader(tmp_path / "catalog.toml")


class Reader:
    """Reads a catalog of this text."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, text: str) -> Catalog:
        self.file.write_text(text)
        return load_catalog(self.file)

    def refused(self, text: str | bytes) -> str:
        """The sentence; it is said in Persian too, and names the setting and the file."""
        self.file.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(SettingInvalid) as refused:
            load_catalog(self.file)
        for language in ("en", "fa"):
            sentence = refused.value.sentence("fa" if language == "fa" else "en")
            assert "CHAPAR_CATALOG" in sentence
            assert str(self.file) in sentence
        return str(refused.value)


def test_without_a_file_nothing_is_described_and_everything_is_taken() -> None:
    catalog = load_catalog(None)
    assert catalog is NO_CATALOG
    assert catalog.within(CALLER) == {}
    catalog.check("anything", '{"at": "all"}')


def test_the_example_is_a_catalog_and_stands_in_the_pages() -> None:
    described = load_catalog(EXAMPLE).within(CALLER)
    assert list(described) == ["irrigate", "pump_on", "stop"]
    assert [each.is_confirmed for each in described.values()] == [False, True, True]
    for language in ("en", "fa"):
        page = (ROOT / "docs" / language / "catalog.md").read_text()
        [shown] = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        assert EXAMPLE.read_text().endswith(shown)


@pytest.mark.parametrize(
    ("params", "field", "rule"),
    [
        (None, "params.minutes", "is missing"),
        ("{}", "params.minutes", "is missing"),
        ('{"minutes": 4}', "params.minutes", "must be at least 5"),
        ('{"minutes": 125}', "params.minutes", "must be at most 120"),
        ('{"minutes": 7}', "params.minutes", "must be a multiple of 5"),
        ('{"minutes": "10"}', "params.minutes", "must be a whole number"),
        ('{"minutes": true}', "params.minutes", "must be a whole number"),
        ('{"minutes": 10.5}', "params.minutes", "must be a whole number"),
        (f'{{"minutes": 1{"0" * 400}}}', "params.minutes", "must be at most 120"),
        ('{"minutes": 10, "litres": 3}', "params.litres", "is no parameter of this operation"),
        ('{"minutes": 10, "\\ud800": 3}', "params", "must not contain control characters or characters outside"),
        ('{"minutes": 10, "a\\u0000b": 3}', "params.a\\x00b", "is no parameter of this operation"),
        ('{"minutes": 10, "valve": "west"}', "params.valve", 'must be one of "north", "south"'),
        ('{"minutes": 10, "speed": "1"}', "params.speed", "must be a number"),
        ('{"minutes": 10, "speed": 0}', "params.speed", "must be greater than 0"),
        ('{"minutes": 10, "speed": 1.5}', "params.speed", "must be less than 1.5"),
        ('{"minutes": 10, "speed": 0.15}', "params.speed", "must be a multiple of 0.1"),
        ('{"minutes": 10, "note": 3}', "params.note", "must be a string"),
        ('{"minutes": 10, "note": "a"}', "params.note", "must be at least 2 characters"),
        ('{"minutes": 10, "note": "abcdef"}', "params.note", "must be at most 5 characters"),
        ('{"minutes": 10, "note": "AB"}', "params.note", "must fit the pattern ^[a-z]+$"),
        ('{"minutes": 10, "soft": 1}', "params.soft", "must be true or false"),
        ('{"minutes": 10, "mixed": "x"}', "params.mixed", "must be of one of these types: integer, null"),
        ('{"minutes": 10, "fixed": 8}', "params.fixed", "must be one of 7"),
        ('{"minutes": 10, "zones": {}}', "params.zones", "must be a list"),
        ('{"minutes": 10, "zones": [1, "a"]}', "params.zones.1", "must be a whole number"),
        ('{"minutes": 10, "zones": [1, 2, 3]}', "params.zones", "does not fit `maxItems` of the schema"),
        ('{"minutes": 10, "deep": {"a": "x"}}', "params.deep.a", "must be a whole number"),
        ('{"minutes": 10, "deep": 3}', "params.deep", "must be a JSON object"),
        ('{"minutes": 10, "other": null}', "params.other", "does not fit `not` of the schema"),
    ],
)
def test_what_does_not_fit_is_named_with_its_rule(read: Reader, params: str | None, field: str, rule: str) -> None:
    with pytest.raises(ParamsInvalid) as refused:
        read(FARM).check("irrigate", params)
    assert refused.value.field == field
    assert (refused.value.micro_op, status_of(refused.value)) == ("irrigate", 422)
    assert f"`{field}` {rule}" in str(refused.value)
    assert f"`{field}`" in refused.value.sentence("fa")


@pytest.mark.parametrize(
    ("micro_op", "params"),
    [
        ("irrigate", '{"minutes": 5}'),
        ("irrigate", '{"minutes": 10.0, "speed": 0.3, "soft": false, "mixed": null, "fixed": 7, "zones": [1, 2]}'),
        ("irrigate", '{"minutes": 10, "valve": "north", "note": "abc", "deep": {"a": 1, "b": "\\ud800"}}'),
        ("stop", None),
        ("stop", "{}"),
        ("free", '{"at": "all"}'),
        ("not described", '{"minutes": 4}'),
    ],
)
def test_what_fits_or_is_not_described_is_taken(read: Reader, micro_op: str, params: str | None) -> None:
    assert read(FARM).check(micro_op, params) is (micro_op != "not described")


def test_an_operation_without_parameters_takes_none(read: Reader) -> None:
    with pytest.raises(ParamsInvalid) as refused:
        read(FARM).check("stop", '{"now": true}')
    assert refused.value.field == "params.now"


def test_a_strict_catalog_takes_no_other_operation(read: Reader) -> None:
    catalog = read(f"strict = true\n{FARM}")
    catalog.check("stop", None)
    with pytest.raises(FieldInvalid) as refused:
        catalog.check("stpo", None)
    assert (refused.value.field, refused.value.code) == ("micro_op", "field_invalid")


def test_only_what_a_caller_reaches_is_shown(read: Reader) -> None:
    catalog = read(FARM)
    narrow = Caller(ANYBODY._replace(reach=Reach(("farm1-*",), ("st*", "unknown"))), "")
    assert list(catalog.within(narrow)) == ["stop"]
    assert catalog.find(narrow, "stop") is catalog.within(CALLER)["stop"]
    for name in ("irrigate", "unknown"):
        with pytest.raises(OperationNotFound) as unknown:
            catalog.find(narrow, name)
        assert status_of(unknown.value) == 404


def test_a_text_is_given_in_one_language_or_the_other() -> None:
    described: dict[str, object] = {"title": "Stop", "unit_fa": "دقیقه", "description_fa": 3}
    assert [in_language(described, "title", "en"), in_language(described, "title", "fa")] == ["Stop", "Stop"]
    assert [in_language(described, "unit", "en"), in_language(described, "unit", "fa")] == ["دقیقه", "دقیقه"]
    assert in_language(described, "description", "fa") is None


MINUTES = "[operations.irrigate.params.properties.minutes]\n"


@pytest.mark.parametrize(
    ("text", "place", "rule"),
    [
        ("stirct = true", "stirct", "is not known here"),
        ("strict = 1", "strict", "must be true or false"),
        ("operations = 3", "operations", "must be a JSON object"),
        ("operations.a = 3", "operations.a", "must be a JSON object"),
        ("[operations.a]\ntitel = 'A'", "operations.a.titel", "is not known here"),
        ("[operations.a]\ntitle = 3", "operations.a.title", "must be a string"),
        ("[operations.a]\ntitle = ''", "operations.a.title", "must be at least 1 characters"),
        (f"[operations.a]\ntitle_fa = '{'x' * 201}'", "operations.a.title_fa", "must be at most 200 characters"),
        ("[operations.a]\nconfirm = 'yes'", "operations.a.confirm", "must be true or false"),
        ("[operations.a]\nexpires_in = 0", "operations.a.expires_in", "must be greater than 0"),
        ("[operations.a]\nexpires_in = nan", "operations.a", "must hold what JSON has"),
        ("[operations.a]\nreply_within = 0.5", "operations.a.reply_within", "must be at least 1"),
        ("[operations.a]\ndeliver = 'later'", "operations.a.deliver", "must be one of now, on_contact"),
        ("[operations.a]\ndeliver = 'on_contact'\nonly_if_online = true", "operations.a.deliver", "cannot be"),
        ("[operations.a]\nparams = []", "operations.a.params", "must be a JSON object"),
        ("[operations.a]\nparams.type = 'array'", "operations.a.params.type", 'must be one of "object"'),
        ("[operations.' ']", 'operations." "', "must not be empty"),
        ('[operations."a\\u0000"]', 'operations."a\\u0000"', "must not contain control characters"),
        (f"[operations.{'x' * 1025}]", f"operations.{'x' * 1025}", "must be at most 1024 bytes"),
        (f"{MINUTES}type = 'intger'", "operations.irrigate.params.properties.minutes.type", "must be one of integer"),
        (f"{MINUTES}minimum = '5'", "operations.irrigate.params.properties.minutes.minimum", "must be a number"),
        (f"{MINUTES}multipleOf = 0", "operations.irrigate.params.properties.minutes.multipleOf", "must be greater"),
        (f"{MINUTES}pattern = '('", "operations.irrigate.params.properties.minutes.pattern", "must be a regular expr"),
        (f"{MINUTES}pattern = '(?=a)'", "operations.irrigate.params.properties.minutes.pattern", "must be a regular"),
        (f"{MINUTES}pattern = '(a{{999}}){{999}}'", "operations.irrigate.params.properties.minutes.pattern", "must be"),
        (f"{MINUTES}unit_fa = 3", "operations.irrigate.params.properties.minutes.unit_fa", "must be a string"),
        (f"{MINUTES}names = ['a']", "operations.irrigate.params.properties.minutes.names", "must be a table"),
        (f"{MINUTES}names_fa.a = 3", "operations.irrigate.params.properties.minutes.names_fa", "must be a table"),
        (f"{MINUTES}maximum = 5\ndefault = 6", "operations.irrigate.params.properties.minutes.default", "must be at"),
        (f"{MINUTES}examples = [2026-11-30]", "operations.irrigate", "must hold what JSON has"),
        ("[operations.a.params]\nproperties = 3", "operations.a.params.properties", "must be a JSON object"),
        (
            "[operations.a.params]\nproperties.x = 3",
            "operations.a.params.properties.x",
            "must be of one of these types",
        ),
        ("[operations.a.params]\nrequired = 'x'", "operations.a.params.required", "must be a list"),
        ("[operations.a.params]\n'$ref' = '#/nowhere'", "operations.a.params", "refers to what is not there"),
        (
            "[operations.a.params]\n'$ref' = 'http://127.0.0.1:1/x'",
            "operations.a.params",
            "refers to what is not there",
        ),
        ("[operations.a.params]\n'$ref' = 'file:///etc/passwd'", "operations.a.params", "refers to what is not there"),
        (f"[operations.a.params{'.not' * 40}]", "operations.a", "must be at most 32 levels deep"),
        (f"[operations.a.params{'.not' * 3000}]", "operations.a", "must "),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_that_names_its_place(
    read: Reader, text: str, place: str, rule: str
) -> None:
    assert f"in {read.file} `{place}` {rule}" in read.refused(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[operations", "is not TOML"),
        (b"a = " + b"[" * 20_000, "is not TOML"),
        (b"[operations.a]\n[operations.a]", "is not TOML"),
        (b"\xff", "is not text in UTF-8"),
        (b"#" * (1024 * 1024 + 1), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_catalog_is_refused(read: Reader, content: bytes, said: str) -> None:
    assert said in read.refused(content)


def test_too_many_operations_are_refused(read: Reader) -> None:
    text = "\n".join(f"operations.o{number} = {{}}" for number in range(MAX_OPERATIONS + 1))
    assert "`operations` must have at most 1000 values" in read.refused(text)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "nowhere.toml"):
        with pytest.raises(SettingInvalid, match="cannot be read"):
            load_catalog(file)


def test_without_the_package_it_says_what_to_do(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonschema_rs", None)
    read.file.write_text("[operations.stop]")
    with pytest.raises(SettingInvalid, match="jsonschema-rs is not installed"):
        load_catalog(read.file)


def test_a_schema_may_refer_to_its_own_parts(read: Reader) -> None:
    catalog = read(
        "[operations.a.params]\nproperties.x = {'$ref' = '#/$defs/minutes'}\n'$defs'.minutes = {type = 'integer'}"
    )
    catalog.check("a", '{"x": 1}')
    with pytest.raises(ParamsInvalid, match="whole number"):
        catalog.check("a", '{"x": "1"}')


def test_a_schema_that_never_ends_ends(read: Reader) -> None:
    read("[operations.a.params]\n'$ref' = '#'").check("a", None)


def test_a_pattern_takes_linear_time(read: Reader) -> None:
    """A backtracking matcher would need longer than the age of the universe."""
    catalog = read("[operations.a.params]\nproperties.x = {pattern = '^(a|a)*$'}")
    with pytest.raises(ParamsInvalid):
        catalog.check("a", f'{{"x": "{"a" * 5000}b"}}')


async def test_a_message_that_does_not_fit_is_not_saved_and_stops_no_other(read: Reader) -> None:
    bench = Bench(catalog=read(FARM))
    bench.link.answers.extend([0x00, 0x00])
    commands = [Command("A", "irrigate", f'{{"minutes": {minutes}}}') for minutes in (5, 4, 10)]
    first, refused, last = await bench.messaging.send_all(CALLER, commands)
    assert isinstance(refused, ParamsInvalid)
    assert bench.stored() == [first, last]


async def test_what_is_out_of_reach_is_not_explained(read: Reader) -> None:
    bench = Bench(catalog=read(FARM))
    narrow = Caller(ANYBODY._replace(reach=Reach(operations=("stop",))), "")
    with pytest.raises(OutOfReach):
        await bench.messaging.send(narrow, Command("A", "irrigate"))
