"""A real Mosquitto in a folder and on a port of its own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from support.certificates import Certificates
from support.devices import Device
from support.ports import LOOPBACK, free_port
from support.processes import Program

_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def installed() -> bool:
    """Whether this machine has Mosquitto."""
    return shutil.which("mosquitto", path=_SEARCHED) is not None


class Mosquitto:
    """A broker that can be stopped, killed, paused and started again on the same port.

    `options` are lines of mosquitto.conf ("max_packet_size 4096"). `options`, `users` (name to password) and `acl`
    (text of an ACL file) are read at every start, so a test may change them in between.
    """

    def __init__(
        self,
        *options: str,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        require_certificate: bool = False,
        persistence: bool = False,
        port: int | None = None,
    ) -> None:
        self.options = list(options)
        self.users = dict(users or {})
        self.acl = acl
        self.certificates = certificates
        self.require_certificate = require_certificate
        self.persistence = persistence
        self.port = port or free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="mosquitto-"))
        self._program: Program | None = None

    @property
    def url(self) -> str:
        """The broker's address with the first user's password, as `CHAPAR_BROKER_URL` takes it."""
        secret = "".join(f"{name}:{password}@" for name, password in list(self.users.items())[:1])
        return f"{'mqtts' if self.certificates else 'mqtt'}://{secret}{LOOPBACK}:{self.port}"

    @property
    def settings_env(self) -> dict[str, str]:
        """The gateway's variables that lead here."""
        env = {"CHAPAR_BROKER_URL": self.url}
        if self.certificates:
            env["CHAPAR_BROKER_CA_FILE"] = str(self.certificates.ca_file)
            if self.require_certificate:
                env["CHAPAR_BROKER_CERT_FILE"] = str(self.certificates.client_cert_file)
                env["CHAPAR_BROKER_KEY_FILE"] = str(self.certificates.client_key_file)
        return env

    @property
    def program(self) -> Program:
        """The running process, its id and its log."""
        if self._program is None:
            raise AssertionError("this Mosquitto is not running")
        return self._program

    def device(self, imei: str, *, mqtt5: bool = False, persistent: bool = False) -> Device:
        """A device of this broker, not yet started; it signs in as the first user."""
        login = next(iter(self.users.items()), None)
        return Device(
            self.port,
            imei,
            mqtt5=mqtt5,
            persistent=persistent,
            login=login,
            certificates=self.certificates,
        )

    def start(self) -> None:
        """Returns once it hears its clients: it accepts them a moment earlier, but a SIGTERM in that moment is lost."""
        config = self._folder / "mosquitto.conf"
        config.write_text("\n".join(self._config()) + "\n")
        mosquitto = shutil.which("mosquitto", path=_SEARCHED)
        if mosquitto is None:
            raise AssertionError("Mosquitto is not installed")
        self._program = Program([mosquitto, "-c", config], folder=self._folder)
        self._program.wait_until_accepts(self.port)
        with socket.create_connection((LOOPBACK, self.port), timeout=60.0) as probe:
            probe.shutdown(socket.SHUT_WR)
            while probe.recv(4096):
                pass  # closed by it, then

    def stop(self) -> None:
        """Let it say good-bye, as a service manager does."""
        self.program.end(signal.SIGTERM)
        self._forget()

    def kill(self) -> None:
        """What a crash or the out-of-memory killer does."""
        self.program.end(signal.SIGKILL)
        self._forget()

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Take `acl` as it is now, without a restart."""
        self._write_acl()
        self.program.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self.program.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.program.send_signal(signal.SIGCONT)

    def save(self) -> None:
        """Returns once all it holds is in its file. Its PUBACK alone does not mean that, even with persistence."""
        file = self._folder / "mosquitto.db"
        before = _identity(file)
        self.program.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 5.0
        while _identity(file) == before:
            if time.monotonic() > deadline:
                raise AssertionError("Mosquitto does not save")
            time.sleep(0.01)

    def close(self) -> None:
        if self._program is not None:
            self._forget()
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

    def _forget(self) -> None:
        self.program.close()
        self._program = None

    def _config(self) -> list[str]:
        lines = [
            f"listener {self.port} {LOOPBACK}",
            f"allow_anonymous {'false' if self.users else 'true'}",
            "log_dest stderr",  # unbuffered, so that a killed broker's log is whole
            "log_type all",
            "log_timestamp_format %H:%M:%S",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it drops to an account that cannot read this folder
        if self.users:
            lines.append(f"password_file {self._password_file()}")
        if self.acl is not None:
            lines.append(f"acl_file {self._write_acl()}")
        if self.certificates:
            lines += [
                f"cafile {self.certificates.ca_file}",
                f"certfile {self.certificates.server_cert_file}",
                f"keyfile {self.certificates.server_key_file}",
                f"require_certificate {'true' if self.require_certificate else 'false'}",
            ]
        if self.persistence:
            # Without autosave_on_changes a killed Mosquitto forgets its queued messages.
            lines += [
                "persistence true",
                f"persistence_location {self._folder}/",
                "autosave_on_changes true",
                "autosave_interval 1",
            ]
        return lines + self.options

    def _write_acl(self) -> Path:
        path = self._folder / "acl"
        path.write_text(self.acl or "")
        return path

    def _password_file(self) -> Path:
        path = self._folder / "passwords"
        path.write_text("")
        for name, password in self.users.items():
            subprocess.run(["mosquitto_passwd", "-b", path, name, password], check=True, capture_output=True)
        return path


def _identity(file: Path) -> tuple[int, int] | None:
    """Changes whenever the file is replaced."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
