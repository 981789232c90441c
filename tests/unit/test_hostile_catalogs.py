"""Whatever a catalog, a caller or a form says, the answer is one of ours: a catalog, parameters, or a sentence."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chapar.devices.catalog_file import load_catalog
from chapar.errors import ChaparError, FieldInvalid, SettingInvalid
from chapar.model.principal import ANYBODY, Caller
from chapar.web.console.parameters import parameters_of, read_parameters

EXAMPLE = Path(__file__).parents[2] / "deploy" / "catalog.toml"
CALLER = Caller(ANYBODY, "")
CATALOG = load_catalog(EXAMPLE)
TEXT = st.text(st.characters(), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    """
    type enum const minimum multipleOf pattern format properties required items allOf not if default
    $ref $defs $schema $id $anchor $dynamicRef $vocabulary additionalProperties unevaluatedProperties patternProperties
    title title_fa unit names names_fa
    """.split()  # noqa: SIM905 - a list of one word a line is long
)
WORDS = st.sampled_from(
    ["object", "integer", "string", "(a+)+$", "(?=a)", "#", "#/$defs/a", "a", "http://x.invalid/", ""]
)
SCHEMAS = st.recursive(
    WORDS | st.integers(-3, 3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | WORDS, inner, max_size=5),
    max_leaves=20,
)


def said(error: ChaparError) -> None:
    """Both sentences can be sent."""
    assert error.sentence("en").encode()
    assert error.sentence("fa").encode()


@given(
    st.dictionaries(st.sampled_from(["valve", "minutes"]) | TEXT, JSON, max_size=4),
    st.sampled_from(["irrigate", "stop"]),
)
def test_any_parameters_fit_or_are_refused_in_words(params: dict[str, Any], micro_op: str) -> None:
    try:
        CATALOG.check(micro_op, json.dumps(params))
    except FieldInvalid as error:
        said(error)


@given(st.dictionaries(KEYWORDS | WORDS, SCHEMAS, max_size=6), st.dictionaries(WORDS, JSON, max_size=4), TEXT)
def test_any_schema_is_a_catalog_or_refused_in_words(schema: dict[str, Any], params: dict[str, Any], text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(f"[operations.a]\nparams = {toml(schema)}\n")
        file.flush()
        try:
            catalog = load_catalog(Path(file.name))
        except SettingInvalid as error:
            said(error)
            return
    read = catalog.find(CALLER, "a").params
    fields = {field.field: text.strip() for field in parameters_of(read, "fa")}
    for given_params in (lambda: json.dumps(params), lambda: read_parameters(read, fields)):
        try:
            catalog.check("a", given_params())
        except FieldInvalid as error:
            said(error)


@given(st.integers(0, len(EXAMPLE.read_bytes())), st.integers(0, 40), st.binary(max_size=8))
def test_any_damage_to_the_file_is_survived_or_refused_in_words(place: int, length: int, put: bytes) -> None:
    whole = EXAMPLE.read_bytes()
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(whole[:place] + put + whole[place + length :])
        file.flush()
        try:
            load_catalog(Path(file.name))
        except SettingInvalid as error:
            said(error)


def toml(value: Any) -> str:
    """A value as TOML has it on one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(name)} = {toml(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return json.dumps(value)
