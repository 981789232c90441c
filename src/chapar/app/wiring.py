"""The composition root: settings become a store, a link, use cases and their API, wired here once."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.types import ASGIApp

from chapar.access.door import Door
from chapar.access.keyring import Keyring
from chapar.access.trail import AuditTrail
from chapar.app.brokers import broker_access
from chapar.app.health import Monitor
from chapar.app.receiver import SoleReceiver, Term
from chapar.delivery.acceptance import Rules, Sending
from chapar.delivery.cancellation import Cancellation
from chapar.delivery.capacity import Capacity
from chapar.delivery.contacts import Contacts
from chapar.delivery.counters import Counters
from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.explaining import Explaining
from chapar.delivery.idempotency import IdempotencyKeys
from chapar.delivery.lease import ProcessLease
from chapar.delivery.messages import Messaging
from chapar.delivery.outages import OutageRecorder
from chapar.delivery.recent_replies import RecentReplies
from chapar.delivery.replies import Incoming, Replying
from chapar.delivery.reports import Reporting
from chapar.delivery.retention import Forgetting
from chapar.delivery.waiting import Waiters
from chapar.devices.catalog import NO_CATALOG, Catalog
from chapar.devices.catalog_file import load_catalog
from chapar.devices.importing import Importing
from chapar.devices.pausing import Pausing
from chapar.devices.presence import Presences
from chapar.devices.registry import Registry
from chapar.events.feed import Feed
from chapar.link.embedded import EmbeddedBroker
from chapar.link.keeper import Link
from chapar.link.tls import check_files
from chapar.link.topics import DeviceTopics
from chapar.runtime.clock import Clock
from chapar.runtime.descriptors import affordable
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings, listed
from chapar.runtime.supervision import supervised
from chapar.store.store import Store, open_store
from chapar.web.api.audit import audit_router
from chapar.web.api.catalog import catalog_router
from chapar.web.api.device_files import device_file, device_files_router
from chapar.web.api.devices import devices_router
from chapar.web.api.documentation import documented_api
from chapar.web.api.events import events_router
from chapar.web.api.explanations import explanations_router
from chapar.web.api.health import health_router
from chapar.web.api.keys import keys_router
from chapar.web.api.messages import messaging_router
from chapar.web.api.replies import replies_router
from chapar.web.api.reports import csv_for_people, reporting_router
from chapar.web.api.spreadsheets import Spreadsheets, remove_abandoned_parts
from chapar.web.console.about import about_router as about_pages
from chapar.web.console.audit import audit_router as audit_pages
from chapar.web.console.changes import changes_router as changes_pages
from chapar.web.console.console import Console, pages_of
from chapar.web.console.device import device_router as device_pages
from chapar.web.console.devices import devices_router as devices_pages
from chapar.web.console.importing import importing_router as importing_pages
from chapar.web.console.key_making import key_making_router as key_making_pages
from chapar.web.console.keys import keys_router as keys_pages
from chapar.web.console.message import message_router as message_pages
from chapar.web.console.messages import messages_router as messages_pages
from chapar.web.console.overview import overview_router as overview_pages
from chapar.web.console.sending import sending_router as sending_pages
from chapar.web.console.signing import signing_router as signing_pages
from chapar.web.console.site import Site
from chapar.web.http.connection import Bounds
from chapar.web.http.direct import DirectRoutes
from chapar.web.http.entrance import Entrance
from chapar.web.http.origins import Origins
from chapar.web.http.proxies import behind_proxies
from chapar.web.http.rates import BodyBudget, Limits, Rates
from chapar.web.http.request_ids import with_request_ids

if TYPE_CHECKING:
    from chapar.access.tokens import TokenVerifier

GRACE: Final = 1
"""Seconds for requests and deliveries under way at shutdown; what remains is settled at the next start."""

_WRITER_START: Final = 60.0  # seconds a writer may take until it commits; a small board needs ten to load it


class Running(NamedTuple):
    """The parts of a running gateway process, as the API sees them."""

    dispatcher: Dispatcher
    waiters: Waiters
    feed: Feed
    messaging: Messaging
    cancellation: Cancellation
    reporting: Reporting
    recent_replies: RecentReplies
    replying: Replying
    explaining: Explaining
    registry: Registry
    catalog: Catalog
    importing: Importing
    pausing: Pausing
    door: Door
    keyring: Keyring
    trail: AuditTrail
    monitor: Monitor
    metrics: Metrics


def application(running: Running, settings: Settings, limits: Limits) -> ASGIApp:
    """The HTTP API, behind everything that a request passes first."""
    remove_abandoned_parts()
    spreadsheets = Spreadsheets()
    routers = [
        messaging_router(running.messaging, running.cancellation, running.reporting, limits),
        reporting_router(running.reporting, spreadsheets),
        replies_router(running.replying),
        explanations_router(running.explaining),
        device_files_router(running.registry, running.importing, spreadsheets, limits),
        devices_router(running.registry, running.pausing),
        catalog_router(running.catalog),
        health_router(running.monitor.readiness, running.monitor.exposition),
        keys_router(running.keyring, running.cancellation),
        audit_router(running.trail),
        events_router(running.feed),
    ]
    entrance = Entrance(DirectRoutes(documented_api(routers), routers), running.door, limits, running.metrics)
    origins = Origins(
        console_of(entrance, running, settings, limits, spreadsheets),
        host=settings.host,
        allowed_hosts=listed(settings.allowed_hosts),
        cors_origins=listed(settings.cors_origins),
    )
    return behind_proxies(with_request_ids(origins), trusted=settings.trusted_proxies, root_path=settings.root_path)


def console_of(
    api: ASGIApp, running: Running, settings: Settings, limits: Limits, spreadsheets: Spreadsheets
) -> Console:
    """The pages for people, beside the API."""
    site = Site(settings.console_idle_timeout)
    pages = pages_of(
        site,
        [
            signing_pages(site, running.door),
            changes_pages(running.feed),
            overview_pages(
                site, running.reporting, running.recent_replies, running.registry, running.monitor.readiness
            ),
            messages_pages(site, running.reporting, csv_for_people),
            devices_pages(site, running.registry, partial(device_file, spreadsheets)),
            device_pages(site, running.registry, running.pausing, running.reporting, running.replying),
            message_pages(site, running.messaging, running.cancellation, running.replying, running.explaining, limits),
            sending_pages(site, running.messaging, running.registry, running.catalog, limits),
            importing_pages(site, running.importing),
            audit_pages(site, running.trail),
            key_making_pages(site, running.keyring),
            keys_pages(site, running.keyring, running.cancellation),
            about_pages(site, settings.shown(), "sqlite" if settings.serves_alone else "postgresql"),
        ],
    )
    return Console(api, pages, site, running.door, limits, running.metrics)


def limits_of(settings: Settings) -> Limits:
    """Read how much one caller may ask, and all of them."""
    rates = Rates(
        settings.requests_per_second,
        settings.messages_per_second,
        settings.address_requests_per_second,
        settings.burst,
        settings.workers,
    )
    bodies = BodyBudget(
        largest=settings.max_body_bytes,
        largest_bulk=settings.max_bulk_bytes,
        each=settings.max_caller_bodies_bytes,
        together=settings.max_bodies_bytes,
    )
    return Limits(rates, settings.max_waits, bodies)


def store_of(
    settings: Settings, metrics: Metrics, process: str | None = None
) -> contextlib.AbstractAsyncContextManager[Store]:
    """The database, to be opened by the process with this token, or by a command."""
    return open_store(
        settings.database_url.get_secret_value(),
        metrics,
        readers=settings.readers,
        report_readers=settings.report_readers,
        auto_migrate=settings.auto_migrate,
        process=process,
    )


def rules_of(settings: Settings, catalog: Catalog = NO_CATALOG) -> Rules:
    """Read the rules that hold for every message."""
    return Rules(
        settings.command_topic,
        settings.default_expiry,
        settings.max_expiry,
        settings.publish_timeout,
        settings.max_device_queue,
        settings.default_profile,
        settings.contact_window,
        None if catalog is NO_CATALOG else catalog.check,
    )


def devices_of(
    settings: Settings, store: Store, presences: Presences, clock: Clock, look: Callable[[], None]
) -> tuple[Registry, Pausing]:
    """The devices that are known, and the pauses of their queues; `look` has the queue looked at."""
    limit, patience = settings.max_devices, settings.publish_timeout
    registry = Registry(
        store.devices,
        store.purges,
        presences,
        clock,
        default_profile=settings.default_profile,
        max_devices=limit,
        patience=patience,
    )
    pausing = Pausing(store.devices, store.pauses, presences, clock, look, max_devices=limit, patience=patience)
    return registry, pausing


def presences_of(settings: Settings, store: Store, clock: Clock) -> Presences:
    """Make what keeps the presence of the devices."""
    return Presences(
        store.presences,
        clock,
        commands=DeviceTopics(settings.command_topic),
        presences=DeviceTopics(settings.presence_topic),
        replies=DeviceTopics(settings.reply_topic),
        auto_register=settings.auto_register,
        max_devices=settings.max_devices,
    )


def tokens_of(settings: Settings, metrics: Metrics) -> "TokenVerifier | None":
    """Make the verifier of tokens, None where none are expected; raises SettingInvalid."""
    sources = (settings.jwt_secret, settings.jwt_key_file, settings.jwt_jwks_url)
    if all(each is None for each in (*sources, settings.jwt_issuer, settings.jwt_audience)):
        return None

    from chapar.access.jwks import TokenOptions, token_verifier  # noqa: PLC0415 - its libraries take long to load

    options = TokenOptions(
        secret=None if settings.jwt_secret is None else settings.jwt_secret.get_secret_value(),
        key_file=settings.jwt_key_file,
        jwks_url=settings.jwt_jwks_url,
        ca_file=settings.jwt_ca_file,
        proxy=None if settings.proxy is None else settings.proxy.get_secret_value(),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway,
    )
    return token_verifier(options, metrics)


def bounds_of(settings: Settings) -> Bounds:
    """Read how much of the gateway one client's connection may hold."""
    return Bounds(
        connections=affordable(settings.max_connections, settings.readers + settings.report_readers),
        head_size=settings.max_head_bytes,
        unwanted_body=settings.max_bulk_bytes,
        head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout,
        write_timeout=settings.write_timeout,
        idle_timeout=settings.idle_timeout,
    )


@contextlib.asynccontextmanager
async def lifespan(settings: Settings, *, with_broker: bool = True) -> AsyncIterator[Running]:
    """A running gateway: the seed's start-up event, and its counterpart.

    The built-in broker runs with it where no other is set, unless somebody else runs it (`with_broker` False).

    Raises PortTaken, EmbeddedBrokerFailed and what opening the store raises before anything serves, and
    SettingInvalid where tokens cannot be verified as they are set up, or a file for TLS or the catalog cannot be used.
    """
    process = secrets.token_hex(8)  # fresh at each start, so that a dead process's rows are never mistaken for ours
    clock, metrics, catalog = Clock(), Metrics(), load_catalog(settings.catalog)
    access = broker_access(settings)
    check_files(access)
    link = Link(access, metrics)
    async with contextlib.AsyncExitStack() as stack:
        if with_broker and settings.broker_url is None:
            await stack.enter_async_context(EmbeddedBroker(settings.embedded_port, metrics))
        store = await stack.enter_async_context(store_of(settings, metrics, process))
        lease = ProcessLease(store.queue, clock, process, settings.lease, alone=settings.serves_alone)
        waiters, recent_replies = Waiters(store.messages), RecentReplies(clock)
        reply_topics = DeviceTopics(settings.reply_topic)
        dispatcher = Dispatcher(
            store,
            link,
            lease,
            waiters,
            clock,
            metrics,
            reply_topics=reply_topics,
            clears_expired=settings.broker_url is None,  # the built-in broker forgets nothing that it retains
        )
        capacity = Capacity(settings.max_queue, store.queue, metrics)
        contacts = Contacts(
            store.contacts,
            clock,
            delay=settings.contact_delay,
            window=settings.contact_window,
            alone=settings.serves_alone,
        )
        feed = Feed(
            store.events,
            clock,
            metrics,
            retention_days=settings.events_retention_days,
            max_listeners=settings.max_listeners,
        )
        for listener in (
            feed.received,
            waiters.received,
            dispatcher.received,
            Counters(metrics).received,
            contacts.received,
            recent_replies.received,
        ):
            store.changes.listen(listener)
        sending = Sending(
            rules_of(settings, catalog), store.messages, dispatcher, waiters, capacity, clock, process, metrics
        )
        keys = IdempotencyKeys(store, clock, process, sending.when_landed)
        messaging = Messaging(store.messages, sending, keys, waiters)
        cancellation = Cancellation(store, dispatcher, waiters, messaging, clock, patience=settings.publish_timeout)
        presences = presences_of(settings, store, clock)
        presences.listen(contacts.met)
        receiver = SoleReceiver(
            access,
            store.receiving,
            Incoming(store.replies, reply_topics, clock, metrics),
            presences,
            metrics,
            replies=reply_topics,
            presence=DeviceTopics(settings.presence_topic),
            term=Term(process, settings.lease, settings.serves_alone),
        )
        registry, pausing = devices_of(settings, store, presences, clock, dispatcher.look)
        monitor = Monitor(store.health, link, capacity, clock, metrics, receiver.state)
        outages = OutageRecorder(store.outages, link, clock, process)
        forgetting = Forgetting(
            store.retention, store.log, clock, settings.retention_days, events_days=settings.events_retention_days
        )
        door = Door(tokens_of(settings, metrics), store.api_keys, clock, metrics)
        keyring = Keyring(store.api_keys, door, clock, settings.publish_timeout, alone=settings.serves_alone)
        await store.health.check(_WRITER_START)
        await door.refresh()
        await lease.acquire()
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(supervised("link", link.run, metrics), name="link"),
                tasks.create_task(dispatcher.run(), name="dispatcher"),
                tasks.create_task(supervised("receiver", receiver.run, metrics), name="receiver"),
                tasks.create_task(supervised("waiters", waiters.run, metrics), name="waiters"),
                tasks.create_task(supervised("events", feed.run, metrics), name="events"),
                tasks.create_task(supervised("contacts", contacts.run, metrics), name="contacts"),
                tasks.create_task(supervised("backlog", capacity.run, metrics), name="backlog"),
                tasks.create_task(supervised("measurements", monitor.run, metrics), name="measurements"),
                tasks.create_task(supervised("outages", outages.run, metrics), name="outages"),
                tasks.create_task(supervised("retention", forgetting.run, metrics), name="retention"),
                tasks.create_task(door.run(), name="door"),
            ]
            if not settings.serves_alone:
                follow = partial(store.log.follow, process, waiters.missed, recent_replies.begin)
                loops.append(tasks.create_task(supervised("changes", follow, metrics), name="changes"))
            try:
                yield Running(
                    dispatcher,
                    waiters,
                    feed,
                    messaging,
                    cancellation,
                    Reporting(store.reports),
                    recent_replies,
                    Replying(store.replies, messaging),
                    Explaining(
                        store.evidence,
                        link,
                        clock,
                        process,
                        receiver.receives_life,
                        rules_of(settings, catalog).check_params,
                    ),
                    registry,
                    catalog,
                    Importing(registry),
                    pausing,
                    door,
                    keyring,
                    AuditTrail(store.trail),
                    monitor,
                    metrics,
                )
                await _at_most(GRACE, sending.drain())
                dispatcher.stop()
                await _at_most(GRACE, dispatcher.drain())
            finally:
                for loop in loops:
                    loop.cancel()
        # The link is closed now: what was still under way has its outcome, and only has to be committed.
        await _at_most(GRACE, dispatcher.drain())
        await _at_most(GRACE, door.write_uses())
        await _at_most(GRACE, lease.release())


async def _at_most(seconds: float, waiting: Coroutine[None, None, None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting
