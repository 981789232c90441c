"""Reasons why a message ended as it did, in stable codes."""

from enum import StrEnum


class Reason(StrEnum):
    """The reason of a message that was not simply published.

    A broker may refuse a PUBLISH with a code that MQTT 5 does not list for it. The reason is then that code's name
    (`server_busy`), or its number where it has none (`reason_0xc1`).
    """

    CANCELLED = "cancelled"  #: Withdrawn before it was sent.
    #: A newer message with its `collapse_key` took its place. With `unconfirmed`: it may have left before. Also an
    #: empty message that would have made the broker forget something newer.
    SUPERSEDED = "superseded"
    PURGED = "purged"  #: Withdrawn with all else that waited for its device.
    WAITING_FOR_CONTACT = "waiting_for_contact"  #: It leaves when its device speaks next.
    WAITING_FOR_REPLY = "waiting_for_reply"  #: The device has yet to answer one before it.
    PAUSED = "paused"  #: The queue of its device is paused. With `rejected`: `only_if_online`, which never waits.
    DEVICE_OFFLINE = "device_offline"  #: `only_if_online`, and the device was offline.
    PRESENCE_UNKNOWN = "presence_unknown"  #: `only_if_online`, and whether the device is there was not known.
    DEVICE_BUSY = "device_busy"  #: `only_if_online`, and something else of the device had to leave first.
    NO_REPLY = "no_reply"  #: The device did not reply in time. A later reply still counts.
    #: It may have been sent already, before a backup was restored, and waits for `chapar queue release` or `cancel`.
    #: With `unconfirmed`: it was to be sent at most once, so it was not released.
    HELD = "held"
    EXPIRED = "expired"  #: Its time ran out before the broker had it.
    BROKER_UNREACHABLE = "broker_unreachable"  #: There was no session with the broker, and its call would not queue.
    QUARANTINED = "quarantined"  #: The session ended, or the broker fell silent, whenever it was in flight.
    INTERNAL_ERROR = "internal_error"  #: A fault of the gateway; its log says more.
    OUTCOME_UNKNOWN = "outcome_unknown"  #: The database did not say whether it was saved, so it was withdrawn.
    LINK_LOST = "link_lost"  #: Sent at most once, and the session ended before the acknowledgement.
    PROCESS_DIED = "process_died"  #: Sent at most once, and the gateway ended before it knew the outcome.
    QOS_0 = "qos_0"  #: It left, and at QoS 0 no broker says more.

    UNSPECIFIED_ERROR = "unspecified_error"  #: 0x80: the broker gives no reason.
    IMPLEMENTATION_SPECIFIC_ERROR = "implementation_specific_error"  #: 0x83: valid, and this broker does not take it.
    NOT_AUTHORIZED = "not_authorized"  #: 0x87: the gateway may not publish on this topic.
    TOPIC_NAME_INVALID = "topic_name_invalid"  #: 0x90: the broker does not take this topic.
    PACKET_IDENTIFIER_IN_USE = "packet_identifier_in_use"  #: 0x91: the broker still knows the packet id.
    PACKET_TOO_LARGE = "packet_too_large"  #: 0x95: larger than the broker's Maximum Packet Size; not tried.
    QUOTA_EXCEEDED = "quota_exceeded"  #: 0x97: an administrative limit of the broker.
    PAYLOAD_FORMAT_INVALID = "payload_format_invalid"  #: 0x99: the payload is not what its format says.
    RETAIN_NOT_SUPPORTED = "retain_not_supported"  #: 0x9A: the broker retains nothing; not tried.
    QOS_NOT_SUPPORTED = "qos_not_supported"  #: 0x9B: higher than the broker's Maximum QoS; not tried.
