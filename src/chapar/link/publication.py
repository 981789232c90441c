"""Values that go over the link: a publication out, a delivery in, and the CONNECT that opens it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


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


class Publication(NamedTuple):
    """One attempt to hand a message to the broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    message_id: str  #: ASCII; travels as correlation data and as user property `message-id`
    attempt: int = 1
    deadline: float | None = None  #: loop time from which it must not leave; the broker is told how long that is
    response_topic: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that the broker sent us. It stays the broker's until `acknowledge()`, which may be called twice."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    correlation_data: bytes | None
    response_topic: str | None
    user_properties: tuple[tuple[str, str], ...]
    acknowledge: Callable[[], None]
