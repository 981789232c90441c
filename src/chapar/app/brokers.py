"""Access to the brokers as the settings give it, for the gateway and for simulated devices."""

from chapar.link.broker_access import BrokerAccess, TlsFiles
from chapar.runtime.settings import Settings


def broker_access(settings: Settings) -> BrokerAccess:
    """The brokers of the settings, and how to connect to them."""
    return BrokerAccess(
        brokers=settings.brokers(),
        connect_timeout=settings.connect_timeout,
        keep_alive=settings.keep_alive,
        acknowledge_timeout=settings.acknowledge_timeout,
        tls_files=TlsFiles(settings.broker_ca_file, settings.broker_cert_file, settings.broker_key_file),
        server_name=settings.broker_server_name,
    )
