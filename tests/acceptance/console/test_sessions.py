"""Who may use the console, and for how long."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess

FORM = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}


@contextmanager
def visitor(gateway: GatewayProcess, **headers: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30.0, headers=FORM | headers) as client:
        yield client


def token_of(page: httpx.Response) -> str:
    found = re.search('name="token" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


def signed_in(client: httpx.Client, key: str) -> httpx.Response:
    token = token_of(client.get("/console/sign-in"))
    return client.post("/console/sign-in", data={"token": token, "key": key, "next": ""})


def test_who_has_not_signed_in_is_asked_to_and_comes_back_to_the_page(gateway: GatewayProcess, key: str) -> None:
    with visitor(gateway) as client:
        first = client.get("/console/messages?imei=8612&status=failed")
        assert (first.status_code, first.headers["location"]) == (
            303,
            "/console/sign-in?next=%2Fmessages%3Fimei%3D8612%26status%3Dfailed",
        )
        asked = client.get(first.headers["location"])
        answer = client.post(
            "/console/sign-in",
            data={"token": token_of(asked), "key": key, "next": "/messages?imei=8612&status=failed"},
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/messages?imei=8612&status=failed")
        assert client.get(answer.headers["location"]).status_code == 200


def test_the_root_leads_to_the_console(gateway: GatewayProcess) -> None:
    for path in ("/", "/console"):
        answer = httpx.get(f"{gateway.url}{path}")
        assert (answer.status_code, answer.headers["location"]) == (307, "/console/")


def test_the_cookie_is_for_the_console_alone_and_no_script_reads_it(gateway: GatewayProcess, key: str) -> None:
    with visitor(gateway) as client:
        cookie = signed_in(client, key).headers["set-cookie"]
        assert cookie.startswith("chapar_session=")
        assert set(cookie.split("; ")[1:]) == {"HttpOnly", "Path=/console", "SameSite=strict"}
        value = cookie.partition(";")[0]
        assert httpx.get(f"{gateway.url}/messaging/messages", headers={"Cookie": value}).status_code == 401


def test_behind_tls_the_cookie_stays_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = BuiltinBroker().settings_env | {"CHAPAR_TRUSTED_PROXIES": "127.0.0.1"}
    with GatewayProcess(tmp_path_factory.mktemp("proxied"), env) as gateway, visitor(gateway) as client:
        forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/chapar"}
        page = client.get("/console/messages", headers=forwarded)
        assert {"Secure", "Path=/chapar/console"} <= set(page.headers["set-cookie"].split("; "))
        assert 'href="/chapar/console/static/' in page.text
        assert client.get("/", headers=forwarded).headers["location"] == "/chapar/console/"
        assert "Access is open" in page.text, "without a key nobody has to sign in"


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_wrong_key_is_refused_in_the_reader_s_language(gateway: GatewayProcess, key: str, language: str) -> None:
    with visitor(gateway, **{"Accept-Language": language}) as client:
        for wrong in ("", "nonsense", key[:-1]):
            answer = signed_in(client, wrong)
            assert answer.status_code == 401
            assert ("کلید" in answer.text) == (language == "fa")
            assert client.get("/console/messages").status_code == 303


def test_a_form_of_another_session_or_site_does_nothing(gateway: GatewayProcess, key: str) -> None:
    with visitor(gateway) as client, visitor(gateway) as other:
        token = token_of(client.get("/console/sign-in"))
        for guess in ("", "0" * 64, token_of(other.get("/console/sign-in"))):
            answer = client.post("/console/sign-in", data={"token": guess, "key": key})
            assert (answer.status_code, "Nothing was done" in answer.text) == (403, True)
        foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert client.post("/console/sign-in", data={"token": token, "key": key}, headers=foreign).status_code == 403
        assert client.get("/console/messages").status_code == 303


def test_a_link_of_another_site_keeps_the_session(gateway: GatewayProcess, key: str) -> None:
    """The browser keeps back the cookie there; asked again by us, it sends it."""
    with visitor(gateway) as client:
        answer = client.get("/console/messages", headers={"Sec-Fetch-Site": "cross-site"})
        assert (answer.status_code, answer.headers["refresh"], "set-cookie" in answer.headers) == (200, "0", False)
        signed_in(client, key)
        assert client.get("/console/messages", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_who_signs_out_is_out(gateway: GatewayProcess, key: str) -> None:
    with visitor(gateway) as client:
        signed_in(client, key)
        page = client.get("/console/messages")
        answer = client.post("/console/sign-out", data={"token": token_of(page)})
        assert answer.headers["location"] == "/console/sign-in?why=out"
        assert "chapar_session" not in client.cookies
        assert client.get("/console/messages").status_code == 303


def test_a_session_that_nobody_used_for_half_an_hour_is_over(gateway: GatewayProcess, key: str) -> None:
    with visitor(gateway) as client:
        used_at, _, rest = client_cookie(signed_in(client, key)).partition(".")
        for seconds, status in ((1700, 200), (1900, 303), (-3600, 303)):
            cookie = {"Cookie": f"chapar_session={int(used_at) - seconds}.{rest}"}
            answer = httpx.get(f"{gateway.url}/console/messages", headers=cookie)
            assert answer.status_code == status
            if status == 200:
                assert client_cookie(answer).endswith(rest), "it goes on from here"
            else:
                assert answer.headers["location"].startswith("/console/sign-in?why=idle")
                asked = httpx.get(f"{gateway.url}{answer.headers['location']}", headers=cookie)
                assert not client_cookie(asked).endswith(rest), "and is forgotten"
        old = {"Cookie": f"chapar_session={int(used_at) - 1000}.{rest}", "HX-Request": "true"}
        assert "set-cookie" not in httpx.get(f"{gateway.url}/console/messages", headers=old).headers, "no use of it"


def client_cookie(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition(";")[0].removeprefix("chapar_session=")


def test_a_session_ends_with_its_key(
    gateway: GatewayProcess, api: httpx.Client, new_key: Callable[..., tuple[str, str]]
) -> None:
    key_id, secret = new_key("messages:read")
    with visitor(gateway) as client:
        signed_in(client, secret)
        assert client.get("/console/messages").status_code == 200
        assert api.post(f"/keys/{key_id}/revoke").status_code == 200
        answer = client.get("/console/messages")
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in?why=ended")
        live = client.get("/console/messages", headers={"HX-Request": "true"})
        assert (live.status_code, live.headers["hx-redirect"][:16]) == (401, "/console/sign-in")


def test_what_a_key_may_not_do_is_neither_shown_nor_done(
    gateway: GatewayProcess, new_key: Callable[..., tuple[str, str]]
) -> None:
    _, secret = new_key("devices:read")
    with visitor(gateway) as client:
        signed_in(client, secret)
        page = client.get("/console/messages")
        assert page.status_code == 403
        assert "messages:read" in page.text
        assert 'href="/console/messages"' not in page.text


def test_an_unknown_page_is_a_page(gateway: GatewayProcess) -> None:
    with visitor(gateway) as client:
        for method, path, status in (("GET", "nowhere", 404), ("POST", "messages", 405), ("GET", "static/0/x.js", 404)):
            answer = client.request(method, f"/console/{path}")
            assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), path


def test_assets_are_kept_for_as_long_as_they_are_the_same(gateway: GatewayProcess) -> None:
    with visitor(gateway) as client:
        page = client.get("/console/sign-in")
        paths = re.findall('(?:href|src)="(/console/static/[^"]+)"', page.text)
        assert len(paths) == 4
        for path in paths:
            asset = client.get(path)
            assert asset.status_code == 200
            assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert asset.headers.get("content-encoding") == "gzip"
        assert client.get(re.sub("static/[0-9a-f]+", "static/0", paths[0])).headers["cache-control"] == "no-cache"
