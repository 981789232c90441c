"""What is wrong with a certificate is one sentence in two languages, and a renewed one is taken whole or not at all."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from chapar.errors import SettingInvalid
from chapar.runtime.certificates import ServerCertificate, WatchedFiles, server_certificate
from support.certificates import Certificates

CANARY = "c4nary"


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def shown_by(certificate: ServerCertificate, ca_file: Path, name: str | None = "localhost") -> bytes:
    """The certificate that a client gets in a handshake in memory; raises SSLError where it does not trust it."""
    trust = ssl.create_default_context(cafile=ca_file)
    if name is None:
        trust.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    client = trust.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() in {"TLSv1.2", "TLSv1.3"}
    return client.getpeercert(binary_form=True) or b""


def failure(cert_file: Path | None, key_file: Path | None) -> SettingInvalid:
    with pytest.raises(SettingInvalid) as error:
        server_certificate(cert_file, key_file)
    assert CANARY not in str(error.value)
    assert str(error.value).endswith(".")
    persian = error.value.sentence("fa")
    assert any("\u0600" <= letter <= "\u06ff" for letter in persian.partition(":")[2])
    return error.value


class TestSentences:
    def test_no_file_is_plain_http(self) -> None:
        assert server_certificate(None, None) is None

    def test_a_key_without_a_certificate(self, files: Certificates) -> None:
        error = failure(None, files.server_key_file)
        assert str(error) == (
            "CHAPAR_TLS_KEY_FILE cannot be used: CHAPAR_TLS_CERT_FILE is not set, and a key alone makes no TLS."
        )

    def test_a_file_that_is_not_there(self, files: Certificates, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        error = failure(missing, files.server_key_file)
        assert (
            str(error) == f"CHAPAR_TLS_CERT_FILE cannot be used: {missing} cannot be read: No such file or directory."
        )
        error = failure(files.server_cert_file, missing)
        assert str(error) == f"CHAPAR_TLS_KEY_FILE cannot be used: {missing} cannot be read: No such file or directory."

    def test_a_key_of_another_certificate(self, files: Certificates) -> None:
        error = failure(files.server_cert_file, files.client_key_file)
        assert str(error) == (
            f"CHAPAR_TLS_KEY_FILE cannot be used: the key in {files.client_key_file} does not belong to the "
            f"certificate in {files.server_cert_file}."
        )

    def test_what_is_no_certificate_or_no_key(self, files: Certificates, tmp_path: Path) -> None:
        garbage = tmp_path / "garbage"
        garbage.write_text(CANARY)
        assert "no certificate with its key (PEM) can be read from" in str(failure(garbage, files.server_key_file))
        assert "no certificate with its key (PEM) can be read from" in str(failure(files.server_cert_file, garbage))
        assert "no certificate with its key (PEM) can be read from" in str(failure(files.server_cert_file, None))

    def test_an_encrypted_key(self, files: Certificates, tmp_path: Path) -> None:
        encrypted = tmp_path / "encrypted"
        command = ["openssl", "pkey", "-aes256", "-passout", f"pass:{CANARY}", "-in", files.server_key_file]
        subprocess.run([*command, "-out", encrypted], check=True, capture_output=True)
        error = failure(files.server_cert_file, encrypted)
        assert f"the key in {encrypted} is encrypted, and nobody is there to type its password." in str(error)


class TestServing:
    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1", None])
    def test_a_client_gets_what_is_in_the_file(self, files: Certificates, name: str | None) -> None:
        certificate = ServerCertificate(files.server_cert_file, files.server_key_file)
        expected = ssl.PEM_cert_to_DER_cert(
            files.server_cert_file.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
        )
        assert shown_by(certificate, files.ca_file, name) == expected

    def test_key_and_certificate_may_be_in_one_file(self, files: Certificates, tmp_path: Path) -> None:
        both = tmp_path / "both"
        both.write_bytes(files.server_cert_file.read_bytes() + files.server_key_file.read_bytes())
        assert shown_by(ServerCertificate(both, None), files.ca_file)

    def test_an_old_protocol_is_refused(self, files: Certificates) -> None:
        certificate = ServerCertificate(files.server_cert_file, files.server_key_file)
        assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
    def test_a_renewed_certificate_is_taken(self, files: Certificates, name: str) -> None:
        certificate = ServerCertificate(files.server_cert_file, files.server_key_file)
        before = shown_by(certificate, files.ca_file, name)
        files.renew()
        with pytest.raises(ssl.SSLCertVerificationError):
            shown_by(certificate, files.ca_file, name)
        certificate.refresh()
        assert shown_by(certificate, files.ca_file, name) != before

    def test_half_a_renewal_changes_nothing(self, files: Certificates, tmp_path: Path) -> None:
        certificate = ServerCertificate(files.server_cert_file, files.server_key_file)
        ca_file = tmp_path / "old_ca"
        ca_file.write_bytes(files.ca_file.read_bytes())
        before = shown_by(certificate, ca_file)
        key = files.server_key_file.read_bytes()
        files.renew()
        new_key = files.server_key_file.read_bytes()
        files.server_key_file.write_bytes(key)
        certificate.refresh()
        assert shown_by(certificate, ca_file) == before
        files.server_key_file.unlink()
        certificate.refresh()
        assert shown_by(certificate, ca_file) == before
        files.server_key_file.write_bytes(new_key)
        certificate.refresh()
        assert shown_by(certificate, files.ca_file) != before


def test_every_kind_of_change_is_seen_once(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "cert").write_text("1")
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "cert").write_text("2")
    (tmp_path / "current").symlink_to("v1")
    file = tmp_path / "current" / "cert"
    watched = WatchedFiles([None, file])

    def turn_the_link() -> None:
        (tmp_path / "new").symlink_to("v2")
        (tmp_path / "new").rename(tmp_path / "current")

    def touch() -> None:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))

    assert not watched.changed()
    for change in (turn_the_link, lambda: file.write_text("longer"), touch, file.unlink, lambda: file.write_text("2")):
        change()
        assert watched.changed()
        assert not watched.changed()
