"""Certificates and keys on disk: what is wrong with them, whether they were renewed, and the API's own."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from chapar.errors import Phrase, SettingInvalid, TlsFault, TlsProblem

LOOK_EVERY: Final = 5.0  # seconds; whoever renews a certificate does so days before the old one expires

_CERT_SETTING: Final = "CHAPAR_TLS_CERT_FILE"
_KEY_SETTING: Final = "CHAPAR_TLS_KEY_FILE"
_ENCRYPTED: Final = b"ENCRYPTED"  # in the first lines of a PEM key, of both kinds

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class WatchedFiles:
    """Files that somebody may replace or write anew while we run."""

    def __init__(self, files: Iterable[Path | None]) -> None:
        self._files = [file for file in files if file is not None]
        self._seen = self._identities()

    def changed(self) -> bool:
        """Return whether one of them is another than at the last look."""
        before, self._seen = self._seen, self._identities()
        return before != self._seen

    def _identities(self) -> list[tuple[int, ...] | None]:
        return [_identity(file) for file in self._files]


def _identity(file: Path) -> tuple[int, ...] | None:
    """Changes with the content, also where a link is turned, as Kubernetes does; None while it cannot be read."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Verify chain, dates and name. Trusts the system's authorities, or in their place what `ca_file` holds.

    Every client here gets its context from this function. `ssl.create_default_context()` would refuse from Python 3.13
    on authorities made by the usual openssl recipes, for extensions that they lack (VERIFY_X509_STRICT), and would
    write session keys to the file in SSLKEYLOGFILE.

    Raises OSError where the file cannot be read, SSLError where it holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the file holds is trusted, also where others signed it
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca_file)
    return context


_VERIFY_FAULTS: Final[Mapping[int, TlsFault]] = {  # X509_V_ERR_… of OpenSSL
    2: TlsFault.UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT
    7: TlsFault.UNKNOWN_AUTHORITY,  # CERT_SIGNATURE_FAILURE: another authority of the same name
    9: TlsFault.NOT_YET_VALID,
    10: TlsFault.EXPIRED,
    18: TlsFault.SELF_SIGNED,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: TlsFault.UNKNOWN_AUTHORITY,  # SELF_SIGNED_CERT_IN_CHAIN
    20: TlsFault.UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: TlsFault.UNKNOWN_AUTHORITY,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    26: TlsFault.OTHER_PURPOSE,
    30: TlsFault.UNKNOWN_AUTHORITY,  # AKID_SKID_MISMATCH
    32: TlsFault.NOT_AN_AUTHORITY,  # KEYUSAGE_NO_CERTSIGN
    62: TlsFault.OTHER_NAME,  # HOSTNAME_MISMATCH
    64: TlsFault.OTHER_NAME,  # IP_ADDRESS_MISMATCH
    66: TlsFault.WEAK,  # EE_KEY_TOO_SMALL
    67: TlsFault.WEAK,  # CA_KEY_TOO_SMALL
    68: TlsFault.WEAK,  # CA_MD_TOO_WEAK
    79: TlsFault.NOT_AN_AUTHORITY,  # INVALID_CA
}
_LIBRARY_FAULTS: Final[Mapping[str, TlsFault]] = {  # reasons of OpenSSL; an ALERT is what the other side said
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"),
        TlsFault.NO_TLS,
    ),
    **dict.fromkeys(
        ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "VERSION_TOO_LOW"),
        TlsFault.OLD_VERSION,
    ),
    **dict.fromkeys(("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "DH_KEY_TOO_SMALL", "BAD_DH_VALUE"), TlsFault.WEAK),
    **dict.fromkeys(
        (
            *("SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_REVOKED"),
            *("SSLV3_ALERT_CERTIFICATE_EXPIRED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "TLSV1_ALERT_UNKNOWN_CA"),
            *("TLSV1_ALERT_ACCESS_DENIED", "TLSV1_ALERT_DECRYPT_ERROR"),
        ),
        TlsFault.CERTIFICATE_REFUSED,
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": TlsFault.CERTIFICATE_REQUIRED,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": TlsFault.NOT_AGREED,
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": TlsFault.NOT_AGREED,
    "TLSV1_UNRECOGNIZED_NAME": TlsFault.OTHER_NAME,
    "UNEXPECTED_EOF_WHILE_READING": TlsFault.HUNG_UP,
}


def tls_problem(error: OSError, name: str = "") -> TlsProblem:
    """Return why TLS with a server that should be `name` failed; a plain OSError: the connection ended meanwhile."""
    match error:
        case ssl.SSLCertVerificationError():
            fault, detail = _VERIFY_FAULTS.get(error.verify_code, TlsFault.OTHER), error.verify_message
        case ssl.SSLEOFError():
            fault, detail = TlsFault.HUNG_UP, ""
        case ssl.SSLError():
            fault, detail = _LIBRARY_FAULTS.get(error.reason or "", TlsFault.OTHER), _library_words(error)
        case _:
            fault, detail = TlsFault.HUNG_UP, ""
    return TlsProblem(fault, name, detail)


def _library_words(error: ssl.SSLError) -> str:
    """Return the library's sentence without its file and line numbers."""
    return (error.reason or str(error)).replace("_", " ").lower()


class OwnCertificate(NamedTuple):
    """A certificate that this side shows, with its key, in files that two settings name."""

    cert_setting: str
    cert_file: Path
    key_setting: str
    key_file: Path | None  #: None: the key is with the certificate

    def load_into(self, context: ssl.SSLContext) -> None:
        """Use it in `context`; raises SettingInvalid saying which file is at fault."""
        for setting, file in ((self.cert_setting, self.cert_file), (self.key_setting, self.key_file)):
            if file is not None and _ENCRYPTED in _content(setting, file):
                raise SettingInvalid(setting, Phrase("setting.key_encrypted", file=file))
        try:
            context.load_cert_chain(self.cert_file, self.key_file)
        except ssl.SSLError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: ssl.SSLError) -> SettingInvalid:
        if error.reason == "KEY_VALUES_MISMATCH":
            key = self.key_file or self.cert_file
            return SettingInvalid(
                self.key_setting, Phrase("setting.key_of_another", key=key, certificate=self.cert_file)
            )
        files = self.cert_file if self.key_file is None else f"{self.cert_file} + {self.key_file}"
        return SettingInvalid(
            self.cert_setting, Phrase("setting.certificate_unreadable", files=files, cause=_library_words(error))
        )


def trusting(setting: str, ca_file: Path | None) -> ssl.SSLContext:
    """A `client_context()` for the authorities in the file that `setting` names; raises SettingInvalid."""
    try:
        return client_context(ca_file)
    except ssl.SSLError:
        problem = Phrase("setting.no_certificate", file=ca_file)
    except OSError as error:
        problem = Phrase("setting.file_unreadable", file=ca_file, cause=error.strerror or str(error))
    raise SettingInvalid(setting, problem)


class ServerCertificate:
    """The certificate that the API shows. `run()` exchanges it for a renewed one; open connections keep theirs."""

    def __init__(self, cert_file: Path, key_file: Path | None) -> None:
        """Read the files; raises SettingInvalid. Without a key file, the key is with the certificate."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._files = WatchedFiles((cert_file, key_file))
        self._current = self._read()
        self.context = self._read()  #: what to listen with
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Loading new files into a context in use would for a moment leave it without a key that fits.
        connection.context = self._current

    async def run(self) -> None:
        """Look at the files from time to time, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Take renewed files; what cannot be used is logged, and the certificate before goes on."""
        if not self._files.changed():
            return
        try:
            self._current = self._read()
        except SettingInvalid as error:
            log.error("certificate_unusable", reason=str(error), note="The one before is used.")  # noqa: TRY400 - it is a sentence
        else:
            log.info("certificate_renewed", file=str(self._cert_file))

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        OwnCertificate(_CERT_SETTING, self._cert_file, _KEY_SETTING, self._key_file).load_into(context)
        return context


def _content(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        cause = error.strerror or str(error)
        raise SettingInvalid(setting, Phrase("setting.file_unreadable", file=file, cause=cause)) from None


def server_certificate(cert_file: Path | None, key_file: Path | None) -> ServerCertificate | None:
    """The API's certificate, None where it speaks plain HTTP; raises SettingInvalid."""
    if cert_file is not None:
        return ServerCertificate(cert_file, key_file)
    if key_file is not None:
        raise SettingInvalid(_KEY_SETTING, Phrase("setting.key_alone", other=_CERT_SETTING))
    return None
