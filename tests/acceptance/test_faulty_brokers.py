"""A broker with one fault at one message: that message comes to its end, and everybody else is served."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import mqtt5

from support.faulty_broker import CONNACK, FaultyBroker, Peer, Script, acknowledgement, disconnect
from support.gateway import GatewayProcess
from support.measures import measures
from support.site import Site, until

BAD = "bad"  # how the name of a device ends at whose messages the broker is faulty


class Field:
    """A gateway at a faulty broker."""

    def __init__(self, broker: FaultyBroker, gateway: GatewayProcess, api: httpx.Client) -> None:
        self.broker = broker
        self.gateway = gateway
        self.api = api

    def rows(self, imei: str) -> list[dict[str, Any]]:
        """All that was ever accepted for this device."""
        rows: list[dict[str, Any]] = self.api.get("/reporting/all", params={"imei": imei}).json()
        return rows

    def send(self, imei: str, micro_op: str = "push_down", **fields: object) -> httpx.Response:
        return self.api.post("/messaging/send", json={"imei": imei, "micro_op": micro_op, **fields})


@contextlib.contextmanager
def field(folder: Path, script: Script, connack: bytes = CONNACK, **settings: object) -> Iterator[Field]:
    variables: Mapping[str, str] = {f"CHAPAR_{name.upper()}": str(value) for name, value in settings.items()}
    with (
        FaultyBroker(script, connack=connack) as broker,
        GatewayProcess(folder, {"CHAPAR_BROKER_URL": broker.url, **variables}) as gateway,
        httpx.Client(base_url=gateway.url, timeout=90.0) as api,
    ):
        yield Field(broker, gateway, api)


def test_what_mosquitto_refuses_for_its_size_is_refused_alone(tmp_path: Path) -> None:
    """It announces no Maximum Packet Size for `message_size_limit`, and answers with a code not listed for PUBACK."""
    with Site(tmp_path, "message_size_limit 500") as site:
        large, small = site.new_imei(), site.new_imei()
        for qos in (1, 2):
            answer = site.send(large, params={"text": "x" * 600}, qos=qos)
            assert answer.status_code == 406, answer.text
            assert answer.json()["code"] == "broker_refused"
            assert "Packet too large (0x95)" in answer.json()["reason"]
        queued = site.accepted(large, params={"text": "x" * 600})
        row = site.message_in(queued, "rejected")
        assert (row["reason"], row["attempts"], row["possible_duplicate"]) == ("packet_too_large", 1, False)
        assert [site.send(small).status_code for _ in range(20)] == [201] * 20
        assert measures(site.api).value("chapar_link_reconnects_total") == 0


def test_a_refusal_with_any_code_ends_its_message_alone_and_an_acceptance_with_any_is_one(tmp_path: Path) -> None:
    def answer_as_asked(peer: Peer, packet: mqtt5.Packet) -> bool:
        if isinstance(packet, mqtt5.PublishPacket) and (code := packet.topic.rpartition("code-")[2]) != packet.topic:
            kind = 0x40 if packet.qos == mqtt5.QoS.AT_LEAST_ONCE else 0x50
            peer.write(acknowledgement(packet.packet_id or 0, int(code, 16), kind))
            return True
        return False

    with field(tmp_path, answer_as_asked) as site:
        for code, reason in ((0x95, "packet_too_large"), (0xC1, "reason_0xc1"), (0xFF, "reason_0xff")):
            for qos in (1, 2):
                answer = site.send(f"code-{code:02X}", qos=qos)
                assert (answer.status_code, answer.json()["code"]) == (406, "broker_refused")
                assert f"0x{code:02X}" in answer.json()["reason"]
                assert site.send("good", qos=qos).status_code == 201
            rows: list[dict[str, Any]] = site.api.get("/reporting/all", params={"imei": f"code-{code:02X}"}).json()
            assert [(row["status"], row["reason"]) for row in rows] == [("rejected", reason)] * 2
        assert site.send("code-42", qos=1).status_code == 201
        assert site.send("code-42", qos=2).status_code == 201
        assert site.broker.connections == 1


def test_answers_that_nobody_waits_for_end_nothing(tmp_path: Path) -> None:
    def twice(peer: Peer, packet: mqtt5.Packet) -> bool:
        if isinstance(packet, mqtt5.PublishPacket):
            peer.write(b"\x34\x07\x00\x01n\x00\x07\x00!" + acknowledgement(packet.packet_id or 0, 0) * 2)
            return True
        return False

    with field(tmp_path, twice) as site:
        assert [site.send(f"D{number}").status_code for number in range(30)] == [201] * 30
        assert [site.broker.operations(f"/D{number}") for number in range(30)] == [["push_down"]] * 30
        assert site.broker.connections == 1
        counted = measures(site.api).labelled("chapar_link_stray_packets_total")
        assert counted == {("PUBACK",): 30, ("PUBLISH",): 30}
        assert sum("broker_sent_stray_packet" in line for line in site.gateway.lines) == 2


def at_bad(fault: Callable[[Peer, mqtt5.PublishPacket], None]) -> Script:
    """This fault instead of an answer, at what is sent to a device whose name ends in `bad`."""

    def script(peer: Peer, packet: mqtt5.Packet) -> bool:
        if isinstance(packet, mqtt5.PublishPacket) and packet.topic.endswith(BAD):
            fault(peer, packet)
            return True
        return False

    return script


def goes_silent(peer: Peer, _: mqtt5.PublishPacket) -> None:
    peer.is_mute = True


FAULTS: Mapping[str, Callable[[Peer, mqtt5.PublishPacket], None]] = {
    "disconnect": lambda peer, _: peer.write(disconnect(0xC1)),
    "resets": lambda peer, _: peer.reset(),
    "malformed": lambda peer, _: peer.write(b"\x41\x02\x00\x01"),
    "silent": goes_silent,
}


def test_what_ends_sessions_is_quarantined_and_nobody_else_is_sent_twice_more_than_once(tmp_path: Path) -> None:
    def fault(peer: Peer, packet: mqtt5.PublishPacket) -> None:
        FAULTS[packet.topic.removeprefix("devices/").removesuffix(f"-{BAD}")](peer, packet)

    with field(tmp_path, at_bad(fault), keep_alive=3) as site:
        for name in FAULTS:
            before = site.broker.connections
            bad, devices = f"{name}-{BAD}", [f"{name}-{number}" for number in range(20)]
            imeis = [*devices[:10], bad, *devices[10:]]
            items = [{"imei": imei, "micro_op": "push_down", "wait": "none"} for imei in imeis]
            answers = site.api.post("/messaging/bulk", json={"messages": items}).json()["answers"]
            assert {answer["status"] for answer in answers} == {202}
            (row,) = until(lambda bad=bad: [row for row in site.rows(bad) if row["status"] == "rejected"], within=60)
            assert (row["reason"], row["attempts"], row["possible_duplicate"]) == ("quarantined", 2, True), name
            assert len(site.broker.operations(bad)) == 2
            until(lambda of=devices: all(row["status"] == "published" for imei in of for row in site.rows(imei)))
            assert all(len(site.broker.operations(f"/{imei}")) <= 2 for imei in devices)
            assert site.send("afterwards").status_code == 201
            assert site.broker.connections == before + 2


def test_a_broker_that_leaves_messages_unanswered_stops_nobody_for_long(tmp_path: Path) -> None:
    connack = mqtt5.ConnAckPacket(receive_max=2).write()
    with field(tmp_path, at_bad(lambda *_: None), connack, acknowledge_timeout=2) as site:
        mute = [f"{number}{BAD}" for number in range(2)]
        for imei in mute:
            site.send(imei, wait="none")
        until(lambda: len(site.broker.publications) == 2)
        brief = site.send("brief", expires_in=0.2, wait="none").json()["id"]
        waiting = site.send("waiting", wait="none").json()["id"]
        assert site.api.post(f"/messaging/messages/{waiting}/cancel").json()["status"] == "cancelled"
        until(lambda: site.api.get(f"/messaging/messages/{brief}").json()["status"] == "expired")
        ready = until(lambda: answer if (answer := site.api.get("/health/ready")).status_code == 503 else None)
        assert "has not answered a message" in ready.json()["broker"]["reason"]

        others: dict[str, int] = {}

        def all_quarantined() -> bool:
            """Look, and have others served meanwhile."""
            others[f"D{len(others)}"] = site.send(f"D{len(others)}").status_code
            return all(row["reason"] == "quarantined" for imei in mute for row in site.rows(imei))

        until(all_quarantined, within=60)
        assert [len(site.broker.operations(f"/{imei}")) for imei in mute] == [2, 2]
        assert measures(site.api).value("chapar_link_unanswered_total") == 4
        for imei, status in others.items():
            assert len(site.broker.operations(f"/{imei}")) == (status == 201), (imei, status)
        assert list(others.values()).count(201) > len(mute)
        assert site.broker.operations("/brief") == site.broker.operations("/waiting") == []
        until(lambda: site.api.get("/health/ready").status_code == 200)
