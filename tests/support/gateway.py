"""The installed command `chapar serve`, run as a user runs it."""

import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from support.ports import LOOPBACK, accepts, free_port
from support.processes import Program, describe, kill, of_session, wait_until_gone

_LOOK_EVERY = 0.02  # seconds


def find_command() -> Path:
    """The command of the environment that runs the tests."""
    command = Path(sys.executable).with_name("chapar")
    if command.exists():
        return command
    on_path = shutil.which("chapar")
    if on_path is None:
        raise AssertionError("the command chapar is not installed")
    return Path(on_path)


class GatewayProcess:
    """One gateway in `folder`, on a free port, that sees no other variables than `env`, PATH and HOME.

    It can be stopped, killed and started again on the same port, with the same folder and so the same SQLite file.
    """

    def __init__(
        self, folder: Path, env: Mapping[str, str] | None = None, *arguments: str, log: int | None = None
    ) -> None:
        """`log`: a descriptor for its log, which else is among its `lines`."""
        self._log = log
        self.env = dict(env or {})
        self.arguments = arguments
        self.port = free_port()
        self.url = f"{'https' if 'CHAPAR_TLS_CERT_FILE' in self.env else 'http'}://{LOOPBACK}:{self.port}"
        self._folder = folder
        self._program: Program | None = None

    @property
    def command(self) -> list[str | Path]:
        """What is called with `serve`."""
        return [find_command()]

    @property
    def program(self) -> Program:
        if self._program is None:
            raise AssertionError("this gateway is not running")
        return self._program

    @property
    def pid(self) -> int:
        return self.program.pid

    @property
    def lines(self) -> list[str]:
        """What it has printed, its log included."""
        return self.program.lines

    def start(self, *, until: str | None = "ready", timeout: float = 60.0) -> Self:
        """Returns once `/health/{until}` is 200: "live" (it serves) or "ready" (database and broker in each)."""
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder)}
        env |= {"CHAPAR_PORT": str(self.port)} | self.env
        self._program = Program([*self.command, "serve", *self.arguments], folder=self._folder, env=env, log=self._log)
        if until is not None:
            self.wait_until(until, timeout)
        if until == "ready":
            self.program.wait_for_lines("broker_link_up", self._workers, timeout)  # only one of them answered
        return self

    @property
    def _workers(self) -> int:
        """How many share its port; 0: it serves by itself."""
        return int(self.arguments[self.arguments.index("--workers") + 1]) if "--workers" in self.arguments else 0

    def wait_until(self, state: str, timeout: float = 60.0) -> None:
        """Until `/health/{state}` is 200; raises AssertionError with the last answer where it ends or hangs instead."""
        deadline = time.monotonic() + timeout
        is_https = self.url.startswith("https")
        trusted = ssl.create_default_context(cafile=self.env.get("CHAPAR_CA_FILE")) if is_https else False
        answer = "no answer"
        while self.program.running and time.monotonic() < deadline:
            if not accepts(self.port):  # a hundred times cheaper to ask than the API
                time.sleep(_LOOK_EVERY)
                continue
            try:
                health = httpx.get(f"{self.url}/health/{state}", timeout=5.0, verify=trusted)
            except httpx.TransportError as error:
                answer = repr(error)
            else:
                if health.is_success:
                    return
                answer = f"{health.status_code} {health.text}"
            time.sleep(_LOOK_EVERY)
        what = "does not get" if self.program.running else f"ended with {self.program.wait()} before it was"
        raise AssertionError(f"the gateway {what} {state} ({answer}):\n{self.program.output}")

    def terminate(self, timeout: float = 60.0) -> int:
        """Ctrl-C; gives the exit code."""
        code = self.program.end(signal.SIGINT, timeout)
        self._forget()
        return code

    def kill(self) -> None:
        """What a crash or the out-of-memory killer does. Its child processes must notice by themselves."""
        self.program.end(signal.SIGKILL)
        self._forget()

    def restart(self) -> None:
        self.terminate()
        self.start()

    def close(self) -> None:
        if self._program is not None:
            self.terminate()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._abandon()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """The process has ended: so must have what it started, and soon."""
        left = wait_until_gone(of_session(self.program.pid))
        outlived = [describe(pid) for pid in left]
        self._abandon()
        if outlived:
            raise AssertionError(f"processes outlived their gateway: {outlived}")

    def _abandon(self) -> None:
        kill(of_session(self.program.pid))
        self.program.close()
        self._program = None
