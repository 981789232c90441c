"""The command's entry: its sub-commands, and what becomes of an error."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final

import typer
from typer._click import Command
from typer.main import get_command

from chapar import __version__
from chapar.cli import INTERRUPTED
from chapar.cli.misuse import misuse
from chapar.cli.options import ascii_numbers
from chapar.cli.terminal import check_output
from chapar.errors import ChaparError, FieldInvalid, Language, OutputLost, SettingInvalid, UsageInvalid
from chapar.model.lines import plain
from chapar.runtime import streams
from chapar.runtime.configuration import Configuration, adopt_files
from chapar.runtime.outbound import forget_foreign_settings
from chapar.runtime.settings import check_language, preferred_language

_COMPLETING = "_CHAPAR_COMPLETE"  # variable of a shell that asks what may follow

FAILED = 1  # exit code

MISUSED = 2  # exit code, the shell's custom

#: In the order in which the help shows them. Each stands in the module of its name, but for `_ELSEWHERE`.
COMMANDS: Final = (
    *("serve", "send", "bulk", "messages", "show", "explain", "replies", "events", "cancel", "resend"),
    *("report", "audit", "simulate"),
    *("backup", "restore", "migrate", "prune", "devices", "catalog", "keys", "queue"),
)

_ELSEWHERE: Final = {"restore": "backup"}


def cli_of(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command `chapar` with the sub-command that the arguments begin with; with all, where they begin with none.

    The gateway and what works on the database alone need not wait until what calls a gateway is loaded.
    """
    cli = typer.Typer(name="chapar", pretty_exceptions_enable=False, rich_markup_mode="markdown")
    cli.callback(invoke_without_command=True)(chapar)
    named = [word for word in arguments[:1] if word in COMMANDS]
    for name in named or COMMANDS:
        command = getattr(import_module(f"chapar.cli.{_ELSEWHERE.get(name, name)}"), name)
        if isinstance(command, typer.Typer):
            cli.add_typer(command, name=name)
        else:
            cli.command()(command)
    return cli


def chapar(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Chapar, the command gateway for MQTT devices: one call reaches the device, and you learn the truth about it.

    Example, each line in a terminal of its own: `chapar serve`, `chapar simulate 861234567890123`,
    `chapar send 861234567890123 push_down`
    """
    if version:
        typer.echo(f"chapar {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand != "serve":  # which logs them
        _warn(context.find_object(Configuration) or Configuration())


def _warn(configuration: Configuration) -> None:
    language = preferred_language()
    for unknown in configuration.unknown:
        typer.echo(f"chapar: {plain(unknown.warning.sentence(language))}", err=True)


def main() -> None:
    """Run the command and exit with its code."""
    streams.protect()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command; an error is one sentence on standard error. Gives the exit code."""
    configuration = Configuration()
    language = preferred_language()
    try:
        if _COMPLETING not in os.environ:
            configuration = adopt_files(os.environ)
        language = check_language()
        forget_foreign_settings()
        command = _command(language, arguments)
        numbered = ascii_numbers(command, arguments)
        code = command.main(numbered, prog_name="chapar", standalone_mode=False, obj=configuration) or 0
        _say_what_is_lost(language, configuration)
    except ChaparError as error:
        return _fail(error, language, configuration)
    except typer.TyperException as error:
        return _fail(misuse(error), language, configuration)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ExceptionGroup as group:
        known, unknown = group.split(ChaparError)
        if unknown is not None or known is None:
            raise
        return _fail(_first(known), language, configuration)
    return code


def _command(language: Language, arguments: Sequence[str]) -> Command:
    """Make the tree of commands, as far as the arguments need it, with its help in the language."""
    command = get_command(cli_of(arguments))
    if language == "fa":
        from chapar.cli.persian_help import translate  # noqa: PLC0415 - only Persian needs it

        translate(command)
    return command


def _say_what_is_lost(language: Language, configuration: Configuration) -> None:
    """The command has done what it was to do, whatever became of what it printed."""
    try:
        check_output()
    except OutputLost as error:
        _fail(error, language, configuration)


def _first(group: ExceptionGroup[ChaparError]) -> ChaparError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _fail(error: ChaparError, language: Language, configuration: Configuration) -> int:
    if isinstance(error, SettingInvalid):
        configuration.explain(error)
    if isinstance(error, OutputLost) and error.reader_is_gone:  # it has had enough
        return 0
    streams.drain()  # what was logged on the way stands before it
    typer.echo(f"chapar: {plain(error.sentence(language))}", err=True)
    return MISUSED if isinstance(error, UsageInvalid | FieldInvalid) else FAILED
