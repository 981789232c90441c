"""Values that go over the link: a publication out, a delivery in, and the CONNECT that opens it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MQTT_5: Final = 5


class Will(NamedTuple):
    """The message that the broker publishes where a connection ends without DISCONNECT (MQTT 5.0 §3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class SignOn:
    """The fields of our CONNECT (MQTT 5.0 §3.1)."""

    client_id: str
    keep_alive: int  #: seconds
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    clean_start: bool = True
    session_expiry: int = 0  #: seconds for which the broker keeps the session after the connection ended
    max_packet_size: int | None = None  #: bytes, see `BrokerAddress.max_packet_size`
    properties: bool = True  #: whether PUBLISH may carry properties, see `BrokerAddress.properties`
    will: Will | None = None
    version: int = MQTT_5  #: or 3 for MQTT 3.1.1, which simulated devices speak


class Publication(NamedTuple):
    """One attempt to hand a message to the broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    message_id: str  #: ASCII; travels as correlation data and as user property `message-id`; empty: it has none
    attempt: int = 1
    deadline: float | None = None  #: loop time from which it must not leave; the broker is told how long that is
    response_topic: str | None = None
    correlation_data: bytes | None = None  #: of a reply, in place of a message id: the request's
    urgent: bool = False  #: it leaves before all that is in line


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that the broker sent us. It stays the broker's until `acknowledge()`, which may be called twice.

    `retain` marks what the broker had stored before we subscribed; what is published now comes without, as we subscribe
    (MQTT 5.0 §3.8.3.1).
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    correlation_data: bytes | None
    response_topic: str | None
    user_properties: tuple[tuple[str, str], ...]
    acknowledge: Callable[[], None]
    duplicate: bool = False  #: whether the broker may have sent it before, in this session or an earlier connection
    packet_id: int = 0  #: the same where the broker sends it again (MQTT 5.0 §4.4); 0 at QoS 0
