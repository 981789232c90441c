"""What the scripts say to whoever started them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TOOLS = ("ruff", "mypy", "lint-imports", "pytest", "coverage")
NOTHING_TO_INSTALL = """
project=$PWD venv=$PWD/.venv missing_tools=()
provide_servers() { :; }
prepare_environment() { :; }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real `scripts/test`, whose tools find nothing to say."""
    (tmp_path / "scripts" / "lib").mkdir(parents=True)
    shutil.copy(PROJECT / "scripts" / "test", tmp_path / "scripts")
    (tmp_path / "scripts" / "lib" / "environment.sh").write_text(NOTHING_TO_INSTALL)
    (tmp_path / "scripts" / "lib" / "servers.sh").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for tool in TOOLS:
        put(tmp_path, tool, "exit 0")
    return tmp_path


def put(project: Path, tool: str, command: str) -> None:
    path = project / ".venv" / "bin" / tool
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def run(project: Path) -> subprocess.CompletedProcess[str]:
    temporary = project / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        ["bash", "scripts/test"],
        cwd=project,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert list(temporary.iterdir()) == []
    return done


def test_checks_that_all_pass_end_with_0(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_one_that_fails_is_enough(project: Path, tool: str) -> None:
    put(project, tool, "exit 1")
    done = run(project)
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def test_a_simulation_that_fails_is_enough(project: Path) -> None:
    put(project, "pytest", 'test "$1" != tests/simulation')
    done = run(project)
    assert done.returncode == 1
    assert done.stdout.endswith("simulation     FAILED\n")
