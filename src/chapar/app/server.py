"""Serve the API: take its port, run uvicorn within bounds, and end on SIGINT, SIGTERM or SIGHUP."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from chapar.app import wiring
from chapar.errors import Phrase, PortTaken, SettingInvalid
from chapar.runtime import descriptors, streams
from chapar.runtime.addresses import is_loopback
from chapar.runtime.certificates import ServerCertificate, server_certificate
from chapar.runtime.garbage import collect_rarely, keep_what_is_loaded
from chapar.runtime.metrics import Metrics
from chapar.runtime.service_manager import ServiceManager
from chapar.runtime.settings import Settings
from chapar.runtime.supervision import guarded, supervised
from chapar.web.http import connection
from chapar.web.http.tls_listener import TlsListener

_UNSENT: Final = 64 * 1024  # bytes of an answer that wait in the kernel for their turn to be sent
_START_GRACE: Final = 1.5  # seconds in which a start that a signal ends closes what it has opened
_LOOK_AFTER: Final = 5  # of uvicorn's ticks, which come every tenth of a second

Announce = Callable[[str, bool], None]
"""Called with the API's address once it answers, and whether access is open."""


async def serve(settings: Settings, announce: Announce) -> None:
    """Serve the API until SIGINT, SIGTERM or SIGHUP; one that comes during the start raises CancelledError.

    Raises what `wiring.lifespan` raises, and SettingInvalid for an address that nothing protects.
    """
    await serve_on(listen(settings), settings, announce, ServiceManager.of_environment())


async def serve_on(
    listener: socket.socket,
    settings: Settings,
    announce: Announce,
    manager: ServiceManager,
    *,
    with_broker: bool = True,
) -> None:
    """Serve the API on a socket that listens, until SIGINT, SIGTERM or SIGHUP."""
    end_on_signals()
    certificate = server_certificate(settings.tls_cert_file, settings.tls_key_file)
    limits, bounds = wiring.limits_of(settings), wiring.bounds_of(settings)
    async with wiring.lifespan(settings, with_broker=with_broker) as running:
        if running.door.is_open:
            _check_loopback(settings.host)
        config = uvicorn.Config(
            _quiet_when_cancelled(wiring.application(running, settings, limits)),
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            http=connection.within(bounds, limits.bodies),
            ws="none",
            timeout_keep_alive=settings.idle_timeout,
            proxy_headers=False,  # the application knows more of proxies
            workers=1,  # else the variable WEB_CONCURRENCY is read
            timeout_graceful_shutdown=wiring.GRACE,
        )

        def started() -> None:
            address = address_of(listener, settings)
            announce(address, running.door.is_open)
            manager.ready(f"Serving {address}")

        def stopping() -> None:
            manager.stopping()
            running.waiters.release_all()
            running.feed.stop()

        server = _Server(config, bounds, certificate, running.metrics, when_started=started, when_stopping=stopping)
        keep_what_is_loaded()
        collect_rarely()
        loops: dict[str, Callable[[], Awaitable[None]]] = {"watchdog": partial(manager.watch, running.monitor.is_well)}
        if certificate is not None:
            loops["certificate"] = certificate.run
        async with _beside(loops, running.metrics):
            await server.serve(sockets=[listener])


def end_on_signals() -> None:
    """Have SIGINT, SIGTERM and SIGHUP cancel the calling task, until something that runs takes these signals over.

    A start may stand in a call that nothing can cancel, such as one to a database that does not answer. Then the
    process ends as if it were killed, which its children and the next start are made for.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine calls

    def end() -> None:
        task.cancel()
        last_resort = threading.Timer(_START_GRACE, _exit_at_once)
        last_resort.daemon = True
        last_resort.start()

    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, end)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a gateway: SIGHUP, from a terminal that closes, unless `nohup` has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if is_ignored else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _exit_at_once() -> None:
    streams.drain()
    os._exit(0)


@contextlib.asynccontextmanager
async def _beside(loops: Mapping[str, Callable[[], Awaitable[None]]], metrics: Metrics) -> AsyncIterator[None]:
    """Run these loops meanwhile."""
    tasks = [asyncio.create_task(supervised(name, loop, metrics), name=name) for name, loop in loops.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


class _Server(uvicorn.Server):
    """uvicorn, which stops on a signal without raising it again: the rest of the gateway has yet to close."""

    def __init__(
        self,
        config: uvicorn.Config,
        bounds: connection.Bounds,
        certificate: ServerCertificate | None,
        metrics: Metrics,
        *,
        when_started: Callable[[], None],
        when_stopping: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._bounds = bounds
        self._certificate = certificate
        self._metrics = metrics
        self._when_started = when_started
        self._when_stopping = when_stopping
        self._tls_listeners: Sequence[TlsListener] = ()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in ending_signals():
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            self._tls_listeners = [self._listen(listener, self._certificate.context) for listener in sockets or ()]
        self._when_started()

    def _listen(self, listener: socket.socket, context: ssl.SSLContext) -> TlsListener:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return TlsListener(
            listener,
            context,
            partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state),
            connected=self.server_state.connections,
            limit=self._bounds.connections,
            patience=self._bounds.head_timeout,
        )

    async def on_tick(self, counter: int) -> bool:
        if counter % _LOOK_AFTER == 0:
            with guarded("connections", self._metrics):
                connection.look_after(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._when_stopping()
        for listener in self._tls_listeners:
            listener.close()
        await super().shutdown(sockets)


def _quiet_when_cancelled(app: ASGIApp) -> ASGIApp:
    """An answer that the stop cuts short, such as a long report, is no fault to fill the log with."""

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return quiet


def _check_loopback(host: str) -> None:
    """With no access control the API belongs on this machine only; raises SettingInvalid."""
    if not is_loopback(host):
        raise SettingInvalid("CHAPAR_HOST", Phrase("setting.host_open", host=host))


def listen(settings: Settings) -> socket.socket:
    """Take the API's port, before anything else is started; raises PortTaken, SettingInvalid."""
    descriptors.raise_limit()
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    every_address = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=every_address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port, "CHAPAR_PORT (--port)") from None
        problem = Phrase("setting.host_unusable", host=host, cause=error.strerror or str(error))
        raise SettingInvalid("CHAPAR_HOST", problem) from None
    # Its connections inherit it. Without, the kernel takes megabytes for each reader who is slow, all made beforehand.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    return listener


def address_of(listener: socket.socket, settings: Settings) -> str:
    """Return the URL under which a browser finds what listens there."""
    scheme = "http" if settings.tls_cert_file is None else "https"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
