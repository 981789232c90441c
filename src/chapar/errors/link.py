"""Errors of the link to the broker: what it did not do, and why there is no session."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from chapar.errors.root import ChaparError, Phrase
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


@dataclass(eq=False)
class LinkLost(LinkError):
    """The session ended after the PUBLISH left and before its acknowledgement came: the outcome is unknown.

    `cause` says why the session ended; None where the gateway closed it. `singled_out`: no other publication can be to
    blame, because this one alone was in flight, or because the broker answered what had left behind it.
    """

    code = "link_lost"

    cause: "BrokerError | None" = None
    singled_out: bool = False

    @property
    def why(self) -> "BrokerError | Phrase":
        """The cause, in words."""
        return self.cause or Phrase("link.closed_by_gateway")


@dataclass(eq=False)
class PublicationInvalid(LinkError):
    """The broker's announced limits forbid this publication, so it was not tried (MQTT 5.0 §3.2.2.3).

    `reason_code` is the one that says so in MQTT 5.
    """

    code = "publication_invalid"

    limit: str
    allowed: int
    actual: int
    reason_code: int


@dataclass(eq=False)
class PublicationExpired(LinkError):
    """The publication's time ran out while it waited for room in the broker's window; nothing left."""

    code = "publication_expired"


@dataclass(eq=False)
class TakenBack(LinkError):
    """The publication was taken back by its owner before it left."""

    code = "taken_back"


@dataclass(eq=False)
class SessionTakenOver(LinkError):
    """Another client has connected with our client id, and the broker gave it our session (MQTT 5.0 §3.1.4).

    Whoever holds the session by agreement has lost it, and must not connect again before it is theirs again.
    """

    code = "session_taken_over"

    endpoint: str


@dataclass(eq=False)
class EmbeddedBrokerFailed(LinkError):
    """The built-in broker does not start."""

    code = "embedded_broker_failed"

    cause: Phrase | str


@dataclass(eq=False)
class BrokerError(LinkError):
    """A reason why there is no session with `endpoint`; the link logs it and dials again."""

    code = "broker_error"

    endpoint: str


@dataclass(eq=False)
class HostNotFound(BrokerError):
    """The broker's name has no address."""

    code = "broker_host_not_found"

    cause: Phrase | str


@dataclass(eq=False)
class NoAnswer(BrokerError):
    """A step of connecting took longer than it may; `step` is what was not answered."""

    code = "broker_no_answer"

    step: Phrase
    seconds: float


@dataclass(eq=False)
class ConnectionFailed(BrokerError):
    """No TCP connection."""

    code = "broker_connection_failed"

    cause: str


@dataclass(eq=False)
class TlsFailed(BrokerError):
    """TCP connected, TLS did not."""

    code = "broker_tls_failed"

    problem: TlsProblem

    @property
    def cause(self) -> Phrase:
        """Return what was wrong."""
        return self.problem.cause

    @property
    def cure(self) -> Phrase:
        """Return what helps against it."""
        return BROKER_CURES[self.problem.fault]


@dataclass(eq=False)
class TlsFilesUnusable(BrokerError):
    """The files of our side of TLS cannot be used, so nothing was connected."""

    code = "broker_tls_files_unusable"

    cause: SettingInvalid


class BrokerWords(NamedTuple):
    """The broker's own words about it: short, printable, and shown as such."""

    reason: str = ""  #: its Reason String (MQTT 5.0 §3.2.2.3.9)
    server: str = ""  #: its Server Reference, another broker to use (MQTT 5.0 §3.2.2.3.16)

    @property
    def quoted(self) -> Phrase | str:
        """Sentences that follow another one; empty where it says nothing."""
        match bool(self.reason), bool(self.server):
            case True, True:
                return Phrase("link.reason_and_server", reason=self.reason, server=self.server)
            case True, False:
                return Phrase("link.reason", reason=self.reason)
            case False, True:
                return Phrase("link.server", server=self.server)
        return ""


_NO_WORDS: Final = BrokerWords()


@dataclass(eq=False)
class ConnectionRefused(BrokerError):
    """CONNACK with a reason code of 0x80 or above (MQTT 5.0 §3.2.2.2)."""

    code = "broker_refused_connection"

    reason_name: str
    reason_code: int
    words: BrokerWords = _NO_WORDS

    @property
    def quoted(self) -> Phrase | str:
        """The broker's own words."""
        return self.words.quoted


@dataclass(eq=False)
class ProtocolUnsupported(BrokerError):
    """The broker speaks MQTT 3.1.1 only."""

    code = "broker_protocol_unsupported"


@dataclass(eq=False)
class BrokerSilent(BrokerError):
    """Nothing was heard within the time the protocol allows."""

    code = "broker_silent"

    seconds: float


@dataclass(eq=False)
class BrokerUnanswered(BrokerError):
    """The broker is there, and does not answer a PUBLISH."""

    code = "broker_unanswered"

    seconds: float


@dataclass(eq=False)
class BrokerClosed(BrokerError):
    """The broker ended the session; `reason_code` is that of its DISCONNECT, None where it sent none."""

    code = "broker_closed"

    cause: Phrase | str
    reason_code: int | None = None
    words: BrokerWords = _NO_WORDS

    @property
    def quoted(self) -> Phrase | str:
        """The broker's own words."""
        return self.words.quoted


@dataclass(eq=False)
class SubscriptionRefused(BrokerError):
    """SUBACK with a reason code of 0x80 or above (MQTT 5.0 §3.9.3)."""

    code = "subscription_refused"

    topic_filter: str
    reason_name: str
    reason_code: int


@dataclass(eq=False)
class UnsubscriptionRefused(BrokerError):
    """UNSUBACK with a reason code of 0x80 or above, so the subscription goes on (MQTT 5.0 §3.11.3)."""

    code = "unsubscription_refused"

    topic_filter: str
    reason_name: str
    reason_code: int


@dataclass(eq=False)
class PublicationRefused(BrokerError):
    """PUBACK of a simulated device with a reason code of 0x80 or above; `topic` is the template of its topic."""

    code = "publication_refused"

    topic: str
    reason_name: str
    reason_code: int


@dataclass(eq=False)
class BrokerMute(BrokerError):
    """The broker granted a subscription, and delivers nothing of it: its ACL may do so. The session goes on."""

    code = "broker_mute"

    topic_filter: str
    topic: str  #: of the probe that was not received
    seconds: float


@dataclass(eq=False)
class ReleaseRefused(BrokerError):
    """PUBCOMP with a reason code of 0x80 or above: the broker had taken the message, and knows nothing of it now.

    The session goes on.
    """

    code = "broker_refused_release"

    reason_name: str
    reason_code: int


@dataclass(eq=False)
class MalformedPacket(BrokerError):
    """The broker sent bytes that are not MQTT 5."""

    code = "broker_malformed_packet"

    cause: str
