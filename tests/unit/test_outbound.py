"""What would configure a connection past Chapar's settings is not there for anybody who connects."""

import os

import pytest

from chapar.cli import command
from chapar.runtime.outbound import forget_foreign_settings

FOREIGN = ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "PGHOST", "PGHOSTADDR", "PGPASSWORD", "PGSERVICE"]
FOREIGN += ["PGSSLROOTCERT", "PGSSLMODE", "PGOPTIONS", "PGPASSFILE"]


def test_the_environment_names_no_certificate_no_host_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN:
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("CHAPAR_HOST", "127.0.0.1")
    forget_foreign_settings()
    assert not set(FOREIGN) & set(os.environ)
    assert os.environ["CHAPAR_HOST"] == "127.0.0.1"


def test_every_command_begins_with_that(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    assert command.run(["--version"]) == 0
    assert "PGHOSTADDR" not in os.environ
    assert capsys.readouterr().out
