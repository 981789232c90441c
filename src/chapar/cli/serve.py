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
from chapar.cli.sentences import say
from chapar.errors import joined
from chapar.runtime.configuration import Configuration
from chapar.runtime.settings import Settings, preferred_language
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
    settings = Settings.load(host=host, port=port, workers=workers)  # first: what is wrong is said at once

    import structlog  # noqa: PLC0415 - see above
    import uvloop  # noqa: PLC0415 - see above

    from chapar.app import server  # noqa: PLC0415 - see above
    from chapar.app import workers as several  # noqa: PLC0415 - see above
    from chapar.runtime import logs  # noqa: PLC0415 - see above

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
    language = preferred_language()
    simulate = f"{_own_path()} simulate 861234567890123"
    if settings.broker_url is None:
        mqtt_3, mqtt_5 = settings.embedded_port, settings.embedded_port + 1
        broker = say("serve.built_in", language, mqtt_3=mqtt_3, mqtt_5=mqtt_5)
        simulate += f" --broker mqtt://127.0.0.1:{mqtt_5}"
    else:  # its address holds a password: with the same settings the device finds it by itself
        broker = joined(map(str, settings.brokers()), language)
    credential = "" if is_open else " -H 'Authorization: Bearer …'"
    send = f"""curl {address}/messaging/send -H 'Content-Type: application/json'{credential} \\
       -d '{{"imei": "861234567890123", "micro_op": "push_down"}}'"""
    banner = say(
        "serve.banner",
        language,
        version=__version__,
        address=address,
        broker=broker,
        database=settings.database,
        access=say("serve.open" if is_open else "serve.closed", language),
        settings=joined([*map(str, files), say("serve.environment", language)], language),
        simulate=simulate,
        send=send,
    )
    # In the background: a full pipe that nobody reads must not hold up what has just started to serve.
    LineWriter(1).write(banner)


def _own_path() -> str:
    """Return this command as a shell finds it: its name, or its path beside the Python that runs it."""
    beside = Path(sys.executable).with_name("chapar")
    return "chapar" if shutil.which("chapar") or not beside.exists() else shlex.quote(str(beside))
