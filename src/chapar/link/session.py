"""One MQTT 5 connection, from CONNECT to its end: publications out, deliveries in. Dialling again is the link's."""

import asyncio
import math
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, cast

import mqtt5
import structlog

from chapar.errors import (
    BrokerClosed,
    BrokerError,
    BrokerSilent,
    BrokerUnanswered,
    ConnectionRefused,
    LinkDown,
    MalformedPacket,
    Phrase,
    ProtocolUnsupported,
    TlsFailed,
)
from chapar.link.answers import Answers
from chapar.link.frames import FrameInvalid, Frames
from chapar.link.inbox import MAX_UNACKNOWLEDGED, Inbox
from chapar.link.keep_alive import KeepAlive
from chapar.link.limits import MAX_PACKET_SIZE, Limits
from chapar.link.packets import read_packet, read_puback, words_of
from chapar.link.patience import Patience, Step
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.link.publisher import MAX_BATCH, Publisher
from chapar.link.reason_codes import (
    FIRST_FAILURE,
    UNSUPPORTED_PROTOCOL_VERSION,
    reason_name,
)
from chapar.link.subscriptions import Subscriptions
from chapar.link.window import Window
from chapar.runtime.certificates import tls_problem

CLOSE_TIMEOUT: Final = 1.0  # seconds that the last bytes may take to leave
MAX_INCOMING_PACKET: Final = 1024 * 1024  # bytes; devices' messages are small, and this is held in memory
MAX_WINDOW: Final = 1024  # what one lost link leaves in doubt, where the broker would allow up to 65,535

_WithReasonCode = (
    mqtt5.ConnAckPacket | mqtt5.PubAckPacket | mqtt5.PubRecPacket | mqtt5.PubCompPacket | mqtt5.DisconnectPacket
)
_CONNACK: Final = 0x20
_PUBLISH: Final = 0x30
_MQTT_3_CONNACK_LENGTH: Final = 4  # 20 02 xx xx; the shortest of MQTT 5 has five bytes

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Session(asyncio.Protocol):
    """One MQTT 5 session over one connection. Made by `dial()`; used once.

    `publish()` keeps the order of its calls. At most `window` publications are unacknowledged at a time; the
    others wait here, unsent. When the session ends, a publication of which a byte may have left is answered with
    LinkLost, one that waited with LinkDown.
    """

    def __init__(
        self,
        endpoint: str,
        sign_on: SignOn,
        on_delivery: Callable[[Delivery], None] | None = None,
        acknowledge_timeout: float = 30.0,
    ) -> None:
        self.endpoint = endpoint  #: the broker, for people
        self._sign_on = sign_on
        self._connect = mqtt5.ConnectPacket(
            sign_on.client_id,
            username=sign_on.username,
            password=None if sign_on.password is None else sign_on.password.encode(),
            clean_start=sign_on.clean_start,
            will=sign_on.will
            and mqtt5.Will(
                sign_on.will.topic,
                payload=sign_on.will.payload,
                qos=mqtt5.QoS(sign_on.will.qos),
                retain=sign_on.will.retain,
            ),
            keep_alive=sign_on.keep_alive,
            session_expiry_interval=sign_on.session_expiry,
            receive_max=MAX_UNACKNOWLEDGED,
            max_packet_size=MAX_INCOMING_PACKET,
        ).write()
        self._loop = asyncio.get_running_loop()
        self._established: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._frames = Frames(MAX_INCOMING_PACKET)
        self._up = False
        self._ending = False
        self._error: BrokerError | None = None

        self.session_present = False  #: whether the broker still had our session
        self.strays = Counter[str]()  #: packets that nobody waited for, by type

        self._window = Window()
        self._publisher = Publisher(endpoint, self._window, self._reply, properties=sign_on.properties)
        self._subscriptions = Subscriptions(endpoint, self._reply)
        self._inbox = Inbox(self._reply, on_delivery)
        self._replies = bytearray()  # what is not a publication; leaves first and does not count in the window
        self._flush_scheduled = False
        self._writable = True
        self._holds_back = False  # whether nothing is read

        now = self._loop.time()
        self._keep_alive = KeepAlive(sign_on.keep_alive, heard_at=now, sent_at=now)
        self._patience = Patience(acknowledge_timeout)
        self._timer: asyncio.TimerHandle | None = None
        self._watch_at = math.inf  # loop time for which the timer is set
        self._step = Step.WAIT  # as it was taken last

    @property
    def up(self) -> bool:
        """Return whether the session is established and has not ended."""
        return self._up

    @property
    def window(self) -> int:
        """Publications that may be unanswered at a time: the broker's Receive Maximum, and at most MAX_WINDOW."""
        return self._window.size

    @property
    def in_flight(self) -> int:
        """Publications that the broker has not answered."""
        return self._window.in_flight

    @property
    def waiting(self) -> int:
        """Publications of which nothing was sent."""
        return self._window.waiting

    @property
    def owed(self) -> int:
        """Deliveries that their owner has not acknowledged, and those behind them."""
        return self._inbox.owed

    @property
    def undecodable(self) -> int:
        """Deliveries that the codec could not read, so that their owner did not get them."""
        return self._inbox.undecodable

    @property
    def unanswered_for(self) -> float | None:
        """Seconds for which the broker has left a publication unanswered, where those are too many."""
        now = self._loop.time()
        sent_at = self._window.oldest_sent_at(now)
        step = self._patience.step(sent_at, self._keep_alive.heard_at, now)
        return now - sent_at if step >= Step.WARN else None

    @property
    def met_no_subscribers(self) -> bool:
        """Return whether the broker has answered 0x10 in this session."""
        return self._window.met_no_subscribers

    async def established(self) -> None:
        """Wait for the broker's CONNACK, for as long as it takes; raises BrokerError where there will be no session."""
        await asyncio.shield(self._established)

    async def ended(self) -> None:
        """Wait until the connection is gone; raises BrokerError saying why, but where `close()` ended it."""
        await asyncio.shield(self._gone)
        if self._error is not None:
            raise self._error

    def publish(self, publications: Sequence[Publication]) -> Answers:
        """Put publications in line, in this order; never raises.

        What is behind the broker's limits is answered with PublicationInvalid at once, and everything with LinkDown
        where there is no session.
        """
        if not self._up:
            return Answers.alike(publications, LinkDown())
        self._schedule_flush()
        return self._publisher.add(publications)

    def take_back(self, message_id: str) -> bool:
        """End the publication of a message with TakenBack where nothing of it was sent; answer whether that is so."""
        return self._window.take_back(message_id)

    async def subscribe(self, filters: Sequence[str], qos: int = 1, *, retained: bool = True) -> int:
        """Subscribe to topic filters at QoS 0 or 1, wait for the broker's answer, and give the lowest QoS it granted.

        Deliveries may come before the answer does. Without `retained` the broker is asked to leave out what it has
        stored. Raises SubscriptionRefused naming the first filter that the broker refused, the BrokerError that ended
        the session meanwhile, or LinkDown where we did.
        """
        self._require_up()
        return await self._subscriptions.add(filters, qos, retained=retained)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions, also such as there are none of, and wait for the broker's answer.

        Raises UnsubscriptionRefused naming the first filter that the broker keeps, and what `subscribe()` raises where
        the session ends.
        """
        self._require_up()
        await self._subscriptions.remove(filters)

    async def close(self) -> None:
        """End the session with DISCONNECT and wait, at most CLOSE_TIMEOUT seconds, until the connection is gone."""
        if self._up:
            self._write(bytes(self._replies) + mqtt5.DisconnectPacket().write())
        self._end(None)
        await asyncio.shield(self._gone)

    def drop(self) -> None:
        """End the connection without DISCONNECT, so that the broker publishes our will."""
        self._end(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        # A cast, because uvloop's transports are not subclasses of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        self._write(self._connect)

    def data_received(self, data: bytes) -> None:
        """Take whole packets out of what came, then send what their acknowledgements made room for."""
        self._keep_alive.received(self._loop.time())
        try:
            for frame in self._frames.feed(data):
                if self._ending:
                    return
                self._take(frame)
        except FrameInvalid as error:
            self._write(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(error.reason_code)).write())
            self._end(MalformedPacket(self.endpoint, str(error)))
        if self._window.waiting or self._replies:
            self._schedule_flush()
        self._read_as_bounded()

    def pause_writing(self) -> None:
        """The broker reads slower than we write: hold the queue, so that little is in doubt if the link falls."""
        self._writable = False

    def resume_writing(self) -> None:
        """The broker has caught up."""
        self._writable = True
        self._schedule_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits; `exc` is None where the broker closed in good order."""
        if isinstance(exc, ssl.SSLError):
            # With TLS 1.3 a broker refuses our certificate after the handshake.
            self._end(TlsFailed(self.endpoint, tls_problem(exc)))
        elif not self._established.done():
            self._end(BrokerClosed(self.endpoint, self._cause_of_hanging_up()))
        elif exc is None:
            self._end(BrokerClosed(self.endpoint, Phrase("link.closed")))
        else:
            self._end(BrokerClosed(self.endpoint, getattr(exc, "strerror", None) or str(exc)))
        if self._timer is not None:
            self._timer.cancel()
        self._gone.set_result(None)

    def _cause_of_hanging_up(self) -> Phrase:
        """Return why the broker may have answered CONNECT with the end of the connection."""
        assert self._transport is not None  # noqa: S101 - it is gone now, so it was there
        if self._transport.get_extra_info("ssl_object") is None:
            # A refusal without a word is how many MQTT 3.1.1 brokers answer MQTT 5, but not only they.
            return Phrase("link.closed_on_connect")
        return Phrase("link.closed_on_connect_tls")

    def _take(self, frame: memoryview) -> None:
        """Act on one packet; raises FrameInvalid where it is malformed."""
        if not self._up:
            self._take_connack(frame)
        elif (puback := read_puback(frame)) is not None:
            if not self._window.acknowledged(*puback):
                self._stray("PUBACK")
        elif frame[0] & 0xF0 == _PUBLISH:
            if not self._inbox.take(frame):
                self._stray("PUBLISH")
        else:
            self._take_other(frame)

    def _take_other(self, frame: memoryview) -> None:
        packet, unlisted = read_packet(frame)
        match packet:
            case mqtt5.PubAckPacket() | mqtt5.PubRecPacket() | mqtt5.PubCompPacket():
                is_expected = self._publisher.answered(packet, _code(packet, unlisted))
            case mqtt5.PubRelPacket():
                is_expected = self._inbox.release(packet.packet_id)
            case mqtt5.SubAckPacket() | mqtt5.UnsubAckPacket():
                codes = list(unlisted or map(int, packet.reason_codes))
                is_expected = self._subscriptions.answered(packet.packet_id, codes)
            case mqtt5.DisconnectPacket():
                code = _code(packet, unlisted)
                cause = f"{reason_name(code)} (0x{code:02X})"
                self._end(BrokerClosed(self.endpoint, cause, code, words_of(packet)))
                return
            case _:
                is_expected = isinstance(packet, mqtt5.PingRespPacket)  # that it was heard is noted already
        if not is_expected:
            self._stray(type(packet).__name__.removesuffix("Packet").upper())

    def _stray(self, kind: str) -> None:
        """Count a packet that nobody waited for; the first of its type is logged."""
        if not self.strays[kind]:
            log.warning("broker_sent_stray_packet", broker=self.endpoint, packet=kind)
        self.strays[kind] += 1

    def _take_connack(self, frame: memoryview) -> None:
        if frame[0] == _CONNACK and len(frame) == _MQTT_3_CONNACK_LENGTH:
            self._end(ProtocolUnsupported(self.endpoint))
            return
        connack, unlisted = read_packet(frame)
        if not isinstance(connack, mqtt5.ConnAckPacket):
            raise FrameInvalid(f"a {type(connack).__name__} before CONNACK")
        code = _code(connack, unlisted)
        if code == UNSUPPORTED_PROTOCOL_VERSION:
            self._end(ProtocolUnsupported(self.endpoint))
        elif code >= FIRST_FAILURE:
            self._end(ConnectionRefused(self.endpoint, reason_name(code), code, words_of(connack)))
        else:
            self._establish(connack)

    def _establish(self, connack: mqtt5.ConnAckPacket) -> None:
        self._window.size = min(connack.receive_max, MAX_WINDOW)
        self._publisher.limits = Limits(
            max_packet_size=min(
                connack.max_packet_size or MAX_PACKET_SIZE, self._sign_on.max_packet_size or MAX_PACKET_SIZE
            ),
            max_qos=int(connack.max_qos),
            retain_available=connack.retain_available,
        )
        self.session_present = connack.session_present
        kept = connack.session_expiry_interval
        if kept is not None and kept < self._sign_on.session_expiry:
            log.warning("broker_keeps_session_for_less", broker=self.endpoint, seconds=kept)
        # A server may ask for more time, or for none (0); we still want to know as soon whether it is there.
        asked = self._sign_on.keep_alive
        self._keep_alive.interval = min(connack.server_keep_alive or asked, asked)
        self._up = True
        self._established.set_result(None)
        self._watch()

    def _require_up(self) -> None:
        if not self._up:
            raise self._error or LinkDown

    def _schedule_flush(self) -> None:
        """Write at the end of this turn of the event loop, so that all its packets leave in one go."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what may leave, at most one batch in a turn of the event loop."""
        self._flush_scheduled = False
        batch, self._replies = self._replies, bytearray()
        if self._up and self._writable and self._step < Step.HOLD:
            self._publisher.fill(batch, self._loop.time())
        if batch:
            self._write(batch)
        if len(batch) >= MAX_BATCH:
            self._schedule_flush()
        if self._up and self._window.waiting and self._window.next_deadline < self._watch_at:
            self._watch()
        self._read_as_bounded()

    def _read_as_bounded(self) -> None:
        """Read no more while the owner of the deliveries has too many to acknowledge; then go on."""
        if self._inbox.is_full is self._holds_back or self._ending or self._transport is None:
            return
        self._holds_back = self._inbox.is_full
        if self._holds_back:
            log.warning("deliveries_held_back", broker=self.endpoint, deliveries=self._inbox.owed)
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _reply(self, packet: bytes) -> None:
        self._replies += packet
        self._schedule_flush()

    def _write(self, data: bytes | bytearray) -> None:
        if self._transport is not None and not self._ending:
            self._keep_alive.sent_at = self._loop.time()
            self._transport.write(data)

    def _watch(self) -> None:
        """Do what time asks for, and come back when there is more: what waits expires, a silent broker is given up."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        self._window.expire(now)
        if self._holds_back:  # what is not read says nothing of the broker
            self._keep_alive.received(now)
        if self._keep_alive.is_silent(now):
            self._end(BrokerSilent(self.endpoint, round(now - self._keep_alive.heard_at, 1)))
            return
        look_at = self._await_answers(now)
        if self._ending:
            return
        if self._keep_alive.should_ask(now):
            self._ask(now)
        self._watch_at = min(look_at, self._keep_alive.look_at(), self._window.next_deadline)
        self._timer = self._loop.call_at(self._watch_at, self._watch)

    def _ask(self, now: float) -> None:
        self._write(mqtt5.PingReqPacket().write())
        self._keep_alive.asked(now)

    def _await_answers(self, now: float) -> float:
        """Take the step that is due about the oldest unanswered publication; gives when to look again."""
        sent_at = self._window.oldest_sent_at(now)
        before, self._step = self._step, self._patience.step(sent_at, self._keep_alive.heard_at, now)
        if self._step >= Step.WARN > before:
            log.warning("broker_leaves_unanswered", broker=self.endpoint, messages=self._window.in_flight)
        if self._step < Step.HOLD <= before:
            self._schedule_flush()
        if self._step is Step.ASK and self._keep_alive.asked_at is None:
            self._ask(now)
        if self._step is Step.END:
            self._end(BrokerUnanswered(self.endpoint, now - sent_at))
        return self._patience.look_at(sent_at, now)

    def _end(self, error: BrokerError | None) -> None:
        """Stop for the reason `error`; None where we wanted it. Only the first reason counts."""
        if self._ending or self._transport is None:
            return
        self._ending, self._up, self._error = True, False, error
        if self._timer is not None:
            self._timer.cancel()
        if error is None:
            self._established.cancel()
            self._transport.close()
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)
        else:
            if not self._established.done():
                self._established.set_exception(error)
                self._established.exception()  # whoever dialled may have given up already
            self._transport.abort()
        self._window.fail(error)
        self._subscriptions.fail(error)
        self._inbox.close()


def _code(packet: _WithReasonCode, unlisted: bytes) -> int:
    """The packet's reason code, also where the codec does not list it."""
    return unlisted[0] if unlisted else int(packet.reason_code)
