"""Publications from the broker: acknowledged by their owner where there is one, else at once, and dropped."""

from collections.abc import Callable
from functools import partial
from typing import Final

import mqtt5

from chapar.link.frames import FrameInvalid
from chapar.link.packets import read_packet, read_publish
from chapar.link.publication import Delivery
from chapar.link.reason_codes import RECEIVE_MAXIMUM_EXCEEDED

MAX_UNACKNOWLEDGED: Final = 1024  # deliveries that the broker may send ahead of our acknowledgements
_AT_LEAST_ONCE: Final = 1
_EXACTLY_ONCE: Final = 2


class Inbox:
    """The broker's publications of one session, each answered as its QoS asks (MQTT 5.0 §4.3).

    `on_delivery` is their owner. What nobody asked for is dropped: anything without an owner, as brokers send that
    subscribe their clients themselves; what is of QoS 2, because we subscribe with QoS 1 at most; and what names its
    topic by an alias, because we announced that we take none. Without an owner nothing is decoded either: no content
    of it can end the session.
    """

    def __init__(self, reply: Callable[[bytes], None], on_delivery: Callable[[Delivery], None] | None) -> None:
        self._reply = reply
        self._on_delivery = on_delivery
        self._owed: set[int] = set()  # packet ids that their owner has not acknowledged
        self._unreleased: set[int] = set()  # packet ids of QoS 2 for which PUBREL has not come

    @property
    def owed(self) -> int:
        """Deliveries that their owner has not acknowledged."""
        return len(self._owed)

    def take(self, frame: memoryview) -> bool:
        """Take one PUBLISH; answer whether somebody wanted it. Raises FrameInvalid where that ends the session."""
        qos, packet_id = read_publish(frame)
        if self._on_delivery is not None and qos < _EXACTLY_ONCE:
            packet = read_packet(frame).packet
            if isinstance(packet, mqtt5.PublishPacket) and packet.topic_alias is None:
                self._on_delivery(self._delivery(packet))
                return True
        if qos == _AT_LEAST_ONCE:
            self._reply(mqtt5.PubAckPacket(packet_id).write())
        elif qos == _EXACTLY_ONCE:
            self._unreleased.add(packet_id)
            self._reply(mqtt5.PubRecPacket(packet_id).write())
        return False

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

    def _delivery(self, packet: mqtt5.PublishPacket) -> Delivery:
        if packet.packet_id is not None:
            self._owed.add(packet.packet_id)
            if len(self._owed) > MAX_UNACKNOWLEDGED:
                what = f"more than {MAX_UNACKNOWLEDGED} unacknowledged PUBLISH packets"
                raise FrameInvalid(what, RECEIVE_MAXIMUM_EXCEEDED)
        return Delivery(
            packet.topic,
            packet.payload,
            int(packet.qos),
            packet.retain,
            packet.correlation_data,
            packet.response_topic,
            tuple(packet.user_properties),
            partial(self._acknowledge, packet.packet_id),
        )

    def _acknowledge(self, packet_id: int | None) -> None:
        if packet_id in self._owed:
            self._owed.remove(packet_id)
            self._reply(mqtt5.PubAckPacket(packet_id).write())
