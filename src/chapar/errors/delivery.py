"""Reasons why a message was not sent and never will be."""

from dataclasses import dataclass

from chapar.errors.root import ChaparError


@dataclass(eq=False)
class NotSent(ChaparError):
    """The message was not sent and never will be."""

    code = "not_sent"

    id: str


@dataclass(eq=False)
class BrokerUnreachable(NotSent):
    """There is no session with the broker, and the call did not ask to queue."""

    code = "broker_unreachable"


@dataclass(eq=False)
class DeviceOffline(NotSent):
    """It was to be sent only to a device that is online, and the device was offline."""

    code = "device_offline"


@dataclass(eq=False)
class PresenceUnknown(NotSent):
    """It was to be sent only to a device that is online, and whether it was there was not known."""

    code = "presence_unknown"


@dataclass(eq=False)
class DeviceBusy(NotSent):
    """It was to be sent only to a device that is online, and something else of the device had to leave first."""

    code = "device_busy"


@dataclass(eq=False)
class QueuePaused(NotSent):
    """It was to be sent only to a device that is online, so it never waits, and the queue of the device is paused."""

    code = "queue_paused"


@dataclass(eq=False)
class BrokerRefused(NotSent):
    """The broker answered the PUBLISH with a reason code of 0x80 or above (MQTT 5.0 §3.4.2.1)."""

    code = "broker_refused"

    reason_name: str
    reason_code: int


@dataclass(eq=False)
class Quarantined(NotSent):
    """Sessions ended again and again while this message was in flight; it is taken for the cause."""

    code = "quarantined"


@dataclass(eq=False)
class DeliveryFaulty(NotSent):
    """A fault of ours stopped the message before a byte of it left."""

    code = "internal_error"


@dataclass(eq=False)
class MessageExpired(NotSent):
    """The message's time ran out before the broker had it."""

    code = "expired"


@dataclass(eq=False)
class MessageCancelled(NotSent):
    """The message was withdrawn before it was sent."""

    code = "cancelled"


@dataclass(eq=False)
class MessageSuperseded(NotSent):
    """A newer message with its collapse key took its place before it was sent."""

    code = "superseded"


@dataclass(eq=False)
class MessagePurged(NotSent):
    """It was withdrawn with all else that waited for its device."""

    code = "purged"
