"""Certificates and keys on disk: what is wrong with them, whether they were renewed, and the API's own."""

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from chapar.errors import SettingInvalid

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
        """Whether one of them is another than at the last look."""
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


def tls_cause(error: ssl.SSLError) -> str:
    """What went wrong in TLS, in the words of the library without its file and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).replace("_", " ").lower()


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
            await asyncio.to_thread(self.look)

    def look(self) -> None:
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
        for setting, file in ((_CERT_SETTING, self._cert_file), (_KEY_SETTING, self._key_file)):
            if file is not None and _ENCRYPTED in _content(setting, file):
                raise SettingInvalid(
                    setting,
                    f"the key in {file} is encrypted, and nobody is there to type its password.",
                    f"کلید {file} رمزگذاری شده است و کسی نیست که گذرواژهٔ آن را وارد کند.",
                )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert_file, self._key_file)
        except ssl.SSLError as error:
            raise self._unusable(error) from error
        return context

    def _unusable(self, error: ssl.SSLError) -> SettingInvalid:
        if error.reason == "KEY_VALUES_MISMATCH":
            key = self._key_file or self._cert_file
            return SettingInvalid(
                _KEY_SETTING,
                f"the key in {key} does not belong to the certificate in {self._cert_file}.",
                f"کلید {key} با گواهی {self._cert_file} جور نیست.",
            )
        files = self._cert_file if self._key_file is None else f"{self._cert_file} + {self._key_file}"
        return SettingInvalid(
            _CERT_SETTING,
            f"no certificate with its key (PEM) can be read from {files}: {tls_cause(error)}.",
            f"گواهی همراه کلید آن (PEM) از {files} خوانده نمی‌شود: {tls_cause(error)}.",
        )


def _content(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        cause = error.strerror or str(error)
        raise SettingInvalid(
            setting, f"{file} cannot be read: {cause}.", f"فایل {file} خوانده نمی‌شود: {cause}."
        ) from None


def server_certificate(cert_file: Path | None, key_file: Path | None) -> ServerCertificate | None:
    """The API's certificate, None where it speaks plain HTTP; raises SettingInvalid."""
    if cert_file is not None:
        return ServerCertificate(cert_file, key_file)
    if key_file is not None:
        raise SettingInvalid(
            _KEY_SETTING,
            f"{_CERT_SETTING} is not set, and a key alone makes no TLS.",
            f"متغیر {_CERT_SETTING} تعیین نشده است و با کلیدِ تنها TLS برقرار نمی‌شود.",
        )
    return None
