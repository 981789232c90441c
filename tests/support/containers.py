"""podman, buildah and a base image that is made from Debian's packages, because registries may refuse."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
NEEDED = ("buildah", "podman", "mmdebstrap")
SOURCES = (".dockerignore", "LICENSE", "README.md", "pyproject.toml", "requirements.txt", "src", "deploy")

# The last one is for a machine whose cgroups crun does not know, and that lets nobody raise a limit.
_WAYS: tuple[tuple[list[str], list[str]], ...] = (
    ([], []),
    (["--runtime=runc", "--cgroup-manager=cgroupfs"], ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]),
)


class CannotRun(Exception):
    """This machine builds or runs no containers; the text says why."""


def run(*command: str | Path, folder: Path | None = None, seconds: float = 600) -> str:
    """What it prints; raises CannotRun with the end of what it complains about."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        complaint = done.stderr.strip().splitlines()[-3:] or [f"exit code {done.returncode}"]
        raise CannotRun(f"{Path(command[0]).name}: {' '.join(complaint)}")
    return done.stdout


def context(folder: Path) -> Path:
    """What an image is built from, with all its packages beside it."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    pip = [sys.executable, "-I", "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:"]
    # Debian 12 has Python 3.11.
    run(*pip, "--python-version=3.11", "--requirement=requirements.txt", "--dest=wheels", folder=folder)
    return folder


def make_base(folder: Path, tag: str) -> None:
    """An image of Debian 12 with Python and, for its units, systemd."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        raise CannotRun(f"not installed: {', '.join(missing)}")
    archive = folder / "base.tar"
    packages = "python3,python3-venv,ca-certificates,systemd,systemd-sysv"
    run("mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", archive)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", "--quiet", container, archive, "/")
    run("buildah", "commit", "--quiet", "--rm", container, tag)
    archive.unlink()


class Podman:
    """Runs containers on the network of this machine, in the first way that works here; raises CannotRun."""

    def __init__(self, image: str) -> None:
        for way in _WAYS:
            self._global, self._options = way
            try:
                self.run(image, "true")
            except CannotRun as error:
                reason = error
            else:
                return
        raise reason

    def call(self, *arguments: str | Path) -> str:
        return run("podman", *self._global, *arguments)

    def run(self, *arguments: str | Path, options: Sequence[str | Path] = ()) -> str:
        """A container that ends by itself; gives what it prints."""
        return self.call("run", "--rm", "--network=host", *self._options, *options, *arguments)

    def start(self, *arguments: str | Path, options: Sequence[str | Path] = ()) -> str:
        """A container that goes on; gives its id."""
        return self.call("run", "--detach", "--network=host", *self._options, *options, *arguments).split()[-1]


def wait_until_ready(url: str, seconds: float = 120) -> None:
    """Until `/health/ready` is 200."""
    deadline = time.monotonic() + seconds
    answer = "nothing"
    while time.monotonic() < deadline:
        try:
            ready = httpx.get(f"{url}/health/ready", timeout=5)
        except httpx.TransportError as error:
            answer = repr(error)
        else:
            if ready.is_success:
                return
            answer = ready.text
        time.sleep(0.2)
    raise AssertionError(f"{url} does not get ready: {answer}")
