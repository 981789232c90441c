"""What ends with a key: its streams, and, where that is asked for, what it has waiting."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from support.api import problem_of
from support.gateway import GatewayProcess, find_command
from support.issuer import EVERY_SCOPE, Issuer
from support.mosquitto import Mosquitto
from support.site import until

TOMORROW: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()
WAITING: Final = 3000  # messages: a report of more than a megabyte, of which a client that reads nothing takes a tenth
COMPLETE: Final = b"\r\n0\r\n\r\n"  # RFC 9112 §7.1


class Place:
    """A gateway with much to report, behind a closed door."""

    def __init__(self, gateway: GatewayProcess, issuer: Issuer, folder: Path) -> None:
        self.gateway = gateway
        self.issuer = issuer
        self.http = httpx.Client(base_url=gateway.url, timeout=60)
        self.admin = {"Authorization": f"Bearer {issuer.token(sub='admin')}"}
        self._env = {"PATH": os.environ["PATH"], "HOME": str(folder), **gateway.env}

    def new_key(self, *scopes: str, **asked: Any) -> dict[str, Any]:
        body = {"name": "brief", "scopes": list(scopes or EVERY_SCOPE.split()), **asked}
        made = self.http.post("/keys", json=body, headers=self.admin)
        assert made.status_code == 201, made.text
        answer: dict[str, Any] = made.json()
        return answer

    def fill(self, credential: str, count: int) -> list[str]:
        messages = [
            {"imei": f"pump-{n % 50}", "micro_op": "open", "deliver_at": TOMORROW, "wait": "none"} for n in range(count)
        ]
        headers = {"Authorization": f"Bearer {credential}"}
        answer = self.http.post("/messaging/bulk", json={"messages": messages}, headers=headers)
        assert answer.json()["summary"] == {"202": count}
        return [item["body"]["id"] for item in answer.json()["answers"]]

    def command(self, *arguments: str, language: str = "en") -> str:
        env = self._env | {"CHAPAR_LANGUAGE": language}
        done = subprocess.run([find_command(), *arguments], env=env, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def statuses(self, ids: list[str]) -> set[str]:
        found = (self.http.get(f"/messaging/messages/{id_}", headers=self.admin).json() for id_ in ids)
        return {row["status"] for row in found}

    @contextlib.contextmanager
    def slow_report(self, credential: str, form: str = "json", version: str = "1.1") -> Iterator[socket.socket]:
        """A report that has begun, and whose client reads no further than its head."""
        address = urlsplit(self.gateway.url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60)
            client.connect((address.hostname, address.port))
            client.sendall(
                f"GET /reporting/all?format={form} HTTP/{version}\r\nHost: {address.netloc}\r\n"
                f"Authorization: Bearer {credential}\r\n\r\n".encode()
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(256)
            assert head.startswith(b"HTTP/1.1 200 "), head
            yield client


def rest_of(client: socket.socket) -> bytes:
    """Everything that is still sent, up to the end of the connection or of the answer."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while not received.endswith(COMPLETE) and (piece := client.recv(65_536)):
            received += piece
    return bytes(received)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("revocation")
    with Mosquitto() as broker, Issuer() as issuer:
        env = {"CHAPAR_DATABASE_URL": f"sqlite:///{folder / 'chapar.db'}", **broker.settings_env, **issuer.settings_env}
        with GatewayProcess(folder, env | {"CHAPAR_WRITE_TIMEOUT": "300", "CHAPAR_JWT_LEEWAY": "0"}) as gateway:
            place = Place(gateway, issuer, folder)
            with contextlib.closing(place.http):
                place.fill(place.issuer.token(), WAITING)
                yield place
            assert "without completing" not in gateway.program.output, "a stream that is cut is no fault"


def cut_lines(place: Place) -> int:
    return sum("stream_cut" in line for line in place.gateway.lines)


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_a_report_of_a_key_that_counts_goes_to_its_end(place: Place, form: str) -> None:
    with place.slow_report(place.new_key()["key"], form) as client:
        assert rest_of(client).endswith(COMPLETE)


def revoked_over_http(place: Place) -> tuple[str, Callable[[], object]]:
    key = place.new_key()
    return key["key"], lambda: place.http.post(f"/keys/{key['id']}/revoke", headers=place.admin).raise_for_status()


def revoked_by_command(place: Place) -> tuple[str, Callable[[], object]]:
    key = place.new_key()
    return key["key"], lambda: place.command("keys", "revoke", key["id"])


def expires(place: Place) -> tuple[str, Callable[[], object]]:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    return place.new_key(expires_at=soon.isoformat())["key"], lambda: None


def token_expires(place: Place) -> tuple[str, Callable[[], object]]:
    return place.issuer.token(exp=datetime.now(UTC).timestamp() + 2), lambda: None


@pytest.mark.parametrize(
    ("ending", "form"),
    [
        (revoked_over_http, "json"),
        (revoked_over_http, "csv"),
        (revoked_by_command, "ndjson"),
        (expires, "csv"),
        (token_expires, "json"),
    ],
)
def test_a_running_report_is_cut_off_where_the_key_or_token_ends(
    place: Place, ending: Callable[[Place], tuple[str, Callable[[], object]]], form: str
) -> None:
    before = cut_lines(place)
    credential, end = ending(place)
    with place.slow_report(credential, form) as client:
        end()
        # It is cut although nobody reads, and what then comes is what was on its way: without the end of an answer.
        until(lambda: cut_lines(place) > before)
        assert not rest_of(client).endswith(COMPLETE)


def test_a_report_in_http_1_0_that_is_cut_off_does_not_look_complete(place: Place) -> None:
    """Without chunks, the end of the connection is the end of the answer: it ends with a reset."""
    before = cut_lines(place)
    credential, end = revoked_over_http(place)
    with place.slow_report(credential, "ndjson", version="1.0") as client:
        end()
        until(lambda: cut_lines(place) > before)
        with pytest.raises(ConnectionResetError):
            all(iter(lambda: client.recv(65_536), b""))


def test_what_a_revoked_key_has_waiting_is_cancelled_on_request(place: Place) -> None:
    key, other = place.new_key(), place.new_key()
    ids, others = place.fill(key["key"], 700), place.fill(other["key"], 3)
    plain = place.http.post(f"/keys/{key['id']}/revoke", headers=place.admin).json()
    assert plain["revoked_at"] is not None
    assert plain["cancelled"] is None
    assert place.statuses(ids[:3]) == {"scheduled"}
    again = place.http.post(f"/keys/{key['id']}/revoke", params={"cancel_waiting": "true"}, headers=place.admin)
    assert again.json()["cancelled"] == 700
    assert place.statuses([ids[0], ids[350], ids[-1]]) == {"cancelled"}
    assert place.statuses(others) == {"scheduled"}
    trail = {"action": "message_cancelled", "subject": ids[0]}
    [entry] = place.http.get("/audit", params=trail, headers=place.admin).json()["entries"]
    assert (entry["principal"], entry["detail"]) == ("jwt:admin", "key revoked")
    assert place.http.post(again.url.raw_path.decode(), headers=place.admin).json()["cancelled"] == 0


def test_to_cancel_takes_the_scope_for_it(place: Place) -> None:
    key = place.new_key("messages:send")
    ids = place.fill(key["key"], 1)
    maker = {"Authorization": f"Bearer {place.issuer.token(scope='keys:write messages:send')}"}
    answer = place.http.post(f"/keys/{key['id']}/revoke", params={"cancel_waiting": "true"}, headers=maker)
    assert (answer.status_code, problem_of(answer)["code"]) == (403, "scope_missing")
    assert place.statuses(ids) == {"scheduled"}
    assert place.fill(key["key"], 1), "nothing was revoked either"


def test_the_command_offers_to_cancel_and_does(place: Place) -> None:
    key = place.new_key()
    ids = place.fill(key["key"], 7)
    assert "7 messages that it sent still wait" in place.command("keys", "revoke", key["id"])
    assert "۷ پیام" in place.command("keys", "revoke", key["id"], language="fa")
    assert "7 messages that it had waiting are cancelled." in place.command(
        "keys", "revoke", key["id"], "--cancel-waiting"
    )
    assert place.statuses(ids) == {"cancelled"}
    assert "wait" not in place.command("keys", "revoke", key["id"].upper())
