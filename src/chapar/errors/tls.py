"""Failures of TLS with another machine, in words, and what helps against them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from chapar.errors.root import Phrase


class TlsFault(StrEnum):
    """Faults of a TLS handshake, each with its words in the catalogs, where `its` is the other machine's."""

    SELF_SIGNED = "self_signed"
    UNKNOWN_AUTHORITY = "unknown_authority"
    NOT_AN_AUTHORITY = "not_an_authority"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    OTHER_NAME = "other_name"
    OTHER_PURPOSE = "other_purpose"
    WEAK = "weak"
    NO_TLS = "no_tls"
    OLD_VERSION = "old_version"
    HUNG_UP = "hung_up"
    NOT_AGREED = "not_agreed"
    CERTIFICATE_REQUIRED = "certificate_required"
    CERTIFICATE_REFUSED = "certificate_refused"
    OTHER = "other"  #: in the library's words


class TlsProblem(NamedTuple):
    """A fault with its facts."""

    fault: TlsFault
    name: str = ""  #: that the certificate should be for
    detail: str = ""  #: the library's words

    @property
    def cause(self) -> Phrase:
        """Return what was wrong, without a full stop."""
        return Phrase(f"tls.{self.fault}", name=self.name, detail=self.detail, now=datetime.now(UTC))


BROKER_CURES: Final[Mapping[TlsFault, Phrase]] = {fault: Phrase(f"broker_cure.{fault}") for fault in TlsFault}
GATEWAY_CURES: Final[Mapping[TlsFault, Phrase]] = dict.fromkeys(TlsFault, Phrase("gateway_cure.other")) | {
    TlsFault.SELF_SIGNED: Phrase("gateway_cure.self_signed"),
    TlsFault.UNKNOWN_AUTHORITY: Phrase("gateway_cure.unknown_authority"),
    TlsFault.NOT_AN_AUTHORITY: Phrase("gateway_cure.unknown_authority"),
    TlsFault.EXPIRED: Phrase("gateway_cure.expired"),
    TlsFault.NOT_YET_VALID: Phrase("broker_cure.not_yet_valid"),
    TlsFault.OTHER_NAME: Phrase("gateway_cure.other_name"),
    TlsFault.NO_TLS: Phrase("gateway_cure.no_tls"),
}
