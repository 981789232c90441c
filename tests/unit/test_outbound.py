"""What would configure a connection past Chapar's settings is not there for anybody who connects."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chapar.app.server import ending_signals
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


def test_the_measures_of_another_program_are_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from chapar.cli import main\n"
        "try: main()\n"
        "except SystemExit: from chapar.runtime.metrics import Metrics; Metrics().writer_deaths.inc()"
    )
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        subprocess.run([sys.executable, "-c", code], env=os.environ | {name: str(tmp_path)}, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_a_hang_up_ends_a_gateway_unless_it_is_ignored() -> None:
    was = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert signal.SIGHUP in ending_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
        assert signal.SIGHUP not in ending_signals()
    finally:
        signal.signal(signal.SIGHUP, was)
