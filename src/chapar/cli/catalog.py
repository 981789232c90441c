"""`chapar catalog`: which operations are described, and which parameters each takes."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated
from urllib.parse import quote

import typer
from pydantic import BaseModel, ConfigDict, JsonValue

from chapar.cli.client import GatewayClient
from chapar.cli.options import Json, Url
from chapar.cli.sentences import say
from chapar.cli.table import print_record, print_table
from chapar.cli.terminal import check_output
from chapar.devices.catalog import WORDS, in_language
from chapar.errors import Language, joined
from chapar.model.lines import json_line
from chapar.runtime.settings import preferred_language


class ShownOperation(BaseModel):
    """An operation as the gateway shows it; what else it says of it is printed as JSON only."""

    model_config = ConfigDict(extra="allow", frozen=True)

    micro_op: str
    params: dict[str, JsonValue] = {}

    def said(self, name: str, language: Language) -> str:
        """The title, description or question; empty where it has none."""
        return in_language(self.model_extra or {}, name, language) or ""

    @property
    def parameters(self) -> Mapping[str, Mapping[str, JsonValue]]:
        """The schema of each parameter, by its name."""
        properties = self.params.get("properties")
        every = properties.items() if isinstance(properties, dict) else ()
        return {name: schema if isinstance(schema, dict) else {} for name, schema in every}

    @property
    def required(self) -> Sequence[JsonValue]:
        """The parameters that must be given."""
        required = self.params.get("required")
        return required if isinstance(required, list) else ()


class ShownCatalog(BaseModel):
    """The catalog as the gateway shows it."""

    operations: tuple[ShownOperation, ...]


def catalog(
    operation: Annotated[
        str | None, typer.Argument(metavar="OPERATION", help="Show this one, with its parameters.", show_default=False)
    ] = None,
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the operations that the catalog describes, or one of them with its parameters.

    Example: `chapar catalog irrigate`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway:
        if operation is None:
            found = gateway.ask(ShownCatalog, "GET", "/catalog").operations
        else:
            path = f"/catalog/{quote(os.fsencode(operation), safe='')}"
            found = (gateway.ask(ShownOperation, "GET", path),)
    if as_json:
        for each in found:
            typer.echo(json_line(each.model_dump(mode="json", exclude_unset=True)))
    elif not found:
        typer.echo(say("catalog.none", language), err=True)
    elif operation is None:
        rows = [(each.micro_op, each.said("title", language), joined(each.parameters, language)) for each in found]
        print_table(("operation", "title", "params"), rows, language)
    else:
        _print(found[0], language)
    check_output()


def _print(operation: ShownOperation, language: Language) -> None:
    words = {name: operation.said(name, language) for name in ("title", "description", "question")}
    print_record({"operation": operation.micro_op, **words}, language)
    rows = [
        (
            name,
            in_language(schema, "title", language) or "",
            in_language(schema, "unit", language) or "",
            say("catalog.required", language) if name in operation.required else "",
            json_line({word: value for word, value in schema.items() if word not in WORDS}),
        )
        for name, schema in operation.parameters.items()
    ]
    if rows:
        print_table(("parameter", "title", "unit", "required", "schema"), rows, language)
