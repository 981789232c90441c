"""`chapar migrate`: the database's tables in the shape of this version."""

import typer

from chapar.runtime.settings import Settings


def migrate() -> None:
    """Bring the database's tables to the shape this version needs.

    SQLite does so by itself at every start; PostgreSQL wants this command once after each upgrade.

    Example: `CHAPAR_DATABASE_URL=postgresql://… chapar migrate`
    """
    from chapar.store.administration import migrate as migrate_database  # noqa: PLC0415 - takes longer to load than `--help` to print

    settings = Settings.load()
    before, after = migrate_database(settings.database_url.get_secret_value())
    if before == after:
        typer.echo(f"{settings.database} is at {after} already.")
    else:
        typer.echo(f"{settings.database}: migrated from {before or 'nothing'} to {after}.")
