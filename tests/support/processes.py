"""Programs that run beside a test: started, watched and always ended by their process id."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from support.ports import LOOPBACK, accepts

_SHOWN_LINES = 200  # of a program's output where a test fails
_LOOK_EVERY = 0.01  # seconds


class Program:
    """A program and what it prints.

    `log` is a descriptor for its standard error. Its other output goes to stdout when it closes, so that pytest shows
    it under a test that failed.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        log: int | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.lines: list[str] = []
        self._printed = threading.Condition()
        self._process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=env,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log is None else log,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"{self.name} output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return "\n".join(self.lines[-_SHOWN_LINES:])

    def wait_for_line(self, text: str, timeout: float = 60.0) -> str:
        """The first line printed that contains `text`."""
        with self._printed:
            self._printed.wait_for(lambda: any(text in line for line in self.lines), timeout)
            for line in self.lines:
                if text in line:
                    return line
        raise AssertionError(f"{self.name} did not print {text!r} in {timeout} s:\n{self.output}")

    def wait_for_lines(self, text: str, count: int, timeout: float = 60.0) -> None:
        """Return once it has printed that many lines that contain `text`; raises AssertionError where it does not."""
        with self._printed:
            if not self._printed.wait_for(lambda: sum(text in line for line in self.lines) >= count, timeout):
                raise AssertionError(f"{self.name} did not print {text!r} {count} times in {timeout} s:\n{self.output}")

    def wait_until_accepts(self, port: int, timeout: float = 60.0) -> None:
        """Return once `port` accepts connections; raises AssertionError where the program ends or hangs instead."""
        deadline = time.monotonic() + timeout
        while not accepts(port):
            if not self.running or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not accept on {LOOPBACK}:{port}:\n{self.output}")
            time.sleep(_LOOK_EVERY)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code, negative where a signal ended it; raises AssertionError where it goes on."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout} s:\n{self.output}") from None

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Send the signal and wait for the end; gives the exit code."""
        if number is not signal.SIGKILL:
            self.send_signal(signal.SIGCONT)  # a paused program hears nothing else
        self.send_signal(number)
        return self.wait(timeout)

    def close(self) -> None:
        """Make sure that it is gone, and leave its output to pytest."""
        self._process.kill()
        self._process.wait()
        self._reader.join(1.0)  # a child that outlived it may hold the pipe for longer
        sys.stdout.write(f"----- {self.name} (pid {self.pid}) -----\n{self.output}\n")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._printed:
                    self.lines.append(line.rstrip("\n"))
                    self._printed.notify_all()


def children(pid: int) -> list[int]:
    """The processes that `pid` started, and theirs, as long as the line is unbroken."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def of_session(session: int) -> list[int]:
    """The running processes of one session: what a program started stays in it even when the program is gone."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, _group, of, *_ = stat.read_text().rpartition(")")[2].split()
            if int(of) == session and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def wait_until_gone(pids: Iterable[int], timeout: float = 30.0) -> list[int]:
    """Wait until none of `pids` runs; gives those that still do after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = [pid for pid in pids if runs(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        left = [pid for pid in left if runs(pid)]
    return left


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def describe(pid: int) -> str:
    """The process id and its command line, as far as it still has one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    return f"{pid} {b' '.join(words).decode(errors='replace')}"


def kill(pids: Iterable[int]) -> None:
    """End processes at once; those already gone are fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
