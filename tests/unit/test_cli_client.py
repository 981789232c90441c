"""The gateway's answers, and what becomes of each on the command line."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from chapar.cli.client import READ_TIMEOUT, GatewayClient, ShownMessage
from chapar.cli.options import Filters
from chapar.errors import (
    FieldInvalid,
    GatewayError,
    GatewayLost,
    GatewayRefused,
    GatewayUnreachable,
    NotAGateway,
    UsageInvalid,
)
from chapar.model.message import Status
from chapar.model.report import Format

URL = "http://gateway.example/chapar"
MESSAGE = {
    "id": "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55",
    "imei": "pump-7",
    "micro_op": "open",
    "status": "published",
    "created_at": "2026-11-24T06:30:00.004Z",
    "finished_at": "2026-11-24T06:30:00.100Z",
    "novelty": {"of": ["a", "newer", "gateway"]},
}

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> GatewayClient:
    return GatewayClient(URL + "/", "fa", httpx.MockTransport(answer))


def failing(error: httpx.RequestError) -> Answer:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "kind", "passing"),
    [
        (failing(httpx.ConnectError("[Errno 111] Connection refused")), GatewayUnreachable, True),
        (failing(httpx.ConnectTimeout("")), GatewayUnreachable, True),
        (failing(httpx.ReadTimeout("timed out")), GatewayLost, True),
        (failing(httpx.ReadError("")), GatewayLost, True),
        (failing(httpx.RemoteProtocolError("Server disconnected")), GatewayLost, True),
        (lambda _: httpx.Response(502, text="<h1>Bad Gateway</h1>"), NotAGateway, True),
        (lambda _: httpx.Response(404, json={"detail": "Not Found"}), NotAGateway, False),
        (lambda _: httpx.Response(301, headers={"Location": "/login"}), NotAGateway, False),
        (lambda _: httpx.Response(200, text="hello"), NotAGateway, False),
        (lambda _: httpx.Response(200, content=b"\xff"), NotAGateway, False),
        (lambda _: httpx.Response(200, json=[]), NotAGateway, False),
        (lambda _: httpx.Response(201, json={"ok": True}), NotAGateway, False),
        (lambda _: httpx.Response(422, json={"reason": "no"}), GatewayRefused, False),
        (lambda _: httpx.Response(503, json={"reason": "later"}), GatewayRefused, True),
    ],
)
def test_every_failure_is_an_error_of_ours(answer: Answer, kind: type[GatewayError], *, passing: bool) -> None:
    with client(answer) as gateway:
        for call in (
            lambda: gateway.send({}, 1.0),
            lambda: gateway.messages(Filters(), 1),
            lambda: gateway.message("x"),
            lambda: gateway.cancel("x"),
        ):
            with pytest.raises(kind) as caught:
                call()
            assert caught.value.passing is passing


@pytest.mark.parametrize("form", Format)
def test_a_report_is_of_the_form_that_was_asked_for(form: Format) -> None:
    for media_type in (None, "text/html", "text/plain; charset=utf-8", f"{form.media_type}x"):
        headers = {} if media_type is None else {"Content-Type": media_type}
        with (
            client(lambda _, headers=headers: httpx.Response(200, content=b"[]", headers=headers)) as gateway,
            pytest.raises(NotAGateway),
            gateway.report(Filters(), form, {}),
        ):
            pytest.fail("it was taken for a report")
    answer = httpx.Response(200, content=b"[]", headers={"Content-Type": f"{form.media_type.upper()} ; charset=utf-8"})
    with client(lambda _: answer) as gateway, gateway.report(Filters(), form, {}) as pieces:
        assert b"".join(pieces) == b"[]"


def test_a_spreadsheet_may_take_long_until_it_begins() -> None:
    waits = {}

    def answer(request: httpx.Request) -> httpx.Response:
        form = Format(request.url.params["format"])
        waits[form] = request.extensions["timeout"]["read"]
        return httpx.Response(200, headers={"Content-Type": form.media_type})

    for form in Format:
        with client(answer).report(Filters(), form, {}):
            pass
    assert waits.pop(Format.XLSX) >= 600
    assert set(waits.values()) == {READ_TIMEOUT}


def test_the_answer_to_a_send_says_where_to_look() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        assert request.url == f"{URL}/messaging/send"
        assert request.headers["accept-language"] == "fa"
        assert request.headers["content-type"] == "application/json"
        return httpx.Response(202, json={"id": "7"}, headers={"Location": "/messaging/messages/7"})

    with client(answer) as gateway:
        sent = gateway.send({"imei": "pump-7"}, 1.0)
    assert not sent.acknowledged
    assert sent.location == f"{URL}/messaging/messages/7"


@pytest.mark.parametrize("below", ["", "/chapar"])
def test_a_proxy_may_show_the_gateway_below_a_path(below: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(202, json={"id": "7"}, headers={"Location": f"{below}/messaging/messages/7"})

    with client(answer) as gateway:
        assert gateway.send({}, 1.0).location == f"{URL}/messaging/messages/7"


def test_filters_travel_as_the_api_names_them() -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.extend(request.url.params.multi_items())
        return httpx.Response(200, json={"messages": [MESSAGE], "next": None})

    since = datetime(2026, 11, 24, 6, 30, tzinfo=UTC)
    filters = Filters("pump-7", "برو بالا", (Status.REJECTED, Status.UNCONFIRMED), since)
    with client(answer) as gateway:
        gateway.messages(filters, 20)
    assert sorted(asked) == [
        ("imei", "pump-7"),
        ("limit", "20"),
        ("micro_op", "برو بالا"),
        ("since", "2026-11-24T06:30:00+00:00"),
        ("status", "rejected"),
        ("status", "unconfirmed"),
    ]


def test_a_large_limit_is_read_page_by_page() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.params["limit"], request.url.params.get("cursor")))
        count = int(request.url.params["limit"])
        return httpx.Response(200, json={"messages": [MESSAGE] * count, "next": f"after {len(asked)}"})

    with client(answer) as gateway:
        assert len(gateway.messages(Filters(), 2500)) == 2500
    assert asked == [("1000", None), ("1000", "after 1"), ("500", "after 2")]


def test_a_message_keeps_what_a_newer_gateway_adds() -> None:
    assert MESSAGE.items() <= ShownMessage.model_validate(MESSAGE).model_dump(mode="json").items()


@pytest.mark.parametrize(
    "wrong",
    [{"expires_at": "soon"}, {"history": [{"at": "2026-11-24T06:30:00Z"}]}, {"history": 1}, {"topic": []}],
)
def test_a_message_that_cannot_be_shown_is_none_of_a_gateway(wrong: dict[str, Any]) -> None:
    with client(lambda _: httpx.Response(200, json=MESSAGE | wrong)) as gateway, pytest.raises(NotAGateway):
        gateway.find("7")


def test_a_message_that_is_not_there_is_none() -> None:
    with client(lambda _: httpx.Response(404, json={"reason": "no such message"})) as gateway:
        assert gateway.message("7") is None


def test_the_gateways_clock_is_read_from_its_answers() -> None:
    date = {"Date": "Tue, 24 Nov 2026 06:30:00 GMT"}
    with client(lambda _: httpx.Response(200, json={"messages": [], "next": None}, headers=date)) as gateway:
        gateway.messages(Filters(), 1)
        assert gateway.clock == datetime(2026, 11, 24, 6, 30, tzinfo=UTC)


def options_of(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the client of a gateway there is made with."""
    made: dict[str, Any] = {}

    class Client(httpx.Client):
        def __init__(self, **options: Any) -> None:
            made.update(options)
            super().__init__(**options)

    monkeypatch.setattr("chapar.cli.client.httpx.Client", Client)
    GatewayClient(url, "en").__exit__(None, None, None)
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "gateway.example"])
def test_no_proxy_and_no_password_of_the_environment_is_used(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login anna password c4nary")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:3128")
    options = options_of(f"http://{host}:8000", monkeypatch)
    assert (options["trust_env"], options["proxy"]) == (False, None)


@pytest.mark.parametrize(("host", "is_used"), [("127.0.0.1", False), ("localhost", False), ("gateway.example", True)])
def test_the_proxy_of_the_setting_stands_before_a_gateway_elsewhere(
    host: str, monkeypatch: pytest.MonkeyPatch, *, is_used: bool
) -> None:
    monkeypatch.setenv("CHAPAR_PROXY", "http://anna:c4nary@proxy.example:3128\n")
    proxy = options_of(f"http://{host}:8000", monkeypatch)["proxy"]
    assert (proxy is not None) is is_used


def test_a_password_in_the_url_is_used_and_never_shown() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ConnectError("refused")

    with GatewayClient("https://me:c4nary@gateway.example/", "en", httpx.MockTransport(answer)) as gateway:
        with pytest.raises(GatewayUnreachable) as error:
            gateway.message("id")
        assert gateway.url == "https://gateway.example"
    assert seen[0].headers["authorization"].startswith("Basic ")
    assert "c4nary" not in str(error.value)


def test_a_key_that_is_missing_or_wrong_names_the_variable_for_the_file() -> None:
    with client(lambda _: httpx.Response(401, json={"reason": "A key is needed."})) as gateway:
        with pytest.raises(GatewayRefused) as refused:
            gateway.messages(Filters(), 1)
        for language in ("en", "fa"):
            assert "CHAPAR_API_KEY_FILE" in refused.value.sentence(language)
    with (
        client(lambda _: httpx.Response(403, json={"reason": "No."})) as gateway,
        pytest.raises(GatewayRefused) as other,
    ):
        gateway.cancel("x")
    assert str(other.value) == "The gateway says: No."


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"CHAPAR_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"CHAPAR_PORT": "9000", "CHAPAR_HOST": "0.0.0.0"}, "http://127.0.0.1:9000"),  # noqa: S104 - nobody listens
        ({"CHAPAR_HOST": "::"}, "http://[::1]:8000"),
        ({"CHAPAR_HOST": "10.1.2.3", "CHAPAR_TLS_CERT_FILE": "/nowhere.pem"}, "https://10.1.2.3:8000"),
        ({"CHAPAR_PORT": "9000", "CHAPAR_JWT_SECRET_FILE": "/of/another/user"}, "http://127.0.0.1:9000"),
    ],
)
def test_without_a_url_the_settings_say_where_the_gateway_is(
    variables: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with GatewayClient(None, "en") as gateway:
        assert gateway.url == url


def test_a_port_that_is_drawn_at_the_start_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPAR_PORT", "0")
    with pytest.raises(UsageInvalid, match="--url"):
        GatewayClient(None, "en")


@pytest.mark.parametrize(
    "url",
    [
        *("gateway.example", "ftp://gateway.example", "http://", "http://[::1", "http://\udcff"),
        *("http://.example", "http://a..b", f"http://{'a' * 64}.example"),
        *("http://gateway.example:0", "http://gateway.example:65536"),
        *("http://gateway.example/?a=b", "http://gateway.example/#a"),
    ],
)
def test_a_url_that_leads_nowhere_is_misuse(url: str) -> None:
    with pytest.raises(UsageInvalid, match="must be written as"):
        GatewayClient(url, "en")


@pytest.mark.parametrize("url", ["http://gateway.example.:65535/a", "https://دروازه.example", "http://[::1]:8000"])
def test_other_urls_are_taken(url: str) -> None:
    with GatewayClient(url, "en") as gateway:
        assert gateway.url


@pytest.mark.parametrize("key", ["", "کلید", "a\nb", "\udcff", "k" * 256])
def test_a_key_that_no_header_holds_is_not_sent(key: str) -> None:
    with client(lambda _: pytest.fail("it was sent")) as gateway:
        for call in (
            lambda: gateway.send({}, 1.0, key),
            lambda: gateway.send_all([b"{}"], 1.0, key),
            lambda: gateway.resend("x", {}, 1.0, key),
        ):
            with pytest.raises(FieldInvalid, match="--idempotency-key"):
                call()


def test_ids_are_no_part_of_a_path_of_their_own() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return httpx.Response(404, json={"reason": "There is none."})

    with client(answer) as gateway:
        assert gateway.message("../keys?x#y") is None
        with pytest.raises(GatewayRefused):
            gateway.cancel("a/b")
        assert gateway.message("\udcff") is None
    assert asked == [
        "/chapar/messaging/messages/..%2Fkeys%3Fx%23y",
        "/chapar/messaging/messages/a%2Fb/cancel",
        "/chapar/messaging/messages/%FF",
    ]
