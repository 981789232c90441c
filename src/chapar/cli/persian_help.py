"""`--help` in Persian: the texts of `help_fa.toml` in place of those that stand at the commands."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import typer
from typer._click import Command, HelpFormatter
from typer.core import TyperArgument, TyperGroup, TyperOption

_CATALOG: Final = tomllib.loads((Path(__file__).parent / "help_fa.toml").read_text("utf-8"))
TEXTS: Final[Mapping[str, str]] = _CATALOG["texts"]


def translate(command: Command) -> None:
    """Give a command, its options and its sub-commands their Persian texts; what has none keeps the English one."""
    for keys, part in parts(command):
        part.help = next((TEXTS[key] for key in keys if key in TEXTS), part.help)
        if isinstance(part, Command):
            part.context_class = _Context


def parts(command: Command, words: str = "") -> Iterator[tuple[list[str], Command | TyperArgument | TyperOption]]:
    """Everything below a command that has a help text, itself included, with the keys under which that may stand."""
    yield [words or str(command.name)], command
    for parameter in command.get_params(typer.Context(command)):
        assert isinstance(parameter, TyperArgument | TyperOption)  # noqa: S101 - typer makes no others
        name = parameter.opts[0] if isinstance(parameter, TyperOption) else parameter.display_name_raw
        yield [f"{words} {name}".lstrip(), name], parameter
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from parts(child, f"{words} {name}".lstrip())


class _Formatter(HelpFormatter):
    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or f"{_CATALOG['usage']}: ")


class _Context(typer.Context):
    formatter_class = _Formatter

    def make_formatter(self) -> HelpFormatter:
        """Make what a help page is written with, and set its headings."""
        from typer import rich_utils  # noqa: PLC0415 - only help needs it, and it takes long to load

        for name, heading in _CATALOG["headings"].items():
            setattr(rich_utils, name, heading)
        return super().make_formatter()
