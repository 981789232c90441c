"""The HTTP API of a running gateway, as the command line calls it."""

import json
import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError, field_serializer

from chapar.errors import (
    GatewayLost,
    GatewayRefused,
    GatewayUnreachable,
    GatewayUntrusted,
    Language,
    NotAGateway,
    Phrase,
    SettingInvalid,
    UsageInvalid,
)
from chapar.model.message import Status
from chapar.runtime.certificates import tls_problem, trusting
from chapar.runtime.outbound import proxy_for
from chapar.runtime.secret_files import secret_of_environment

READ_TIMEOUT: Final = 30.0  # seconds; a page of messages takes milliseconds
CONNECT_TIMEOUT: Final = 5.0  # seconds
PAGE: Final = 1000  # messages; the most that the gateway puts on one page

_Body = TypeAdapter(dict[str, object])


class ShownMessage(BaseModel):
    """A message as the gateway shows it: what the command line reads of it, and whatever else there is."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    imei: str
    micro_op: str
    status: str  # a newer gateway may know more of them than `Status`
    reason: str | None = None
    reason_code: int | None = None
    attempts: int = 0
    possible_duplicate: bool = False
    subscribers: bool | None = None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None = None

    @field_serializer("created_at", "finished_at")
    def _as_the_gateway_writes_it(self, time: datetime | None) -> str | None:
        if time is None:
            return None
        return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Page(BaseModel):
    """One page of messages, newest first."""

    messages: list[ShownMessage]
    next: str | None


class Filters(NamedTuple):
    """Conditions on messages; what is None or empty does not narrow."""

    imei: str | None = None
    micro_op: str | None = None
    status: tuple[Status, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


class Sent(NamedTuple):
    """The answer to a send: 201 or 202."""

    acknowledged: bool  #: 201: the broker has it
    body: Mapping[str, object]
    location: str  #: where to look for the end of it


class GatewayClient:
    """A gateway at a URL. Every method raises GatewayError: one of its kinds."""

    def __init__(self, url: str, language: Language, transport: httpx.BaseTransport | None = None) -> None:
        checked = _checked(url)
        self.url = str(checked.copy_with(userinfo=b"")).rstrip("/")  #: without a password, to show
        self._root_path = checked.path.rstrip("/")  # below which a proxy shows the gateway
        self.clock: datetime | None = None  #: the gateway's at its last answer, to the second
        self._http = httpx.Client(
            base_url=checked,
            headers={"Accept-Language": language, **_credential()},
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            transport=transport,
            verify=_trusted() if checked.scheme == "https" else False,  # without TLS there is nothing to load for it
            proxy=proxy_for(checked.host, secret_of_environment("CHAPAR_PROXY")),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def send(self, request: Mapping[str, object], patience: float) -> Sent:
        """POST /messaging/send; waits `patience` seconds for the answer."""
        answer = self._call(
            self._http.build_request(
                "POST",
                "/messaging/send",
                content=json.dumps(request),
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(patience, connect=CONNECT_TIMEOUT),
            )
        )
        if answer.status_code not in {HTTPStatus.CREATED, HTTPStatus.ACCEPTED}:
            raise NotAGateway(self.url, answer.status_code)
        location = answer.headers.get("location", "/messaging/messages").removeprefix(self._root_path)
        return Sent(answer.status_code == HTTPStatus.CREATED, self._body(answer), f"{self.url}{location}")

    def messages(self, filters: Filters, limit: int) -> list[ShownMessage]:
        """At most `limit` messages, newest first, over as many pages as it takes."""
        found: list[ShownMessage] = []
        cursor: str | None = None
        while len(found) < limit:
            query = _query(filters, min(limit - len(found), PAGE), cursor)
            answer = self._call(self._http.build_request("GET", "/messaging/messages", params=query))
            try:
                page = Page.model_validate_json(answer.content)
            except ValidationError:
                raise NotAGateway(self.url, answer.status_code) from None
            found += page.messages
            cursor = page.next
            if cursor is None:
                break
        return found

    def message(self, message_id: str) -> ShownMessage | None:
        """The message with this id, None where there is none (any more)."""
        try:
            answer = self._call(self._http.build_request("GET", f"/messaging/messages/{message_id}"))
            return ShownMessage.model_validate_json(answer.content)
        except ValidationError:
            raise NotAGateway(self.url, answer.status_code) from None
        except GatewayRefused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _call(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = self._http.send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if (tls := _tls_error(error)) is not None:
                raise GatewayUntrusted(self.url, tls_problem(tls, request.url.host)) from None
            raise GatewayUnreachable(self.url, _cause(error)) from None
        except httpx.RequestError as error:
            raise GatewayLost(self.url, _cause(error)) from None
        self._read_clock(answer)
        if not answer.is_success:
            body = self._body(answer)
            reason = body.get("reason")
            if not isinstance(reason, str):
                raise NotAGateway(self.url, answer.status_code)
            raise GatewayRefused(self.url, answer.status_code, reason, body)
        return answer

    def _body(self, answer: httpx.Response) -> dict[str, object]:
        try:
            return _Body.validate_json(answer.content)
        except ValidationError:
            raise NotAGateway(self.url, answer.status_code) from None

    def _read_clock(self, answer: httpx.Response) -> None:
        try:
            self.clock = parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
        except (KeyError, ValueError):
            self.clock = None


def _credential() -> dict[str, str]:
    """The API key or token to call with. From the environment or a file: a command's options are shown to everybody."""
    credential = secret_of_environment("CHAPAR_API_KEY")
    if credential is None:
        return {}
    if not (credential.isascii() and credential.isprintable() and " " not in credential):
        raise SettingInvalid("CHAPAR_API_KEY", Phrase("setting.api_key_malformed"))
    return {"Authorization": f"Bearer {credential}"}


def _checked(url: str) -> httpx.URL:
    """The URL as it was written; raises UsageInvalid."""
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise UsageInvalid(Phrase("usage.url"))
    return parsed


def _trusted() -> ssl.SSLContext:
    """Trust the system's authorities, or those in `CHAPAR_CA_FILE`; raises SettingInvalid."""
    file = os.environ.get("CHAPAR_CA_FILE")
    return trusting("CHAPAR_CA_FILE", None if file is None else Path(file))


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS failure that is behind an exception of the library, if one is."""
    behind = error.__cause__ or error.__context__
    return behind if isinstance(behind, ssl.SSLError) else None if behind is None else _tls_error(behind)


def _query(filters: Filters, limit: int, cursor: str | None) -> dict[str, str | list[str]]:
    query: dict[str, str | list[str]] = {"limit": str(limit), "status": [status.value for status in filters.status]}
    texts = {"imei": filters.imei, "micro_op": filters.micro_op, "cursor": cursor}
    times = {"since": filters.since, "until": filters.until}
    query |= {name: text for name, text in texts.items() if text is not None}
    query |= {name: time.astimezone(UTC).isoformat() for name, time in times.items() if time is not None}
    return query


def _cause(error: httpx.RequestError) -> str:
    """Return the system's sentence without its error number."""
    text = str(error)
    return text.partition("] ")[2] or text or type(error).__name__
