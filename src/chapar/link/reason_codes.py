"""The names of the MQTT 5 reason codes (MQTT 5.0 §2.4)."""

from collections.abc import Mapping
from typing import Final

SUCCESS: Final = 0x00
NO_MATCHING_SUBSCRIBERS: Final = 0x10
FIRST_FAILURE: Final = 0x80  # from here on a reason code is a refusal
MALFORMED_PACKET: Final = 0x81
UNSUPPORTED_PROTOCOL_VERSION: Final = 0x84
SESSION_TAKEN_OVER: Final = 0x8E
PACKET_ID_NOT_FOUND: Final = 0x92
RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
PACKET_TOO_LARGE: Final = 0x95
RETAIN_NOT_SUPPORTED: Final = 0x9A
QOS_NOT_SUPPORTED: Final = 0x9B

_NAMES: Mapping[int, str] = {
    0x00: "Success",
    0x01: "Granted QoS 1",
    0x02: "Granted QoS 2",
    0x04: "Disconnect with Will Message",
    0x10: "No matching subscribers",
    0x11: "No subscription existed",
    0x18: "Continue authentication",
    0x19: "Re-authenticate",
    0x80: "Unspecified error",
    0x81: "Malformed Packet",
    0x82: "Protocol Error",
    0x83: "Implementation specific error",
    0x84: "Unsupported Protocol Version",
    0x85: "Client Identifier not valid",
    0x86: "Bad User Name or Password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8B: "Server shutting down",
    0x8C: "Bad authentication method",
    0x8D: "Keep Alive timeout",
    0x8E: "Session taken over",
    0x8F: "Topic Filter invalid",
    0x90: "Topic Name invalid",
    0x91: "Packet Identifier in use",
    0x92: "Packet Identifier not found",
    0x93: "Receive Maximum exceeded",
    0x94: "Topic Alias invalid",
    0x95: "Packet too large",
    0x96: "Message rate too high",
    0x97: "Quota exceeded",
    0x98: "Administrative action",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9E: "Shared Subscriptions not supported",
    0x9F: "Connection rate exceeded",
    0xA0: "Maximum connect time",
    0xA1: "Subscription Identifiers not supported",
    0xA2: "Wildcard Subscriptions not supported",
}

TRANSIENT: Final = frozenset({0x80, 0x83, 0x91, 0x97})
"""Refusals of a PUBLISH that may be gone a moment later (MQTT 5.0 §3.4.2.1)."""


def reason_name(reason_code: int) -> str:
    """The specification's name of a reason code, for a sentence that shows its number: `Not authorized`."""
    return _NAMES.get(reason_code, "Unknown reason")


def reason_slug(reason_code: int) -> str:
    """A stable code to store and compare: `not_authorized`, and `reason_0xc1` where the specification has no name."""
    name = _NAMES.get(reason_code, f"reason_0x{reason_code:02x}")
    return name.lower().replace(" ", "_").replace("-", "_")
