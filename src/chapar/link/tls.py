"""TLS towards the broker: our files, which may be renewed while we run, and what is wrong with them."""

import asyncio
import ssl
from pathlib import Path

import structlog

from chapar.certificates import LOOK_EVERY, WatchedFiles, tls_cause
from chapar.errors import TlsFailed
from chapar.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def tls_context(endpoint: str, settings: Settings) -> ssl.SSLContext:
    """Answer the TLS settings, verification on; raises TlsFailed naming the file that cannot be used."""
    for file in _files(settings):
        _check_readable(endpoint, file)
    used = str(settings.broker_ca_file)
    try:
        context = ssl.create_default_context(cafile=settings.broker_ca_file)
        if settings.broker_cert_file is not None:
            used = " + ".join(map(str, filter(None, (settings.broker_cert_file, settings.broker_key_file))))
            # A password is given so that an encrypted key is an error, not a question on the terminal.
            context.load_cert_chain(settings.broker_cert_file, settings.broker_key_file, password="")
    except ssl.SSLError as error:
        raise TlsFailed(endpoint, f"{used} cannot be used: {tls_cause(error)}") from error
    return context


async def watch_files(endpoint: str, settings: Settings) -> None:
    """Say when our files are renewed and whether they can be used, until cancelled.

    Each session reads them anew; one that is up goes on with what it has, because to end it would put what is in
    flight in doubt.
    """
    files = WatchedFiles(_files(settings))
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if await asyncio.to_thread(files.changed):
            try:
                await asyncio.to_thread(tls_context, endpoint, settings)
            except TlsFailed as error:
                log.error("broker_certificates_unusable", broker=endpoint, reason=str(error))  # noqa: TRY400 - a sentence
            else:
                log.info("broker_certificates_renewed", broker=endpoint, note="The next session uses them.")


def _files(settings: Settings) -> list[Path]:
    files = (settings.broker_ca_file, settings.broker_cert_file, settings.broker_key_file)
    return [file for file in files if file is not None]


def _check_readable(endpoint: str, file: Path) -> None:
    """Raise TlsFailed where it is not: the library does not say which of its files it is."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise TlsFailed(endpoint, f"{file} cannot be read: {error.strerror}") from error
