"""Rules that pydantic found broken, in our words."""

import re
from collections.abc import Mapping
from typing import Final

from chapar.errors.root import CATALOGS, Phrase

_CHOICE: Final = re.compile(r"'([^']*)'|(\d+)")


def rule_of(kind: str, facts: Mapping[str, object], message: str) -> Phrase:
    """Give the rule behind an error of pydantic, to read on from the name of the field; `message` is pydantic's own."""
    if f"pydantic.{kind}" not in CATALOGS["en"]:
        return Phrase("rule.not_valid", problem=message)
    if "expected" in facts:
        choices = _CHOICE.findall(str(facts["expected"]))  # in `'a', 'b' or 'c'`
        facts = {**facts, "expected": tuple(quoted or number for quoted, number in choices)}
    return Phrase(f"pydantic.{kind}", **facts)
