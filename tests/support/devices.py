"""A device as it is in the field: an MQTT client that subscribes, listens, and comes back when the line falls."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from support.certificates import Certificates
from support.ports import LOOPBACK

_RECONNECT_DELAY = 0.05  # seconds; a real device waits longer, a test should not
_SESSION_EXPIRY = 3600  # seconds a broker keeps a persistent MQTT 5 session
_PROBE = "devices/chapar-probe/reply"  # of the gateway to itself


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as it arrived. The last four are MQTT 5 only."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    at: float  #: time.monotonic()
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    expiry: int | None = None  #: seconds
    response_topic: str | None = None


class _Reader(Client):
    """paho, which reads to the end what the broker's socket still holds: by itself it drops that on a failed write."""

    def _sock_send(self, buf: bytes | bytearray) -> int:
        try:
            return super()._sock_send(buf)
        except (ConnectionResetError, BrokenPipeError):
            return len(buf)  # reading meets the end of the connection by itself


class Device:
    """One device. `start()` returns once it is subscribed; `heard` holds what has arrived, oldest first.

    What the gateway publishes to probe its own subscription is passed over, also where `topics` include it.

    Its methods block; in an async test call the waiting ones through `asyncio.to_thread`.
    """

    def __init__(
        self,
        port: int,
        imei: str,
        *,
        topics: Iterable[str] | None = None,
        qos: int = 1,
        mqtt5: bool = False,
        persistent: bool = False,
        login: tuple[str, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self.imei = imei
        self.heard: list[Heard] = []
        self.on_heard: Callable[[Heard], object] | None = None  #: runs in the device's thread, to reply for example
        self.topics = list(topics) if topics is not None else [f"devices/{imei}"]
        self._port = port
        self._qos = qos
        self._mqtt5 = mqtt5
        self._persistent = persistent
        self._thread: int | None = None  # that of the callbacks
        self._changed = threading.Condition()
        self._subscribed = False
        self._problem: str | None = None
        self._login = login
        self._certificates = certificates
        self._client = self._new_client()

    def start(self, timeout: float = 60.0) -> Self:
        """Connect, however long the broker takes within `timeout` seconds, and subscribe."""
        self._problem = None
        self._client = self._new_client()  # paho leaks two sockets where one client starts twice
        properties = None
        if self._mqtt5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = _SESSION_EXPIRY if self._persistent else 0
        self._client.connect_async(
            LOOPBACK, self._port, keepalive=10, clean_start=not self._persistent, properties=properties
        )
        self._client.loop_start()
        try:
            self.wait_until_subscribed(timeout)
        except AssertionError:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Say good-bye to the broker. A persistent session stays there."""
        self._client.disconnect()
        self._client.loop_stop()
        with self._changed:
            self._subscribed = False

    def wait_until_subscribed(self, timeout: float = 60.0) -> None:
        """After a broker restart: until the device is back and listens."""
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed or self._problem, timeout)
            if not self._subscribed:
                raise AssertionError(f"device {self.imei} is not subscribed: {self._problem or 'no answer'}")

    def wait_for(self, enough: int | Callable[[list[Heard]], bool], timeout: float = 30.0) -> list[Heard]:
        """What was heard once there are `enough` messages, or once `enough(heard)` holds."""
        reached = enough if callable(enough) else lambda heard: len(heard) >= enough
        with self._changed:
            if not self._changed.wait_for(lambda: reached(self.heard), timeout):
                raise AssertionError(f"device {self.imei} heard only this in {timeout} s: {self.heard}")
            return list(self.heard)

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 1,
        retain: bool = False,
        correlation_data: bytes | None = None,
        status: str | None = None,
    ) -> None:
        """Send a message and, but from `on_heard`, wait for the broker's acknowledgement."""
        properties = None
        if correlation_data is not None or status is not None:
            properties = Properties(PacketTypes.PUBLISH)
            if correlation_data is not None:
                properties.CorrelationData = correlation_data
            if status is not None:
                properties.UserProperty = ("status", status)
        sent = self._client.publish(topic, payload, qos, retain, properties)
        if threading.get_ident() != self._thread:
            sent.wait_for_publish(5.0)
            if not sent.is_published():
                raise AssertionError(f"the broker did not acknowledge what device {self.imei} sent to {topic}")

    def reply(
        self,
        payload: bytes | str,
        *,
        correlation_data: bytes | None = None,
        status: str | None = None,
        qos: int = 1,
        retain: bool = False,
    ) -> None:
        """Answer on the device's reply topic; `status` is MQTT 5's user property."""
        topic = f"devices/{self.imei}/reply"
        self.publish(topic, payload, qos=qos, retain=retain, correlation_data=correlation_data, status=status)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _new_client(self) -> Client:
        client = _Reader(
            CallbackAPIVersion.VERSION2,
            client_id=f"device-{self.imei}",
            protocol=MQTTProtocolVersion.MQTTv5 if self._mqtt5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if self._mqtt5 else not self._persistent,
        )
        client.reconnect_delay_set(_RECONNECT_DELAY, _RECONNECT_DELAY)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._acknowledged
        client.on_message = self._message
        if self._login is not None:
            client.username_pw_set(*self._login)
        if self._certificates is not None:
            client.tls_set(
                str(self._certificates.ca_file),
                str(self._certificates.client_cert_file),
                str(self._certificates.client_key_file),
            )
        return client

    def _connected(self, client: Client, _data: object, flags: Any, code: Any, _properties: object) -> None:
        self._thread = threading.get_ident()
        if code.is_failure:
            self._change(subscribed=False, problem=f"the broker said {code}")
        elif self._persistent and flags.session_present:
            self._change(subscribed=True)
        else:
            client.subscribe([(topic, self._qos) for topic in self.topics])

    def _disconnected(self, *_: object) -> None:
        self._change(subscribed=False)

    def _acknowledged(self, _client: Client, _data: object, _id: int, codes: list[Any], _properties: object) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        self._change(subscribed=not refused, problem=", ".join(refused) or None)

    def _message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if message.topic == _PROBE:
            return
        heard = Heard(
            topic=message.topic,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            dup=message.dup,
            at=time.monotonic(),
            correlation_data=getattr(message.properties, "CorrelationData", None),
            user_properties=tuple(getattr(message.properties, "UserProperty", ())),
            expiry=getattr(message.properties, "MessageExpiryInterval", None),
            response_topic=getattr(message.properties, "ResponseTopic", None),
        )
        with self._changed:
            self.heard.append(heard)
            self._changed.notify_all()
        if self.on_heard is not None:
            self.on_heard(heard)

    def _change(self, *, subscribed: bool, problem: str | None = None) -> None:
        with self._changed:
            self._subscribed = subscribed
            # A broker that refuses also hangs up: its reason must outlive that.
            self._problem = None if subscribed else problem or self._problem
            self._changed.notify_all()
