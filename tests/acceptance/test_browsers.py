"""What a page of another site can make a browser do to the gateway: nothing."""

from collections.abc import Iterator, Mapping

import httpx
import pytest

from support.api import problem_of
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess

GOOD = {"imei": "8612", "micro_op": "push_down"}
LISTED = "https://ops.example.org"
SITE = {"CHAPAR_ALLOWED_HOSTS": "gateway.example.org, [2001:db8::1]", "CHAPAR_CORS_ORIGINS": LISTED}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env | SITE) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def api(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30.0) as client:
        yield client


@pytest.fixture
def message_id(api: httpx.Client) -> str:
    sent: str = api.post("/messaging/send", json=GOOD).json()["id"]
    return sent


def stored(api: httpx.Client) -> int:
    total: int = api.get("/reporting/summary").json()["total"]
    return total


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:1", "127.0.0.1:9", "[::1]:8000", "127.8.9.1", "gateway.example.org:443", "[2001:db8::1]"],
)
def test_a_name_of_ours_is_answered(api: httpx.Client, host: str) -> None:
    assert api.get("/health/live", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "192.168.1.7", "1.1.1.1", "", "[", "@"],
)
def test_another_name_is_refused(api: httpx.Client, host: str) -> None:
    """A page whose name was made to point here would be of the same origin as the API (DNS rebinding)."""
    before = stored(api)
    for answer in (
        api.get("/reporting/all", headers={"Host": host}),
        api.post("/messaging/send", json=GOOD, headers={"Host": host, "Accept-Language": "fa"}),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (421, "host_not_allowed")
    assert "میزبان" in answer.json()["reason"]
    assert stored(api) == before


FOREIGN = {
    "another site": {"Origin": "https://evil.example"},
    "another port of this machine": {"Origin": "http://127.0.0.1:1"},
    "a file or a sandbox": {"Origin": "null"},
    "a site whose name begins like a listed one": {"Origin": f"{LISTED}.evil.example"},
    "a listed site without TLS": {"Origin": "http://ops.example.org"},
    "an older browser that says only this": {"Sec-Fetch-Site": "cross-site"},
    "another port, by a browser that says only this": {"Sec-Fetch-Site": "same-site"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_page_of_another_site_changes_nothing(api: httpx.Client, message_id: str, headers: Mapping[str, str]) -> None:
    before = stored(api)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for answer in (
        api.post("/messaging/send", json=GOOD, headers=headers),
        api.post("/messaging/send", content=b"imei=8612&micro_op=push_down", headers={**headers, **form}),
        api.post("/messaging/bulk", json={"messages": [GOOD]}, headers=headers),
        api.post(f"/messaging/messages/{message_id}/resend", headers={**headers, **form}),
        api.post(f"/messaging/messages/{message_id}/cancel", headers=headers),
        api.options("/messaging/send", headers={**headers, "Access-Control-Request-Method": "POST"}),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
    assert stored(api) == before


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_page_of_another_site_reads_nothing(api: httpx.Client, headers: Mapping[str, str]) -> None:
    answer = api.get("/reporting/all", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_of_our_own_may_send(gateway: GatewayProcess, api: httpx.Client) -> None:
    for headers in (
        {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://gateway.example.org", "Host": "gateway.example.org"},
    ):
        assert api.post("/messaging/send", json=GOOD, headers=headers).status_code == 201


def test_a_page_of_a_listed_site_may_send_and_read(api: httpx.Client) -> None:
    origin = {"Origin": LISTED, "Sec-Fetch-Site": "cross-site"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}
    preflight = api.options("/messaging/send", headers=origin | asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, LISTED)
    sent = api.post("/messaging/send", json=GOOD, headers=origin)
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (201, LISTED)
    assert "Location" in sent.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in sent.headers


ANSWERS = {
    "of a send": ("POST", "/messaging/send", 201),
    "of a list": ("GET", "/messaging/messages", 200),
    "of a report": ("GET", "/reporting/all", 200),
    "of a report in CSV": ("GET", "/reporting/all?format=csv", 200),
    "of a path that is unknown": ("GET", "/nowhere", 404),
    "of a method that is not allowed": ("GET", "/messaging/send", 405),
    "of a query that breaks a rule": ("GET", "/messaging/messages?limit=0", 422),
    "of the metrics": ("GET", "/metrics", 200),
    "of the description": ("GET", "/openapi.json", 200),
    "of the health": ("GET", "/health/ready", 200),
}


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_every_answer_says_what_a_browser_may_do_with_it(
    api: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = api.request(method, path, json=GOOD if method == "POST" else None)
    assert answer.status_code == status
    assert {name: answer.headers.get_list(name) for name in STANDING} == {
        name: [value] for name, value in STANDING.items()
    }
    assert "strict-transport-security" not in answer.headers


STANDING = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def test_the_documentation_s_page_runs_only_what_is_ours(api: httpx.Client) -> None:
    page = api.get("/docs")
    [policy] = page.headers.get_list("content-security-policy")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    script = api.get("/docs/assets/swagger-ui-bundle.js")
    assert script.headers.get_list("cache-control") == ["no-cache"]
    again = api.get("/docs/assets/swagger-ui-bundle.js", headers={"If-None-Match": script.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHAPAR_CORS_ORIGINS", "*"),
        ("CHAPAR_CORS_ORIGINS", "ops.example.org"),
        ("CHAPAR_CORS_ORIGINS", "https://ops.example.org/"),
        ("CHAPAR_ALLOWED_HOSTS", "https://gateway.example.org"),
        ("CHAPAR_ALLOWED_HOSTS", "gateway.example.org:8000"),
        ("CHAPAR_ALLOWED_HOSTS", "*"),
    ],
)
def test_a_list_that_cannot_work_is_refused_at_the_start(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: str
) -> None:
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), {name: value})
    gateway.start(until=None)
    assert gateway.program.wait() == 1
    assert f"{name} cannot be used: write" in gateway.program.output
    gateway.close()
