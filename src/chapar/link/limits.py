"""Limits of a broker, as its CONNACK announced them (MQTT 5.0 §3.2.2.3)."""

from dataclasses import dataclass
from typing import Final

from chapar.errors import PublicationInvalid
from chapar.link.publication import Publication
from chapar.link.reason_codes import PACKET_TOO_LARGE, QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED

_MOST_AROUND: Final = 128  # bytes of a PUBLISH that are neither text nor payload
_BYTES_OF_CHARACTER: Final = 4  # in UTF-8, at most
MAX_PACKET_SIZE: Final = 128 * 1024 * 1024  # bytes, where the broker sets no limit; MQTT itself ends at 256 MiB


@dataclass(frozen=True, slots=True)
class Limits:
    """One broker's limits. A packet beyond them would end the session, and with it everybody else's."""

    max_packet_size: int = MAX_PACKET_SIZE  #: bytes
    max_qos: int = 2
    retain_available: bool = True

    def check(self, publication: Publication) -> None:
        """Raise PublicationInvalid where the broker does not offer what `publication` asks for."""
        if publication.qos > self.max_qos:
            raise PublicationInvalid("Maximum QoS", self.max_qos, publication.qos, QOS_NOT_SUPPORTED)
        if publication.retain and not self.retain_available:
            raise PublicationInvalid("Retain Available", 0, 1, RETAIN_NOT_SUPPORTED)
        self.check_size(len(publication.payload))

    def may_exceed_size(self, publication: Publication) -> bool:
        """Return whether the packet has to be encoded to know that it is small enough."""
        text = len(publication.topic) + 2 * len(publication.message_id) + len(publication.response_topic or "")
        data = len(publication.payload) + len(publication.correlation_data or b"")
        most = _MOST_AROUND + _BYTES_OF_CHARACTER * text + data
        return most > self.max_packet_size

    def check_size(self, size: int) -> None:
        """Raise PublicationInvalid where a packet of `size` bytes is too large."""
        if size > self.max_packet_size:
            raise PublicationInvalid("Maximum Packet Size", self.max_packet_size, size, PACKET_TOO_LARGE)
