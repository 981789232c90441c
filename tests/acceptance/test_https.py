"""The API over TLS: the installed command, a certificate that is renewed under it, and clients that trust it or not."""

import contextlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.certificates import Certificates
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto

PATIENCE = 60.0  # seconds for what takes a few


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    (tmp_path / "tls").mkdir()
    return Certificates(tmp_path / "tls")


@pytest.fixture
def env(files: Certificates) -> dict[str, str]:
    return {
        "CHAPAR_TLS_CERT_FILE": str(files.server_cert_file),
        "CHAPAR_TLS_KEY_FILE": str(files.server_key_file),
        "CHAPAR_CA_FILE": str(files.ca_file),
    }


def run(folder: Path, env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), **env}
    return subprocess.run(
        [find_command(), *arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def client_of(gateway: GatewayProcess, ca_file: Path) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, timeout=30.0, verify=ssl.create_default_context(cafile=ca_file))


def is_trusted(gateway: GatewayProcess, ca_file: Path) -> bool:
    """Whether a new connection shows a certificate of that authority."""
    trust = ssl.create_default_context(cafile=ca_file)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as line:
        try:
            trust.wrap_socket(line, server_hostname="127.0.0.1").close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_whole_of_it(
    start_gateway: Callable[..., GatewayProcess], files: Certificates, env: dict[str, str], tmp_path: Path
) -> None:
    gateway = start_gateway(BuiltinBroker().settings_env | env | {"CHAPAR_LOG_FORMAT": "json"})
    gateway.program.wait_for_line(f"API       https://127.0.0.1:{gateway.port}")
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE))
        half = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE))
        half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        kept = stack.enter_context(client_of(gateway, files.ca_file))
        assert kept.get("/health/ready").status_code == 200

        # The command line, with and without trust.
        url = {"CHAPAR_URL": gateway.url, "CHAPAR_CA_FILE": str(files.ca_file)}
        sent = run(tmp_path, url, "send", "pump-7", "open")
        assert (sent.returncode, sent.stderr) == (0, "")
        untrusting = run(tmp_path, {"CHAPAR_URL": gateway.url}, "send", "pump-7", "open")
        assert untrusting.returncode == 1
        assert untrusting.stderr.startswith(f"chapar: TLS with {gateway.url} failed: ")
        assert "CHAPAR_CA_FILE" in untrusting.stderr
        persian = run(tmp_path, {"CHAPAR_URL": gateway.url, "CHAPAR_LANGUAGE": "fa"}, "messages")
        assert persian.stderr.startswith(f"chapar: برقراری TLS با {gateway.url} ناکام ماند: ")
        nothing = run(tmp_path, url | {"CHAPAR_CA_FILE": "/nowhere"}, "messages")
        assert nothing.stderr == (
            "chapar: CHAPAR_CA_FILE cannot be used: /nowhere cannot be read: No such file or directory.\n"
        )

        # What is no TLS, or too old, costs its connection and nothing else.
        with pytest.raises(httpx.TransportError):
            httpx.get(gateway.url.replace("https", "http"))
        old = ssl.create_default_context(cafile=files.ca_file)
        with pytest.warns(DeprecationWarning, match="deprecated"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", gateway.port)) as line:
            old.wrap_socket(line, server_hostname="127.0.0.1")

        # A renewal: new connections get the new one, the open one goes on.
        files.renew()
        until(lambda: kept.get("/health/live").is_success and is_trusted(gateway, files.ca_file))
        gateway.program.wait_for_line("certificate_renewed")
        assert kept.get("/health/ready").status_code == 200  # a new one would not be trusted
        # What cannot be used is said, and changes nothing.
        key = files.server_key_file.read_bytes()
        files.server_key_file.write_bytes(files.client_key_file.read_bytes())
        gateway.program.wait_for_line("certificate_unusable", timeout=PATIENCE)
        assert is_trusted(gateway, files.ca_file)
        files.server_key_file.write_bytes(key)

        for line in (silent, half):
            while line.recv(1024):  # ends when the gateway has had enough of it
                pass
    assert not [line for line in gateway.lines if "Traceback" in line or '"logger"' in line], gateway.lines


def test_several_workers(
    start_gateway: Callable[..., GatewayProcess],
    postgres_url: str,
    mosquitto: Mosquitto,
    files: Certificates,
    env: dict[str, str],
) -> None:
    env = env | mosquitto.settings_env | {"CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true"}
    gateway = start_gateway(env, "--workers", "2")
    gateway.program.wait_for_line(f"API       https://127.0.0.1:{gateway.port}")
    files.renew()
    until(lambda: sum("certificate_renewed" in line for line in gateway.lines) == 2)
    assert all(is_trusted(gateway, files.ca_file) for _ in range(10))


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_what_cannot_be_used_is_one_sentence(
    env: dict[str, str], tmp_path: Path, free_port: int, options: tuple[str, ...]
) -> None:
    (tmp_path / "garbage").write_text("c4nary")
    env |= {"CHAPAR_DATABASE_URL": "postgresql://127.0.0.1:1/x" if options else "sqlite:///chapar.db"}
    env |= {"CHAPAR_TLS_KEY_FILE": str(tmp_path / "garbage"), "CHAPAR_PORT": str(free_port)}
    wrong = run(tmp_path, env, "serve", *options)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("chapar: CHAPAR_TLS_CERT_FILE cannot be used: no certificate with its key (PEM)")
    assert wrong.stderr.count("\n") == 1
    assert "c4nary" not in wrong.stderr
