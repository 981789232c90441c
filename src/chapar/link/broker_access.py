"""Access to the brokers, for whoever connects."""

from dataclasses import dataclass
from pathlib import Path

from chapar.runtime.addresses import BrokerAddress


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of our side of TLS; they are read anew for each session."""

    ca: Path | None = None  #: None: the system's authorities
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """Addresses of the brokers, and how to connect to them. Times are in seconds."""

    brokers: tuple[BrokerAddress, ...]  #: in the order in which they are tried
    connect_timeout: float  #: for each step of connecting
    keep_alive: int
    acknowledge_timeout: float  #: for the answer to a publication on a connection that is alive
    tls_files: TlsFiles = TlsFiles()
    server_name: str | None = None  #: that the broker's certificate must carry; None: the host of its address
