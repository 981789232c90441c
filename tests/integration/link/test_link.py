"""The link to real brokers, with real faults, on both event loops."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from chapar.errors import (
    BrokerClosed,
    BrokerError,
    BrokerSilent,
    ConnectionFailed,
    ConnectionRefused,
    HostNotFound,
    LinkDown,
    LinkLost,
    ProtocolUnsupported,
    PublicationInvalid,
    SettingInvalid,
    TlsFailed,
)
from chapar.link import embedded
from chapar.link import tls as link_tls
from chapar.link.limits import Limits
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.link.session import Session
from chapar.runtime.settings import Settings
from support.certificates import Certificates
from support.fake_broker import FakeBroker
from support.links import open_session, publication, published, running_link
from support.mosquitto import Mosquitto
from support.ports import free_port, wait_until_accepts
from support.tcp_proxy import TcpProxy

WAIT = 10.0  # seconds, for what takes a moment on a busy machine


def settings_for(*urls: str, **options: object) -> Settings:
    return Settings.model_validate({"broker_url": ",".join(urls), **options})


async def failure(url: str, **options: object) -> BrokerError:
    """Why there is no session with the broker at `url`."""
    with pytest.raises(BrokerError) as error:
        async with open_session(url, settings=settings_for(url, **options)):
            pass
    return error.value


async def end(session: Session) -> BrokerError:
    with pytest.raises(BrokerError) as error:
        await asyncio.wait_for(session.ended(), WAIT)
    return error.value


class TestStayingConnected:
    async def test_a_broker_that_comes_later_is_found(self) -> None:
        broker = Mosquitto()
        with contextlib.closing(broker):
            async with running_link(settings_for(broker.url)) as link:
                assert not link.up
                with pytest.raises(LinkDown):
                    await published(link, publication())
                await asyncio.to_thread(broker.start)
                await asyncio.wait_for(link.connected(), WAIT)
                assert await published(link, publication()) == 0x10
                assert (link.up, link.broker, link.last_error) == (True, broker.url, None)
                assert (link.window, link.reconnects) == (20, 0)

    async def test_a_killed_broker_is_missed_and_found_again(self, mosquitto: Mosquitto) -> None:
        async with running_link(settings_for(mosquitto.url)) as link:
            await asyncio.wait_for(link.connected(), WAIT)
            mosquitto.pause()
            outcome = published(link, publication())
            await asyncio.sleep(0)  # it leaves at the end of this turn
            mosquitto.kill()
            with pytest.raises(LinkLost) as lost:
                await outcome
            assert isinstance(lost.value.cause, BrokerClosed)
            assert (link.up, link.broker) == (False, None)
            await asyncio.to_thread(mosquitto.start)
            await asyncio.wait_for(link.connected(), WAIT)
            assert await published(link, publication()) == 0x10
            assert link.reconnects == 1

    async def test_a_packet_that_costs_the_session_is_told_by_its_reason(self) -> None:
        with Mosquitto("max_packet_size 1000") as broker:
            async with open_session(broker.url) as session:
                session._publisher.limits = Limits()  # as if the broker had not announced it
                outcome = published(session, publication(b"x" * 2000))
                with pytest.raises(LinkLost) as lost:
                    await outcome
        assert isinstance(lost.value.cause, BrokerClosed)
        assert lost.value.cause.reason_code == 0x95
        assert str(lost.value.cause) == f"{broker.url} ended the session: Packet too large (0x95)."

    async def test_a_stopped_broker_closes_the_session(self, mosquitto: Mosquitto) -> None:
        async with open_session(mosquitto.url) as session:
            mosquitto.program.send_signal(signal.SIGTERM)
            error = await end(session)
        assert isinstance(error, BrokerClosed)
        assert str(error) == f"{mosquitto.url} ended the session: it closed the connection."

    async def test_a_refused_password_ends_nothing(self) -> None:
        with Mosquitto(users={"gate": "right"}) as broker:
            wrong = broker.url.replace("right", "wrong")
            error = await failure(wrong)
            assert isinstance(error, ConnectionRefused)
            assert error.reason_code in {0x86, 0x87}
            assert "wrong" not in str(error)
            async with running_link(settings_for(wrong)) as link:
                broker.users = {"gate": "wrong"}
                await asyncio.to_thread(broker.restart)
                await asyncio.wait_for(link.connected(), WAIT)

    async def test_the_next_broker_takes_over(self, mosquitto: Mosquitto) -> None:
        nobody = f"mqtt://127.0.0.1:{free_port()}"
        with Mosquitto() as second:
            async with running_link(settings_for(nobody, mosquitto.url, second.url)) as link:
                await asyncio.wait_for(link.connected(), WAIT)
                assert link.broker == mosquitto.url
                mosquitto.kill()
                while not (link.up and link.broker == second.url):
                    await asyncio.wait_for(link.connected(), WAIT)
                    await asyncio.sleep(0)
                assert await published(link, publication()) == 0x10

    async def test_a_broker_that_hangs_up_at_once_is_not_hammered(self) -> None:
        async with FakeBroker() as broker:
            broker.on_connect = lambda _: asyncio.get_running_loop().call_later(0.01, broker.hang_up)
            async with running_link(settings_for(broker.url)) as link:
                await asyncio.sleep(1.0)  # the span that is looked at, not a synchronisation
                assert 2 <= link.sessions <= 10

    async def test_cancelling_says_good_bye_and_leaves_nothing_behind(self, mosquitto: Mosquitto) -> None:
        before = 0
        for cycle in range(3):
            async with running_link(settings_for(mosquitto.url)) as link:
                await asyncio.wait_for(link.connected(), WAIT)
                await published(link, publication())
            if cycle == 0:
                before = open_files()  # a loop opens some of its own at first
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert open_files() == before
        await asyncio.to_thread(mosquitto.program.wait_for_line, "Received DISCONNECT from chapar-")

    async def test_a_small_packet_waits_for_no_other(self, mosquitto: Mosquitto) -> None:
        async with open_session(mosquitto.url) as session:
            assert session._transport is not None
            connection = session._transport.get_extra_info("socket")
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestNoSession:
    async def test_nobody_listens(self) -> None:
        port = free_port()
        error = await failure(f"mqtt://127.0.0.1:{port}")
        assert isinstance(error, ConnectionFailed)
        assert str(error) == f"No connection to mqtt://127.0.0.1:{port}: Connection refused."

    async def test_the_name_has_no_address(self) -> None:
        error = await failure("mqtt://no-such-host.invalid:1883")
        assert isinstance(error, HostNotFound)
        assert str(error).startswith("The name of mqtt://no-such-host.invalid:1883 has no address (DNS): ")

    async def test_an_mqtt_3_broker(self, tmp_path: Path) -> None:
        """rumqttd on its 3.1.1 listener, which hangs up on MQTT 5 without a word."""
        port = free_port()
        config = tmp_path / "rumqttd.toml"
        config.write_text(
            embedded._ROUTER + embedded._LISTENER.format(version="v4", host="127.0.0.1", port=port, largest=262_144)
        )
        command = [sys.executable, "-P", embedded.PROGRAM, config]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
            await asyncio.to_thread(wait_until_accepts, port)
            error = await failure(f"mqtt://127.0.0.1:{port}")
            assert program.stdin is not None
            program.stdin.close()
        assert isinstance(error, ProtocolUnsupported | BrokerClosed)
        assert "MQTT 5" in str(error)

    async def test_a_dead_line_is_found_and_the_doubt_told(self, mosquitto: Mosquitto) -> None:
        with TcpProxy(mosquitto.port) as proxy:
            settings = settings_for(f"mqtt://127.0.0.1:{proxy.port}", keep_alive=1)
            async with running_link(settings) as link:
                await asyncio.wait_for(link.connected(), WAIT)
                proxy.stall()
                outcome = published(link, publication())
                with pytest.raises(LinkLost) as lost:
                    await asyncio.wait_for(outcome, WAIT)
                assert isinstance(lost.value.cause, BrokerSilent)
                assert lost.value.cause.seconds >= 1
                proxy.resume()
                await asyncio.wait_for(link.connected(), WAIT)

    async def test_an_idle_line_is_kept(self, mosquitto: Mosquitto) -> None:
        settings = settings_for(mosquitto.url, keep_alive=1)
        async with running_link(settings) as link:
            await asyncio.wait_for(link.connected(), WAIT)
            for _ in range(4):
                await asyncio.to_thread(wait_for_one_more_line, mosquitto, "Received PINGREQ from chapar-")
            assert (link.up, link.sessions) == (True, 1)


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_for_one_more_line(broker: Mosquitto, text: str) -> None:
    """Until the broker logs `text` once more than it has now."""
    seen = sum(text in line for line in broker.program.lines)
    with broker.program._printed:
        assert broker.program._printed.wait_for(lambda: sum(text in line for line in broker.program.lines) > seen, WAIT)


async def event(logged: list[EventDict], name: str, reason: str = "") -> EventDict:
    """The first of these that is logged, once it is."""
    while True:
        for one in logged:
            if one["event"] == name and reason in one.get("reason", ""):
                return one
        await asyncio.sleep(0.01)


class TestTls:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Certificates:
        return Certificates(tmp_path)

    @pytest.fixture
    def broker(self, certificates: Certificates) -> Iterator[Mosquitto]:
        with Mosquitto(certificates=certificates) as broker:
            yield broker

    async def test_a_known_authority(self, broker: Mosquitto, certificates: Certificates) -> None:
        settings = settings_for(broker.url, broker_ca_file=certificates.ca_file)
        async with running_link(settings) as link:
            await asyncio.wait_for(link.connected(), WAIT)
            assert await published(link, publication()) == 0x10

    async def test_an_unknown_authority(self, broker: Mosquitto, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        for options in ({}, {"broker_ca_file": Certificates(tmp_path / "other").ca_file}):
            error = await failure(broker.url, **options)
            assert isinstance(error, TlsFailed)
            assert "certificate" in str(error)

    async def test_the_name_in_the_certificate(self, tmp_path: Path) -> None:
        certificates = Certificates(tmp_path, "broker.example")
        ca_file = certificates.ca_file
        with Mosquitto(certificates=certificates) as broker:
            error = await failure(broker.url, broker_ca_file=ca_file)
            assert isinstance(error, TlsFailed)
            assert "its certificate is not for 127.0.0.1. " in str(error)
            settings = settings_for(broker.url, broker_ca_file=ca_file, broker_server_name="broker.example")
            async with open_session(broker.url, settings=settings) as session:
                assert session.up

    def test_a_name_that_no_certificate_can_have(self) -> None:
        with pytest.raises(SettingInvalid, match="CHAPAR_BROKER_SERVER_NAME cannot be used: write it as a host name"):
            Settings.load(broker_url="mqtts://127.0.0.1", broker_server_name=".example")

    async def test_a_client_certificate(self, certificates: Certificates) -> None:
        with Mosquitto(certificates=certificates, require_certificate=True) as broker:
            options = {"broker_ca_file": certificates.ca_file}
            assert isinstance(await failure(broker.url, **options), TlsFailed)
            settings = settings_for(
                broker.url,
                **options,
                broker_cert_file=certificates.client_cert_file,
                broker_key_file=certificates.client_key_file,
            )
            async with open_session(broker.url, settings=settings) as session:
                assert await published(session, publication()) == 0x10

    async def test_renewed_certificates_are_used_from_the_next_session_on(
        self, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_tls, "LOOK_EVERY", 0.02)
        with Mosquitto(certificates=certificates, require_certificate=True) as broker, capture_logs() as logged:
            settings = settings_for(
                broker.url,
                broker_ca_file=certificates.ca_file,
                broker_cert_file=certificates.client_cert_file,
                broker_key_file=certificates.client_key_file,
            )
            async with running_link(settings) as link:
                await asyncio.wait_for(link.connected(), WAIT)
                old_key = certificates.client_key_file.read_bytes()
                certificates.renew()  # the authority's, the broker's and ours
                await asyncio.wait_for(event(logged, "broker_certificates_renewed"), WAIT)
                assert await published(link, publication()) == 0x10
                assert link.sessions == 1  # nothing was cut
                new_key = certificates.client_key_file.read_bytes()
                certificates.client_key_file.write_bytes(old_key)
                unusable = await asyncio.wait_for(event(logged, "broker_certificates_unusable"), WAIT)
                assert f"the key in {certificates.client_key_file} does not belong" in unusable["reason"]
                await asyncio.to_thread(broker.restart)
                assert (
                    "does not belong"
                    in (await asyncio.wait_for(event(logged, "broker_link_down", "key"), WAIT))["reason"]
                )
                certificates.client_key_file.write_bytes(new_key)
                await asyncio.wait_for(link.connected(), WAIT)
                assert await published(link, publication()) == 0x10
                assert link.sessions == 2

    async def test_files_that_cannot_be_used(self, broker: Mosquitto, tmp_path: Path) -> None:
        missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
        garbage.write_text("no certificate")
        for name in ("broker_ca_file", "broker_cert_file"):
            error = await failure(broker.url, **{name: missing})
            assert f"{missing} cannot be read: No such file or directory." in str(error)
        for name in ("broker_ca_file", "broker_cert_file"):
            error = await failure(broker.url, **{name: garbage})
            assert f"CHAPAR_{name.upper()} cannot be used: " in str(error)

    async def test_a_broker_without_tls(self, mosquitto: Mosquitto) -> None:
        assert isinstance(await failure(mosquitto.url.replace("mqtt:", "mqtts:")), TlsFailed)

    async def test_tls_where_none_was_expected(self, broker: Mosquitto) -> None:
        assert isinstance(await failure(broker.url.replace("mqtts:", "mqtt:")), BrokerClosed)


class TestPublishing:
    async def test_a_device_hears_all_of_it_in_order(self, mosquitto: Mosquitto) -> None:
        with mosquitto.device("1", mqtt5=True) as device:
            async with open_session(mosquitto.url) as session:
                deadline = asyncio.get_running_loop().time() + 30.9
                sent = Publication("devices/1", b"push_down", 1, retain=False, message_id="id-1", deadline=deadline)
                assert await published(session, sent) == 0
                assert await published(session, sent._replace(attempt=2, response_topic="devices/1/reply")) == 0
                outcomes = [published(session, publication(str(number))) for number in range(300)]
                assert set(await asyncio.gather(*outcomes)) == {0}
            first, second, *rest = await asyncio.to_thread(device.wait_for, 302)
        assert (first.payload, first.qos, first.retain, first.dup) == (b"push_down", 1, False, False)
        assert (first.correlation_data, first.user_properties) == (b"id-1", (("message-id", "id-1"),))
        assert first.expiry in {29, 30}
        assert (second.dup, second.response_topic) == (False, "devices/1/reply")
        assert second.user_properties == (("message-id", "id-1"), ("attempt", "2"))
        assert [heard.payload for heard in rest] == [str(number).encode() for number in range(300)]

    async def test_the_receive_maximum_is_never_exceeded(self, mosquitto: Mosquitto) -> None:
        with TcpProxy(mosquitto.port) as proxy:
            async with open_session(f"mqtt://127.0.0.1:{proxy.port}") as session:
                most = 0

                def look(_: object) -> None:
                    nonlocal most
                    most = max(most, session.in_flight)

                proxy.stall(to_server=False)
                topics = [f"devices/{number % 4}" for number in range(500)]  # one alone may not fill the window
                outcomes = [published(session, publication("go", topic)) for topic in topics]
                for outcome in outcomes:
                    outcome.add_done_callback(look)
                await asyncio.sleep(0)
                assert (session.window, session.in_flight, session.waiting) == (20, 20, 480)
                proxy.resume()
                assert set(await asyncio.gather(*outcomes)) == {0x10}  # and not one LinkLost with 0x93
                assert most <= 20
                assert (session.in_flight, session.waiting) == (0, 0)

    @pytest.mark.parametrize("qos", [0, 2])
    async def test_the_other_qualities_of_service(self, mosquitto: Mosquitto, qos: int) -> None:
        device = mosquitto.device("1", mqtt5=True)
        device._qos = 2
        with device:
            async with open_session(mosquitto.url) as session:
                outcomes = [published(session, publication(str(number), qos=qos)) for number in range(100)]
                assert set(await asyncio.gather(*outcomes)) == {0}
                heard = await asyncio.to_thread(device.wait_for, 100)
                assert await published(session, publication("last", qos=2)) == 0  # so PUBCOMP of the others came
                assert session.in_flight <= 1
        assert [one.payload for one in heard] == [str(number).encode() for number in range(100)]
        assert {one.qos for one in heard} == {qos}

    async def test_nobody_listens_and_somebody_does(self, mosquitto: Mosquitto) -> None:
        async with running_link(settings_for(mosquitto.url)) as link:
            await asyncio.wait_for(link.connected(), WAIT)
            with mosquitto.device("1"):
                assert await published(link, publication()) == 0
                assert not link.reports_subscribers  # it has not shown that it does
                assert await published(link, publication(topic="devices/2")) == 0x10
                assert link.reports_subscribers
                assert await published(link, publication()) == 0
            await asyncio.to_thread(mosquitto.restart)
            while link.sessions < 2:
                await asyncio.wait_for(link.connected(), WAIT)
                await asyncio.sleep(0)
            assert link.reports_subscribers  # remembered for this broker

    async def test_a_refusal_by_acl_is_a_result(self) -> None:
        with Mosquitto(users={"gate": "secret"}, acl="user gate\ntopic write devices/1\n") as broker:
            async with open_session(broker.url) as session:
                assert await published(session, publication(topic="devices/2")) == 0x87
                assert await published(session, publication(topic="devices/1")) == 0x10

    async def test_a_packet_over_the_brokers_maximum_is_not_tried(self) -> None:
        with Mosquitto("max_packet_size 1000") as broker:
            async with open_session(broker.url) as session:
                with pytest.raises(PublicationInvalid) as error:
                    await published(session, publication(b"x" * 1000))
                assert (error.value.limit, error.value.allowed) == ("Maximum Packet Size", 1000)
                room = 1000 - (error.value.actual - 1000)
                assert await published(session, publication(b"x" * room)) == 0x10
                with pytest.raises(PublicationInvalid):
                    await published(session, publication(b"x" * (room + 1)))
                assert session.up

    async def test_retain_where_the_broker_keeps_nothing(self) -> None:
        with Mosquitto("retain_available false") as broker:
            async with open_session(broker.url) as session:
                with pytest.raises(PublicationInvalid) as error:
                    await published(session, publication()._replace(retain=True))
                assert error.value.reason_code == 0x9A

    async def test_what_was_taken_back_is_not_sent(self, mosquitto: Mosquitto) -> None:
        with mosquitto.device("1") as device, TcpProxy(mosquitto.port) as proxy:
            async with open_session(f"mqtt://127.0.0.1:{proxy.port}") as session:
                proxy.stall(to_server=False)
                for number in range(30):
                    session.publish([publication(str(number))._replace(message_id=str(number))])
                await asyncio.sleep(0)
                assert all(session.take_back(str(number)) for number in range(25, 30))
                proxy.resume()
                await published(session, publication("last"))
            heard = await asyncio.to_thread(device.wait_for, 26)
        assert [one.payload for one in heard] == [str(number).encode() for number in range(25)] + [b"last"]

    async def test_a_thousand_large_publications_leave_whole(self, mosquitto: Mosquitto) -> None:
        with mosquitto.device("1") as device:
            async with open_session(mosquitto.url) as session:
                payload = os.urandom(50_000)
                outcomes = [published(session, publication(payload)) for _ in range(200)]
                assert set(await asyncio.gather(*outcomes)) == {0}
            heard = await asyncio.to_thread(device.wait_for, 200)
        assert {one.payload for one in heard} == {payload}


class TestReceiving:
    async def test_a_delivery_that_was_not_acknowledged_comes_again(self, mosquitto: Mosquitto) -> None:
        sign_on = SignOn("inbox", 10, clean_start=False, session_expiry=60)
        deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        with mosquitto.device("1", mqtt5=True) as device:
            async with open_session(mosquitto.url, sign_on=sign_on, on_delivery=deliveries.put_nowait) as session:
                assert not session.session_present
                await session.subscribe(["devices/+/reply"])
                for payload in ("one", "two"):
                    await asyncio.to_thread(device.reply, payload, correlation_data=b"id")
                first, second = await deliveries.get(), await deliveries.get()
                assert (first.topic, first.payload, first.correlation_data) == ("devices/1/reply", b"one", b"id")
                first.acknowledge()
                await asyncio.to_thread(mosquitto.program.wait_for_line, "Received PUBACK from inbox")
            async with open_session(mosquitto.url, sign_on=sign_on, on_delivery=deliveries.put_nowait) as session:
                assert session.session_present
                again = await asyncio.wait_for(deliveries.get(), WAIT)
                again.acknowledge()
        assert again.payload == second.payload == b"two"
