"""`python responder.py PORT CONNECTIONS`: devices that answer at once, as a few lines of MQTT 5 that cost little.

They share the devices' topics between their connections, because a broker bounds what one connection may have
unacknowledged, and answer each command on its reply topic with its correlation data. What has the operation
`UNANSWERED` they only take; what has the operation `LATER` they answer once a line comes on standard input.
"""

import contextlib
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

import mqtt5

_LOOPBACK: Final = "127.0.0.1"
_DEVICES: Final = "$share/devices/devices/+"
_CHUNK: Final = 64 * 1024  # bytes read at a time
_PAYLOAD: Final = b'{"status":"ok"}'
_LAST_ID: Final = 60_000  # of packets
UNANSWERED: Final = "note"
LATER: Final = "survey"


class Devices:
    """One connection, over which commands come and replies leave, as many at a time as the broker takes."""

    def __init__(self, number: int, ready: threading.Barrier) -> None:
        self._number = number
        self._ready = ready
        self._waiting: deque[mqtt5.PublishPacket] = deque()
        self._held: list[mqtt5.PublishPacket] = []
        self._lock = threading.Lock()  # of all that is here, and of the connection for sending
        self._broker: socket.socket | None = None
        self._room = 0  # replies that the broker takes now
        self._last_id = 0

    def run(self, port: int) -> None:
        """Answer what comes, until the connection ends."""
        with socket.create_connection((_LOOPBACK, port)) as broker:
            self._broker = broker
            broker.sendall(mqtt5.ConnectPacket(f"responder-{self._number}", keep_alive=0).write())
            rest = b""
            while chunk := broker.recv(_CHUNK):
                with self._lock:
                    rest, out = rest + chunk, bytearray()
                    with contextlib.suppress(IndexError):  # of the last packet a part is still to come
                        while rest:
                            packet, length = mqtt5.read(memoryview(rest))
                            rest = rest[length:]
                            out += self._take(packet)
                    broker.sendall(out + b"".join(self._replies()))

    def release(self) -> None:
        """Answer what was held."""
        with self._lock:
            self._waiting += self._held
            self._held.clear()
            if self._broker is not None:
                self._broker.sendall(b"".join(self._replies()))

    def _take(self, packet: mqtt5.Packet) -> bytes:
        match packet:
            case mqtt5.ConnAckPacket():
                self._room = packet.receive_max
                devices = mqtt5.TopicFilter(_DEVICES, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
                return mqtt5.SubscribePacket(1, [devices]).write()
            case mqtt5.SubAckPacket():
                self._ready.wait()
            case mqtt5.PubAckPacket():
                self._room += 1
            case mqtt5.PublishPacket():
                if LATER.encode() in packet.payload:
                    self._held.append(packet)
                elif UNANSWERED.encode() not in packet.payload:
                    self._waiting.append(packet)
                if packet.packet_id is not None:
                    return mqtt5.PubAckPacket(packet.packet_id).write()
        return b""

    def _replies(self) -> Iterator[bytes]:
        while self._room and self._waiting:
            command = self._waiting.popleft()
            self._room -= 1
            self._last_id = self._last_id % _LAST_ID + 1
            yield mqtt5.PublishPacket(
                f"{command.topic}/reply",
                _PAYLOAD,
                qos=mqtt5.QoS.AT_LEAST_ONCE,
                packet_id=self._last_id,
                correlation_data=command.correlation_data,
            ).write()


def main() -> None:
    """Answer until killed; says `listening` once all connections are subscribed."""
    port, connections = int(sys.argv[1]), int(sys.argv[2])
    ready = threading.Barrier(connections + 1)
    together = [Devices(number, ready) for number in range(connections)]
    for devices in together:
        threading.Thread(target=devices.run, args=(port,), daemon=True).start()
    ready.wait()
    print("listening", flush=True)
    for _ in sys.stdin:
        for devices in together:
            devices.release()


if __name__ == "__main__":
    main()
