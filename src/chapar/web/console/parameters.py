"""The parameters of an operation as fields of a form, and what was filled in as parameters."""

import json
import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from pydantic import JsonValue

from chapar.devices.catalog import Schema, in_language, names_in_language
from chapar.errors import BodyMalformed, FieldInvalid, Language, Phrase, ascii_number, persian_digits
from chapar.model.json_text import MAX_PARAMS_DEPTH, depth_of, parse

PREFIX: Final = "param."  # of the fields; what follows is the parameter's name

_KINDS: Final = {"integer": "number", "number": "number", "string": "text", "boolean": "choice"}
_ELSEWHERE: Final = ("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties")
"""Words by which a schema may take parameters that are none of its `properties`."""


_LIMITS: Final = (
    ("minimum", "maximum"),
    ("minimum",),
    ("exclusiveMinimum",),
    ("maximum",),
    ("exclusiveMaximum",),
    ("multipleOf",),
    ("minLength",),
    ("maxLength",),
)


class Parameter(NamedTuple):
    """A parameter as a form asks for it."""

    name: str
    kind: str  #: `number`, `text`, `choice`, or `json` for all others
    schema: Mapping[str, JsonValue]
    is_required: bool
    title: str
    description: str | None
    unit: str | None
    choices: tuple[JsonValue, ...]
    default: str  #: text that its field begins with
    names: Mapping[str, str]  #: of values, in the reader's language, by what they are called in the schema

    @property
    def field(self) -> str:
        """The name of its field."""
        return f"{PREFIX}{self.name}"

    @property
    def limits(self) -> list[tuple[str, dict[str, JsonValue]]]:
        """The limits of its value, each as the key of its words below `limit` and their facts."""
        facts = {name: value for name, value in self.schema.items() if isinstance(value, int | float)}
        found = [names for names in _LIMITS if all(name in facts for name in names)]
        said = [names for names in found if not any(set(names) < set(other) for other in found)]
        return [("_".join(names), {name: facts[name] for name in names}) for names in said]

    def named(self, value: JsonValue) -> str:
        """The name of a value; empty where it has none."""
        return self.names.get(value if isinstance(value, str) else json.dumps(value), "")

    def read(self, text: str) -> JsonValue:
        """Read a value that was filled in, with digits of any script; raises FieldInvalid."""
        match self.kind:
            case "text":
                return text
            case "number":
                return _number(text, self.schema.get("type") == "integer", f"params.{self.name}")
            case _:
                return read_json(text, f"params.{self.name}")


def parameters_of(schema: Schema, language: Language) -> list[Parameter]:
    """The parameters that a schema names, in its order."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return []
    needed = required if isinstance(required, list) else ()
    return [
        _parameter(name, described if isinstance(described, dict) else {}, language, is_required=name in needed)
        for name, described in properties.items()
    ]


def takes_more(schema: Schema) -> bool:
    """Return whether a schema takes parameters that it does not name."""
    is_closed = schema.get("additionalProperties") is False or schema.get("unevaluatedProperties") is False
    return not is_closed or any(word in schema for word in _ELSEWHERE)


def read_parameters(schema: Schema, asked: Mapping[str, str]) -> str | None:
    """The parameters that were filled in, as JSON; None where none were. Raises FieldInvalid."""
    more = read_json_object(asked.get("params", "")) if takes_more(schema) else {}
    given = {each.name: each.read(asked[each.field]) for each in parameters_of(schema, "en") if asked.get(each.field)}
    return as_text({**more, **given}) if more or given else None


def read_json_object(text: str) -> dict[str, JsonValue]:
    """The parameters in a field for JSON, none where it is empty; raises FieldInvalid."""
    params = read_json(text, "params") if text else {}
    if not isinstance(params, dict):
        raise FieldInvalid("params", Phrase("pydantic.dict_type"))
    return params


def read_json(text: str, field: str) -> JsonValue:
    """The value in a field for JSON; raises FieldInvalid."""
    try:
        value = parse(text.encode())
    except BodyMalformed as error:
        raise FieldInvalid(field, Phrase("rule.not_valid", problem=error.cause)) from None
    if depth_of(text.encode()) > MAX_PARAMS_DEPTH:
        raise FieldInvalid(field, Phrase("rule.params_depth", limit=MAX_PARAMS_DEPTH))
    return value


def as_text(params: dict[str, JsonValue]) -> str:
    """Parameters as a command has them; raises FieldInvalid."""
    try:
        return json.dumps(params, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise FieldInvalid("params", Phrase("rule.not_finite")) from None


def _parameter(name: str, schema: dict[str, JsonValue], language: Language, *, is_required: bool) -> Parameter:
    kind, choices = _KINDS.get(str(schema.get("type")), "json"), schema.get("enum")
    if isinstance(choices, list):
        kind = "choice"
    elif kind == "choice":
        choices = [True, False]
    return Parameter(
        name,
        kind,
        schema,
        is_required,
        in_language(schema, "title", language) or name,
        in_language(schema, "description", language),
        in_language(schema, "unit", language),
        tuple(choices) if isinstance(choices, list) else (),
        _default(schema, kind, language),
        names_in_language(schema, language),
    )


def written(value: JsonValue) -> str:
    """A value that may be chosen, as its field has it."""
    return json.dumps(value, ensure_ascii=False)


def _default(schema: Mapping[str, JsonValue], kind: str, language: Language) -> str:
    value = schema.get("default")
    if "default" not in schema:
        return ""
    text = value if kind == "text" and isinstance(value, str) else written(value)
    return persian_digits(text) if kind == "number" and language == "fa" else text


def _number(text: str, is_whole: bool, field: str) -> int | float:  # noqa: FBT001 - it is private
    written = ascii_number(text)
    try:
        return int(written)
    except ValueError:
        pass
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if is_whole or not math.isfinite(value):
        raise FieldInvalid(field, Phrase("pydantic.int_type") if is_whole else Phrase("pydantic.float_type"))
    return value
