"""`chapar explain`: why a message stands where it does."""

import os
from collections.abc import Mapping
from urllib.parse import quote

import typer
from pydantic import BaseModel, ConfigDict, JsonValue

from chapar.cli.client import GatewayClient, Moment
from chapar.cli.options import Json, MessageId, Url
from chapar.cli.sentences import word
from chapar.cli.table import print_table
from chapar.cli.terminal import check_output, local_time
from chapar.errors import Language, joined
from chapar.model.lines import json_line, plain
from chapar.runtime.settings import preferred_language


class ShownEvidence(BaseModel):
    """A piece of evidence as the gateway shows it; what else it has depends on its kind."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    at: Moment | None = None


class ShownExplanation(BaseModel):
    """An explanation as the gateway shows it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    code: str
    sentence: str
    facts: Mapping[str, JsonValue] = {}
    evidence: tuple[ShownEvidence, ...] = ()


def explain(message_id: MessageId, *, url: Url = None, as_json: Json = False) -> None:
    """Say why a message stands where it does: a sentence, its code, and the evidence.

    Example: `chapar explain 0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55`
    """
    language = preferred_language()
    path = f"/messaging/messages/{quote(os.fsencode(message_id), safe='')}/explain"
    with GatewayClient(url, language) as gateway:
        explanation = gateway.ask(ShownExplanation, "GET", path)
    if as_json:
        typer.echo(json_line(explanation.model_dump(mode="json", exclude_unset=True)))
    else:
        typer.echo(f"{plain(explanation.sentence)}\n{plain(explanation.code)}\n")
        rows = [
            (
                "" if each.at is None else local_time(each.at, language),
                word("proof", each.kind, language),
                _rest(each, language),
            )
            for each in explanation.evidence
        ]
        print_table(("at", "proof", "details"), rows, language)
    check_output()


def _rest(evidence: ShownEvidence, language: Language) -> str:
    """The rest of a piece of evidence, without what it does not know."""
    named = (evidence.model_extra or {}).items()
    return joined((f"{name}={_value(value)}" for name, value in named if value is not None), language)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json_line(value)
