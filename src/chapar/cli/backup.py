"""`chapar backup` and `chapar restore`: a copy of the database, and the way back."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from chapar.cli.sentences import say
from chapar.cli.terminal import progress
from chapar.errors import Language
from chapar.model.lines import plain
from chapar.model.principal import Caller
from chapar.model.queue import Unsent
from chapar.runtime.settings import Settings, preferred_language

# What works on the database is imported where it runs: it takes longer to load than `--help` takes to print.


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the backup goes.", show_default=False)],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Copy a SQLite database into a file, beside a running gateway or without one.

    The file holds what was committed at one moment, and only its owner may read it. A gateway that is started on it
    holds what it has unsent.

    Example: `chapar backup /backups/chapar-monday.db`
    """
    from chapar.store.copies import back_up  # noqa: PLC0415 - see above

    settings = Settings.load()
    language = preferred_language()
    shown = plain(str(file))
    with progress(say("backup.copying", language)):
        unsent = back_up(settings.database_url.get_secret_value(), file, replace=force)
    typer.echo(say("backup.made", language, file=shown, database=settings.database, count=unsent))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", show_default=False)],
    *,
    unsent: Annotated[
        Unsent | None,
        typer.Option(
            help="What becomes of messages that it has unsent. They may have been sent since, so by default they are "
            "held: `chapar queue release` lets them leave. A terminal is asked.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Put a backup in the place of the SQLite database. Stop the gateway first.

    The database that is there is kept under another name.

    Example: `chapar restore /backups/chapar-monday.db --unsent hold`
    """
    from chapar.store.audit import local_user  # noqa: PLC0415 - see above
    from chapar.store.copies import restoration  # noqa: PLC0415 - see above

    settings = Settings.load()
    language = preferred_language()
    with restoration(settings.database_url.get_secret_value(), file) as copy:
        if unsent is None:
            unsent = _ask(copy.unsent, language) if copy.unsent and sys.stdin.isatty() else Unsent.HOLD
        kept = copy.put_in_place(unsent, Caller(local_user(), ""))
    typer.echo(say("backup.restored", language, file=plain(str(file)), database=settings.database))
    if kept is not None:
        typer.echo(say("backup.replaced", language, kept=plain(str(kept))))
    if copy.unsent:
        typer.echo(say(f"unsent.{unsent}", language, count=copy.unsent))


def _ask(count: int, language: Language) -> Unsent:
    """Ask the owner; an empty answer is the safe one."""
    question = say("backup.ask", language, count=count)
    while True:
        try:
            answer = typer.prompt(question, default=Unsent.HOLD.value, err=True).strip().lower()
        except typer.Abort:
            raise KeyboardInterrupt from None
        if answer in {*Unsent}:
            return Unsent(answer)
