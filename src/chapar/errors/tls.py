"""Why TLS with another machine failed, in words, and what helps against it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final, NamedTuple

from chapar.errors.root import Phrase


class TlsFault(Enum):
    """What was wrong, each with its words; `its` is the other machine's."""

    SELF_SIGNED = Phrase("its certificate is self-signed", "گواهی آن را خودش امضا کرده است (self-signed)")
    UNKNOWN_AUTHORITY = Phrase(
        "its certificate is not signed by an authority that is trusted here",
        "مرجعی (CA) که گواهی آن را امضا کرده است اینجا معتبر شناخته نمی‌شود",
    )
    NOT_AN_AUTHORITY = Phrase(
        "its certificate is signed with one that is not an authority's",
        "گواهی آن با گواهی‌ای امضا شده است که گواهی مرجع (CA) نیست",
    )
    EXPIRED = Phrase(
        "its certificate, or its authority's, has expired (the time here is {now})",
        "گواهی آن یا گواهی مرجعش منقضی شده است (ساعت این ماشین: {now})",
    )
    NOT_YET_VALID = Phrase(
        "its certificate is not valid yet (the time here is {now})",
        "گواهی آن هنوز معتبر نشده است (ساعت این ماشین: {now})",
    )
    OTHER_NAME = Phrase("its certificate is not for {name}", "گواهی آن برای {name} نیست")
    OTHER_PURPOSE = Phrase("its certificate is not for servers", "گواهی آن برای سرور ساخته نشده است")
    WEAK = Phrase("the key or signature of its certificate is too weak", "کلید یا امضای گواهی آن ضعیف است")
    NO_TLS = Phrase("what answers on this port does not speak TLS", "آنچه روی این درگاه پاسخ می‌دهد TLS ندارد")
    OLD_VERSION = Phrase("it does not offer TLS 1.2 or later", "TLS 1.2 یا تازه‌تر ندارد")
    HUNG_UP = Phrase("it closed the connection during the handshake", "هنگام برقراری TLS اتصال را بست")
    NOT_AGREED = Phrase(
        "it refused the handshake: it requires a client certificate, or there is no cipher in common",
        "برقراری TLS را نپذیرفت: یا گواهی کارخواه می‌خواهد یا الگوریتم رمز مشترکی در کار نیست",
    )
    CERTIFICATE_REQUIRED = Phrase("it requires a client certificate", "گواهی کارخواه می‌خواهد")
    CERTIFICATE_REFUSED = Phrase("it refused the client certificate ({detail})", "گواهی کارخواه را نپذیرفت ({detail})")
    OTHER = Phrase("{detail}", "{detail}")  #: in the library's words


class TlsProblem(NamedTuple):
    """A fault with its facts."""

    fault: TlsFault
    name: str = ""  #: that the certificate should be for
    detail: str = ""  #: the library's words

    @property
    def cause(self) -> Phrase:
        """What was wrong, without a full stop."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return self.fault.value.filled(name=self.name, detail=self.detail, now=now)


BROKER_CURES: Final[Mapping[TlsFault, Phrase]] = {
    TlsFault.SELF_SIGNED: Phrase(
        "If it is your broker's, put it into CHAPAR_BROKER_CA_FILE.",
        "اگر گواهی کارگزار خودتان است، آن را در CHAPAR_BROKER_CA_FILE بگذارید.",
    ),
    TlsFault.UNKNOWN_AUTHORITY: Phrase(
        "Put the authority's certificate into CHAPAR_BROKER_CA_FILE; the broker must send those in between.",
        "گواهی مرجع آن را در CHAPAR_BROKER_CA_FILE بگذارید؛ گواهی‌های میانی را باید خود کارگزار بفرستد.",
    ),
    TlsFault.NOT_AN_AUTHORITY: Phrase(
        "Put the authority's certificate into CHAPAR_BROKER_CA_FILE; it has the extension basicConstraints CA:TRUE.",
        "گواهی مرجع را در CHAPAR_BROKER_CA_FILE بگذارید؛ چنین گواهی‌ای افزونهٔ basicConstraints CA:TRUE دارد.",
    ),
    TlsFault.EXPIRED: Phrase(
        "Renew it on the broker, or set the clock of this machine.",
        "آن را در کارگزار تازه کنید یا ساعت این ماشین را درست کنید.",
    ),
    TlsFault.NOT_YET_VALID: Phrase("Set the clock of this machine.", "ساعت این ماشین را درست کنید."),
    TlsFault.OTHER_NAME: Phrase(
        "Write a name that it is for into CHAPAR_BROKER_URL, or into CHAPAR_BROKER_SERVER_NAME.",
        "یکی از نام‌های گواهی را در CHAPAR_BROKER_URL یا در CHAPAR_BROKER_SERVER_NAME بنویسید.",
    ),
    TlsFault.OTHER_PURPOSE: Phrase(
        "Make the broker's certificate with extendedKeyUsage serverAuth, or without that extension.",
        "گواهی کارگزار را با extendedKeyUsage serverAuth یا بدون این افزونه بسازید.",
    ),
    TlsFault.WEAK: Phrase(
        "Make the broker a new one with RSA of 2048 bits or P-256, signed with SHA-256.",
        "برای کارگزار گواهی تازه‌ای با RSA (۲۰۴۸ بیت) یا P-256 و امضای SHA-256 بسازید.",
    ),
    TlsFault.NO_TLS: Phrase(
        "Use the broker's TLS port (usually 8883), or mqtt:// where nothing has to be encrypted.",
        "درگاه TLS کارگزار (معمولاً 8883) را به کار ببرید، یا اگر رمزگذاری لازم نیست mqtt:// بنویسید.",
    ),
    TlsFault.OLD_VERSION: Phrase("Enable TLS 1.2 or 1.3 on the broker.", "در کارگزار TLS 1.2 یا 1.3 را فعال کنید."),
    TlsFault.HUNG_UP: Phrase(
        "Check that this port speaks TLS (usually 8883), and whether the broker requires a client certificate "
        "(CHAPAR_BROKER_CERT_FILE).",
        "ببینید این درگاه TLS دارد (معمولاً 8883) و آیا کارگزار گواهی کارخواه می‌خواهد (CHAPAR_BROKER_CERT_FILE).",
    ),
    TlsFault.NOT_AGREED: Phrase(
        "Set CHAPAR_BROKER_CERT_FILE if the broker requires one, else enable current ciphers there; its log says why.",
        "اگر کارگزار گواهی کارخواه می‌خواهد CHAPAR_BROKER_CERT_FILE را تعیین کنید، وگرنه الگوریتم‌های رمز "
        "امروزی را در آن فعال کنید؛ گزارش (log) کارگزار علت را می‌گوید.",
    ),
    TlsFault.CERTIFICATE_REQUIRED: Phrase(
        "Set CHAPAR_BROKER_CERT_FILE and CHAPAR_BROKER_KEY_FILE.",
        "متغیرهای CHAPAR_BROKER_CERT_FILE و CHAPAR_BROKER_KEY_FILE را تعیین کنید.",
    ),
    TlsFault.CERTIFICATE_REFUSED: Phrase(
        "CHAPAR_BROKER_CERT_FILE must hold one that is valid and signed by an authority that the broker trusts.",
        "در CHAPAR_BROKER_CERT_FILE باید گواهی معتبری باشد که مرجع مورد اعتماد کارگزار آن را امضا کرده است.",
    ),
    TlsFault.OTHER: Phrase(
        "Look into the log of the broker, and check CHAPAR_BROKER_CA_FILE.",
        "گزارش (log) کارگزار را ببینید و CHAPAR_BROKER_CA_FILE را بررسی کنید.",
    ),
}

_NAME_ITS_AUTHORITY: Final = Phrase(
    "If it is your gateway's, name the authority's certificate with CHAPAR_CA_FILE.",
    "اگر دروازهٔ خودتان است، گواهی مرجع آن را با CHAPAR_CA_FILE معرفی کنید.",
)
_CHECK_THE_URL: Final = Phrase(
    "Check the host and port in --url or CHAPAR_URL.", "میزبان و درگاه را در --url یا CHAPAR_URL بررسی کنید."
)
GATEWAY_CURES: Final[Mapping[TlsFault, Phrase]] = dict.fromkeys(TlsFault, _CHECK_THE_URL) | {
    TlsFault.SELF_SIGNED: Phrase(
        "If it is your gateway's, name it with CHAPAR_CA_FILE.",
        "اگر گواهی دروازهٔ خودتان است، آن را با CHAPAR_CA_FILE معرفی کنید.",
    ),
    TlsFault.UNKNOWN_AUTHORITY: _NAME_ITS_AUTHORITY,
    TlsFault.NOT_AN_AUTHORITY: _NAME_ITS_AUTHORITY,
    TlsFault.EXPIRED: Phrase(
        "Renew it at the gateway (CHAPAR_TLS_CERT_FILE), or set the clock of this machine.",
        "آن را در دروازه تازه کنید (CHAPAR_TLS_CERT_FILE) یا ساعت این ماشین را درست کنید.",
    ),
    TlsFault.NOT_YET_VALID: BROKER_CURES[TlsFault.NOT_YET_VALID],
    TlsFault.OTHER_NAME: Phrase(
        "Write a name that it is for into --url or CHAPAR_URL.",
        "یکی از نام‌های گواهی را در --url یا CHAPAR_URL بنویسید.",
    ),
    TlsFault.NO_TLS: Phrase(
        "Write http:// in --url or CHAPAR_URL where the gateway has no certificate.",
        "اگر دروازه گواهی ندارد در --url یا CHAPAR_URL بنویسید http://.",
    ),
}
