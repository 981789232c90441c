"""Publications from the broker: acknowledged by their owner where there is one, else at once, and dropped."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import mqtt5

from chapar.link.frames import FrameInvalid
from chapar.link.packets import check_text, read_packet, read_publish
from chapar.link.publication import Delivery
from chapar.link.reason_codes import RECEIVE_MAXIMUM_EXCEEDED

MAX_UNACKNOWLEDGED: Final = 1024  # deliveries that we ask a broker to send ahead of our acknowledgements
MOST_UNACKNOWLEDGED: Final = 65_535
"""Deliveries that a broker can send ahead: as many as there are packet ids. Mosquitto 2.0.11 sends all that it has
queued once its window was full; a session that ended there would get the same again, and end again, for ever."""

MOST_HELD: Final = 32 * 1024 * 1024
"""Bytes of unacknowledged deliveries from which on nothing more is read: 65,535 large ones would be gigabytes."""
_OVERHEAD: Final = 256  # bytes that each counts beside its own

_EXACTLY_ONCE: Final = 2


class _Owed:
    """One acknowledgement that the broker awaits."""

    __slots__ = ("is_due", "packet_id", "qos", "size")

    def __init__(self, qos: int, packet_id: int, size: int) -> None:
        self.qos = qos
        self.packet_id = packet_id
        self.size = size  # bytes
        self.is_due = False  # whether nothing but those before it holds it back


class Inbox:
    """The broker's publications of one session, each answered as its QoS asks (MQTT 5.0 §4.3).

    `on_delivery` is their owner. It may acknowledge in any order: the broker gets the acknowledgements in the order of
    its publications (MQTT 5.0 §4.6), so one that the owner keeps holds back those behind it.

    What the codec cannot read, such as text that is not UTF-8, is acknowledged in its turn and counted: a broker that
    keeps the session would send it again and again. What nobody asked for is dropped: anything without an owner, as
    brokers send that subscribe their clients themselves, and what names its topic by an alias, because we announced
    that we take none. Without an owner nothing is decoded either.
    """

    def __init__(self, reply: Callable[[bytes], None], on_delivery: Callable[[Delivery], None] | None) -> None:
        self._reply = reply
        self._on_delivery = on_delivery
        self._owed = deque[_Owed]()
        self._held = 0  # bytes of them
        self._unreleased: set[int] = set()  # packet ids of QoS 2 for which PUBREL has not come
        self.undecodable = 0  #: publications that the codec could not read

    @property
    def owed(self) -> int:
        """Deliveries that their owner has not acknowledged, and those behind them."""
        return len(self._owed)

    @property
    def is_full(self) -> bool:
        """Return whether so much is owed that no more is to be read."""
        return self._held >= MOST_HELD

    def take(self, frame: memoryview) -> bool:
        """Take one PUBLISH; answer whether somebody wanted it. Raises FrameInvalid where that ends the session."""
        qos, packet_id = read_publish(frame)
        owed = _Owed(qos, packet_id, len(frame) + _OVERHEAD)
        if qos:
            self._owed.append(owed)
            self._held += owed.size
            if len(self._owed) > MOST_UNACKNOWLEDGED:
                what = f"more than {MOST_UNACKNOWLEDGED} unacknowledged PUBLISH packets"
                raise FrameInvalid(what, RECEIVE_MAXIMUM_EXCEEDED)
        is_repeated = qos == _EXACTLY_ONCE and packet_id in self._unreleased
        if qos == _EXACTLY_ONCE:
            self._unreleased.add(packet_id)
        if self._on_delivery is None or is_repeated:
            self._acknowledge(owed)
            return self._on_delivery is not None
        try:
            check_text(frame)
            packet = read_packet(frame).packet
        except FrameInvalid:
            self.undecodable += 1
            self._acknowledge(owed)
            return True
        if not isinstance(packet, mqtt5.PublishPacket) or packet.topic_alias is not None:
            self._acknowledge(owed)
            return False
        self._on_delivery(self._delivery(packet, owed))
        return True

    def release(self, packet_id: int) -> bool:
        """Answer PUBREL; answer whether anything waited for it."""
        is_known = packet_id in self._unreleased
        self._unreleased.discard(packet_id)
        code = mqtt5.PubCompReasonCode.SUCCESS if is_known else mqtt5.PubCompReasonCode.PACKET_ID_NOT_FOUND
        self._reply(mqtt5.PubCompPacket(packet_id, reason_code=code).write())
        return is_known

    def close(self) -> None:
        """The session ended: what comes too late to be acknowledged is no error."""
        self._owed.clear()
        self._held = 0

    def _delivery(self, packet: mqtt5.PublishPacket, owed: _Owed) -> Delivery:
        return Delivery(
            packet.topic,
            packet.payload,
            owed.qos,
            packet.retain,
            packet.correlation_data,
            packet.response_topic,
            tuple(packet.user_properties),
            partial(self._acknowledge, owed),
            packet.duplicate,
            owed.packet_id,
        )

    def _acknowledge(self, owed: _Owed) -> None:
        """Answer what is due up to the first that is not."""
        owed.is_due = True
        while self._owed and self._owed[0].is_due:
            first = self._owed.popleft()
            self._held -= first.size
            answer = mqtt5.PubRecPacket if first.qos == _EXACTLY_ONCE else mqtt5.PubAckPacket
            self._reply(answer(first.packet_id).write())
