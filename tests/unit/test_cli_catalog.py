"""`chapar catalog`: what it asks of the gateway, and what it prints."""

import json
from functools import partial
from typing import Any

import httpx
import pytest

from chapar.cli import catalog as command
from chapar.cli.client import GatewayClient
from chapar.cli.command import run

IRRIGATE: dict[str, Any] = {
    "micro_op": "irrigate",
    "title": "Irrigate \x1b[2J",
    "title_fa": "آبیاری",
    "question": None,
    "question_fa": "کسی در مزرعه نیست؟",
    "params": {
        "required": ["minutes"],
        "properties": {
            "minutes": {"type": "integer", "maximum": 120, "title": "Duration", "unit": "min", "unit_fa": "دقیقه"},
            "valve": True,
        },
    },
    "of_tomorrow": 3,
}


class Gateway:
    """Answers with these operations, and keeps what it was asked."""

    def __init__(self, *operations: dict[str, Any]) -> None:
        self.operations = operations
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.raw_path.decode())
        is_list = request.url.path == "/catalog"
        return httpx.Response(200, json={"operations": self.operations} if is_list else self.operations[0])


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    gateway = Gateway(IRRIGATE, {"micro_op": "stop"})
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
    monkeypatch.setenv("CHAPAR_URL", "http://gateway.example")
    monkeypatch.setattr(command, "GatewayClient", partial(GatewayClient, transport=httpx.MockTransport(gateway)))
    return gateway


def test_all_are_listed_with_the_names_of_their_parameters(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["catalog"]) == 0
    assert gateway.asked == ["/catalog"]
    heading, irrigate, stop = capsys.readouterr().out.splitlines()
    assert heading.split() == ["operation", "title", "parameters"]
    assert irrigate.split() == ["irrigate", "Irrigate", "\\x1b[2J", "minutes,", "valve"]
    assert stop.split() == ["stop"]


def test_one_is_shown_with_its_parameters(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "valve/open"]) == 0
    assert gateway.asked == ["/catalog/valve%2Fopen"]
    printed = capsys.readouterr().out
    assert "Irrigate \\x1b[2J" in printed
    assert "کسی در مزرعه نیست؟" in printed, "the one language that it is said in"
    assert '{"type": "integer", "maximum": 120}' in printed
    assert "min " in printed


def test_it_is_shown_in_persian(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")
    assert run(["catalog", "irrigate"]) == 0
    assert gateway.asked == ["/catalog/irrigate"]
    printed = capsys.readouterr().out
    assert "آبیاری" in printed
    assert "دقیقه" in printed
    assert "Irrigate" not in printed


def test_as_json_nothing_is_left_out(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [*gateway.operations]


def test_an_empty_catalog_says_so(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.operations = ()
    assert run(["catalog"]) == 0
    assert "no operation" in capsys.readouterr().err
