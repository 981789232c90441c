"""`chapar migrate`: the database's tables in the shape of this version."""

import typer

from chapar.cli.sentences import say
from chapar.runtime.settings import Settings, preferred_language


def migrate() -> None:
    """Bring the database's tables to the shape this version needs.

    SQLite does so by itself at every start; PostgreSQL wants this command once after each upgrade.

    Example: `CHAPAR_DATABASE_URL=postgresql://… chapar migrate`
    """
    from chapar.store.administration import migrate as migrate_database  # noqa: PLC0415 - takes longer to load than `--help` to print

    settings = Settings.load()
    before, after = migrate_database(settings.database_url.get_secret_value())
    done = "unchanged" if before == after else "made" if before is None else "migrated"
    facts = {"database": settings.database, "before": before, "after": after}
    typer.echo(say(f"migrate.{done}", preferred_language(), **facts))
