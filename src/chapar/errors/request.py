"""Refusals of requests: nothing was stored, nothing was sent."""

from dataclasses import dataclass

from chapar.errors.root import ChaparError, Phrase


@dataclass(eq=False)
class RequestError(ChaparError):
    """The request itself is at fault: nothing was stored, nothing was sent."""

    code = "request_invalid"


@dataclass(eq=False)
class HeadMalformed(RequestError):
    """The bytes are not the head of an HTTP/1.1 request (RFC 9112)."""

    code = "head_malformed"

    cause: Phrase | str


@dataclass(eq=False)
class HeadTooLarge(RequestError):
    """Request line and headers are larger than the limit; reading stopped there."""

    code = "head_too_large"

    limit: int


@dataclass(eq=False)
class HeadersTooMany(RequestError):
    """There are more headers than the limit."""

    code = "too_many_headers"

    limit: int


@dataclass(eq=False)
class TargetTooLong(RequestError):
    """Path and query are longer than the limit."""

    code = "target_too_long"

    limit: int


@dataclass(eq=False)
class HeadTooSlow(RequestError):
    """The head did not arrive in time."""

    code = "head_too_slow"

    seconds: float


@dataclass(eq=False)
class PathUnknown(RequestError):
    """Nothing is at this path."""

    code = "not_found"


@dataclass(eq=False)
class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"

    method: str


@dataclass(eq=False)
class HostNotAllowed(RequestError):
    """The request is meant for a host that this gateway is not (DNS rebinding)."""

    code = "host_not_allowed"

    host: str


@dataclass(eq=False)
class OriginNotAllowed(RequestError):
    """A page of another site had a browser send this (CSRF)."""

    code = "origin_not_allowed"

    origin: Phrase | str


@dataclass(eq=False)
class FieldInvalid(RequestError):
    """A field of a request breaks a rule, which reads on from the field's name."""

    code = "field_invalid"

    field: str
    rule: Phrase


@dataclass(eq=False)
class ParamsInvalid(FieldInvalid):
    """A parameter breaks a rule that the catalog has for its operation."""

    code = "params_invalid"

    micro_op: str


@dataclass(eq=False)
class BodyMalformed(RequestError):
    """The body is not JSON in UTF-8."""

    code = "body_malformed"

    cause: Phrase | str


@dataclass(eq=False)
class RowMalformed(RequestError):
    """A row of a CSV body is none."""

    code = "row_malformed"

    cause: Phrase | str


@dataclass(eq=False)
class TableMalformed(RequestError):
    """A file is no table that can be imported, or too large a one."""

    code = "table_malformed"

    cause: Phrase


@dataclass(eq=False)
class BodyTooLarge(RequestError):
    """The body is larger than the limit; reading stopped there."""

    code = "body_too_large"

    limit: int
    setting: str


@dataclass(eq=False)
class BodiesExhausted(RequestError):
    """The bodies of this and other requests are larger than the limit for all of them. `retry_after` is in seconds."""

    code = "bodies_exhausted"

    setting: str
    limit: int
    retry_after: int


@dataclass(eq=False)
class BodyTooSlow(RequestError):
    """The body did not arrive in time."""

    code = "body_too_slow"

    seconds: float


@dataclass(eq=False)
class BodyTooDeep(RequestError):
    """The JSON of the body is nested deeper than the limit."""

    code = "body_too_deep"

    limit: int


@dataclass(eq=False)
class MediaTypeUnsupported(RequestError):
    """The body is sent as no media type that the route takes."""

    code = "media_type_unsupported"

    found: Phrase | str
    taken: tuple[str, ...]  #: media types


@dataclass(eq=False)
class MessageNotFound(ChaparError):
    """No message has this id."""

    code = "message_not_found"

    id: str


@dataclass(eq=False)
class DeviceNotFound(ChaparError):
    """No device with this id is registered, or it is out of the caller's reach."""

    code = "device_not_found"

    imei: str


@dataclass(eq=False)
class OperationNotFound(ChaparError):
    """The catalog describes no operation of this name, or it is out of the caller's reach."""

    code = "operation_not_found"

    micro_op: str


@dataclass(eq=False)
class EventsGone(ChaparError):
    """Events that followed a cursor or a time are not kept any more. From the cursor `oldest` on all is there."""

    code = "events_gone"

    oldest: str


@dataclass(eq=False)
class ListenersExhausted(ChaparError):
    """The number of listeners to events is at its limit."""

    code = "too_many_listeners"

    limit: int


@dataclass(eq=False)
class DevicesExhausted(ChaparError):
    """The registry has as many devices as it may have."""

    code = "too_many_devices"

    limit: int


@dataclass(eq=False)
class DevicePaused(ChaparError):
    """The device's queue is paused, so the device is not forgotten."""

    code = "device_paused"

    imei: str


@dataclass(eq=False)
class PauseUnconfirmed(ChaparError):
    """The pause is committed, and another process may not know of it yet."""

    code = "pause_unconfirmed"

    imei: str


@dataclass(eq=False)
class NotCancellable(ChaparError):
    """The message is past the states in which it can be withdrawn."""

    code = "not_cancellable"

    id: str
    status: str


@dataclass(eq=False)
class NotRepeatable(ChaparError):
    """The message makes the broker forget a retained one; sent again, it could remove a newer one."""

    code = "not_repeatable"

    id: str


@dataclass(eq=False)
class QueueFull(ChaparError):
    """A bound of the queue is reached. `retry_after` is in seconds.

    `oldest` is the message in front, None where the caller may not see it.
    """

    code = "queue_full"

    bound: str
    limit: int
    oldest: str | None
    retry_after: int

    @property
    def count(self) -> int:
        """The number that the words depend on."""
        return self.limit

    @property
    def in_front(self) -> Phrase | str:
        """The oldest message, where it is known."""
        return "" if self.oldest is None else Phrase("part.oldest", id=self.oldest)


@dataclass(eq=False)
class KeyMismatch(ChaparError):
    """An idempotency key was used for another request (draft-ietf-httpapi-idempotency-key-header §2.7)."""

    code = "idempotency_key_mismatch"


@dataclass(eq=False)
class KeyInFlight(ChaparError):
    """The first request with this idempotency key has not been answered yet."""

    code = "idempotency_key_in_flight"


@dataclass(eq=False)
class KeyNotTaken(ChaparError):
    """An idempotency key is not taken here, because the answer is shown once and cannot be repeated."""

    code = "idempotency_key_not_taken"


@dataclass(eq=False)
class SpreadsheetNotMade(ChaparError):
    """A spreadsheet cannot be made now."""

    code = "spreadsheet_not_made"

    cause: Phrase


@dataclass(eq=False)
class TableNotRead(ChaparError):
    """The process that reads tables cannot be started."""

    code = "table_not_read"

    cause: str


@dataclass(eq=False)
class ConnectionsExhausted(ChaparError):
    """The gateway has as many connections open as it may; this one is closed at once."""

    code = "too_many_connections"

    limit: int
