"""`chapar serve`: the gateway itself."""

import asyncio
import shlex
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from chapar import __version__
from chapar.runtime.configuration import Configuration
from chapar.runtime.settings import Settings
from chapar.runtime.streams import LineWriter

# What only the gateway needs is imported where it runs: it takes longer to load than the other commands take to end.


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [env CHAPAR_HOST, default 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [env CHAPAR_PORT, default 8000]")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes to run; more than 1 needs PostgreSQL. [env CHAPAR_WORKERS, default 1]")
    ] = None,
) -> None:
    """Run the gateway until Ctrl-C.

    Without any setting it starts a built-in broker and keeps its messages in `chapar.db` in this folder.

    Example: `chapar serve --port 9000`
    """
    import structlog  # noqa: PLC0415 - see above
    import uvloop  # noqa: PLC0415 - see above

    from chapar.app import server  # noqa: PLC0415 - see above
    from chapar.app import workers as several  # noqa: PLC0415 - see above
    from chapar.runtime import logs  # noqa: PLC0415 - see above

    settings = Settings.load(host=host, port=port, workers=workers)
    logs.configure(settings.log_level, settings.log_format)
    log = structlog.get_logger()
    configuration = context.find_object(Configuration) or Configuration()
    if configuration.files:
        log.info("settings_read", files=list(map(str, configuration.files)))
    for unknown in configuration.unknown:
        log.warning("setting_unknown", setting=unknown.name, reason=str(unknown.warning))
    for setting, reason in settings.without_effect().items():
        log.warning("setting_without_effect", setting=setting, reason=reason)
    run = server.serve if settings.workers == 1 else several.serve
    # A signal cancels a start; later it is what ends the server.
    with suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            run(settings, lambda address, is_open: _announce(settings, configuration.files, address, is_open=is_open))
        )


def _announce(settings: Settings, files: Iterable[Path], address: str, *, is_open: bool) -> None:
    if settings.broker_url is None:
        broker = f"built in; MQTT 3.1.1 at 127.0.0.1:{settings.embedded_port}, MQTT 5 at :{settings.embedded_port + 1}"
        of_broker = f" --broker mqtt://127.0.0.1:{settings.embedded_port + 1}"
    else:
        broker = ", ".join(map(str, settings.brokers()))
        of_broker = ""  # its address holds a password: with the same settings the device finds it by itself
    if is_open:
        access = "open to everybody on this machine: no key is set up, and only loopback is served"
        credential = ""
    else:
        access = "by API key or token only; `chapar keys create` makes a key"
        credential = " -H 'Authorization: Bearer …'"
    # In the background: a full pipe that nobody reads must not hold up what has just started to serve.
    LineWriter(1).write(
        f"""Chapar {__version__}
  API       {address}
  API docs  {address}/docs
  broker    {broker}
  database  {settings.database}
  access    {access}
  settings  {", ".join([*map(str, files), "environment"])}

Try it in two other terminals: be a device in one, send to it in the other.
  {_own_path()} simulate 861234567890123{of_broker}

  curl {address}/messaging/send -H 'Content-Type: application/json'{credential} \\
       -d '{{"imei": "861234567890123", "micro_op": "push_down"}}'

Ctrl-C stops it."""
    )


def _own_path() -> str:
    """Return this command as a shell finds it: its name, or its path beside the Python that runs it."""
    beside = Path(sys.executable).with_name("chapar")
    return "chapar" if shutil.which("chapar") or not beside.exists() else shlex.quote(str(beside))
