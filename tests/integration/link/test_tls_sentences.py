"""TLS with the broker fails in many ways; each is named, with what helps against it, in both languages."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chapar.errors import BrokerError, NoAnswer, TlsFailed, TlsFault, TlsFilesUnusable
from chapar.errors.tls import BROKER_CURES, GATEWAY_CURES
from chapar.runtime.settings import Settings
from support.authorities import WEAK_RSA, Authority, HomeMade, self_signed, server_context
from support.faulty_broker import FaultyBroker
from support.links import open_session, publication, published
from support.mosquitto import Mosquitto
from support.tls_port import TlsPort

ARABIC_LETTERS = range(0x0600, 0x0700)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def failure(url: str, **options: Any) -> BrokerError:
    """Why there is no session; its sentences are whole in both languages."""
    with pytest.raises(BrokerError) as error:
        async with open_session(url, settings=Settings.model_validate({"broker_url": url, **options})) as session:
            await session.ended()
    for language in ("en", "fa"):
        sentence = error.value.sentence(language)
        assert url in sentence
        assert sentence.endswith(".")
        assert "{" not in sentence
        assert any(ord(letter) in ARABIC_LETTERS for letter in sentence) is (language == "fa")
    return error.value


async def fault(url: str, **options: Any) -> TlsFault:
    error = await failure(url, **options)
    assert isinstance(error, TlsFailed), error
    assert BROKER_CURES[error.problem.fault].sentence() in str(error)
    assert BROKER_CURES[error.problem.fault].sentence("fa") in error.sentence("fa")
    return error.problem.fault


class TestAnAuthorityMadeAtHome:
    """By the usual openssl recipe, whose certificates lack what RFC 5280 asks for (VERIFY_X509_STRICT)."""

    @pytest.fixture(autouse=True)
    def as_strict_as_python_3_13(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lenient = ssl.create_default_context

        def strict(*arguments: Any, **named: Any) -> ssl.SSLContext:
            context = lenient(*arguments, **named)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
            return context

        monkeypatch.setattr(ssl, "create_default_context", strict)

    @pytest.fixture
    def home(self, tmp_path: Path) -> HomeMade:
        return HomeMade(tmp_path)

    @pytest.fixture
    def url(self, home: HomeMade) -> Iterator[str]:
        with Mosquitto(certificates=home) as broker:
            yield broker.url.replace("127.0.0.1", "localhost")

    async def test_it_is_trusted(self, home: HomeMade, url: str) -> None:
        settings = Settings.model_validate({"broker_url": url, "broker_ca_file": home.ca_file})
        async with open_session(url, settings=settings) as session:
            assert await published(session, publication()) == 0x10

    async def test_its_name_is_checked(self, home: HomeMade, url: str) -> None:
        by_address = url.replace("localhost", "127.0.0.1")
        assert await fault(by_address, broker_ca_file=home.ca_file) is TlsFault.OTHER_NAME
        options = {"broker_ca_file": home.ca_file, "broker_server_name": "localhost"}
        settings = Settings.model_validate({"broker_url": by_address, **options})
        async with open_session(by_address, settings=settings) as session:
            assert session.up

    async def test_its_chain_is_checked(self, url: str, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        namesake = HomeMade(tmp_path / "other")  # of the same name, with another key
        assert await fault(url, broker_ca_file=namesake.ca_file) is TlsFault.UNKNOWN_AUTHORITY

    def test_no_context_is_made_elsewhere(self) -> None:
        root = Path(__file__).parents[3] / "src"
        makers = ("create_default_context", "_create_unverified_context", "PROTOCOL_TLS_CLIENT", "create_ssl_context")
        found = [file.name for file in root.rglob("*.py") if any(f"{maker}(" in file.read_text() for maker in makers)]
        assert [name for name in found if name != "certificates.py"] == []


class TestTheBrokersCertificate:
    async def test_it_signed_itself(self, tmp_path: Path) -> None:
        certificate, key = self_signed(tmp_path)
        with FaultyBroker(tls=server_context(certificate, key)) as broker:
            url = broker.url.replace("127.0.0.1", "localhost")
            assert await fault(url) is TlsFault.SELF_SIGNED
            settings = Settings.model_validate({"broker_url": url, "broker_ca_file": certificate})  # as the cure says
            async with open_session(url, settings=settings) as session:
                assert session.up

    async def test_nobody_known_signed_it(self, authority: Authority, tmp_path: Path) -> None:
        with FaultyBroker(tls=authority.server()) as broker:
            assert await fault(broker.url) is TlsFault.UNKNOWN_AUTHORITY
            other = Authority(tmp_path, "other").ca_file
            assert await fault(broker.url, broker_ca_file=other) is TlsFault.UNKNOWN_AUTHORITY

    async def test_who_signed_it_is_no_authority(self, tmp_path: Path) -> None:
        home = HomeMade(tmp_path, is_authority=False)
        with FaultyBroker(tls=server_context(home.server_cert_file, home.server_key_file)) as broker:
            url = broker.url.replace("127.0.0.1", "localhost")
            assert await fault(url, broker_ca_file=home.ca_file) is TlsFault.NOT_AN_AUTHORITY

    @pytest.mark.parametrize(("days", "expected"), [((-9, -2), TlsFault.EXPIRED), ((2, 9), TlsFault.NOT_YET_VALID)])
    async def test_it_is_not_valid_today(
        self, authority: Authority, days: tuple[float, float], expected: TlsFault
    ) -> None:
        with FaultyBroker(tls=authority.server(days=days)) as broker:
            assert await fault(broker.url, broker_ca_file=authority.ca_file) is expected

    @pytest.mark.parametrize("name", ["broker.example", "192.0.2.7"])
    async def test_it_is_for_another_name(self, authority: Authority, name: str) -> None:
        with FaultyBroker(tls=authority.server(name)) as broker:
            error = await failure(broker.url, broker_ca_file=authority.ca_file)
            assert "its certificate is not for 127.0.0.1. " in str(error)
            error = await failure(broker.url, broker_ca_file=authority.ca_file, broker_server_name="other.example")
            assert "its certificate is not for other.example. " in str(error)

    async def test_its_key_is_too_short(self, tmp_path: Path) -> None:
        certificate, key = self_signed(tmp_path, key=WEAK_RSA)
        weak = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        weak.set_ciphers("ALL:@SECLEVEL=0")
        weak.load_cert_chain(certificate, key)
        with FaultyBroker(tls=weak) as broker:
            url = broker.url.replace("127.0.0.1", "localhost")
            assert await fault(url, broker_ca_file=certificate) is TlsFault.WEAK


class TestTheHandshake:
    async def test_a_port_without_tls(self, mosquitto: Mosquitto) -> None:
        assert await fault(mosquitto.url.replace("mqtt:", "mqtts:")) in {TlsFault.NO_TLS, TlsFault.HUNG_UP}

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", TlsFault.NO_TLS),
            (b"\x20\x02\x00\x01", TlsFault.HUNG_UP),
            (b"SSH-2.0-OpenSSH_9.2\r\n", TlsFault.NO_TLS),
            (b"", TlsFault.HUNG_UP),
        ],
    )
    async def test_what_speaks_something_else(self, said: bytes, expected: TlsFault) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            assert await fault(f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}") is expected

    async def test_what_says_nothing(self) -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            error = await failure(f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_timeout=0.3)
        assert isinstance(error, NoAnswer)
        assert "did not answer the TLS handshake within 0.3 s" in str(error)

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    async def test_a_broker_with_old_versions_only(self, authority: Authority) -> None:
        old = authority.server()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with TlsPort(old) as broker:
            assert await fault(broker.url, broker_ca_file=authority.ca_file) is TlsFault.OLD_VERSION

    async def test_a_broker_without_a_cipher_in_common(self, authority: Authority) -> None:
        narrow = authority.server()
        narrow.maximum_version = ssl.TLSVersion.TLSv1_2
        narrow.set_ciphers("AES128-CCM")  # RSA key exchange, and the key is ECDSA
        with TlsPort(narrow) as broker:
            assert await fault(broker.url, broker_ca_file=authority.ca_file) is TlsFault.NOT_AGREED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
class TestTheClientCertificate:
    async def test_it_is_required(self, authority: Authority, version: ssl.TLSVersion) -> None:
        server = authority.server(client_ca=authority.ca_file)
        server.maximum_version = version
        with TlsPort(server) as broker:
            found = await fault(broker.url, broker_ca_file=authority.ca_file)
        older = version is ssl.TLSVersion.TLSv1_2
        assert found is (TlsFault.NOT_AGREED if older else TlsFault.CERTIFICATE_REQUIRED)
        assert "CHAPAR_BROKER_CERT_FILE" in BROKER_CURES[found].sentence()

    @pytest.mark.parametrize("case", ["another authority", "expired"])
    async def test_it_is_refused(
        self, authority: Authority, version: ssl.TLSVersion, case: str, tmp_path: Path
    ) -> None:
        signer = Authority(tmp_path, "other") if case == "another authority" else authority
        certificate, key = signer.client(tmp_path, days=(-9, -2) if case == "expired" else (-1, 1))
        server = authority.server(client_ca=authority.ca_file)
        server.maximum_version = version
        options = {"broker_ca_file": authority.ca_file, "broker_cert_file": certificate, "broker_key_file": key}
        with TlsPort(server) as broker:
            assert await fault(broker.url, **options) is TlsFault.CERTIFICATE_REFUSED

    async def test_mosquitto_requires_it(self, version: ssl.TLSVersion, tmp_path: Path) -> None:
        home = HomeMade(tmp_path)
        option = f"tls_version tlsv{'1.2' if version is ssl.TLSVersion.TLSv1_2 else '1.3'}"
        with Mosquitto(option, certificates=home, require_certificate=True) as broker:
            found = await fault(broker.url.replace("127.0.0.1", "localhost"), broker_ca_file=home.ca_file)
        assert "CHAPAR_BROKER_CERT_FILE" in BROKER_CURES[found].sentence()


class TestOurFiles:
    async def test_a_key_of_another_certificate(self, authority: Authority, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        certificate, _ = authority.client(tmp_path)
        _, key = authority.client(tmp_path / "other")
        error = await failure("mqtts://127.0.0.1:1", broker_cert_file=certificate, broker_key_file=key)
        assert isinstance(error, TlsFilesUnusable)
        assert f"the key in {key} does not belong to the certificate in {certificate}." in str(error)

    async def test_an_encrypted_key(self, authority: Authority, tmp_path: Path) -> None:
        certificate, key = authority.client(tmp_path)
        secret = tmp_path / "secret.key"
        encrypting = ["openssl", "pkey", "-aes128", "-passout", "pass:c4nary", "-in", key, "-out", secret]
        subprocess.run(encrypting, check=True, capture_output=True)
        error = await failure("mqtts://127.0.0.1:1", broker_cert_file=certificate, broker_key_file=secret)
        assert f"CHAPAR_BROKER_KEY_FILE cannot be used: the key in {secret} is encrypted" in str(error)

    @pytest.mark.parametrize("setting", ["broker_ca_file", "broker_cert_file", "broker_key_file"])
    async def test_a_file_that_cannot_be_read(self, authority: Authority, setting: str, tmp_path: Path) -> None:
        certificate, key = authority.client(tmp_path)
        files = {"broker_cert_file": certificate, "broker_key_file": key, setting: tmp_path / "missing"}
        error = await failure("mqtts://127.0.0.1:1", **files)
        assert f"CHAPAR_{setting.upper()} cannot be used: {tmp_path / 'missing'} cannot be read: " in str(error)

    async def test_files_without_a_certificate(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("no certificate")
        error = await failure("mqtts://127.0.0.1:1", broker_ca_file=tmp_path / "text")
        assert f"{tmp_path / 'text'} holds no certificate (PEM)." in str(error)
        error = await failure("mqtts://127.0.0.1:1", broker_cert_file=tmp_path / "text")
        assert f"no certificate with its key (PEM) can be read from {tmp_path / 'text'}" in str(error)


@pytest.mark.parametrize("cures", [BROKER_CURES, GATEWAY_CURES])
def test_there_is_a_cure_for_every_fault(cures: dict[TlsFault, Any]) -> None:
    assert set(cures) == set(TlsFault)
    assert all(cure.sentence().endswith(".") and cure.sentence("fa").endswith(".") for cure in cures.values())
