"""What the link to the broker did not do, and why there is no session."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from chapar.errors.root import ChaparError, Language, Phrase
from chapar.errors.starting import SettingInvalid
from chapar.errors.tls import BROKER_CURES, TlsProblem


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

    `cause` says why the session ended; None where the gateway closed it. `singled_out`: no other publication can be to
    blame, because this one alone was in flight, or because the broker answered what had left behind it.
    """

    code = "link_lost"
    en = "The session with the broker ended before it acknowledged the message: {cause}"
    fa = "نشست با کارگزار (broker) پیش از تأیید پیام پایان یافت: {cause}"

    cause: "BrokerError | None" = None
    singled_out: bool = False

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
    fa = "کارگزار (broker) توکار آغاز به کار نمی‌کند: {cause}. با CHAPAR_BROKER_URL کارگزار دیگری به کار ببرید."

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

    cause: str | Phrase


@dataclass(eq=False)
class NoAnswer(BrokerError):
    """A step of connecting took longer than it may; `step` is what was not answered."""

    code = "broker_no_answer"
    en = "{endpoint} did not answer {step} within {seconds:g} s (CHAPAR_CONNECT_TIMEOUT)."
    fa = "{endpoint} در {seconds} ثانیه به {step} پاسخ نداد (CHAPAR_CONNECT_TIMEOUT)."

    step: Phrase
    seconds: float


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
    en = "TLS with {endpoint} failed: {cause}. {cure}"
    fa = "برقراری TLS با {endpoint} ناکام ماند: {cause}. {cure}"

    problem: TlsProblem

    def facts(self) -> Mapping[str, object]:
        """Add the cause, and what helps against it."""
        return {**vars(self), "cause": self.problem.cause, "cure": BROKER_CURES[self.problem.fault]}


@dataclass(eq=False)
class TlsFilesUnusable(BrokerError):
    """The files of our side of TLS cannot be used, so nothing was connected."""

    code = "broker_tls_files_unusable"
    en = "No TLS with {endpoint}: {cause}"
    fa = "TLS با {endpoint} ممکن نیست: {cause}"

    invalid: SettingInvalid

    def facts(self) -> Mapping[str, object]:
        """Add the sentence of the setting."""
        return {**vars(self), "cause": Phrase(self.invalid.sentence("en"), self.invalid.sentence("fa"))}


class BrokerWords(NamedTuple):
    """What the broker says about it itself: short, printable, and shown as its own words."""

    reason: str = ""  #: its Reason String (MQTT 5.0 §3.2.2.3.9)
    server: str = ""  #: its Server Reference, another broker to use (MQTT 5.0 §3.2.2.3.16)

    @property
    def quoted(self) -> Phrase:
        """Sentences that follow another one; empty where it says nothing."""
        english, persian = "", ""
        if self.reason:
            english += f" The broker says: “{self.reason}”."
            persian += f" گفتهٔ کارگزار: «{self.reason}»."
        if self.server:
            english += f" It refers to another server: “{self.server}”."
            persian += f" کارگزار به سرور دیگری ارجاع می‌دهد: «{self.server}»."
        return Phrase(english, persian)


_NO_WORDS: Final = BrokerWords()


@dataclass(eq=False)
class ConnectionRefused(BrokerError):
    """CONNACK with a reason code of 0x80 or above (MQTT 5.0 §3.2.2.2)."""

    code = "broker_refused_connection"
    en = "{endpoint} refused the session: {reason_name} (0x{reason_hex}).{quoted}"
    fa = "{endpoint} نشست را نپذیرفت: {reason_name} (0x{reason_hex}).{quoted}"

    reason_name: str
    reason_code: int
    words: BrokerWords = _NO_WORDS

    def facts(self) -> Mapping[str, object]:
        """Add the reason code as the specification writes it, and the broker's own words."""
        return {**vars(self), "reason_hex": f"{self.reason_code:02X}", "quoted": self.words.quoted}


@dataclass(eq=False)
class ProtocolUnsupported(BrokerError):
    """The broker speaks MQTT 3.1.1 only."""

    code = "broker_protocol_unsupported"
    en = "{endpoint} does not speak MQTT 5. Devices may speak 3.1.1; the broker must offer MQTT 5 to the gateway."
    fa = (
        "{endpoint} با MQTT 5 کار نمی‌کند. دستگاه‌ها می‌توانند با MQTT 3.1.1 کار کنند، "
        "ولی کارگزار باید برای دروازه MQTT 5 داشته باشد."
    )


@dataclass(eq=False)
class BrokerSilent(BrokerError):
    """Nothing was heard within the time the protocol allows."""

    code = "broker_silent"
    en = "{endpoint} has been silent for {seconds:.1f} s; the connection is taken for dead."
    fa = "{endpoint} {seconds} ثانیه چیزی نفرستاد؛ اتصال قطع‌شده به حساب آمد."

    seconds: float


@dataclass(eq=False)
class BrokerUnanswered(BrokerError):
    """The broker is there, and does not answer a PUBLISH."""

    code = "broker_unanswered"
    en = "{endpoint} is alive, and has not answered a message for {seconds:.0f} s."
    fa = "{endpoint} در دسترس است، ولی {seconds:.0f} ثانیه است که به پیامی پاسخ نداده است."

    seconds: float


@dataclass(eq=False)
class BrokerClosed(BrokerError):
    """The broker ended the session; `reason_code` is that of its DISCONNECT, None where it sent none."""

    code = "broker_closed"
    en = "{endpoint} ended the session: {cause}.{quoted}"
    fa = "{endpoint} نشست را پایان داد: {cause}.{quoted}"

    cause: str | Phrase
    reason_code: int | None = None
    words: BrokerWords = _NO_WORDS

    def facts(self) -> Mapping[str, object]:
        """Add the broker's own words."""
        return {**vars(self), "quoted": self.words.quoted}


@dataclass(eq=False)
class ReleaseRefused(BrokerError):
    """PUBCOMP with a reason code of 0x80 or above: the broker had taken the message, and knows nothing of it now.

    The session goes on.
    """

    code = "broker_refused_release"
    en = "{endpoint} does not know the message any more that it had taken: {reason_name} (0x{reason_hex})."
    fa = "{endpoint} پیامی را که گرفته بود دیگر نمی‌شناسد: {reason_name} (0x{reason_hex})."

    reason_name: str
    reason_code: int

    def facts(self) -> Mapping[str, object]:
        """Add the reason code as the specification writes it."""
        return {**vars(self), "reason_hex": f"{self.reason_code:02X}"}


@dataclass(eq=False)
class MalformedPacket(BrokerError):
    """The broker sent bytes that are not MQTT 5."""

    code = "broker_malformed_packet"
    en = "{endpoint} sent bytes that are not MQTT 5: {cause}."
    fa = "{endpoint} بایت‌هایی فرستاد که MQTT 5 نیست: {cause}."

    cause: str
