"""`chapar devices`: what it asks of the gateway, and what it prints."""

import json
import re
from functools import partial
from typing import Any

import httpx
import pytest

from chapar.cli import devices
from chapar.cli.client import GatewayClient
from chapar.cli.command import run

Printed = pytest.CaptureFixture[str]


def device(imei: str = "pump-7", **fields: Any) -> dict[str, Any]:
    return {
        "imei": imei,
        "name": "پمپ شمالی",
        "profile": None,
        "labels": {"farm": "1", "line": "b"},
        "presence": {"state": "online", "since": "2026-11-24T06:30:00.000Z", "evidence": "spoke", "stale": False},
        "last_seen": "2026-11-24T06:31:00.000Z",
        "queue": {
            "depth": 12,
            "oldest": "2026-11-24T06:29:00.000Z",
            "paused": None,
            "paused_by": None,
            "pause_reason": None,
        },
        **fields,
    }


class Gateway:
    """Answers as the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], httpx.Response | list[httpx.Response]] = {}
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers[request.method, request.url.path]
        return answer.pop(0) if isinstance(answer, list) else answer

    def body(self) -> Any:
        return json.loads(self.asked[-1].content)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    gateway = Gateway()
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
    monkeypatch.setenv("CHAPAR_URL", "http://gateway.example")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(devices, "GatewayClient", partial(GatewayClient, transport=httpx.MockTransport(gateway)))
    return gateway


MISSING = httpx.Response(404, json={"code": "device_not_found", "reason": "There is no device pump-7."})


def test_devices_are_listed_over_several_pages(gateway: Gateway, capsys: Printed) -> None:
    pages = [{"devices": [device("a")], "next": "a"}, {"devices": [device("b")], "next": None}]
    gateway.answers["GET", "/devices"] = [httpx.Response(200, json=page) for page in pages]
    arguments = [
        "--presence",
        "online",
        "--label",
        "farm:1",
        "--label",
        "a:b:c",
        "--profile",
        "text",
        "--search",
        "پمپ",
    ]
    assert run(["devices", "list", *arguments]) == 0
    first, second = (dict(request.url.params.multi_items()) for request in gateway.asked)
    assert gateway.asked[0].url.params.get_list("label") == ["farm:1", "a:b:c"]
    assert first | {"label": ""} == {
        "label": "",
        "presence": "online",
        "profile": "text",
        "q": "پمپ",
        "limit": "1000",
    }
    assert (second["cursor"], second["limit"]) == ("a", "999")
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["device", "name", "presence", "since", "last", "seen", "waiting", "labels"]
    assert [row.split()[0] for row in rows] == ["a", "b"]
    assert "farm:1, line:b" in rows[0]


def test_json_is_one_object_a_line_as_the_gateway_gave_it(gateway: Gateway, capsys: Printed) -> None:
    shown = [device("a", novelty={"of": "a newer gateway"}), device("b", presence={"state": "asleep", "stale": True})]
    gateway.answers["GET", "/devices"] = httpx.Response(200, json={"devices": shown, "next": None})
    assert run(["devices", "list", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == shown[0]
    assert second["presence"]["state"] == "asleep"
    assert run(["devices", "list"]) == 0
    assert "asleep, out of date" in capsys.readouterr().out


def test_a_device_is_shown_in_lines(gateway: Gateway, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.answers["GET", "/devices/pump-7"] = httpx.Response(200, json=device())
    assert run(["devices", "show", "pump-۷"]) == 0
    lines = capsys.readouterr().out
    assert "pump-7" in lines
    assert "the default one" in lines
    assert "it published something after its last `offline`" in lines
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")
    assert run(["devices", "show", "pump-7"]) == 0
    lines = capsys.readouterr().out
    assert "آنلاین" in lines
    assert "۱۴۰۵-۰۹-۰۳" in lines
    assert "۱۲" in lines


def test_nothing_that_a_device_is_called_moves_the_cursor(gateway: Gateway, capsys: Printed) -> None:
    hostile = device("a", name="\x1b[2J\u202eevil\nname", labels={"x\x07": "\x9b31m"})
    gateway.answers["GET", "/devices"] = httpx.Response(200, json={"devices": [hostile], "next": None})
    gateway.answers["GET", "/devices/a"] = httpx.Response(200, json=hostile)
    for arguments in (["list"], ["show", "a"], ["show", "a", "--json"], ["list", "--json"]):
        assert run(["devices", *arguments]) == 0
        printed = capsys.readouterr().out
        assert not any(sign in printed for sign in ("\x1b", "\u202e", "\x07", "\x9b")), printed


def test_what_no_option_names_stays(gateway: Gateway, capsys: Printed) -> None:
    gateway.answers["GET", "/devices/pump-7"] = httpx.Response(200, json=device(profile="chapar"))
    gateway.answers["PUT", "/devices/pump-7"] = httpx.Response(200, json=device())
    assert run(["devices", "set", "pump-7", "--label", "line:c", "--no-label", "farm"]) == 0
    assert gateway.body() == {"name": "پمپ شمالی", "profile": "chapar", "labels": {"line": "c"}}
    assert capsys.readouterr().out == "The device pump-7 is changed.\n"
    assert run(["devices", "set", "pump-7", "--name", "", "--profile", "default"]) == 0
    assert gateway.body() == {"name": None, "profile": None, "labels": {"farm": "1", "line": "b"}}


def test_a_device_that_is_not_there_is_registered(gateway: Gateway, capsys: Printed) -> None:
    gateway.answers["GET", "/devices/pump-7"] = MISSING
    gateway.answers["PUT", "/devices/pump-7"] = httpx.Response(201, json=device())
    assert run(["devices", "set", "pump-7", "--name", "north"]) == 0
    assert gateway.body() == {"name": "north", "labels": {}}
    assert capsys.readouterr().out == "The device pump-7 is registered.\n"
    refused = httpx.Response(403, json={"code": "scope_missing", "reason": "This needs `devices:write`."})
    gateway.answers["GET", "/devices/pump-7"] = refused
    assert run(["devices", "set", "pump-7"]) == 1
    assert "devices:write" in capsys.readouterr().err


def test_a_device_is_forgotten_and_its_queue_emptied(gateway: Gateway, capsys: Printed) -> None:
    gateway.answers["DELETE", "/devices/pump-7"] = httpx.Response(204)
    gateway.answers["POST", "/devices/pump-7/queue/purge"] = httpx.Response(
        200, json={"imei": "pump-7", "cancelled": 2}
    )
    assert run(["devices", "forget", "pump-7"]) == 0
    assert capsys.readouterr().out == "The device pump-7 is forgotten.\n"
    assert run(["devices", "purge", "pump-7"]) == 0
    assert capsys.readouterr().out == "2 messages are cancelled.\n"
    gateway.answers["DELETE", "/devices/pump-7"] = MISSING
    assert run(["devices", "forget", "pump-7"]) == 1
    assert "There is no device pump-7." in capsys.readouterr().err


def queue(**fields: Any) -> dict[str, Any]:
    return {"imei": "pump-7", "depth": 2, "oldest": None, "in_flight": []} | NOT_PAUSED | fields


NOT_PAUSED = {"paused": None, "paused_by": None, "pause_reason": None}
PAUSED = {"paused": "2026-11-24T06:30:00.000Z", "paused_by": "Anna", "pause_reason": "re\x1bpair"}


def test_a_queue_is_paused_and_resumed(gateway: Gateway, capsys: Printed) -> None:
    path = "/devices/pump-7/queue"
    gateway.answers["POST", f"{path}/pause"] = httpx.Response(200, json=queue(**PAUSED, in_flight=["one"]))
    assert run(["devices", "pause", "pump-7", "--reason", " valve "]) == 0
    assert gateway.body() == {"reason": "valve"}
    printed = capsys.readouterr().out
    assert re.search(r"paused since \S+ \S+.* by Anna: re\\x1bpair\n1 message is in flight .*: one\n", printed), printed
    gateway.answers["POST", f"{path}/pause"] = httpx.Response(200, json=queue(**PAUSED | {"pause_reason": None}))
    assert run(["devices", "pause", "pump-7"]) == 0
    assert gateway.asked[-1].content == b""
    assert "by Anna." in capsys.readouterr().out
    assert run(["devices", "pause", "pump-7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paused"] == PAUSED["paused"]
    gateway.answers["POST", f"{path}/resume"] = httpx.Response(200, json=queue())
    assert run(["devices", "resume", "pump-7"]) == 0
    assert capsys.readouterr().out == "The queue is not paused; 2 messages wait in it.\n"
    assert run(["devices", "resume", "pump-7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == queue()


def test_a_paused_device_is_shown_as_such(gateway: Gateway, capsys: Printed) -> None:
    paused = device() | {"queue": queue(**PAUSED)}
    gateway.answers["GET", "/devices"] = httpx.Response(200, json={"devices": [paused], "next": None})
    assert run(["devices", "list"]) == 0
    assert "2, paused" in capsys.readouterr().out
    gateway.answers["GET", "/devices/a"] = httpx.Response(200, json=paused)
    assert run(["devices", "show", "a"]) == 0
    assert "by Anna: re\\x1bpair" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["show", "a/b"], "DEVICE"),
        (["pause", "a", "--reason", "a\x1b"], "--reason"),
        (["list", "--presence", "away"], "--presence"),
        (["list", "--label", "farm"], "--label"),
        (["set", "a", "--profile", "zigbee"], "--profile"),
        (["set", "a", "--name", "a\x1b"], "--name"),
        (["set", "a", "--label", ":x"], "--label"),
        (["purge"], "DEVICE"),
    ],
)
def test_misuse_is_a_sentence_that_names_the_option(
    gateway: Gateway, capsys: Printed, arguments: list[str], names: str
) -> None:
    assert run(["devices", *arguments]) == 2
    assert names in capsys.readouterr().err
    assert gateway.asked == []


def test_what_is_no_gateway_is_said_to_be_none(gateway: Gateway, capsys: Printed) -> None:
    gateway.answers["GET", "/devices"] = httpx.Response(200, json={"items": []})
    assert run(["devices", "list"]) == 1
    assert "gateway.example answers, but not as a Chapar gateway" in capsys.readouterr().err
