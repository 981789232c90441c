"""The built-in broker: rumqttd (packaged as `iotcore`) in a child process, for a gateway that has no other."""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

import structlog

from chapar.errors import EmbeddedBrokerFailed, Phrase, PortTaken
from chapar.runtime.addresses import EMBEDDED_LARGEST
from chapar.runtime.backoff import Backoff
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised

HOST: Final = "127.0.0.1"  # it asks nobody for a password
START_TIMEOUT: Final = 10.0  # seconds until both ports accept; it takes half a second
_LOOK_EVERY: Final = 0.02  # seconds

PROGRAM: Final = Path(__file__).with_name("embedded_program.py")
"""What the child runs: as a file, because a module's package would be loaded first."""

_LISTENER: Final = """
[{version}.1]
name = "{version}-1"
listen = "{host}:{port}"
next_connection_delay_ms = 0
[{version}.1.connections]
connection_timeout_ms = 60000
max_payload_size = {largest}
max_inflight_count = 100
dynamic_filters = true
"""

# rumqttd keeps the newest segments of every subscribed filter in memory, read or not, and a subscriber that lags
# behind them loses messages in silence. Measured with 36 bytes of topic and payload: 512 KiB let a device lag by
# 10,000 commands, and cost at most 4 MB for each device that ever got so many (270 bytes a command).
_ROUTER: Final = """
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 131072
max_segment_count = 4
"""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class EmbeddedBroker:
    """rumqttd on the loopback address: `port` speaks MQTT 3.1.1 to devices, the next port MQTT 5 to the gateway.

    Entering it returns once both ports accept, and raises PortTaken or EmbeddedBrokerFailed. From then on it is
    started again whenever it dies, until it is left.
    """

    def __init__(self, port: int, metrics: Metrics) -> None:
        self._metrics = metrics
        self.port = port
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._folder = contextlib.ExitStack()
        self._config = Path()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._process.pid if self._process is not None else None

    async def __aenter__(self) -> Self:
        listeners = [
            _LISTENER.format(version=version, host=HOST, port=port, largest=EMBEDDED_LARGEST)
            for version, port in (("v4", self.port), ("v5", self.port + 1))
        ]
        try:
            folder = self._folder.enter_context(TemporaryDirectory(prefix="chapar-broker-"))
            self._config = Path(folder) / "rumqttd.toml"
            self._config.write_text(_ROUTER + "".join(listeners))
            await self._start()
        except OSError as error:
            self._folder.close()
            raise EmbeddedBrokerFailed(Phrase("link.embedded_without_file", cause=str(error))) from error
        except BaseException:
            self._folder.close()
            raise
        self._supervisor = asyncio.create_task(supervised("embedded_broker", self._supervise, self._metrics))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        await self._stop()
        self._folder.close()

    async def _supervise(self) -> None:
        """Start the broker again whenever it ends, until cancelled."""
        backoff = Backoff()
        while True:
            if self._process is not None:
                with backoff.working():
                    code = await self._process.wait()
                self._process = None
                log.warning("embedded_broker_down", reason=f"it ended with exit code {code}")
            await backoff.pause()
            try:
                await self._start()
            except (PortTaken, EmbeddedBrokerFailed) as error:
                log.warning("embedded_broker_down", reason=str(error))
            else:
                log.info("embedded_broker_up", port=self.port)

    async def _start(self) -> None:
        for port in (self.port, self.port + 1):
            _check_free(port)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a folder of the user's called iotcore is not the package
                PROGRAM,
                self._config,
                stdin=asyncio.subprocess.PIPE,  # its end tells the child of ours, even of a sudden one
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise EmbeddedBrokerFailed(str(error)) from error
        try:
            async with asyncio.timeout(START_TIMEOUT):
                for port in (self.port, self.port + 1):
                    await self._accepting(port)
        except TimeoutError:
            await self._stop()
            raise EmbeddedBrokerFailed(Phrase("link.embedded_silent", seconds=START_TIMEOUT)) from None
        except BaseException:
            await self._stop()
            raise

    async def _accepting(self, port: int) -> None:
        while self._process is not None and self._process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            await asyncio.sleep(_LOOK_EVERY)
        raise EmbeddedBrokerFailed(Phrase("link.embedded_ended"))

    async def _stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # it has nothing to save and no way to be asked
            await self._process.wait()
            self._process = None


def _check_free(port: int) -> None:
    """Raise PortTaken where somebody listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: TIME_WAIT is no listener
        try:
            probe.bind((HOST, port))
        except OSError:
            instead = Phrase("part.broker_there", host=HOST, port=port)
            raise PortTaken(HOST, port, "CHAPAR_EMBEDDED_PORT", instead) from None
