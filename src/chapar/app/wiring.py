"""The composition root: settings become a store, a link, a dispatcher, a gateway and its API, wired here once."""

import asyncio
import contextlib
import errno
import gc
import os
import secrets
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from chapar import __version__
from chapar.access.door import Door
from chapar.access.keyring import Keyring
from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.lease import ProcessLease
from chapar.delivery.messages import Gateway
from chapar.errors import Phrase, PortTaken, SettingInvalid
from chapar.link.embedded import EmbeddedBroker
from chapar.link.keeper import Link
from chapar.runtime import logs
from chapar.runtime.addresses import is_loopback
from chapar.runtime.certificates import ServerCertificate, server_certificate
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.runtime.supervision import guarded, supervised
from chapar.store.store import open_store
from chapar.web.api import documentation
from chapar.web.api.audit import audit_router
from chapar.web.api.health import health_router
from chapar.web.api.keys import keys_router
from chapar.web.api.messages import messaging_router
from chapar.web.api.metrics import metrics_router
from chapar.web.api.reports import reporting_router
from chapar.web.http import connection, problems
from chapar.web.http.direct import DirectRoutes
from chapar.web.http.entrance import Entrance
from chapar.web.http.origins import Origins
from chapar.web.http.rates import Limits
from chapar.web.http.request_ids import with_request_ids
from chapar.web.http.tls_listener import TlsListener

# Objects made since the last collections before there is one of each generation. Nearly all that a send makes is gone
# with its answer, and Python's 700, 10, 10 look for what is not 5 µs a send.
_COLLECTED = (50_000, 20, 50)
_UNSENT = 64 * 1024  # bytes of an answer that wait in the kernel for their turn to be sent
_WRITER_START = 60.0  # seconds a writer may take until it commits; a small board needs ten to load it
_START_GRACE = 1.5  # seconds in which a start that a signal ends closes what it has opened
_GRACE = 1  # seconds for requests and deliveries under way at shutdown; what remains is settled at the next start


class Running(NamedTuple):
    """What a gateway process consists of while it runs, as the API sees it."""

    gateway: Gateway
    door: Door
    keyring: Keyring
    metrics: Metrics


def api(running: Running, settings: Settings, limits: Limits) -> ASGIApp:
    """The HTTP application over a gateway, behind a door."""
    gateway = running.gateway
    app = documentation.DocumentedAPI(
        title="Chapar",
        version=__version__,
        description=documentation.DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    routers = [
        messaging_router(gateway, settings, limits),
        reporting_router(gateway),
        health_router(gateway),
        metrics_router(gateway),
        keys_router(running.keyring, gateway),
        audit_router(gateway),
    ]
    for router in routers:
        app.include_router(router)
    problems.install(app)
    documentation.install(app)
    return Entrance(DirectRoutes(app, routers), running.door, limits, gateway.turned_away)


@contextlib.asynccontextmanager
async def lifespan(settings: Settings, *, with_broker: bool = True) -> AsyncIterator[Running]:
    """A running gateway: the seed's start-up event, and its counterpart.

    The built-in broker runs with it where no other is set, unless somebody else runs it (`with_broker` False).

    Raises PortTaken, EmbeddedBrokerFailed and what opening the store raises before anything serves, and
    SettingInvalid where tokens cannot be verified as they are set up.
    """
    process = secrets.token_hex(8)  # fresh at each start, so that a dead process's rows are never mistaken for ours
    clock, metrics = Clock(), Metrics()
    link = Link(settings, metrics)
    async with contextlib.AsyncExitStack() as stack:
        if with_broker and settings.broker_url is None:
            await stack.enter_async_context(EmbeddedBroker(settings.embedded_port, metrics))
        store = await stack.enter_async_context(
            open_store(
                settings.database_url.get_secret_value(),
                metrics,
                readers=settings.readers,
                report_readers=settings.report_readers,
                auto_migrate=settings.auto_migrate,
            )
        )
        lease = ProcessLease(store.queue, clock, process, settings.lease, alone=settings.serves_alone)
        dispatcher = Dispatcher(
            store,
            link,
            lease,
            clock,
            process,
            metrics,
            alone=settings.serves_alone,
            clears_expired=settings.broker_url is None,  # the built-in broker forgets nothing that it retains
        )
        gateway = Gateway(settings, store, link, dispatcher, clock, process, metrics)
        door = Door(settings, store.api_keys, clock, metrics)
        keyring = Keyring(store.api_keys, door, clock, settings.publish_timeout, alone=settings.serves_alone)
        await store.health.check(_WRITER_START)
        await door.look()
        await lease.hold()
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(supervised("link", link.run, metrics), name="link"),
                tasks.create_task(dispatcher.run(), name="dispatcher"),
                tasks.create_task(gateway.run(), name="gateway"),
                tasks.create_task(door.run(), name="door"),
            ]
            try:
                yield Running(gateway, door, keyring, metrics)
                await _at_most(_GRACE, gateway.quiet())
                dispatcher.stop()
                await _at_most(_GRACE, dispatcher.drained())
            finally:
                for loop in loops:
                    loop.cancel()
        # The link is closed now: what was still under way has its outcome, and only has to be committed.
        await _at_most(_GRACE, dispatcher.drained())
        await _at_most(_GRACE, door.write_uses())
        await _at_most(_GRACE, lease.leave())


def end_on_signals() -> None:
    """Have SIGINT and SIGTERM cancel the calling task, until something that runs takes these signals over.

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

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)


def _exit_at_once() -> None:
    logs.drain()
    os._exit(0)


Announce = Callable[[str, bool], None]
"""Called with the API's address once it answers, and whether access is open."""


async def serve(settings: Settings, announce: Announce) -> None:
    """Serve the API until SIGINT or SIGTERM; one that comes during the start raises CancelledError.

    Raises what `lifespan` raises, and SettingInvalid for an address that nothing protects.
    """
    await serve_on(listen(settings), settings, announce)


async def serve_on(
    listener: socket.socket, settings: Settings, announce: Announce, *, with_broker: bool = True
) -> None:
    """Serve the API on a socket that listens, until SIGINT or SIGTERM."""
    end_on_signals()
    certificate = server_certificate(settings.tls_cert_file, settings.tls_key_file)
    limits, bounds = Limits(settings), connection.Bounds.of(settings)
    async with lifespan(settings, with_broker=with_broker) as running:
        if running.door.is_open:
            _check_loopback(settings.host)
        server = _Server(
            uvicorn.Config(
                with_request_ids(_quiet_when_cancelled(Origins(api(running, settings, limits), settings))),
                interface="asgi3",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                http=connection.within(bounds, limits.bodies),
                ws="none",
                timeout_keep_alive=settings.idle_timeout,
                proxy_headers=settings.trusted_proxies is not None,
                forwarded_allow_ips=settings.trusted_proxies,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        # What was built at the start stays; without this every collection walks through all of it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECTED)
        server.certificate, server.bounds = certificate, bounds
        server.metrics = running.metrics
        server.when_started = lambda: announce(address_of(listener, settings), running.door.is_open)
        server.when_stopping = running.gateway.hurry
        async with _kept_fresh(certificate, running.metrics):
            await server.serve(sockets=[listener])


@contextlib.asynccontextmanager
async def _kept_fresh(certificate: ServerCertificate | None, metrics: Metrics) -> AsyncIterator[None]:
    """The certificate is exchanged meanwhile where its files are renewed."""
    task = None
    if certificate is not None:
        task = asyncio.create_task(supervised("certificate", certificate.run, metrics))
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


class _Server(uvicorn.Server):
    """uvicorn, which stops on a signal without raising it again: the rest of the gateway has yet to close."""

    certificate: ServerCertificate | None
    bounds: connection.Bounds
    metrics: Metrics
    when_started: Callable[[], None]
    when_stopping: Callable[[], None]
    _tls_listeners: Sequence[TlsListener] = ()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.certificate is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            self._tls_listeners = [self._listen(listener, self.certificate.context) for listener in sockets or ()]
        self.when_started()

    def _listen(self, listener: socket.socket, context: ssl.SSLContext) -> TlsListener:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return TlsListener(
            listener,
            context,
            partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state),
            connected=self.server_state.connections,
            limit=self.bounds.connections,
            patience=self.bounds.head_timeout,
        )

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:  # every half second
            with guarded("connections", self.metrics):
                connection.look_after(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.when_stopping()
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
    connection.raise_descriptor_limit()
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    every_address = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=every_address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port, "CHAPAR_PORT (--port)") from None
        raise SettingInvalid("CHAPAR_HOST", f"{host}: {error.strerror or error}.") from None
    # Its connections inherit it. Without, the kernel takes megabytes for each reader who is slow, all made beforehand.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    return listener


def address_of(listener: socket.socket, settings: Settings) -> str:
    """Where a browser finds what listens there."""
    scheme = "http" if settings.tls_cert_file is None else "https"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _at_most(seconds: float, waiting: Coroutine[None, None, None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting
