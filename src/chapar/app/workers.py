"""Several gateway processes behind one port, sharing one PostgreSQL.

Run as a program, `python -m chapar.app.workers DESCRIPTOR PATIENCE`, this module is one of them.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

import structlog
import uvloop
from prometheus_client.multiprocess import mark_process_dead

from chapar.app import server
from chapar.app.brokers import broker_access
from chapar.devices.catalog_file import load_catalog
from chapar.errors import ChaparError, Phrase, SettingInvalid, WorkerFailed
from chapar.link.embedded import EmbeddedBroker
from chapar.link.tls import check_files
from chapar.runtime import logs, programs, streams
from chapar.runtime.backoff import Backoff
from chapar.runtime.certificates import server_certificate
from chapar.runtime.metrics import WORKERS_FOLDER, Metrics
from chapar.runtime.service_manager import ServiceManager
from chapar.runtime.settings import Settings, preferred_language
from chapar.runtime.supervision import supervised
from chapar.store import migrations

log = structlog.get_logger(__name__)

_READY: Final = {b"ready, open\n": True, b"ready, closed\n": False}  # what a worker says, and whether access is open
_WELL: Final = b"WATCHDOG=1\n"  # what it says as often as the watchdog asks
_PATIENCE: Final = 5.0  # seconds in which a worker ends by itself; it needs about one


async def serve(settings: Settings, announce: server.Announce) -> None:
    """Run `settings.workers` gateway processes until SIGINT, SIGTERM or SIGHUP, starting another where one ends.

    Raises SettingInvalid with SQLite, WorkerFailed where the first ones do not start, and what the built-in broker and
    the migration raise.
    """
    server.end_on_signals()
    manager = ServiceManager.of_environment()
    if settings.serves_alone:
        raise SettingInvalid("CHAPAR_WORKERS", Phrase("setting.workers_with_sqlite"))
    # Else each worker would say what is wrong.
    server_certificate(settings.tls_cert_file, settings.tls_key_file)
    check_files(broker_access(settings))
    load_catalog(settings.catalog)
    listener = server.listen(settings)
    async with contextlib.AsyncExitStack() as stack:
        if settings.auto_migrate:
            await asyncio.to_thread(migrations.migrate, settings.database_url.get_secret_value())
        metrics = Metrics()  # of this process, which serves none: what its loops met is in the log
        if settings.broker_url is None:
            await stack.enter_async_context(EmbeddedBroker(settings.embedded_port, metrics))
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix="chapar-metrics-"))
        except OSError as error:
            raise SettingInvalid("TMPDIR", Phrase("setting.no_folder", cause=error.strerror or str(error))) from None
        options = {f"CHAPAR_{name.upper()}": str(getattr(settings, name)) for name in ("host", "port", "workers")}
        environment = os.environ | options | {WORKERS_FOLDER: folder, "CHAPAR_AUTO_MIGRATE": "false"}
        stop = asyncio.Event()
        for number in server.ending_signals():
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        workers = [_Worker(listener, environment, manager.patience) for _ in range(settings.workers)]
        async with asyncio.TaskGroup() as tasks:
            keeping = [supervised("worker", worker.keep, metrics, WorkerFailed) for worker in workers]
            children = [tasks.create_task(loop, name="worker") for loop in keeping]
            address = server.address_of(listener, settings)
            children.append(tasks.create_task(_announce(workers, announce, manager, address)))
            watch = partial(manager.watch, partial(_are_well, workers))
            children.append(tasks.create_task(supervised("watchdog", watch, metrics), name="watchdog"))
            await stop.wait()
            manager.stopping()
            for child in children:
                child.cancel()


async def _announce(
    workers: Sequence["_Worker"], announce: server.Announce, manager: ServiceManager, address: str
) -> None:
    for worker in workers:
        await worker.ready.wait()
    announce(address, workers[0].is_open)
    manager.ready(f"Serving {address}")


async def _are_well(workers: Sequence["_Worker"], _patience: float) -> bool:
    return all(worker.is_well for worker in workers)


class _Worker:
    """One gateway process, started again whenever it ends."""

    def __init__(self, listener: socket.socket, environment: dict[str, str], patience: float | None) -> None:
        """`patience`: seconds of the watchdog; None: there is none."""
        self._listener = listener
        self._environment = environment
        self._patience = patience
        self._well_at = 0.0  # loop time at which it last said so, or was started
        self.ready = asyncio.Event()
        self.is_open = False  #: whether it lets everybody in, as it said when it got ready

    @property
    def is_well(self) -> bool:
        """Return whether it said so lately, as the watchdog has it; a new one has time to start."""
        return self._patience is None or asyncio.get_running_loop().time() - self._well_at < self._patience

    async def keep(self) -> None:
        """Keep it running until cancelled; raises WorkerFailed where it never got ready."""
        backoff = Backoff()
        while True:
            process = await self._start()
            try:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                with backoff.working():
                    async for line in process.stdout:
                        if line in _READY:
                            self.is_open = _READY[line]
                            self.ready.set()
                        elif line == _WELL:
                            self._well_at = asyncio.get_running_loop().time()
                    code = await process.wait()
            finally:
                await _end(process)
                # The library has no annotations here.
                mark_process_dead(process.pid, self._environment[WORKERS_FOLDER])  # type: ignore[no-untyped-call]
            if not self.ready.is_set():
                raise WorkerFailed(code)
            log.error("worker_ended", pid=process.pid, code=code)
            await backoff.pause()

    async def _start(self) -> asyncio.subprocess.Process:
        self._well_at = asyncio.get_running_loop().time()
        listener = self._listener.fileno()
        return await programs.start(
            *("-m", "chapar.app.workers", str(listener), str(self._patience or "")),
            stdout=PIPE,
            pass_fds=(listener,),
            env=self._environment,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> None:
    """Run a worker on the socket with this descriptor; a watchdog, if there is one, has so much patience."""
    streams.protect()
    listener = socket.socket(fileno=int(sys.argv[1]))
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                server.serve_on(
                    listener,
                    settings,
                    lambda _, is_open: _say(next(line for line, means_open in _READY.items() if means_open == is_open)),
                    ServiceManager(lambda state: _say(f"{state}\n".encode()), float(sys.argv[2] or 0) or None),
                    with_broker=False,
                )
            )
    except ChaparError as error:
        streams.drain()
        sys.exit(f"chapar: {error.sentence(preferred_language())}")


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    # Until the parent closes it, on purpose or by its death. Unbuffered: a buffer would be locked when we exit.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
