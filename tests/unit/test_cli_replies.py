"""`chapar replies`: what it asks of the gateway, and what it prints."""

import json
from functools import partial
from typing import Any

import httpx
import pytest

from chapar.cli import replies as command
from chapar.cli.client import GatewayClient
from chapar.cli.command import run

Printed = pytest.CaptureFixture[str]

ID = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"


def reply(**fields: Any) -> dict[str, Any]:
    return {"at": "2026-11-24T06:30:00.420Z", "payload": "push_down ok", "count": 1, "size": 12} | fields


class Gateway:
    """Answers page after page, and keeps what it was asked."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(200, json=self.pages.pop(0))


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    gateway = Gateway()
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
    monkeypatch.setenv("CHAPAR_URL", "http://gateway.example")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(command, "GatewayClient", partial(GatewayClient, transport=httpx.MockTransport(gateway)))
    return gateway


def test_the_replies_of_a_message(gateway: Gateway, capsys: Printed) -> None:
    listed = [
        reply(status="acknowledged", matched_by="order", late=False, payload={"\u202e": "\x1b[2J"}),
        reply(status="failed", matched_by="correlation", late=True, count=12, payload="dry" * 200),
    ]
    gateway.pages = [{"replies": listed}]
    assert run(["replies", ID]) == 0
    printed = capsys.readouterr().out
    assert gateway.asked[0].url.path == f"/messaging/messages/{ID}/replies"
    assert "acknowledged" in printed
    assert "failed, late" in printed
    assert r"\u202e" in printed
    assert "\x1b" not in printed
    assert "dry" * 200 not in printed  # it is cut


def test_the_replies_without_a_message_the_newest_last(gateway: Gateway, capsys: Printed) -> None:
    stray = {"imei": "pump-7", "reason": "ambiguous"}
    gateway.pages = [
        {"replies": [reply(payload="newest", **stray), reply(payload="\x1b[31mred", **stray)], "next": "7"},
        {"replies": [reply(payload="oldest", imei=None, reason="no_device")], "next": None},
    ]
    assert run(["replies", "--device", "pump-7", "--limit", "3"]) == 0
    printed = capsys.readouterr().out
    assert [dict(request.url.params) for request in gateway.asked] == [
        {"matched": "false", "imei": "pump-7", "limit": "3"},
        {"matched": "false", "imei": "pump-7", "limit": "1", "cursor": "7"},
    ]
    assert printed.index("oldest") < printed.index(r"\x1b[31mred") < printed.index("newest")
    assert "several messages wait for it" in printed


def test_in_persian_with_its_digits_and_its_calendar(
    gateway: Gateway, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")
    gateway.pages = [{"replies": [reply(status="succeeded", matched_by="order", late=True, count=12)]}]
    assert run(["replies", ID]) == 0
    printed = capsys.readouterr().out
    assert "۱۴۰۵" in printed
    assert "۱۲" in printed
    assert "دیرهنگام" in printed


def test_as_json_one_a_line(gateway: Gateway, capsys: Printed) -> None:
    listed = [reply(status="succeeded", payload={"b": "\x1b"}), reply(status="failed")]
    gateway.pages = [{"replies": listed}]
    assert run(["replies", ID, "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == listed


def test_nothing_is_said_so(gateway: Gateway, capsys: Printed) -> None:
    gateway.pages = [{"replies": [], "next": None}]
    assert run(["replies"]) == 0
    assert capsys.readouterr().err.endswith("There is no such reply.\n")


def test_a_message_has_its_device_already(gateway: Gateway, capsys: Printed) -> None:
    assert run(["replies", ID, "--device", "pump-7"]) == 2
    assert "--device is for replies that belong to no message" in capsys.readouterr().err
    assert gateway.asked == []
