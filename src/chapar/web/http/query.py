"""The query of a request: a route takes the parameters that it declares, each once unless it is a list.

A read that declares none passes over what a monitor, a cache or an advertisement has put there.
"""

from collections import Counter
from collections.abc import Mapping
from inspect import isclass
from typing import get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel

from chapar.errors import FieldInvalid, Phrase
from chapar.model.json_text import shown
from chapar.web.http.problems import MOST_VIOLATIONS, Invalid


def parameters_of(endpoint: Dependant) -> dict[str, bool]:
    """The parameters that an endpoint takes, by name: whether each may be repeated."""
    parameters: dict[str, bool] = {}
    for field in endpoint.query_params:
        annotation = field.field_info.annotation
        if isclass(annotation) and issubclass(annotation, BaseModel):
            fields = annotation.model_fields.items()
            parameters |= {name: get_origin(info.annotation) is list for name, info in fields}
        else:
            parameters[field.alias] = get_origin(annotation) is list
    return parameters


def check_query(request: Request, parameters: Mapping[str, bool]) -> None:
    """Raise Invalid for parameters that are not taken or are given twice: a proxy may have read the other one."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    rules = {
        name: Phrase("rule.repeated" if name in parameters else "pydantic.extra_forbidden")
        for name, count in counts.items()
        if name not in parameters or (count > 1 and not parameters[name])
    }
    if rules:
        violations = [FieldInvalid(shown(name), rule) for name, rule in rules.items()]
        raise Invalid(violations[:MOST_VIOLATIONS], len(violations[MOST_VIOLATIONS:]))
