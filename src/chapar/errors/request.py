"""Why a request is refused: nothing was stored, nothing was sent."""

from collections.abc import Mapping
from dataclasses import dataclass

from chapar.errors.root import ChaparError


@dataclass(eq=False)
class RequestError(ChaparError):
    """The request itself is at fault: nothing was stored, nothing was sent."""

    code = "request_invalid"


@dataclass(eq=False)
class HeadMalformed(RequestError):
    """What came is not the head of an HTTP/1.1 request (RFC 9112)."""

    code = "head_malformed"
    en = "This is not a request in HTTP/1.1: {cause}."
    fa = "این یک درخواست HTTP/1.1 نیست: {cause}."

    cause: str


@dataclass(eq=False)
class HeadTooLarge(RequestError):
    """Request line and headers are larger than the limit; reading stopped there."""

    code = "head_too_large"
    en = "The request line and the headers are larger than {limit} bytes (CHAPAR_MAX_HEAD_BYTES)."
    fa = "خط درخواست و سرآیندها بزرگ‌تر از {limit} بایت است (CHAPAR_MAX_HEAD_BYTES)."

    limit: int


@dataclass(eq=False)
class HeadersTooMany(RequestError):
    """There are more headers than the limit."""

    code = "too_many_headers"
    en = "The request has more than {limit} headers."
    fa = "درخواست بیش از {limit} سرآیند دارد."

    limit: int


@dataclass(eq=False)
class TargetTooLong(RequestError):
    """Path and query are longer than the limit."""

    code = "target_too_long"
    en = "The path and the query are longer than {limit} bytes. Put what is long into the body."
    fa = "مسیر و پرس‌وجوی (query) درخواست بلندتر از {limit} بایت است. دادهٔ بلند را در بدنه بفرستید."

    limit: int


@dataclass(eq=False)
class HeadTooSlow(RequestError):
    """The head did not arrive in time."""

    code = "head_too_slow"
    en = "The request line and the headers did not arrive within {seconds} s (CHAPAR_HEAD_TIMEOUT)."
    fa = "خط درخواست و سرآیندها در {seconds} ثانیه نرسید (CHAPAR_HEAD_TIMEOUT)."

    seconds: float


@dataclass(eq=False)
class PathUnknown(RequestError):
    """Nothing is at this path."""

    code = "not_found"
    en = "There is nothing at this path. `GET /docs` shows what there is."
    fa = "در این مسیر چیزی نیست. `GET /docs` نشان می‌دهد چه مسیرهایی هست."


@dataclass(eq=False)
class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"
    en = "This path does not take {method}; the header `Allow` says what it takes."
    fa = "این مسیر {method} را نمی‌پذیرد؛ سرآیند `Allow` می‌گوید چه می‌پذیرد."

    method: str


@dataclass(eq=False)
class HostNotAllowed(RequestError):
    """The request is meant for a host that this gateway is not (DNS rebinding)."""

    code = "host_not_allowed"
    en = "This gateway does not answer for the host {host}. If that is its name, add it to CHAPAR_ALLOWED_HOSTS."
    fa = "این دروازه به نام میزبان {host} پاسخ نمی‌دهد. اگر نام آن همین است، آن را به CHAPAR_ALLOWED_HOSTS بیفزایید."

    host: str


@dataclass(eq=False)
class OriginNotAllowed(RequestError):
    """A page of another site had a browser send this (CSRF)."""

    code = "origin_not_allowed"
    en = (
        "A page of {origin} sent this request, and pages of other sites may not. "
        "If that site is yours, add it to CHAPAR_CORS_ORIGINS."
    )
    fa = (
        "این درخواست را صفحه‌ای از {origin} فرستاده است و صفحه‌های وبگاه‌های دیگر چنین اجازه‌ای ندارند. "
        "اگر آن وبگاه از آنِ شماست، آن را به CHAPAR_CORS_ORIGINS بیفزایید."
    )

    origin: str


@dataclass(eq=False)
class FieldInvalid(RequestError):
    """A field of a request breaks a rule; the rule reads on from the field's name, in both languages."""

    code = "field_invalid"
    en = "`{field}` {rule_en}."
    fa = "`{field}` {rule_fa}."

    field: str
    rule_en: str
    rule_fa: str


@dataclass(eq=False)
class BodyMalformed(RequestError):
    """The body is not JSON in UTF-8."""

    code = "body_malformed"
    en = "The body is not a JSON object in UTF-8: {cause}"
    fa = "بدنهٔ درخواست یک شیء JSON با کدگذاری UTF-8 نیست: {cause}"

    cause: str


@dataclass(eq=False)
class BodyTooLarge(RequestError):
    """The body is larger than the limit; reading stopped there."""

    code = "body_too_large"
    en = "The body is larger than {limit} bytes ({setting})."
    fa = "بدنهٔ درخواست بزرگ‌تر از {limit} بایت است ({setting})."

    limit: int
    setting: str


@dataclass(eq=False)
class BodiesExhausted(RequestError):
    """The bodies of this and other requests are larger than the limit for all of them. `retry_after` is in seconds."""

    code = "bodies_exhausted"
    en = (
        "Requests under way hold the {limit} bytes that {setting} allows for bodies, so this one was not taken. "
        "Nothing was stored or sent; try again in {retry_after} s."
    )
    fa = (
        "درخواست‌های در جریان همهٔ {limit} بایتی را که {setting} برای بدنه‌ها می‌پذیرد گرفته‌اند و این یکی پذیرفته نشد. "
        "چیزی ذخیره یا فرستاده نشد؛ {retry_after} ثانیهٔ دیگر بکوشید."
    )

    setting: str
    limit: int
    retry_after: int


@dataclass(eq=False)
class BodyTooSlow(RequestError):
    """The body did not arrive in time."""

    code = "body_too_slow"
    en = "The body did not arrive within {seconds} s (CHAPAR_BODY_TIMEOUT)."
    fa = "بدنهٔ درخواست در {seconds} ثانیه نرسید (CHAPAR_BODY_TIMEOUT)."

    seconds: float


@dataclass(eq=False)
class BodyTooDeep(RequestError):
    """The JSON of the body is nested deeper than the limit."""

    code = "body_too_deep"
    en = "The JSON of the body is nested more than {limit} levels deep."
    fa = "JSON بدنهٔ درخواست بیش از {limit} لایهٔ تودرتو دارد."

    limit: int


@dataclass(eq=False)
class MediaTypeUnsupported(RequestError):
    """The body is not sent as JSON."""

    code = "media_type_unsupported"
    en = "Send the body as `Content-Type: application/json` in UTF-8 and without Content-Encoding, not as {found}."
    fa = "بدنه را با `Content-Type: application/json` و UTF-8 و بدون Content-Encoding بفرستید، نه به صورت {found}."

    found: str


@dataclass(eq=False)
class MessageNotFound(ChaparError):
    """No message has this id."""

    code = "message_not_found"
    en = "There is no message with the id {id}. Check it against the `id` of the answer that accepted it."
    fa = "پیامی با شناسهٔ {id} وجود ندارد. آن را با `id` پاسخی که پیام را پذیرفت بسنجید."

    id: str


@dataclass(eq=False)
class NotCancellable(ChaparError):
    """The message is past the states in which it can be withdrawn."""

    code = "not_cancellable"
    en = (
        "The message {id} cannot be cancelled: it is {status}. Only scheduled and queued messages can, "
        "and a retained one that the broker has, as long as no newer one takes its place."
    )
    fa = (
        "پیام {id} را نمی‌توان لغو کرد: در وضعیت {status} است. تنها پیام‌های scheduled و queued لغو می‌شوند، "
        "و پیام retain که نزد کارگزار مانده است، تا وقتی پیام تازه‌تری جای آن را نگرفته باشد."
    )

    id: str
    status: str


@dataclass(eq=False)
class NotRepeatable(ChaparError):
    """The message makes the broker forget a retained one; sent again, it could remove a newer one."""

    code = "not_repeatable"
    en = (
        "The message {id} only makes the broker forget a retained one, its `origin`. "
        "Cancel that one again instead of sending this one again."
    )
    fa = (
        "پیام {id} تنها برای آن است که کارگزار یک پیام retain (`origin` آن) را فراموش کند. "
        "به جای ارسال دوبارهٔ این پیام، همان پیام را دوباره لغو کنید."
    )

    id: str


@dataclass(eq=False)
class QueueFull(ChaparError):
    """A bound of the queue is reached. `retry_after` is in seconds.

    `oldest` is the message in front, None where the caller may not see it.
    """

    code = "queue_full"
    en = (
        "The queue is full: {bound} allows {limit} unfinished messages{oldest_en}. "
        "Try again in {retry_after} s, cancel what is no longer wanted, or raise the bound."
    )
    fa = (
        "صف پر است: {bound} اجازهٔ {limit} پیام ناتمام می‌دهد{oldest_fa}. "
        "{retry_after} ثانیهٔ دیگر بکوشید، پیام‌های بی‌مصرف را لغو کنید یا این حد را بالا ببرید."
    )

    bound: str
    limit: int
    oldest: str | None
    retry_after: int

    def facts(self) -> Mapping[str, object]:
        """Name the oldest message where it is known."""
        known = self.oldest is not None
        english, persian = f", and the oldest is {self.oldest}", f" و قدیمی‌ترین آن‌ها {self.oldest} است"
        return {**vars(self), "oldest_en": english if known else "", "oldest_fa": persian if known else ""}


@dataclass(eq=False)
class KeyMismatch(ChaparError):
    """An idempotency key was used for another request (draft-ietf-httpapi-idempotency-key-header §2.7)."""

    code = "idempotency_key_mismatch"
    en = "This Idempotency-Key was used for another request. Use a new key for a new request."
    fa = "این Idempotency-Key برای درخواست دیگری به کار رفته است. برای درخواست تازه کلید تازه بسازید."


@dataclass(eq=False)
class KeyInFlight(ChaparError):
    """The first request with this idempotency key has not been answered yet."""

    code = "idempotency_key_in_flight"
    en = "The first request with this Idempotency-Key has not been answered yet. Repeat this one in a moment."
    fa = "نخستین درخواست با این Idempotency-Key هنوز پاسخ نگرفته است. این درخواست را اندکی بعد تکرار کنید."


@dataclass(eq=False)
class ConnectionsExhausted(ChaparError):
    """As many connections are open as may be; this one is closed at once."""

    code = "too_many_connections"
    en = "{limit} connections are open, and this gateway takes no more (CHAPAR_MAX_CONNECTIONS). Try again in a moment."
    fa = "{limit} اتصال باز است و دروازه بیش از این نمی‌پذیرد (CHAPAR_MAX_CONNECTIONS). اندکی بعد دوباره بکوشید."

    limit: int
