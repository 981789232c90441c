"""Events: each change once for each listener who may see it, from wherever it goes on, in whichever process."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from support.api import problem_of
from support.gateway import GatewayProcess, find_command
from support.listeners import Listener, Received
from support.mosquitto import Mosquitto
from support.site import Site, until

ALL = ("messages:send", "messages:read", "messages:cancel", "devices:read")
BIG = "x" * 2000
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), max_listeners=8) as site:
        site.wait_until_received()
        yield site


def listener(site: Site, **query: Any) -> Listener:
    return Listener(site.gateway.url, query)


def types(events: list[Received]) -> list[str]:
    return [event.type for event in events]


def test_each_listener_receives_each_change_once_and_in_one_order(site: Site) -> None:
    imei = site.new_imei()
    with listener(site, imei=imei) as first, listener(site) as second:
        ids = [site.send(imei, f"op-{number}", params={"a": {"b": number}}).json()["id"] for number in range(20)]
        first.wait_for(40)
        until(lambda: len([event for event in second.events if event.data["imei"] == imei]) == 40)
    expected = [(id_, type_) for id_ in ids for type_ in ("message.publishing", "message.published")]
    assert first.abouts == expected
    assert [about for about in second.abouts if about in expected] == expected
    assert len({event.id for event in first.events}) == 40
    last = first.events[-1]
    shown = site.message(ids[-1])
    del shown["history"]
    assert last.data["message"] == shown
    assert set(last.data) == {"id", "type", "at", "imei", "message"}
    assert last.data["at"] == shown["published_at"]
    assert first.comments[0] == "chapar"


def test_filters(site: Site) -> None:
    imeis = [site.new_imei() for _ in range(3)]
    with (
        listener(site, imei=imeis[:2]) as devices,
        listener(site, imei=imeis, micro_op="open") as operations,
        listener(site, imei=imeis, type="message.published") as published,
        listener(site, imei=imeis, type=["message.cancelled", "device.presence"]) as others,
        listener(site, imei=imeis, type="message.*") as messages,
    ):
        for imei in imeis:
            site.send(imei, "open")
            site.send(imei, "close")
        waiting = site.accepted(imeis[0], deliver_at=TOMORROW)
        site.cancel(waiting)
        messages.wait_for(14)
        devices.wait_for(10)
        operations.wait_for(6)
        published.wait_for(6)
        others.wait_for(1)
    assert types(messages.events[-2:]) == ["message.scheduled", "message.cancelled"]
    assert len(devices.events) == 10
    assert {event.data["imei"] for event in devices.events} == set(imeis[:2])
    assert {event.data["message"]["micro_op"] for event in operations.events} == {"open"}
    assert len(operations.events) == 6
    assert set(types(published.events)) == {"message.published"}
    assert len(published.events) == 6
    assert others.abouts == [(waiting, "message.cancelled")]


def test_the_presence_of_a_device(site: Site) -> None:
    imei = site.new_imei()

    def shown() -> dict[str, Any] | None:
        presence: dict[str, Any] = site.api.get(f"/devices/{imei}").json()["presence"]
        return None if presence["stale"] else presence  # at first the gateway does not know that it receives

    with listener(site, imei=imei) as devices, site.device(imei) as device:
        device.publish(f"devices/{imei}/presence", "online")
        [event] = devices.wait_for(1)
        assert event.type == "device.presence"
        assert event.data["device"] == {"imei": imei, "presence": until(shown)}
        device.publish(f"devices/{imei}/presence", "offline")
        event = devices.wait_for(2)[1]
        assert event.data["device"]["presence"]["state"] == "offline"
        assert event.data["device"]["presence"] == until(shown)


def test_one_goes_on_from_any_event_also_after_the_gateway_was_killed(site: Site) -> None:
    imei = site.new_imei()
    with Listener(site.gateway.url, {"imei": imei}, again=True) as lasting:
        before = [site.send(imei).json()["id"] for _ in range(5)]
        events = lasting.wait_for(10)[:10]
        site.gateway.kill()
        site.gateway.start()
        after = [site.send(imei).json()["id"] for _ in range(5)]
        lasting.wait_for(20)
        assert [about[0] for about in lasting.abouts] == [id_ for id_ in (*before, *after) for _ in range(2)]
        assert lasting.connections >= 2
    expected = lasting.abouts
    for place in (0, 3, 9):
        with Listener(site.gateway.url, {"imei": imei}, last=events[place].id) as again:
            again.wait_for(19 - place)
            assert again.abouts == expected[place + 1 :]
        assert listed(site, imei=imei, since=events[place].id) == expected[place + 1 :]
    assert listed(site, imei=imei, since=events[4].data["at"])[-15:] == expected[5:]
    assert listed(site, imei=imei, since=lasting.events[-1].id) == []


def listed(site: Site, **query: Any) -> list[tuple[str, str]]:
    """What there is, without following."""
    with Listener(site.gateway.url, {**query, "follow": "false"}) as listener:
        assert listener.ended.wait(60)
    return listener.abouts


@pytest.mark.parametrize(
    ("query", "headers", "status", "code", "word"),
    [
        ({"since": "yesterday"}, {}, 422, "field_invalid", "since"),
        ({"since": "eAAAA"}, {}, 422, "field_invalid", "since"),
        ({}, {"Last-Event-ID": "12"}, 422, "field_invalid", "Last-Event-ID"),
        ({"since": "2020-01-01T00:00:00Z"}, {}, 410, "events_gone", "CHAPAR_EVENTS_RETENTION_DAYS"),
        ({"type": "message.lost"}, {}, 422, "field_invalid", "type"),
        ({"imei": "a/b"}, {}, 422, "field_invalid", "imei"),
        ({"follow": "perhaps"}, {}, 422, "field_invalid", "follow"),
        ({"limit": "1"}, {}, 422, "field_invalid", "limit"),
    ],
)
@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_cannot_be_is_a_problem(
    site: Site, query: dict[str, str], headers: dict[str, str], status: int, code: str, word: str, language: str
) -> None:
    answer = site.api.get("/events", params=query, headers=headers | {"Accept-Language": language})
    problem = problem_of(answer)
    assert (answer.status_code, problem["code"]) == (status, code)
    assert word in problem["reason"]
    if status == 410:
        assert listed(site, since=problem["oldest"])


def test_a_head_has_no_body_and_too_many_listeners_are_refused(site: Site) -> None:
    answer = site.api.head("/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    until(lambda: metric(site, "chapar_event_listeners") == 0)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(listener(site))
        assert metric(site, "chapar_event_listeners") == 8
        answer = site.api.get("/events")
        assert (answer.status_code, problem_of(answer)["code"]) == (503, "too_many_listeners")
    until(lambda: metric(site, "chapar_event_listeners") == 0)


def metric(site: Site, name: str) -> float:
    lines = site.api.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


def test_a_client_that_takes_nothing_is_cut_off_and_goes_on_where_it_was(site: Site) -> None:
    imei = site.new_imei()
    address = urlsplit(site.gateway.url)
    before = metric(site, "chapar_event_listeners_cut_total")
    with listener(site, imei=imei) as quick, listener(site, imei="nobody") as idle, socket.socket() as frozen:
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        frozen.settimeout(60)
        frozen.connect((address.hostname, address.port))
        frozen.sendall(f"GET /events?imei={imei} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        received = frozen.recv(4096)
        messages = [
            {"imei": imei, "micro_op": "open", "deliver_at": TOMORROW, "wait": "none", "params": {"big": BIG}}
        ] * 900
        assert site.api.post("/messaging/bulk", json={"messages": messages}).json()["summary"] == {"202": 900}
        quick.wait_for(900)
        until(lambda: metric(site, "chapar_event_listeners_cut_total") > before)
        while piece := frozen.recv(65_536):
            received += piece
        body = unchunked(received)
        assert "\n\n: cut: nothing was taken for 10 s. " in body
        assert received.endswith(b"\r\n0\r\n\r\n")
        taken = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
        assert 0 < len(taken) < 900
        with Listener(site.gateway.url, {"imei": imei}, last=taken[-1]["id"]) as again:
            again.wait_for(900 - len(taken))
        found = [(data["message"]["id"], data["type"]) for data in taken] + again.abouts
        assert found == quick.abouts
        until(lambda: len(idle.comments) > 1)
        assert idle.events == []
        assert metric(site, "chapar_event_listeners_cut_total") == before + 1


def unchunked(answer: bytes) -> str:
    """The body of an answer in chunks."""
    rest, body = answer.partition(b"\r\n\r\n")[2], b""
    while rest and (size := int(rest.partition(b"\r\n")[0], 16)):
        start = rest.index(b"\r\n") + 2
        body += rest[start : start + size]
        rest = rest[start + size + 2 :]
    return body.decode()


def test_the_command(site: Site, tmp_path: Path) -> None:
    imei = site.new_imei()
    sent = site.send(imei, "open").json()["id"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CHAPAR_URL": site.gateway.url}

    def command(*arguments: str, language: str = "en") -> str:
        called = [find_command(), "events", "--device", imei, *arguments]
        environment = env | {"CHAPAR_LANGUAGE": language}
        return subprocess.run(called, env=environment, capture_output=True, text=True, check=True).stdout

    lines = command().splitlines()
    assert len(lines) == 2
    assert lines[1].split("  ")[1:] == [imei, "published", "open", sent, "nobody listening"]
    found = [
        json.loads(line) for line in command("--json", "--since", "1h", "--type", "message.published").splitlines()
    ]
    assert [(each["type"], each["message"]["id"]) for each in found] == [("message.published", sent)]
    assert command("--since", found[0]["id"]) == ""
    assert len(command(language="fa").splitlines()) == 2
    following = subprocess.Popen(
        [find_command(), "events", "--device", imei, "--follow", "--json", "--since", found[0]["id"]],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with following:
        assert following.stdout is not None
        first = site.send(imei).json()["id"]
        assert json.loads(following.stdout.readline())["message"]["id"] == first
        following.stdout.readline()
        site.gateway.restart()
        second = site.send(imei).json()["id"]
        assert json.loads(following.stdout.readline())["message"]["id"] == second
        following.terminate()


def test_the_last_comment_says_that_the_gateway_stops(site: Site) -> None:
    with listener(site) as last:
        site.gateway.restart()
        assert last.ended.wait(60)
        assert last.comments[-1].startswith("cut: the gateway stops. ")


class Doors:
    """A gateway behind a closed door."""

    def __init__(self, gateway: GatewayProcess, admin: str) -> None:
        self.gateway = gateway
        self.api = httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {admin}"}, timeout=60)

    def new_key(self, *scopes: str, **asked: Any) -> tuple[str, dict[str, str]]:
        made = self.api.post("/keys", json={"name": "one", "scopes": list(scopes or ALL), **asked})
        assert made.status_code == 201, made.text
        return made.json()["id"], {"Authorization": f"Bearer {made.json()['key']}"}


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("doors")
    with Mosquitto() as broker, GatewayProcess(folder, broker.settings_env) as gateway:
        made = httpx.post(f"{gateway.url}/keys", json={"name": "admin", "scopes": [*ALL, "keys:write"]})
        doors = Doors(gateway, made.json()["key"])
        until(lambda: httpx.get(f"{gateway.url}/keys").status_code == 401)
        with contextlib.closing(doors.api):
            yield doors


def send(doors: Doors, imei: str, micro_op: str) -> str:
    answer = doors.api.post("/messaging/send", json={"imei": imei, "micro_op": micro_op})
    assert answer.status_code == 201, answer.text
    id_: str = answer.json()["id"]
    return id_


def test_a_listener_receives_what_its_key_may_see(doors: Doors) -> None:
    _, narrow = doors.new_key(devices=["farm1-*"], operations=["open*"])
    _, everything = doors.new_key("messages:read")
    _, presence = doors.new_key("devices:read")
    url = doors.gateway.url
    with (
        Listener(url, headers=narrow) as some,
        Listener(url, headers=everything) as all_of_it,
        Listener(url, headers=presence) as devices,
    ):
        ids = {name: send(doors, *name) for name in [("farm1-a", "open"), ("farm1-a", "close"), ("farm2-b", "open")]}
        seen = send(doors, "farm1-b", "open_half")
        all_of_it.wait_for(8)
        some.wait_for(4)
        assert {about[0] for about in all_of_it.abouts} == {*ids.values(), seen}
        assert {about[0] for about in some.abouts} == {ids["farm1-a", "open"], seen}
        assert devices.events == []
    for headers, query, scope in (
        (presence, {"type": "message.*"}, "messages:read"),
        (everything, {"type": "device.presence"}, "devices:read"),
    ):
        answer = doors.api.get("/events", params=query, headers=headers)
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "scope_missing")
        assert scope in problem_of(answer)["reason"]
    assert httpx.get(f"{url}/events").status_code == 401


def test_a_stream_ends_with_its_key(doors: Doors) -> None:
    id_, headers = doors.new_key()
    with (
        Listener(doors.gateway.url, headers=headers) as first,
        Listener(doors.gateway.url, headers=headers) as second,
        Listener(doors.gateway.url, headers=dict(doors.api.headers)) as other,
    ):
        doors.api.post(f"/keys/{id_}/revoke").raise_for_status()
        for each in (first, second):
            assert each.ended.wait(30)
            assert each.comments[-1].startswith("cut: ")
        assert not other.ended.is_set()
        send(doors, "farm1-a", "open")
        other.wait_for(2)
        assert first.events == second.events == []


def test_a_listener_at_one_process_receives_what_another_commits_and_goes_on_at_either(
    start_gateway: Callable[..., GatewayProcess], postgres_url: str, mosquitto: Mosquitto
) -> None:
    env = mosquitto.settings_env | {"CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true"}
    first, second = start_gateway(env), start_gateway(env)
    with Listener(first.url) as at_first, Listener(second.url) as at_second:
        ids = []
        for number in range(20):
            url = (first, second)[number % 2].url
            answer = httpx.post(f"{url}/messaging/send", json={"imei": f"D{number}", "micro_op": "open"}, timeout=60)
            ids.append(answer.json()["id"])
        at_first.wait_for(40)
        at_second.wait_for(40)
    assert sorted(at_first.abouts) == sorted(at_second.abouts)
    assert len(set(at_first.abouts)) == 40
    for place in (0, 17, 38):
        with Listener(second.url, last=at_first.events[place].id) as again:
            again.wait_for(39 - place)
            # In one order at each process: what two commit at once may change places.
            assert sorted(again.abouts) == sorted(at_first.abouts[place + 1 :])
