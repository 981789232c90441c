"""What the scripts say to whoever started them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TOOLS = ("ruff", "mypy", "lint-imports", "pytest", "coverage")
NOTHING_TO_INSTALL = """
project=$PWD venv=$PWD/.venv missing_tools=()
install_missing_packages() { :; }
find_missing_tools() { :; }
prepare_environment() { :; }
version_of() { echo 3.11; }
find_version() { :; }
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


def run(project: Path, *arguments: str, path: str = "", home: str = "") -> subprocess.CompletedProcess[str]:
    temporary = project / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        ["bash", "scripts/test", *arguments],
        cwd=project,
        env=os.environ
        | {"TMPDIR": str(temporary), "PATH": f"{path}:{os.environ['PATH']}", "HOME": home or str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
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


LONG_FORMS = ("faults", "fuzz", "mutate")


def add_long_forms(project: Path) -> None:
    for name in LONG_FORMS:
        program(project / "scripts" / name, f"echo ran: {name} $*")


def test_the_long_forms_come_behind_the_short_ones(project: Path) -> None:
    add_long_forms(project)
    done = run(project, "--long")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^ran: (.*)$", done.stdout, re.MULTILINE) == ["faults --long", "fuzz --long", "mutate"]


@pytest.mark.parametrize("name", LONG_FORMS)
def test_a_long_form_that_fails_is_enough(project: Path, name: str) -> None:
    add_long_forms(project)
    program(project / "scripts" / name, "exit 1")
    done = run(project, "--long")
    assert done.returncode == 1
    assert done.stdout.count("FAILED") == 1


def test_the_long_form_tests_every_python_that_is_here(project: Path) -> None:
    """Stubs stand in for the interpreters; one of them is missing, and one is that of `.venv`."""
    add_long_forms(project)
    shutil.copy(PROJECT / "scripts" / "lib" / "environment.sh", project / "scripts" / "lib" / "real.sh")
    (project / "scripts" / "lib" / "environment.sh").write_text(
        f"{NOTHING_TO_INSTALL}source scripts/lib/real.sh\n"
        'prepare_environment() { mkdir -p "$venv/bin"; cp .venv/bin/pytest "$venv/bin" 2>/dev/null || true; }\n'
    )
    answers = 'case "$*" in *implementation*) echo cpython {0} ;; *version_info*) echo {0} ;; esac'
    for version in ("3.11", "3.12", "3.13"):
        program(project / f"python{version}", answers.format(version))
    program(project / "python3.14", "exit 127")
    put(project, "python", answers.format("3.11"))
    put(project, "pytest", f'echo "on $0: $*" | sed "s#{project}/##"')
    done = run(project, "--long", path=str(project), home=str(project))
    assert done.returncode == 0, done.stderr
    for version in ("3.12", "3.13"):
        assert f"on .venv-{version}/bin/pytest: tests/unit --quiet\n" in done.stdout
        assert f"on .venv-{version}/bin/pytest: tests/integration --numprocesses=2" in done.stdout
        assert f"Python {version}    passed" in done.stdout
    assert "Python 3.14    MISSING" in done.stdout
    assert ".venv-3.11" not in done.stdout


def test_the_supported_versions_are_the_same_everywhere() -> None:
    [tested] = re.findall(r"for version in (.*); do", (PROJECT / "scripts" / "test").read_text())
    classified = re.findall(r"Python :: (3\.\d+)", (PROJECT / "pyproject.toml").read_text())
    assert tested.split() == classified
    for page in ("README.md", "README.fa.md"):
        [supported] = re.findall(r".*CPython.*", (PROJECT / page).read_text())
        assert re.findall(r"3\.\d+", supported) == classified


INDEX = "https://somebody:secret@index.example/simple"
NOISE = f"""
echo "Looking in indexes: {INDEX}"
echo "WARNING: Retrying (host='index.example', port=443): Failed to resolve 'index.example' {INDEX}/chapar/" >&2
echo "ERROR: No matching distribution found for chapar"
"""


@pytest.mark.parametrize("code", [0, 1])
def test_the_installer_is_heard_where_it_fails_only_and_no_index_is_named(code: int) -> None:
    script = f"set -euo pipefail; source scripts/lib/environment.sh; pip() {{ {NOISE} return {code}; }}; quietly pip"
    done = subprocess.run(["bash", "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert ("No matching distribution found for chapar" in done.stderr) == bool(code)
    assert "index.example" not in done.stderr
    assert "secret" not in done.stderr


def test_what_the_pages_have_written_into_the_working_folder_is_not_for_git() -> None:
    secrets = [
        "backend.key",
        "owner.key",
        "farm1.key",
        ".env",
        "chapar.toml",
        "ca.key",
        "chapar.passwords",
        "chapar.dump",
    ]
    secrets += ["chapar.db", "chapar.db-wal", "chapar.db.replaced-20261129T183000", "deploy/secrets/database.url"]
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *secrets], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if ignored.returncode == 128:
        pytest.skip("this is no clone of the repository")
    assert ignored.stdout.split() == secrets


MODULES = ("venv", "ensurepip", "pip", "sys", "os", "site", "sitecustomize", "usercustomize", "runpy", "chapar", "uv")
SERVICE_SCRIPTS = ("serve", "bench", "faults", "fuzz", "mutate")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose modules have names that Python imports at its start, and that leave a trace where one is run."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for module in MODULES:
        (folder / f"{module}.py").write_text(f"open({str(folder / 'trace')!r}, 'a').write('{module}\\n')\n")
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with an apt-get, a sudo and a uv that only leave a trace."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("apt-get", "sudo", "uv"):
        program(folder / name, f'echo "{name} $*" >>"{folder}/trace"')
    return folder


def program(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def traced(folder: Path) -> str:
    trace = folder / "trace"
    return trace.read_text() if trace.exists() else ""


def start(script: str, tmp_path: Path, hostile: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of a fresh clone with nothing set up, from a hostile folder, with every variable pointing there."""
    clone = tmp_path / "clone"
    if not clone.exists():
        shutil.copytree(PROJECT / "scripts", clone / "scripts")
        for name in ("requirements.txt", "requirements-dev.txt"):
            (clone / name).write_text("--no-such-option\n")  # where pip stops, with no network
        (clone / "pyproject.toml").touch()
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CDPATH": str(hostile),
        "PYTHONPATH": str(hostile),
        "PYTHONSTARTUP": str(hostile / "sys.py"),
        "PYTHONHOME": str(hostile),
        "PYTHONINSPECT": "1",
    }
    return subprocess.run(
        [clone / "scripts" / script],
        cwd=hostile,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_first_start_runs_nothing_of_the_folder_it_is_started_in(
    tmp_path: Path, hostile: Path, programs: Path
) -> None:
    done = start("serve", tmp_path, hostile, programs)
    assert "creating .venv" in done.stderr
    assert "installing the pinned packages" in done.stderr
    assert traced(hostile) == ""
    assert sorted(path.suffix for path in hostile.iterdir() if path.suffix != ".py") == []
    assert start("pin", tmp_path, hostile, programs).returncode == 0
    assert traced(hostile) == ""


@pytest.mark.parametrize("script", SERVICE_SCRIPTS)
def test_only_the_script_that_says_so_installs_packages(
    tmp_path: Path, hostile: Path, programs: Path, script: str
) -> None:
    for version in ("", ".11", ".12", ".13", ".14"):  # Debian's, without its package for environments
        program(
            programs / f"python3{version}",
            f'case "$*" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"',
        )
    for tool in ("wrk", "mosquitto", "mosquitto_sub"):
        program(programs / tool, "exit 0")
    done = start(script, tmp_path, hostile, programs)
    assert done.returncode == 1
    assert f"apt install python3.{sys.version_info.minor}-venv" in done.stderr
    assert traced(programs) == ""
    assert traced(hostile) == ""


def test_the_tests_announce_what_they_install(tmp_path: Path, hostile: Path, programs: Path) -> None:
    program(programs / "python3", f'case "$*" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"')
    for changing in ("install", "rm"):  # what keeps services from starting is not for this machine
        program(programs / changing, "exit 0")
    done = start("test", tmp_path, hostile, programs)
    package = f"python3.{sys.version_info.minor}-venv"
    assert f"installing with apt: {package}\n" in done.stderr
    assert f"install {package}\n" in traced(programs)
