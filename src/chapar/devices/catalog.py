"""The catalog: what operations are called, which parameters each takes, and whether a person confirms it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chapar.errors import FieldInvalid, Language, OperationNotFound, ParamsInvalid, Phrase
from chapar.model.json_text import shown
from chapar.model.message import LONGEST_REPLY_WITHIN, SHORTEST_REPLY_WITHIN
from chapar.model.principal import Caller

if TYPE_CHECKING:  # it takes long to load, and few have a catalog
    from jsonschema_rs import ValidationError, Validator

MAX_TITLE: Final = 200  # characters
MAX_DESCRIPTION: Final = 2000  # characters

NAMES: Final = ("names", "names_fa")
"""Tables with names of a parameter's values, for people."""

Schema = dict[str, JsonValue]
"""A JSON Schema, draft 2020-12."""


class Operation(BaseModel):
    """An operation as the catalog describes it. A form begins with what it proposes; nothing is added to a call."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    title: str | None = Field(None, min_length=1, max_length=MAX_TITLE)
    title_fa: str | None = Field(None, min_length=1, max_length=MAX_TITLE)
    description: str | None = Field(None, min_length=1, max_length=MAX_DESCRIPTION)
    description_fa: str | None = Field(None, min_length=1, max_length=MAX_DESCRIPTION)
    confirm: bool = False  #: whether a person is asked before it is sent
    question: str | None = Field(None, min_length=1, max_length=MAX_DESCRIPTION)  #: to ask then
    question_fa: str | None = Field(None, min_length=1, max_length=MAX_DESCRIPTION)
    expires_in: float | None = Field(None, gt=0)  #: seconds, proposed
    reply_within: float | None = Field(None, ge=SHORTEST_REPLY_WITHIN, le=LONGEST_REPLY_WITHIN)  #: seconds, proposed
    deliver: Literal["now", "on_contact"] = "now"  #: proposed
    only_if_online: bool = False  #: proposed
    params: Schema = Field(default={})  #: of an object

    @property
    def is_confirmed(self) -> bool:
        """Return whether a person is asked before it is sent: a question is there to be asked."""
        return self.confirm or self.question is not None or self.question_fa is not None


class Listed(NamedTuple):
    """An operation with its name, and what holds its rules."""

    operation: Operation
    validator: "Validator"


class Catalog:
    """The operations that are described, by their names. An empty one describes none, and holds nobody to anything."""

    def __init__(self, operations: Mapping[str, Listed], *, strict: bool = False) -> None:
        """`strict`: no other operations are accepted."""
        self._operations = operations
        self.is_strict = strict

    def within(self, caller: Caller) -> dict[str, Operation]:
        """The operations that a caller reaches, in the order of the catalog."""
        covers = caller.principal.reach.covers_operation
        return {name: listed.operation for name, listed in self._operations.items() if covers(name)}

    def find(self, caller: Caller, micro_op: str) -> Operation:
        """The operation of a name; raises OperationNotFound, also for one out of reach."""
        listed = self._operations.get(micro_op)
        if listed is None or not caller.principal.reach.covers_operation(micro_op):
            raise OperationNotFound(shown(micro_op))
        return listed.operation

    def check(self, micro_op: str, params: str | None) -> bool:
        """Check the parameters of an operation, a JSON object as text or none, and return whether it is described.

        Raises ParamsInvalid, and FieldInvalid for an operation that a strict catalog does not describe.
        """
        listed = self._operations.get(micro_op)
        if listed is None:
            if self.is_strict:
                raise FieldInvalid("micro_op", Phrase("rule.not_in_catalog"))
            return False
        given = {} if params is None else json.loads(params)
        try:
            error = next(listed.validator.iter_errors(given), None)
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
            raise ParamsInvalid("params", Phrase("rule.unprintable"), micro_op) from None
        if error is not None:
            place, rule = broken_rule(error)
            raise ParamsInvalid(".".join(["params", *map(shown, place)]), rule, micro_op)
        return True


NO_CATALOG: Final = Catalog({})

WORDS: Final = ("title", "title_fa", "description", "description_fa", "unit", "unit_fa")
"""What may be said of a parameter for people."""


def in_language(described: Mapping[str, object], name: str, language: Language) -> str | None:
    """The text under a name in one language, else in the other; None where there is none."""
    names = (f"{name}_fa", name) if language == "fa" else (name, f"{name}_fa")
    return next((text for each in names if isinstance(text := described.get(each), str)), None)


def names_in_language(schema: Mapping[str, object], language: Language) -> dict[str, str]:
    """The names of a parameter's values in one language, else in the other, by what the schema calls them."""
    tables = [schema.get(table) for table in (NAMES if language == "fa" else reversed(NAMES))]
    return {value: str(name) for table in tables if isinstance(table, dict) for value, name in table.items()}


_TYPES: Final = {
    "integer": Phrase("pydantic.int_type"),
    "number": Phrase("pydantic.float_type"),
    "string": Phrase("pydantic.string_type"),
    "boolean": Phrase("pydantic.bool_type"),
    "array": Phrase("pydantic.list_type"),
    "object": Phrase("pydantic.dict_type"),
}
_EVERY_TYPE: Final = (*_TYPES, "null")


def broken_rule(error: "ValidationError") -> tuple[list[str], Phrase]:
    """Find the place at which a value breaks a rule of its schema, and the rule, which reads on from the place."""
    place, keyword = list(map(str, error.instance_path)), error.kind.name
    fact: Any = next(iter(error.kind.as_dict().values()), None)
    if keyword == "required":
        return [*place, fact], Phrase("pydantic.missing")
    if keyword in {"additionalProperties", "unevaluatedProperties"}:
        return [*place, fact[0]], Phrase("rule.no_parameter")
    if keyword == "anyOf" and place[-1:] == ["type"]:  # in the schema of a schema
        return place, Phrase("rule.one_of", names=_EVERY_TYPE)
    rule = _RULES.get(keyword)
    return place, Phrase("rule.schema", keyword=keyword) if rule is None else rule(fact)


def _of_type(types: Sequence[str]) -> Phrase:
    known = _TYPES.get(types[0]) if len(types) == 1 else None
    return Phrase("rule.types", names=tuple(sorted(types))) if known is None else known


def _one_of(options: Sequence[object]) -> Phrase:
    return Phrase("rule.one_of", names=tuple(json.dumps(each, ensure_ascii=False) for each in options))


_RULES: Final[Mapping[str, Callable[[Any], Phrase]]] = {
    "type": _of_type,
    "minimum": lambda limit: Phrase("pydantic.greater_than_equal", ge=limit),
    "maximum": lambda limit: Phrase("pydantic.less_than_equal", le=limit),
    "exclusiveMinimum": lambda limit: Phrase("pydantic.greater_than", gt=limit),
    "exclusiveMaximum": lambda limit: Phrase("pydantic.less_than", lt=limit),
    "multipleOf": lambda step: Phrase("rule.multiple", of=step),
    "minLength": lambda limit: Phrase("pydantic.string_too_short", min_length=limit),
    "maxLength": lambda limit: Phrase("pydantic.string_too_long", max_length=limit),
    "pattern": lambda pattern: Phrase("rule.pattern", pattern=pattern),
    "enum": _one_of,
    "const": lambda value: _one_of([value]),
    "format": lambda name: Phrase("rule.expression") if name == "regex" else Phrase("rule.schema", keyword=name),
    "$ref": lambda _: Phrase("rule.reference"),
}
"""The rule behind a keyword of JSON Schema, with the one fact that it has."""
