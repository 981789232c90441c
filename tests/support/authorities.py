"""Certificate authorities: one whose certificates may have any fault, and one made as most people make theirs."""

import ssl
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
WEAK_RSA = ("-newkey", "rsa:1024", "-nodes")


class Authority:
    """An authority whose certificate is in `ca_file`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._authority = trustme.CA()
        self.ca_file = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    def server(self, *names: str, days: Sequence[float] = (-1, 1), client_ca: Path | None = None) -> ssl.SSLContext:
        """A server for `names`, whose certificate is valid between these days from now.

        It requires a client certificate where an authority for them is given.
        """
        not_before, not_after = (datetime.now(UTC) + timedelta(days=day) for day in days)
        leaf = self._authority.issue_cert(
            *names or ("127.0.0.1", "localhost"), not_before=not_before, not_after=not_after
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context

    def client(self, folder: Path, *, days: Sequence[float] = (-1, 1)) -> tuple[Path, Path]:
        """A client's certificate and its key."""
        not_before, not_after = (datetime.now(UTC) + timedelta(days=day) for day in days)
        leaf = self._authority.issue_cert("gate@example.org", not_before=not_before, not_after=not_after)
        certificate, key = folder / "client.pem", folder / "client.key"
        leaf.cert_chain_pems[0].write_to_path(certificate)
        leaf.private_key_pem.write_to_path(key)
        return certificate, key


class HomeMade:
    """An authority and a server certificate by the usual openssl recipe: three commands, no file of extensions.

    The authority has no keyUsage, and the server's certificate neither its authority's key identifier nor alternative
    names: its only name is `name`.
    """

    def __init__(self, folder: Path, name: str = "localhost", *, is_authority: bool = True) -> None:
        """Without `is_authority`, what signs says of itself that it must not."""
        self.ca_file, ca_key = folder / "home-ca.pem", folder / "home-ca.key"
        self.server_cert_file, self.server_key_file = folder / "home-server.pem", folder / "home-server.key"
        request = folder / "home-server.csr"
        extra = () if is_authority else ("-addext", "basicConstraints=critical,CA:FALSE")
        _openssl("req", "-x509", *_EC, "-keyout", ca_key, "-out", self.ca_file, "-subj", "/CN=Farm", *extra)
        _openssl("req", *_EC, "-keyout", self.server_key_file, "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", self.ca_file, "-CAkey", ca_key, "-CAcreateserial", "-days", "365")
        _openssl("x509", "-req", "-in", request, *signing, "-out", self.server_cert_file)


def self_signed(folder: Path, name: str = "localhost", key: Sequence[str] = _EC) -> tuple[Path, Path]:
    """A certificate that signed itself, and its key, by the usual command; `key` says of what kind that is."""
    certificate, key_file = folder / "self.pem", folder / "self.key"
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    _openssl("req", "-x509", *key, "-keyout", key_file, "-out", certificate, *names)
    return certificate, key_file


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
