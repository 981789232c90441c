"""The file of the catalog (TOML): read once, at start, and checked to its last line before anything serves."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from chapar.devices.catalog import NAMES, NO_CATALOG, WORDS, Catalog, Listed, Operation, Schema, broken_rule
from chapar.errors import FieldInvalid, Phrase, SettingInvalid, rule_of
from chapar.model.json_text import MAX_PARAMS_DEPTH, depth_of
from chapar.model.message import check_operation

if TYPE_CHECKING:
    from jsonschema_rs import Validator

_SETTING: Final = "CHAPAR_CATALOG"
_LARGEST: Final = 1024 * 1024  # bytes
MAX_OPERATIONS: Final = 1000


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    strict: bool = False
    operations: dict[str, Operation] = {}


class _Fault(Exception):
    """A rule that a place in the file breaks."""

    def __init__(self, rule: Phrase, *place: object) -> None:
        self.rule = rule
        self.place = place


def load_catalog(file: Path | None) -> Catalog:
    """The catalog in a file, an empty one where none is set; raises SettingInvalid, which names the place at fault."""
    if file is None:
        return NO_CATALOG
    table = _read(file)
    try:
        return _catalog(table)
    except _Fault as fault:
        place = ".".join(map(_key, fault.place))
        raise SettingInvalid(_SETTING, Phrase("setting.catalog", file=file, place=place, rule=fault.rule)) from None
    except ImportError:
        raise SettingInvalid(_SETTING, Phrase("setting.no_schemas")) from None


def _read(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise SettingInvalid(_SETTING, Phrase("setting.catalog_large", file=file))
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        problem = Phrase("setting.file_unreadable", file=file, cause=error.strerror or str(error))
    except UnicodeDecodeError:
        problem = Phrase("setting.secret_not_text", file=file)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problem = Phrase("setting.catalog_not_toml", file=file, cause=error)
    raise SettingInvalid(_SETTING, problem)


def _catalog(table: dict[str, object]) -> Catalog:
    _check_json(table)
    try:
        read = _File.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        is_unknown = first["type"] == "extra_forbidden"
        rule = Phrase("rule.not_in_file") if is_unknown else rule_of(first["type"], first.get("ctx", {}), first["msg"])
        raise _Fault(rule, *first["loc"]) from None
    if len(read.operations) > MAX_OPERATIONS:
        raise _Fault(Phrase("pydantic.too_long", max_length=MAX_OPERATIONS), "operations")
    return Catalog({name: _listed(name, each) for name, each in read.operations.items()}, strict=read.strict)


def _check_json(table: Mapping[str, object]) -> None:
    """Raise _Fault where the file holds what a caller who asks for the catalog could not be given."""
    for name, value in table.items():
        parts = value if name == "operations" and isinstance(value, dict) else {"": value}
        for part, described in parts.items():
            place = (name, part) if part else (name,)
            try:
                written = json.dumps(described, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                raise _Fault(Phrase("rule.not_json"), *place) from None
            if depth_of(written.encode()) > MAX_PARAMS_DEPTH:
                raise _Fault(Phrase("rule.params_depth", limit=MAX_PARAMS_DEPTH), *place)


def _listed(name: str, operation: Operation) -> Listed:
    place = ("operations", name)
    try:
        check_operation(name)
    except FieldInvalid as error:
        raise _Fault(error.rule, *place) from None
    if operation.only_if_online and operation.deliver != "now":
        raise _Fault(Phrase("rule.two_conditions"), *place, "deliver")
    schema = _closed({"type": "object", **operation.params})
    if schema["type"] != "object":
        raise _Fault(Phrase("rule.one_of", names=('"object"',)), *place, "params", "type")
    validator = _validator(schema, *place, "params")
    _check_parameters(schema, validator, *place, "params", "properties")
    return Listed(operation.model_copy(update={"params": schema}), validator)


def _closed(schema: Schema) -> Schema:
    """The schema, which takes no parameter that it does not name, unless it says that it does."""
    says = {"additionalProperties", "unevaluatedProperties"} & schema.keys()
    return schema if says else {**schema, "unevaluatedProperties": False}


def _validator(schema: Schema, *place: object) -> "Validator":
    import jsonschema_rs  # noqa: PLC0415 - it takes long to load, and few have a catalog

    try:
        # Its expressions are matched in linear time, and nothing is fetched from anywhere.
        options = jsonschema_rs.RegexOptions()
        return jsonschema_rs.Draft202012Validator(schema, pattern_options=options, offline=True)
    except jsonschema_rs.ValidationError as error:
        within, rule = broken_rule(error)
        raise _Fault(rule, *place, *within) from None


def _check_parameters(schema: Schema, validator: "Validator", *place: object) -> None:
    """Raise _Fault where a parameter's words are no text, or its default is none that would be accepted."""
    for name, described in _properties(schema):
        for word in WORDS:
            if not isinstance(described.get(word, ""), str):
                raise _Fault(Phrase("pydantic.string_type"), *place, name, word)
        for table in NAMES:
            names = described.get(table, {})
            if not isinstance(names, dict) or not all(isinstance(text, str) for text in names.values()):
                raise _Fault(Phrase("rule.value_names"), *place, name, table)
        if "default" in described:
            errors = validator.iter_errors({name: described["default"]})
            error = next((error for error in errors if error.instance_path[:1] == [name]), None)
            if error is not None:
                raise _Fault(broken_rule(error)[1], *place, name, "default")


def _properties(schema: Schema) -> Iterator[tuple[str, Schema]]:
    properties = schema.get("properties")
    assert properties is None or isinstance(properties, dict)  # noqa: S101 - the schema is checked before
    for name, described in (properties or {}).items():
        if isinstance(described, dict):
            yield name, described


def _key(part: object) -> str:
    """A part of a place, as TOML writes it."""
    text = str(part)
    is_bare = text.isascii() and text.replace("-", "").replace("_", "").isalnum()
    return text if is_bare else json.dumps(text, ensure_ascii=False)
