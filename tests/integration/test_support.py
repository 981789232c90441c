"""The test tools themselves: what a test relies on when it makes something fail."""

import socket
from pathlib import Path

import psycopg
import pytest

from support.certificates import Certificates
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer
from support.tcp_proxy import TcpProxy

IMEI = "861234567890123"


@pytest.mark.parametrize("mqtt5", [False, True])
def test_a_device_hears_and_comes_back_after_a_crash_of_the_broker(mosquitto: Mosquitto, *, mqtt5: bool) -> None:
    with mosquitto.device(IMEI, mqtt5=mqtt5) as device:
        device.on_heard = lambda heard: device.reply(heard.payload.upper())
        device.publish(f"devices/{IMEI}", "hello", correlation_data=b"\x01" if mqtt5 else None)
        [heard] = device.wait_for(1)
        assert (heard.topic, heard.payload, heard.qos) == (f"devices/{IMEI}", b"hello", 1)
        assert heard.correlation_data == (b"\x01" if mqtt5 else None)
        mosquitto.kill()
        mosquitto.start()
        device.wait_until_subscribed()
        device.publish(f"devices/{IMEI}", "again")
        device.wait_for(lambda all_heard: [each.payload for each in all_heard] == [b"hello", b"again"])


@pytest.mark.parametrize("mqtt5", [False, True])
@pytest.mark.usefixtures("mosquitto")  # for its skip
def test_a_killed_broker_with_persistence_keeps_what_is_queued(*, mqtt5: bool) -> None:
    with Mosquitto(persistence=True) as broker:
        device = broker.device(IMEI, mqtt5=mqtt5, persistent=True)
        with device:
            pass
        with broker.device("other") as other:
            other.publish(f"devices/{IMEI}", "queued")
        broker.save()
        broker.kill()
        broker.start()
        with device:
            assert device.wait_for(1)[0].payload == b"queued"


@pytest.mark.usefixtures("mosquitto")
def test_tls_with_client_certificates_and_passwords(tmp_path: Path) -> None:
    users = {"ali": "secret"}
    with Mosquitto(users=users, certificates=Certificates(tmp_path), require_certificate=True) as broker:
        device = broker.device(IMEI)
        with device:
            device.publish(f"devices/{IMEI}", "hello")
            device.wait_for(1)
        broker.users["ali"] = "changed"
        broker.restart()
        with pytest.raises(AssertionError, match=r"[Nn]ot authori[sz]ed"):
            device.start()


def test_a_stalled_proxy_holds_answers_back_and_a_cut_drops_them(mosquitto: Mosquitto) -> None:
    ping, pong = b"\xc0\x00", b"\xd0\x00"
    with TcpProxy(mosquitto.port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5.0) as client:
        client.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04ping")
        assert client.recv(4) == b"\x20\x02\x00\x00"
        proxy.stall(to_server=False)
        client.sendall(ping)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(2)
        client.settimeout(5.0)
        proxy.resume()
        assert client.recv(2) == pong
        proxy.stall()
        client.sendall(ping)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            assert client.recv(2) == b"reset"


def test_a_killed_postgresql_keeps_what_is_committed(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (value integer)")
        connection.execute("INSERT INTO kept VALUES (1)")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert postgres_server.terminate_backends(url) == 1
        postgres_server.kill()
    postgres_server.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT value FROM kept").fetchall() == [(1,)]
    postgres_server.drop_database(url)
