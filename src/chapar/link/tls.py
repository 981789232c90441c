"""TLS towards the broker: our files, which may be renewed while we run."""

import asyncio
import ssl

import structlog

from chapar.errors import SettingInvalid
from chapar.runtime.certificates import LOOK_EVERY, OwnCertificate, WatchedFiles, trusting
from chapar.runtime.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Answer the TLS settings, verification on; raises SettingInvalid naming the file that cannot be used."""
    context = trusting("CHAPAR_BROKER_CA_FILE", settings.broker_ca_file)
    if settings.broker_cert_file is not None:
        OwnCertificate(
            "CHAPAR_BROKER_CERT_FILE", settings.broker_cert_file, "CHAPAR_BROKER_KEY_FILE", settings.broker_key_file
        ).load_into(context)
    return context


async def watch_files(settings: Settings) -> None:
    """Say when our files are renewed and whether they can be used, until cancelled.

    Each session reads them anew; one that is up goes on with what it has, because to end it would put what is in
    flight in doubt.
    """
    files = WatchedFiles((settings.broker_ca_file, settings.broker_cert_file, settings.broker_key_file))
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if await asyncio.to_thread(files.changed):
            try:
                await asyncio.to_thread(tls_context, settings)
            except SettingInvalid as error:
                log.error("broker_certificates_unusable", reason=str(error))  # noqa: TRY400 - a sentence
            else:
                log.info("broker_certificates_renewed", note="The next session uses them.")
