"""The command `chapar`: parse, call, print. What it does, the modules it calls know."""

import asyncio
import sys
from typing import Annotated

import typer
import uvloop

from chapar import __version__, app
from chapar.errors import ChaparError, Language
from chapar.settings import Settings, preferred_language
from chapar.store.migrations import migrate as migrate_database

cli = typer.Typer(
    name="chapar",
    help="Chapar, the command gateway for MQTT devices: one call reaches the device, and you learn the truth about it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [env CHAPAR_HOST, default 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [env CHAPAR_PORT, default 8000]")] = None,
) -> None:
    """Run the gateway until Ctrl-C.

    Without any setting it starts a built-in broker and keeps its messages in `chapar.db` in this folder.

    Example: `chapar serve --port 9000`
    """
    settings = Settings.load(host=host, port=port)
    app.configure_logging(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(app.serve(settings, lambda address: _announce(settings, address)))


def _announce(settings: Settings, address: str) -> None:
    if settings.broker_url is None:
        broker = f"built in; MQTT 3.1.1 at 127.0.0.1:{settings.embedded_port}, MQTT 5 at :{settings.embedded_port + 1}"
    else:
        broker = ", ".join(map(str, settings.brokers()))
    typer.echo(
        f"""Chapar {__version__}
  API       {address}
  API docs  {address}/docs
  broker    {broker}
  database  {settings.database}
  access    open to everybody on this machine: no key is set up, and only loopback is served

Try it:
  curl {address}/messaging/send -H 'Content-Type: application/json' \\
       -d '{{"imei": "861234567890123", "micro_op": "push_down"}}'

Ctrl-C stops it."""
    )
    sys.stdout.flush()


@cli.command()
def migrate() -> None:
    """Bring the database's tables to the shape this version needs.

    SQLite does so by itself at every start; PostgreSQL wants this command once after each upgrade.

    Example: `CHAPAR_DATABASE_URL=postgresql://… chapar migrate`
    """
    settings = Settings.load()
    before, after = migrate_database(settings.database_url.get_secret_value())
    if before == after:
        typer.echo(f"{settings.database} is at {after} already.")
    else:
        typer.echo(f"{settings.database}: migrated from {before or 'nothing'} to {after}.")


def main() -> None:
    """Run the command; an error is one sentence on standard error and exit code 1."""
    language: Language = preferred_language()
    try:
        cli()
    except ChaparError as error:
        sys.exit(_fail(error, language))
    except ExceptionGroup as group:
        known, unknown = group.split(ChaparError)
        if unknown is not None or known is None:
            raise
        sys.exit(_fail(_first(known), language))


def _first(group: ExceptionGroup[ChaparError]) -> ChaparError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _fail(error: ChaparError, language: Language) -> int:
    typer.echo(f"chapar: {error.sentence(language)}", err=True)
    return 1
