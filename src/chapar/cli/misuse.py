"""Mistakes in how a command is written, as the option parser finds them, in our words."""

import re
from typing import Final

from pydantic import ValidationError
from typer import TyperException

from chapar.errors import Phrase, UsageInvalid, rule_of
from chapar.model.lines import plain

_KINDS: Final = (
    ("no_command", r"No such command '(?P<name>.*)'\."),
    ("no_command_like", r"No such command '(?P<name>.*)'\. Did you mean (?P<like>.*)\?"),
    ("no_option", r"No such option: (?P<name>\S*)"),
    ("no_option_like", r"No such option: (?P<name>\S*) \(Possible options: (?P<like>.*)\)"),
    ("no_value", r"Option '(?P<name>.*)' requires an argument\."),
    ("flag", r"Option '(?P<name>.*)' does not take a value\."),
    ("extra", r"Got unexpected extra argument\(s\) \((?P<name>.*)\)"),
    ("missing", r"Missing (argument|option) '(?P<name>\S*)'\."),
    ("missing_choice", r"Missing (argument|option) '(?P<name>\S*)'\. Choose from: (?P<like>.*)"),
    ("no_choice", r"Invalid value for '(?P<name>\S*)'.*?: .*?'(?P<value>.*?)' is not one of (?P<like>.*)\."),
)
"""The parser's sentences; tests hold that it still says them so."""

_INVALID: Final = re.compile(r"Invalid value for '(?P<option>\S*)'.*?: (?P<problem>.*)")


def misuse(error: TyperException) -> UsageInvalid:
    """Give the error that says what the option parser found; a sentence of its that is unknown here stays English."""
    said = plain(" ".join(error.format_message().split()))
    for kind, sentence in _KINDS:
        if found := re.fullmatch(sentence, said):
            facts: dict[str, str | tuple[str, ...]] = dict(found.groupdict())
            if "like" in facts:
                facts["like"] = tuple(name.strip("' ") for name in found["like"].split(","))
            return UsageInvalid(Phrase(f"usage.{kind}", **facts))
    if found := _INVALID.fullmatch(said):
        rule = _rule(error.__cause__, found["problem"].removesuffix("."))
        return UsageInvalid(Phrase("usage.option", option=found["option"], rule=rule))
    return UsageInvalid(Phrase("usage.other", problem=said if said.endswith(".") else f"{said}."))


def _rule(cause: BaseException | None, problem: str) -> Phrase:
    if not isinstance(cause, ValidationError):
        return Phrase("rule.not_valid", problem=problem)
    first = cause.errors(include_url=False, include_input=False)[0]
    return rule_of(first["type"], first.get("ctx", {}), problem)
