"""`python responder.py PORT CONNECTIONS`: devices that answer at once, as a few lines of MQTT 5 that cost little.

They share the devices' topics between their connections, because a broker bounds what one connection may have
unacknowledged, and answer each command on its reply topic with its correlation data.
"""

import socket
import sys
import threading
from collections import deque
from typing import Final

import mqtt5

_LOOPBACK: Final = "127.0.0.1"
_DEVICES: Final = "$share/devices/devices/+"
_CHUNK: Final = 64 * 1024  # bytes read at a time
_PAYLOAD: Final = b'{"status":"ok"}'


def answer(port: int, number: int, ready: threading.Barrier) -> None:
    """Answer what comes over one connection, until it ends."""
    with socket.create_connection((_LOOPBACK, port)) as broker:
        broker.sendall(mqtt5.ConnectPacket(f"responder-{number}", keep_alive=0).write())
        waiting: deque[mqtt5.PublishPacket] = deque()
        room, ids, rest = 0, 0, b""
        while chunk := broker.recv(_CHUNK):
            rest += chunk
            out = bytearray()
            while rest:
                try:
                    packet, length = mqtt5.read(memoryview(rest))
                except IndexError:
                    break
                rest = rest[length:]
                match packet:
                    case mqtt5.ConnAckPacket():
                        room = packet.receive_max
                        devices = mqtt5.TopicFilter(_DEVICES, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
                        out += mqtt5.SubscribePacket(1, [devices]).write()
                    case mqtt5.SubAckPacket():
                        ready.wait()
                    case mqtt5.PublishPacket():
                        waiting.append(packet)
                        if packet.packet_id is not None:
                            out += mqtt5.PubAckPacket(packet.packet_id).write()
                    case mqtt5.PubAckPacket():
                        room += 1
            while room and waiting:
                command = waiting.popleft()
                room, ids = room - 1, ids % 60_000 + 1
                out += mqtt5.PublishPacket(
                    f"{command.topic}/reply",
                    _PAYLOAD,
                    qos=mqtt5.QoS.AT_LEAST_ONCE,
                    packet_id=ids,
                    correlation_data=command.correlation_data,
                ).write()
            broker.sendall(out)


def main() -> None:
    """Answer until killed; says `listening` once all connections are subscribed."""
    port, connections = int(sys.argv[1]), int(sys.argv[2])
    ready = threading.Barrier(connections + 1)
    for number in range(connections):
        threading.Thread(target=answer, args=(port, number, ready), daemon=True).start()
    ready.wait()
    print("listening", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
