"""A real PostgreSQL server in a folder and on a port of its own, with its durability on."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg

from support.certificates import Certificates
from support.ports import LOOPBACK, free_port
from support.processes import Program, children, kill, wait_until_gone

_SUPERUSER = "postgres"
_CONFIG = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 32MB
max_connections = 100
"""
#: Signals of the postmaster: documentation of PostgreSQL, "Shutting Down the Server".
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def find_programs() -> Path | None:
    """The folder of initdb and postgres, the newest where Debian has several; None where there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if versions:
        return versions[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class PostgresServer:
    """A server that can be stopped, killed and started again on the same port.

    With `certificates` it speaks TLS too; `access` are lines of pg_hba.conf that come before "everybody may".
    """

    def __init__(self, certificates: Certificates | None = None, access: Sequence[str] = ()) -> None:
        programs = find_programs()
        if programs is None:
            raise AssertionError("PostgreSQL is not installed")
        self.port = free_port()
        self._programs = programs
        self._certificates = certificates
        self._access = access
        # PostgreSQL refuses to run as root.
        self._user = _SUPERUSER if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._program: Program | None = None
        self._numbers = itertools.count(1)

    @property
    def program(self) -> Program:
        """The running process, its id and its log."""
        if self._program is None:
            raise AssertionError("this PostgreSQL is not running")
        return self._program

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{_SUPERUSER}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Also where somebody is still connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def terminate_backends(self, url: str) -> int:
        """Cut every connection to that database, as a failing network does; gives how many there were."""
        query = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = %s"
        [(count,)] = self.execute(query, (_name(url),))
        return int(count)

    def execute(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement as superuser, outside any transaction."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            answer = connection.execute(query.encode(), values or None)
            return answer.fetchall() if answer.description else []

    def start(self) -> None:
        """Returns once it takes queries, that is after crash recovery."""
        data = self._folder / "data"
        if not data.exists():
            self._create(data)
        self._program = Program(
            [self._programs / "postgres", "-D", data, "-p", str(self.port)], folder=self._folder, user=self._user
        )
        self._program.wait_for_line("database system is ready to accept connections", timeout=30.0)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """`fast` ends the sessions and writes a checkpoint; `immediate` leaves the rest to crash recovery."""
        self.program.end(_STOP_SIGNALS[mode], timeout=30.0)
        self._forget()

    def kill(self) -> None:
        """The whole server at once, as when the machine resets (but for what the kernel has not yet written)."""
        backends = children(self.program.pid)
        self.program.end(signal.SIGKILL)
        kill(backends)
        if left := wait_until_gone(backends):
            raise AssertionError(f"backends {left} outlived their server")
        self._forget()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        if self._program is not None:
            self.kill()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create(self, data: Path) -> None:
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        subprocess.run(
            [
                *(self._programs / "initdb", "--pgdata", data, "--username", _SUPERUSER, "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            ],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )
        with (data / "postgresql.conf").open("a") as config:
            config.write(_CONFIG)
            if self._certificates is not None:
                config.write("ssl = on\n")
                self._give(self._certificates.server_cert_file, data / "server.crt")
                self._give(self._certificates.server_key_file, data / "server.key")
        rules = data / "pg_hba.conf"
        rules.write_text("\n".join([*self._access, rules.read_text()]))

    def _give(self, file: Path, to: Path) -> None:
        """Copy a file, only for the server to read."""
        shutil.copyfile(file, to)
        to.chmod(0o600)
        if self._user:
            shutil.chown(to, self._user, self._user)

    def _forget(self) -> None:
        self.program.close()
        self._program = None


def _name(url: str) -> str:
    return url.rpartition("/")[2]
