"""Below a path of a proxy with TLS, set up as `deploy/` shows it: every link leads back there."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from support import proxies
from support.builtin import BuiltinBroker
from support.certificates import Certificates
from support.gateway import GatewayProcess
from support.ports import LOOPBACK
from support.proxies import Proxy

GOOD: Final = {"imei": "8612", "micro_op": "push_down"}
BELOW: Final = "/chapar"
STRANGER: Final = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Prefix": "/evil"}


class Site:
    """A proxy in front of a gateway, as a caller sees it."""

    def __init__(self, proxy: Proxy, certificates: Certificates) -> None:
        self.origin = f"https://localhost:{proxy.port}"
        self.url = f"{self.origin}{BELOW}"
        self.certificates = certificates
        self.http = httpx.Client(verify=ssl.create_default_context(cafile=certificates.ca_file), timeout=30.0)

    def ask(self, method: str, path: str, **asked: object) -> httpx.Response:
        """Call the proxy; `path` stands behind its host."""
        return self.http.request(method, f"{self.origin}{path}", **asked)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    env = BuiltinBroker().settings_env | {"CHAPAR_TRUSTED_PROXIES": LOOPBACK}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), env) as gateway:
        yield gateway
        assert "Traceback" not in gateway.program.output


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def site(
    request: pytest.FixtureRequest, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    if not proxies.installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    with Proxy(request.param, gateway.port, certificates) as proxy:
        site = Site(proxy, certificates)
        with site.http:
            yield site


def test_the_location_of_a_message_leads_to_it(site: Site) -> None:
    sent = site.ask("POST", f"{BELOW}/messaging/send", json=GOOD, headers=STRANGER)
    assert sent.status_code == 201, sent.text
    assert sent.headers["location"] == f"{BELOW}/messaging/messages/{sent.json()['id']}"
    assert site.ask("GET", sent.headers["location"]).json()["id"] == sent.json()["id"]
    again = site.ask("POST", f"{sent.headers['location']}/resend", headers={"Idempotency-Key": sent.json()["id"]})
    assert site.ask("GET", again.headers["location"]).json()["origin"] == sent.json()["id"]
    [entry] = site.ask("GET", f"{BELOW}/audit", params={"subject": sent.json()["id"]}).json()["entries"]
    assert entry["address"] == LOOPBACK, "the proxy says who called, and not what its caller said"


def test_a_slash_at_the_end_is_nowhere_and_leads_nowhere(site: Site) -> None:
    key = {"Authorization": "Bearer secret"}
    for method, path in (
        ("POST", "/messaging/send/"),
        ("GET", "/docs/"),
        ("GET", "/keys/"),
        ("GET", "/health/live/"),
        ("GET", "/docs/assets/"),
        ("GET", "/docs/assets"),
        ("GET", "//evil.example/"),
        ("GET", "/messaging/messages//"),
    ):
        for headers, status in (({}, 404), (key, 401)):
            answer = site.ask(method, f"{BELOW}{path}", json=GOOD, headers=headers)
            assert (answer.status_code, answer.headers.get("location")) == (status, None), path
            assert answer.headers["content-type"] == "application/problem+json"


def test_the_documentation_and_all_it_loads_are_below_the_path(site: Site) -> None:
    page = site.ask("GET", f"{BELOW}/docs")
    assert page.status_code == 200
    assert "url: 'openapi.json'" in page.text
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(loaded) == 3
    for asset in [*loaded, "openapi.json"]:
        answer = site.http.get(page.url.join(asset))
        assert (answer.status_code, answer.url.path.startswith(f"{BELOW}/")) == (200, True), asset
    assert answer.json()["servers"] == [{"url": BELOW}]


def test_a_long_report_and_a_large_call_pass(site: Site) -> None:
    params = {"text": "x" * 1000}
    messages = [{"imei": f"D{n % 50}", "micro_op": "push", "params": params, "wait": "none"} for n in range(2000)]
    answer = site.ask("POST", f"{BELOW}/messaging/bulk", json={"messages": messages})
    assert answer.json()["summary"] == {"202": 2000}
    report = site.ask("GET", f"{BELOW}/reporting/all")
    assert len(report.json()) >= 2000


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("file", ["nginx.conf", "Caddyfile"])
def test_the_pages_show_what_is_tested(language: str, file: str) -> None:
    root = Path(__file__).parents[2]
    assert (root / "deploy" / file).read_text() in (root / "docs" / language / "proxy.md").read_text()
