"""`chapar prune`: forget what finished long ago."""

import asyncio
from typing import Annotated, Final

import typer

from chapar.cli.sentences import say
from chapar.cli.terminal import show_progress
from chapar.runtime.settings import Settings, preferred_language

# What works on the database is imported where it runs: it takes longer to load than `--help` takes to print.

_LONGEST: Final = 36_500  # days; a hundred years, as with CHAPAR_RETENTION_DAYS


def prune(
    days: Annotated[
        float, typer.Option(min=0, max=_LONGEST, help="Forget what was accepted longer ago than this many days.")
    ],
) -> None:
    """Remove finished messages that are old enough, in small batches; what is unfinished stays.

    A running gateway does so by itself with CHAPAR_RETENTION_DAYS. With SQLite, stop it first.

    Example: `chapar prune --days 90`
    """
    from chapar.runtime import logs  # noqa: PLC0415 - see above

    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    removed = asyncio.run(_prune(settings, days))
    typer.echo(say("prune.removed", preferred_language(), database=settings.database, count=removed))


async def _prune(settings: Settings, days: float) -> int:
    from chapar.app.wiring import store_of  # noqa: PLC0415 - see above
    from chapar.delivery.retention import prune as forget  # noqa: PLC0415 - see above
    from chapar.runtime.clock import Clock  # noqa: PLC0415 - see above
    from chapar.runtime.metrics import Metrics  # noqa: PLC0415 - see above

    def show_removed(count: int) -> None:
        show_progress(say("prune.removing", preferred_language(), count=count))

    async with store_of(settings, Metrics()) as store:
        return await forget(store, Clock(), days, show_removed)
