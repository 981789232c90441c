"""`chapar queue`: what waits, and what is held since a backup was restored."""

import typer

from chapar.cli.sentences import say
from chapar.cli.terminal import check_output, progress
from chapar.model.message import WAITING
from chapar.runtime.settings import database_url, preferred_language

# What works on the database is imported where it runs: it takes longer to load than `--help` takes to print.

queue = typer.Typer()


@queue.callback(invoke_without_command=True)
def _overview(context: typer.Context) -> None:
    """See what waits, and decide about what is held since a backup was restored."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@queue.command()
def show() -> None:
    """Say how many messages wait, and how many of them are held.

    Example: `chapar queue show`
    """
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.queue import backlog  # noqa: PLC0415 - see above

    with administer(database_url()) as connection:
        found = backlog(connection)
    _say("waiting", sum(found.depths.get(status, 0) for status in WAITING))
    _say("held" if found.held else "none", found.held)
    check_output()


@queue.command()
def hold() -> None:
    """Hold all that waits. For a PostgreSQL database that was restored by hand, before a gateway starts on it.

    What waits may have been sent after the backup was made, so it is marked as a possible duplicate. New messages are
    not held.

    Example: `chapar queue hold`
    """
    from chapar.store.administration import hold_queue  # noqa: PLC0415 - see above

    held = hold_queue(database_url())
    _say("held" if held else "none", held)


@queue.command()
def release() -> None:
    """Let what is held leave, in its order, as possible duplicates. What may be sent only once ends as unconfirmed.

    Example: `chapar queue release`
    """
    from chapar.store.administration import release_queue  # noqa: PLC0415 - see above

    with progress(say("queue.working", preferred_language())):
        released, unconfirmed = release_queue(database_url())
    _say("released" if released or unconfirmed else "none", released)
    if unconfirmed:
        _say("unconfirmed", unconfirmed)


@queue.command()
def cancel() -> None:
    """Cancel what is held. What was accepted since goes its way.

    Example: `chapar queue cancel`
    """
    from chapar.store.administration import cancel_queue  # noqa: PLC0415 - see above

    with progress(say("queue.working", preferred_language())):
        cancelled = cancel_queue(database_url())
    _say("cancelled" if cancelled else "none", cancelled)


def _say(what: str, count: int) -> None:
    typer.echo(say(f"queue.{what}", preferred_language(), count=count))
