"""TLS towards the broker: our files, which may be renewed while we run."""

import asyncio
import ssl

import structlog

from chapar.errors import SettingInvalid
from chapar.link.broker_access import BrokerAccess, TlsFiles
from chapar.runtime.certificates import LOOK_EVERY, OwnCertificate, WatchedFiles, trusting

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Answer the TLS settings, verification on; raises SettingInvalid naming the file that cannot be used."""
    context = trusting("CHAPAR_BROKER_CA_FILE", files.ca)
    if files.certificate is not None:
        OwnCertificate("CHAPAR_BROKER_CERT_FILE", files.certificate, "CHAPAR_BROKER_KEY_FILE", files.key).load_into(
            context
        )
    return context


def check_files(access: BrokerAccess) -> None:
    """Find what is wrong with our files before anything is started; raises SettingInvalid."""
    if any(address.tls for address in access.brokers):
        tls_context(access.tls_files)


async def watch_files(files: TlsFiles) -> None:
    """Say when our files are renewed and whether they can be used, until cancelled.

    Each session reads them anew; one that is up goes on with what it has, because to end it would put what is in
    flight in doubt.
    """
    watched = WatchedFiles((files.ca, files.certificate, files.key))
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if await asyncio.to_thread(watched.changed):
            try:
                await asyncio.to_thread(tls_context, files)
            except SettingInvalid as error:
                log.error("broker_certificates_unusable", reason=str(error))  # noqa: TRY400 - a sentence
            else:
                log.info("broker_certificates_renewed", note="The next session uses them.")
