"""`chapar explain`: what it asks of the gateway, and what it prints."""

import json
from functools import partial
from typing import Any

import httpx
import pytest

from chapar.cli import explain as command
from chapar.cli.client import GatewayClient
from chapar.cli.command import run

ID = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"
EXPLANATION: dict[str, Any] = {
    "id": ID,
    "code": "no_reply",
    "sentence": "The broker took it, and its device did not reply. \x1b[2J",
    "facts": {"reply_by": "2026-11-24T06:30:30.000Z"},
    "evidence": [
        {"kind": "published", "at": "2026-11-24T06:30:00.004Z", "subscribers": True, "reason_code": None},
        {"kind": "reply", "at": "2026-11-24T06:31:00.004Z", "word": "\u202e"},
        {"kind": "of_tomorrow", "at": None, "depth": 3},
    ],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=EXPLANATION)

    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
    monkeypatch.setenv("CHAPAR_URL", "http://gateway.example")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(command, "GatewayClient", partial(GatewayClient, transport=httpx.MockTransport(answer)))
    return requests


def test_the_sentence_stands_first_and_the_evidence_below(
    asked: list[httpx.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", ID]) == 0
    printed = capsys.readouterr().out
    assert asked[0].url.path == f"/messaging/messages/{ID}/explain"
    assert printed.startswith("The broker took it, and its device did not reply. \\x1b[2J\nno_reply\n")
    assert "broker has it" in printed
    assert "subscribers=true" in printed
    assert "reason_code" not in printed
    assert "\\u202e" in printed
    assert "of_tomorrow" in printed


def test_programs_get_what_the_gateway_answers(asked: list[httpx.Request], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", ID, "--json"]) == 0
    assert asked[0].headers["accept-language"] == "en"
    assert json.loads(capsys.readouterr().out) == EXPLANATION
