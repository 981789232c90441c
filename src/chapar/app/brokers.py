"""Access to the brokers as the settings give it, for the gateway and for simulated devices."""

from dataclasses import replace

from chapar.link.broker_access import BrokerAccess, TlsFiles
from chapar.link.publication import MQTT_5
from chapar.runtime.settings import Settings


def broker_access(settings: Settings, version: int = MQTT_5) -> BrokerAccess:
    """The brokers of the settings, and how to connect to them with this version of MQTT."""
    brokers = settings.brokers()
    if settings.broker_url is None and version != MQTT_5:  # the built-in broker has a port for each
        brokers = tuple(replace(broker, port=settings.embedded_port) for broker in brokers)
    return BrokerAccess(
        brokers=brokers,
        connect_timeout=settings.connect_timeout,
        keep_alive=settings.keep_alive,
        acknowledge_timeout=settings.acknowledge_timeout,
        tls_files=TlsFiles(settings.broker_ca_file, settings.broker_cert_file, settings.broker_key_file),
        server_name=settings.broker_server_name,
    )
