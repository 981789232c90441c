"""Every error Chapar raises on purpose, each with its code and its sentence in English and Persian.

ChaparError
├── SettingInvalid           a setting has a value that cannot work
├── PortTaken                a port that must be listened on is in use
├── WorkerFailed             a worker ended before it served
├── UsageInvalid             the command was not written as it must be
├── GatewayError             the command line did not get from a gateway what it asked for
│   ├── GatewayUnreachable   … nothing answers there, and nothing was asked
│   ├── GatewayLost          … it was asked, and its answer did not come
│   ├── GatewayRefused       … it answered with a problem of its own
│   └── NotAGateway          … what answers there is none
├── RequestError             the request itself is at fault: nothing stored, nothing sent
│   ├── FieldInvalid         … a field breaks a rule
│   ├── BodyMalformed        … the body is not JSON in UTF-8
│   ├── BodyTooLarge         … the body is larger than the limit
│   ├── BodyTooSlow          … the body did not arrive in time
│   └── MediaTypeUnsupported … the body is not sent as JSON
├── MessageNotFound          no message has this id
├── NotCancellable           the message is past the states in which it can be withdrawn
├── QueueFull                a bound of the queue is reached: nothing stored, nothing sent
├── KeyMismatch              an idempotency key was used for another request
├── KeyInFlight              the first request with this idempotency key has not been answered
├── NotSent                  the message was not sent and never will be
│   ├── BrokerUnreachable    … the broker could not be reached
│   ├── BrokerRefused        … the broker said no, with an MQTT 5 reason code
│   ├── Quarantined          … it was in flight whenever the broker ended the session
│   ├── MessageExpired       … its time ran out
│   └── MessageCancelled     … it was withdrawn
├── StoreError
│   ├── NotSaved             nothing was committed
│   ├── OutcomeUnknown       the database cannot say whether it committed
│   ├── StoreUnavailable     the database cannot be read now
│   ├── SchemaOutdated       the tables are older than this program
│   ├── SchemaNewer          the tables are newer than this program
│   ├── DatabaseInUse        another process serves this SQLite file
│   └── DatabaseUnsafe       the database breaks a condition that durability rests on
└── LinkError
    ├── LinkDown             there is no session, and nothing was sent
    ├── LinkLost             the session ended between PUBLISH and its acknowledgement
    ├── PublicationInvalid   the broker's announced limits forbid it, so it was not tried
    ├── PublicationExpired   its time ran out before a byte of it left
    ├── SubscriptionRefused  the broker refused a SUBSCRIBE
    ├── EmbeddedBrokerFailed the built-in broker does not start
    └── BrokerError          why no session could be had (each a sentence for the log)
        ├── HostNotFound
        ├── ConnectionFailed
        ├── TlsFailed
        ├── ConnectionRefused
        ├── ProtocolUnsupported
        ├── BrokerSilent
        ├── BrokerClosed
        └── MalformedPacket

Only `api/problems.py` turns these into HTTP answers; only `cli/` turns them into exit codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

Language = Literal["en", "fa"]

_SERVER_ERROR = 500  # RFC 9110 §15.6
_PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


def persian_digits(value: object) -> str:
    """Write a number the way a Persian reader expects it: `20` as `۲۰`."""
    return str(value).translate(_PERSIAN_DIGITS)


@dataclass(eq=False)
class ChaparError(Exception):
    """The root. A subclass names its facts as fields and writes its sentences around them."""

    code: ClassVar[str] = "internal"
    en: ClassVar[str] = "Something went wrong inside Chapar. The log of the gateway says what."
    fa: ClassVar[str] = "خطایی درون چاپار رخ داد. شرح آن در گزارش (log) دروازه آمده است."

    def sentence(self, language: Language = "en") -> str:
        """The error as one sentence for a person: what happened, and what to do."""
        if language == "fa":
            return self.fa.format_map({name: _for_persian(fact) for name, fact in self.facts().items()})
        return self.en.format_map(self.facts())

    def facts(self) -> Mapping[str, object]:
        """The error's fields by name."""
        return vars(self)

    def __str__(self) -> str:
        return self.sentence()


def _for_persian(fact: object) -> object:
    """Numbers get Persian digits; identifiers and other text stay as machines write them."""
    return persian_digits(fact) if isinstance(fact, int | float) else fact


@dataclass(eq=False)
class SettingInvalid(ChaparError):
    """A setting has a value that cannot work; found before anything is started."""

    code = "setting_invalid"
    en = "{setting} cannot be used: {problem}"
    fa = "تنظیم {setting} قابل استفاده نیست: {problem}"

    setting: str
    problem: str


@dataclass(eq=False)
class PortTaken(ChaparError):
    """A port that must be listened on is in use."""

    code = "port_taken"
    en = "Port {port} on {host} is already in use. Free it, or choose another with {setting}."
    fa = "درگاه {port} روی {host} در حال استفاده است. آن را آزاد کنید یا با {setting} درگاه دیگری برگزینید."

    host: str
    port: int
    setting: str

    def facts(self) -> Mapping[str, object]:
        """The port stays in ASCII digits: it is something to type."""
        return {**vars(self), "port": str(self.port)}


@dataclass(eq=False)
class UsageInvalid(ChaparError):
    """The command was not written as it must be; the problem is a sentence in both languages."""

    code = "usage_invalid"
    en = "{problem} `chapar --help`, and `--help` behind a command, show how."
    fa = "{problem} راهنما: `chapar --help`، و `--help` پس از هر دستور."

    problem_en: str
    problem_fa: str

    def sentence(self, language: Language = "en") -> str:
        """The problem, and where the right way is shown."""
        if language == "fa":
            return self.fa.format(problem=self.problem_fa)
        return self.en.format(problem=self.problem_en)


@dataclass(eq=False)
class GatewayError(ChaparError):
    """The command line did not get from the gateway at `url` what it asked for."""

    code = "gateway_error"
    en = "The gateway at {url} did not do what it was asked."
    fa = "دروازهٔ {url} آنچه را خواسته شد انجام نداد."

    url: str

    @property
    def passing(self) -> bool:
        """Whether it may be over soon, as when the gateway restarts."""
        return True


@dataclass(eq=False)
class GatewayUnreachable(GatewayError):
    """There is no connection, so nothing was asked."""

    code = "gateway_unreachable"
    en = (
        "No gateway answers at {url} ({cause}). "
        "Start one with `chapar serve`, or name another with --url or CHAPAR_URL."
    )
    fa = (
        "دروازه‌ای در {url} پاسخ نمی‌دهد ({cause}). "
        "با `chapar serve` آن را راه بیندازید یا با --url یا CHAPAR_URL دروازهٔ دیگری برگزینید."
    )

    cause: str


@dataclass(eq=False)
class GatewayLost(GatewayError):
    """It was asked, and its answer did not come: whether it did what was asked is unknown."""

    code = "gateway_lost"
    en = "The gateway at {url} was asked and gave no answer ({cause}); `chapar messages` shows what it did."
    fa = "از دروازهٔ {url} درخواست شد ولی پاسخی نیامد ({cause})؛ `chapar messages` نشان می‌دهد که چه کرد."

    cause: str


@dataclass(eq=False)
class GatewayRefused(GatewayError):
    """The gateway answered with a problem (RFC 9457), whose own sentence this is."""

    code = "gateway_refused"
    en = "The gateway says: {reason}"
    fa = "پاسخ دروازه: {reason}"

    status: int
    reason: str
    body: Mapping[str, object]

    @property
    def passing(self) -> bool:
        """A fault of the gateway's may pass; one of the request's does not."""
        return self.status >= _SERVER_ERROR


@dataclass(eq=False)
class NotAGateway(GatewayError):
    """What answers is something else, or a proxy whose gateway is away."""

    code = "not_a_gateway"
    en = "{url} answers, but not as a Chapar gateway does (HTTP {status}). Check --url and CHAPAR_URL."
    fa = "{url} پاسخ می‌دهد، ولی نه مانند دروازهٔ چاپار (HTTP {status}). --url و CHAPAR_URL را بررسی کنید."

    status: int

    @property
    def passing(self) -> bool:
        """502 and its like are how a proxy says that the gateway is away."""
        return self.status >= _SERVER_ERROR


@dataclass(eq=False)
class WorkerFailed(ChaparError):
    """One of several gateway processes ended before it served; it has said why."""

    code = "worker_failed"
    en = "A worker ended at its start, with exit code {exit_code}. What it said stands above."
    fa = "یکی از فرایندهای کارگر در آغاز کار پایان یافت (کد خروج {exit_code}). علت را بالاتر نوشته است."

    exit_code: int


@dataclass(eq=False)
class RequestError(ChaparError):
    """The request itself is at fault: nothing was stored, nothing was sent."""

    code = "request_invalid"


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
class BodyTooSlow(RequestError):
    """The body did not arrive in time."""

    code = "body_too_slow"
    en = "The body did not arrive within {seconds} s (CHAPAR_BODY_TIMEOUT)."
    fa = "بدنهٔ درخواست در {seconds} ثانیه نرسید (CHAPAR_BODY_TIMEOUT)."

    seconds: float


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
    en = "The message {id} cannot be cancelled: it is {status}. Only scheduled and queued messages can."
    fa = "پیام {id} را نمی‌توان لغو کرد: در وضعیت {status} است. تنها پیام‌های scheduled و queued لغو می‌شوند."

    id: str
    status: str


@dataclass(eq=False)
class QueueFull(ChaparError):
    """A bound of the queue is reached. `retry_after` is in seconds; `oldest` is the message in front."""

    code = "queue_full"
    en = (
        "The queue is full: {bound} allows {limit} unfinished messages, and the oldest is {oldest}. "
        "Try again in {retry_after} s, cancel what is no longer wanted, or raise the bound."
    )
    fa = (
        "صف پر است: {bound} اجازهٔ {limit} پیام ناتمام می‌دهد و قدیمی‌ترین آن‌ها {oldest} است. "
        "{retry_after} ثانیهٔ دیگر بکوشید، پیام‌های بی‌مصرف را لغو کنید یا این حد را بالا ببرید."
    )

    bound: str
    limit: int
    oldest: str
    retry_after: int


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
class NotSent(ChaparError):
    """The message was not sent and never will be."""

    code = "not_sent"
    en = "The message was not sent and never will be."
    fa = "پیام فرستاده نشد و فرستاده نخواهد شد."

    id: str


@dataclass(eq=False)
class BrokerUnreachable(NotSent):
    """There is no session with the broker, and the call did not ask to queue."""

    code = "broker_unreachable"
    en = (
        "The broker cannot be reached, so the message was not sent and never will be. "
        "Send it again when `GET /health/ready` answers 200."
    )
    fa = (
        "کارگزار (broker) در دسترس نیست؛ پیام فرستاده نشد و فرستاده نخواهد شد. "
        "هنگامی که `GET /health/ready` پاسخ ۲۰۰ داد دوباره بفرستید."
    )


@dataclass(eq=False)
class BrokerRefused(NotSent):
    """The broker answered the PUBLISH with a reason code of 0x80 or above (MQTT 5.0 §3.4.2.1)."""

    code = "broker_refused"
    en = "The broker refused the message: {reason_name} (0x{reason_hex})."
    fa = "کارگزار (broker) پیام را نپذیرفت: {reason_name} (0x{reason_hex})."

    reason_name: str
    reason_code: int

    def facts(self) -> Mapping[str, object]:
        """Add the reason code as the specification writes it."""
        return {**vars(self), "reason_hex": f"{self.reason_code:02X}"}


@dataclass(eq=False)
class Quarantined(NotSent):
    """Sessions ended again and again while this message was in flight; it is taken for the cause."""

    code = "quarantined"
    en = (
        "The broker ended the session each time this message was sent, so it is not sent any more. "
        "Look for what the broker does not take in its operation, its parameters or its size."
    )
    fa = (
        "هر بار که این پیام فرستاده شد کارگزار (broker) نشست را پایان داد؛ پس دیگر فرستاده نمی‌شود. "
        "در عملیات، پارامترها یا اندازهٔ آن به دنبال چیزی بگردید که کارگزار نمی‌پذیرد."
    )


@dataclass(eq=False)
class MessageExpired(NotSent):
    """The message's time ran out before the broker had it."""

    code = "expired"
    en = "The time of the message ran out before the broker had it, so it was not sent and never will be."
    fa = "مهلت پیام پیش از رسیدن به کارگزار (broker) گذشت؛ پیام فرستاده نشد و فرستاده نخواهد شد."


@dataclass(eq=False)
class MessageCancelled(NotSent):
    """The message was withdrawn before it was sent."""

    code = "cancelled"
    en = "The message was cancelled before it was sent."
    fa = "پیام پیش از آنکه فرستاده شود لغو شد."


@dataclass(eq=False)
class StoreError(ChaparError):
    """The database did not do what was asked."""

    code = "store_error"


@dataclass(eq=False)
class NotSaved(StoreError):
    """The database could not commit within the time allowed; certainly nothing was stored."""

    code = "not_saved"
    en = "The database could not save the message, so it was not sent and never will be: {cause}"
    fa = "پایگاه داده نتوانست پیام را ذخیره کند؛ پیام فرستاده نشد و فرستاده نخواهد شد: {cause}"

    cause: str


@dataclass(eq=False)
class OutcomeUnknown(StoreError):
    """The database cannot say whether it committed; the same call with the same key is safe to repeat."""

    code = "outcome_unknown"
    en = (
        "The database did not say in time whether it saved the message, so the message may or may not be sent. "
        "Repeat the call with the same Idempotency-Key."
    )
    fa = (
        "پایگاه داده به‌موقع نگفت که پیام ذخیره شد یا نه؛ شاید فرستاده شود و شاید نه. "
        "درخواست را با همان Idempotency-Key تکرار کنید."
    )


@dataclass(eq=False)
class StoreUnavailable(StoreError):
    """The database cannot be read now."""

    code = "store_unavailable"
    en = "The database cannot be read now: {cause} Try again; `GET /health/ready` says when it is back."
    fa = "پایگاه داده اکنون خوانده نمی‌شود: {cause} دوباره بکوشید؛ `GET /health/ready` بازگشت آن را نشان می‌دهد."

    cause: str


@dataclass(eq=False)
class SchemaOutdated(StoreError):
    """The tables do not have the shape this program writes."""

    code = "schema_outdated"
    en = (
        "The database schema is at revision {found}, and this version needs {needed}. "
        "Run `chapar migrate`, or set CHAPAR_AUTO_MIGRATE=true."
    )
    fa = (
        "نسخهٔ ساختار پایگاه داده {found} است و این برنامه {needed} را لازم دارد. "
        "دستور `chapar migrate` را اجرا کنید یا CHAPAR_AUTO_MIGRATE=true بگذارید."
    )

    found: str
    needed: str


@dataclass(eq=False)
class SchemaNewer(StoreError):
    """The tables have a shape that this program does not know."""

    code = "schema_newer"
    en = (
        "The database schema is at revision {found}, and this version knows revisions up to {known}. "
        "A newer Chapar has used this database: install that version again."
    )
    fa = (
        "نسخهٔ ساختار پایگاه داده {found} است و این برنامه تا نسخهٔ {known} را می‌شناسد. "
        "چاپار تازه‌تری با این پایگاه داده کار کرده است: همان نسخه را دوباره نصب کنید."
    )

    found: str
    known: str


@dataclass(eq=False)
class DatabaseInUse(StoreError):
    """Another process serves this SQLite file."""

    code = "database_in_use"
    en = (
        "Another Chapar already serves {path}. SQLite serves one process: stop the other, "
        "choose another file, or use PostgreSQL (CHAPAR_DATABASE_URL)."
    )
    fa = (
        "چاپار دیگری هم‌اکنون با {path} کار می‌کند. SQLite تنها یک فرایند را می‌پذیرد: آن یکی را متوقف کنید، "
        "پروندهٔ دیگری برگزینید یا از PostgreSQL استفاده کنید (CHAPAR_DATABASE_URL)."
    )

    path: str


@dataclass(eq=False)
class DatabaseUnsafe(StoreError):
    """The database breaks a condition that durability rests on; Chapar does not start on it."""

    code = "database_unsafe"
    en = "This database cannot keep what it is told: {problem}"
    fa = "این پایگاه داده نگهدار مطمئنی نیست: {problem}"

    problem: str


@dataclass(eq=False)
class LinkError(ChaparError):
    """The link to the broker did not do what was asked."""

    code = "link_error"


@dataclass(eq=False)
class LinkDown(LinkError):
    """There is no session with a broker, or it ended before a byte of this message left."""

    code = "link_down"
    en = "There is no session with the broker."
    fa = "نشستی با کارگزار (broker) برقرار نیست."


@dataclass(eq=False)
class LinkLost(LinkError):
    """The session ended after the PUBLISH left and before its acknowledgement came: the outcome is unknown.

    `cause` says why the session ended; None where the gateway closed it.
    """

    code = "link_lost"
    en = "The session with the broker ended before it acknowledged the message: {cause}"
    fa = "نشست با کارگزار (broker) پیش از تأیید پیام پایان یافت: {cause}"

    cause: "BrokerError | None" = None

    def sentence(self, language: Language = "en") -> str:
        """Say it with the cause's own sentence."""
        if self.cause is not None:
            cause = self.cause.sentence(language)
        else:
            cause = "دروازه آن را بست." if language == "fa" else "the gateway closed it."
        return (self.fa if language == "fa" else self.en).format(cause=cause)


@dataclass(eq=False)
class PublicationInvalid(LinkError):
    """The broker's announced limits forbid this publication, so it was not tried (MQTT 5.0 §3.2.2.3).

    `reason_code` is the one that says so in MQTT 5.
    """

    code = "publication_invalid"
    en = "The broker does not take this message: its {limit} is {allowed}, and the message has {actual}."
    fa = "کارگزار (broker) این پیام را نمی‌گیرد: {limit} آن {allowed} است و پیام {actual} دارد."

    limit: str
    allowed: int
    actual: int
    reason_code: int


@dataclass(eq=False)
class PublicationExpired(LinkError):
    """Its time ran out while it waited for room in the broker's window; nothing left."""

    code = "publication_expired"
    en = "The time of the message ran out before it could be sent."
    fa = "مهلت پیام پیش از آنکه فرستاده شود گذشت."


@dataclass(eq=False)
class SubscriptionRefused(LinkError):
    """SUBACK with a reason code of 0x80 or above (MQTT 5.0 §3.9.3)."""

    code = "subscription_refused"
    en = "The broker refused the subscription to {topic_filter}: {reason_name} (0x{reason_hex})."
    fa = "کارگزار (broker) اشتراک {topic_filter} را نپذیرفت: {reason_name} (0x{reason_hex})."

    topic_filter: str
    reason_name: str
    reason_code: int

    def facts(self) -> Mapping[str, object]:
        """Add the reason code as the specification writes it."""
        return {**vars(self), "reason_hex": f"{self.reason_code:02X}"}


@dataclass(eq=False)
class EmbeddedBrokerFailed(LinkError):
    """The built-in broker does not start."""

    code = "embedded_broker_failed"
    en = "The built-in broker does not start: {cause}. Use another broker with CHAPAR_BROKER_URL."
    fa = "کارگزار (broker) درونی آغاز به کار نمی‌کند: {cause}. با CHAPAR_BROKER_URL کارگزار دیگری به کار ببرید."

    cause: str


@dataclass(eq=False)
class BrokerError(LinkError):
    """Why there is no session with `endpoint`; the link logs it and dials again."""

    code = "broker_error"
    en = "The session with {endpoint} failed."
    fa = "نشست با {endpoint} ناکام ماند."

    endpoint: str


@dataclass(eq=False)
class HostNotFound(BrokerError):
    """The broker's name has no address."""

    code = "broker_host_not_found"
    en = "The name of {endpoint} has no address (DNS): {cause}."
    fa = "برای نام {endpoint} نشانی‌ای یافت نشد (DNS): {cause}."

    cause: str


@dataclass(eq=False)
class ConnectionFailed(BrokerError):
    """No TCP connection."""

    code = "broker_connection_failed"
    en = "No connection to {endpoint}: {cause}."
    fa = "اتصال به {endpoint} برقرار نشد: {cause}."

    cause: str


@dataclass(eq=False)
class TlsFailed(BrokerError):
    """TCP connected, TLS did not."""

    code = "broker_tls_failed"
    en = "TLS with {endpoint} failed: {cause}. Check CHAPAR_BROKER_CA_FILE and the names in the certificate."
    fa = "برقراری TLS با {endpoint} ناکام ماند: {cause}. تنظیم CHAPAR_BROKER_CA_FILE و نام‌های گواهی را بررسی کنید."

    cause: str


@dataclass(eq=False)
class ConnectionRefused(BrokerError):
    """CONNACK with a reason code of 0x80 or above (MQTT 5.0 §3.2.2.2)."""

    code = "broker_refused_connection"
    en = "{endpoint} refused the session: {reason_name} (0x{reason_hex})."
    fa = "{endpoint} نشست را نپذیرفت: {reason_name} (0x{reason_hex})."

    reason_name: str
    reason_code: int

    def facts(self) -> Mapping[str, object]:
        """Add the reason code as the specification writes it."""
        return {**vars(self), "reason_hex": f"{self.reason_code:02X}"}


@dataclass(eq=False)
class ProtocolUnsupported(BrokerError):
    """The broker speaks MQTT 3.1.1 only."""

    code = "broker_protocol_unsupported"
    en = "{endpoint} does not speak MQTT 5. Devices may speak 3.1.1; the broker must offer MQTT 5 to the gateway."
    fa = (
        "{endpoint} با MQTT 5 کار نمی‌کند. دستگاه‌ها می‌توانند 3.1.1 بگویند، "
        "ولی کارگزار باید برای دروازه MQTT 5 داشته باشد."
    )


@dataclass(eq=False)
class BrokerSilent(BrokerError):
    """Nothing was heard within the time the protocol allows."""

    code = "broker_silent"
    en = "{endpoint} has been silent for {seconds:.1f} s; the connection is taken for dead."
    fa = "{endpoint} به مدت {seconds} ثانیه خاموش بود؛ اتصال مرده به شمار آمد."

    seconds: float


@dataclass(eq=False)
class BrokerClosed(BrokerError):
    """The broker ended the session; `reason_code` is that of its DISCONNECT, None where it sent none."""

    code = "broker_closed"
    en = "{endpoint} ended the session: {cause}."
    fa = "{endpoint} نشست را پایان داد: {cause}."

    cause: str
    reason_code: int | None = None


@dataclass(eq=False)
class MalformedPacket(BrokerError):
    """The broker sent bytes that are not MQTT 5."""

    code = "broker_malformed_packet"
    en = "{endpoint} sent bytes that are not MQTT 5: {cause}."
    fa = "{endpoint} بایت‌هایی فرستاد که MQTT 5 نیست: {cause}."

    cause: str
