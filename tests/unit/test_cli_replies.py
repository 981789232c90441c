"""The device's word on the command line: what is asked for, what is printed, and how the command ends."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from chapar.cli import resend, send, show
from chapar.cli.client import GatewayClient, ShownMessage
from chapar.cli.command import run
from chapar.cli.table import note

ID = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"
HOSTILE = "\x1b[2J\x9b31m\u202e\nb"
REPLY = {
    "at": "2026-11-24T06:30:01.000Z",
    "status": "succeeded",
    "payload": {"litres": 20},
    "matched_by": "correlation",
    "late": False,
}
SENT = {"detail": "", "id": ID, "status": "succeeded", "topic": "devices/pump-7", "subscribers": None, "reply": REPLY}
MESSAGE = {"id": ID, "imei": "pump-7", "micro_op": "open", "status": "succeeded", "created_at": REPLY["at"]}
Serve = Callable[[int, dict[str, Any]], list[httpx.Request]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Answer every call so; gives the calls."""
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")

    def serve(status: int, body: dict[str, Any]) -> list[httpx.Request]:
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(status, json=body, headers={"Location": f"/messaging/messages/{ID}"})

        client = partial(GatewayClient, transport=httpx.MockTransport(answer))
        for module in (send, resend, show):
            monkeypatch.setattr(module, "GatewayClient", client)
        return asked

    return serve


def test_every_option_is_asked_for(serve: Serve) -> None:
    asked = serve(201, SENT)
    options = ["--wait", "device", "--reply-within", "2m", "--only-if-online", "--collapse-key", "v", "--urgent"]
    assert run(["send", "pump-7", "open", *options, "--purge"]) == 0
    assert run(["send", "pump-7", "open", "--on-contact"]) == 0
    first, second = (json.loads(request.content) for request in asked)
    names = ("wait", "reply_within", "only_if_online", "deliver", "collapse_key", "urgent", "purge")
    assert [first[name] for name in names] == ["device", 120.0, True, "now", "v", True, True]
    assert [second[name] for name in names] == ["broker", None, False, "on_contact", None, False, False]


@pytest.mark.parametrize(
    ("answer", "status", "code", "said"),
    [
        (201, "succeeded", 0, 'The device: succeeded: {"litres": 20}'),
        (201, "failed", 4, 'The device: failed: {"litres": 20}'),
        (202, "published", 3, "Sent `open` to topic `devices/pump-7`; the device has not answered yet."),
        (202, "acknowledged", 3, 'The device: acknowledged: {"litres": 20}'),
        (202, "timed_out", 3, "the device has not answered yet."),
        (202, "unconfirmed", 3, "whether it arrived is unknown"),
        (202, "queued", 3, "the broker has not acknowledged it yet"),
        (202, "of a newer gateway", 3, "the broker has not acknowledged it yet"),
    ],
)
@pytest.mark.parametrize("command", [["send", "pump-7", "open"], ["resend", ID]])
def test_a_command_ends_by_the_devices_word(
    command: list[str], answer: int, status: str, code: int, said: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {"reply": REPLY | {"status": status}} if status in {"succeeded", "failed", "acknowledged"} else {}
    serve(answer, {name: SENT[name] for name in ("id", "topic")} | {"status": status} | reply)
    assert run([*command, "--wait", "device"]) == code
    printed = capsys.readouterr().out
    if command[0] == "send":
        assert said in printed
    assert ("See http" in printed) is (answer == 202)


@pytest.mark.parametrize("payload", [HOSTILE, {"a": HOSTILE}, {"base64": "AA=="}, None, 20, [1, "a"], "dry"])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_what_a_device_says_cannot_command_the_terminal(
    payload: object, language: str, serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = REPLY | {"payload": payload}
    serve(201, SENT | {"reply": reply})
    monkeypatch.setenv("CHAPAR_LANGUAGE", language)
    assert run(["send", "pump-7", "open", "--wait", "device"]) == 0
    sent = capsys.readouterr().out
    serve(200, MESSAGE | {"reply": reply, "history": []})
    assert run(["show", ID]) == 0
    shown = capsys.readouterr().out
    assert run(["show", ID, "--json"]) == 0
    as_json = capsys.readouterr().out
    assert json.loads(as_json)["reply"]["payload"] == payload
    table = note(ShownMessage.model_validate(MESSAGE | {"reply": reply}), "fa" if language == "fa" else "en")
    for text in (sent, shown, as_json, table):
        assert not {"\x1b", "\x9b", "\u202e"} & {*text}
    assert len(sent.splitlines()) == 3
    if payload == "dry":
        assert "dry" in sent
        assert "dry" in shown


def test_a_long_reply_is_cut_in_the_table_and_whole_in_show(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    reply = REPLY | {"payload": "x" * 1000, "late": True}
    cut = note(ShownMessage.model_validate(MESSAGE | {"reply": reply}), "en")
    assert cut == f"reply: {'x' * 80}…, late"
    serve(200, MESSAGE | {"reply": reply})
    assert run(["show", ID]) == 0
    assert "x" * 1000 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "for_broker", "for_device"),
    [
        ("queued", 3, 3),
        ("published", 0, 3),
        ("acknowledged", 0, 3),
        ("timed_out", 0, 3),
        ("unconfirmed", 3, 3),
        ("succeeded", 0, 0),
        ("failed", 4, 4),
        ("rejected", 1, 1),
        ("expired", 1, 1),
        ("cancelled", 1, 1),
    ],
)
def test_show_waits_and_ends_like_send(status: str, for_broker: int, for_device: int, serve: Serve) -> None:
    asked = serve(200, MESSAGE | {"status": status})
    assert run(["show", ID]) == 0
    assert run(["show", ID, "--wait", "broker"]) == for_broker
    assert run(["show", ID, "--wait", "device", "--timeout", "7"]) == for_device
    assert [str(request.url.query, "ascii") for request in asked] == ["", "wait=broker", "wait=device&timeout=7.0"]


def test_show_names_what_the_message_waits_for_and_what_took_its_place(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    body = MESSAGE | {"status": "queued", "reason": "waiting_for_contact", "deliver": "on_contact", "urgent": True}
    serve(200, body | {"collapse_key": HOSTILE, "superseded_by": ID, "reply_by": REPLY["at"]})
    assert run(["show", ID]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert lines["sent"].strip() == "when the device speaks"
    assert lines["superseded by"].strip() == ID
    assert "\\x1b[2J" in lines["collapse key"]
    assert lines["urgent"].strip() == "before all that waits"
    serve(200, MESSAGE | {"only_if_online": True})
    assert run(["show", ID]) == 0
    assert "only if the device is online" in capsys.readouterr().out
