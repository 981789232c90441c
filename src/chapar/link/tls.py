"""TLS towards the broker: our files, and what a failure means."""

import ssl

from chapar.certificates import tls_cause
from chapar.errors import TlsFailed
from chapar.settings import Settings


def tls_context(endpoint: str, settings: Settings) -> ssl.SSLContext:
    """Answer the TLS settings, verification on; raises TlsFailed naming the file that cannot be used."""
    file = settings.broker_ca_file
    try:
        context = ssl.create_default_context(cafile=file)
        file = settings.broker_cert_file
        if file is not None:
            # A password is given so that an encrypted key is an error, not a question on the terminal.
            context.load_cert_chain(file, settings.broker_key_file, password="")
    except ssl.SSLError as error:
        raise TlsFailed(endpoint, f"{file} cannot be used: {tls_cause(error)}") from error
    except OSError as error:
        raise TlsFailed(endpoint, f"{file} cannot be read: {error.strerror}") from error
    return context
