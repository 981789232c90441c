"""Disks that fail: one that is full, and one whose writes and fsyncs fail."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_POINTS: Final = ("posix/io/sync/fsync", "posix/io/rw/pwrite", "posix/io/rw/pwrite/reduce", "posix/io/rw/ftruncate")
"""What fails, by libfiu's names; SQLite calls nothing else to change its files."""

_PROBABILITY: Final = 0.2


def cannot_mount() -> str | None:
    """What is missing for a `small_disk`."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    with tempfile.TemporaryDirectory() as folder:
        mounted = _mount(Path(folder), 1 << 20)
        if mounted.returncode:
            return f"mounting a small disk is not allowed here: {mounted.stderr.strip()}"
        _unmount(Path(folder))
    return None


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A folder that holds `size` bytes."""
    with tempfile.TemporaryDirectory(prefix="chapar-disk-") as folder:
        _mount(Path(folder), size).check_returncode()
        try:
            yield Path(folder)
        finally:
            _unmount(Path(folder))


def fill_up(disk: Path) -> Path:
    """Take all the room there is; gives the file that does."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def lacks_libfiu() -> str | None:
    """What is missing for a `FailingDisk`."""
    return None if shutil.which("fiu-ctrl") and _libraries() else "libfiu (fiu-utils) is not installed"


class FailingDisk:
    """Programs started with `env` can be told, one by one, that their writes fail now and then."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chapar-fiu-")
        self._control = f"{self._folder.name}/control"

    @property
    def env(self) -> dict[str, str]:
        """The variables of a program that may be told."""
        return {"LD_PRELOAD": ":".join(map(str, _libraries())), "FIU_CTRL_FIFO": self._control, "FIU_ENABLE": ""}

    async def fail(self, pid: int, seconds: float) -> None:
        """For so long, each write of the process fails with some probability."""
        await self._tell(pid, [f"enable_random name={point},probability={_PROBABILITY}" for point in _POINTS])
        await asyncio.sleep(seconds)
        await self._tell(pid, [f"disable name={point}" for point in _POINTS])

    async def _tell(self, pid: int, commands: list[str]) -> None:
        words = [word for command in commands for word in ("-c", command)]
        process = await asyncio.create_subprocess_exec("fiu-ctrl", *words, "-f", self._control, str(pid))
        if await process.wait():
            raise AssertionError(f"process {pid} does not hear libfiu")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()


def _libraries() -> list[Path]:
    return [path for name in ("run", "posix") if (path := Path(f"/usr/lib/fiu/fiu_{name}_preload.so")).exists()]


def _mount(folder: Path, size: int) -> subprocess.CompletedProcess[str]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True)
