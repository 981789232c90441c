"""What pydantic finds wrong with a request is said in our words, in both languages."""

import json
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from chapar.errors import CATALOGS, rule_of
from chapar.web.api.audit import AuditQuery
from chapar.web.api.keys import EndRequest, KeyRequest
from chapar.web.api.schemas import FilterQuery, SendRequest

BAD: list[object] = [
    *(None, True, -1, 0, 3, 1.5, 10**30, 1e308, float("nan"), "", "x", "۵", "\x00", "x" * 5000, "9" * 400),
    *([], ["x"], [[]], [1] * 200, {}, {"x": 1}),
    *("2026-11-24", "2026-11-24T06:30", "2026-13-40T06:30Z", "1405-09-08T00:00Z"),
]


def errors(model: type[BaseModel], body: object) -> Iterator[dict[str, object]]:
    for validate in (model.model_validate, lambda value: model.model_validate_json(json.dumps(value))):
        try:
            validate(body)
        except ValidationError as error:
            yield from error.errors(include_url=False, include_input=False)


@pytest.mark.parametrize("model", [SendRequest, KeyRequest, EndRequest, AuditQuery, FilterQuery])
def test_every_rule_that_a_request_can_break_has_its_sentence(model: type[BaseModel]) -> None:
    bodies: list[object] = [*BAD, *({field: bad, "unknown": 1} for field in model.model_fields for bad in BAD)]
    kinds = {str(error["type"]) for body in bodies for error in errors(model, body)} - {"value_error"}
    assert kinds
    assert {f"pydantic.{kind}" for kind in kinds} - {"pydantic.json_invalid"} <= set(CATALOGS["fa"])


def test_choices_are_a_list_of_the_language() -> None:
    quoted = rule_of("enum", {"expected": "'a', 'b' or 'c'"}, "Input should be 'a', 'b' or 'c'")
    assert quoted.sentence() == "must be one of a, b, c"
    rule = rule_of("literal_error", {"expected": "0, 1 or 2"}, "Input should be 0, 1 or 2")
    assert (rule.sentence("en"), rule.sentence("fa")) == ("must be one of 0, 1, 2", "باید یکی از 0، 1، 2 باشد")


def test_a_rule_that_is_unknown_here_is_in_the_words_of_pydantic() -> None:
    assert rule_of("moon_parsing", {}, "Input should be a moon").sentence() == "is not valid: Input should be a moon"
