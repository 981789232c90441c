"""The HTTP API of a running gateway, as the command line calls it."""

import json
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Annotated, Final, NamedTuple, Self, TypeVar, overload
from urllib.parse import quote, urlencode

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, PlainSerializer, TypeAdapter, ValidationError

from chapar.cli.options import Filters
from chapar.errors import (
    GatewayError,
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
from chapar.model.acceptance import check_key
from chapar.model.report import Format
from chapar.model.times import milliseconds, rfc3339
from chapar.runtime.addresses import LARGEST_PORT, is_host
from chapar.runtime.certificates import tls_problem, trusting
from chapar.runtime.outbound import proxy_for
from chapar.runtime.secret_files import secret_of_environment
from chapar.runtime.settings import Listening

READ_TIMEOUT: Final = 30.0  # seconds; a page of messages takes milliseconds
CONNECT_TIMEOUT: Final = 5.0  # seconds
EVENTS_TIMEOUT: Final = 45.0  # seconds; a comment comes every 15
SPREADSHEET_TIMEOUT: Final = 600.0  # seconds; nothing comes until it is whole, and a million rows take minutes
PAGE: Final = 1000  # messages; the most that the gateway puts on one page

_SENT: Final = frozenset({HTTPStatus.CREATED, HTTPStatus.ACCEPTED})

Shape = TypeVar("Shape", bound=BaseModel)
Query = Mapping[str, str | list[str]]

_Body = TypeAdapter(dict[str, object])


Moment = Annotated[AwareDatetime, PlainSerializer(lambda time: rfc3339(milliseconds(time)))]  # as the gateway writes it


class ShownReply(BaseModel):
    """The reply of a device, likewise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    at: Moment
    status: str
    payload: JsonValue = None
    matched_by: str | None = None
    late: bool = False


def reply_in(body: Mapping[str, object]) -> ShownReply | None:
    """The reply in an answer to a send."""
    try:
        return None if body.get("reply") is None else ShownReply.model_validate(body["reply"])
    except ValidationError:  # a newer gateway's
        return None


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
    created_at: Moment
    finished_at: Moment | None = None
    reply: ShownReply | None = None


class ShownAttempt(BaseModel):
    """An attempt of a message, likewise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    attempt: int
    at: Moment
    outcome: str


class ShownDetail(ShownMessage):
    """A message with its evidence and its attempts, likewise."""

    params: JsonValue = None
    topic: str | None = None
    deliver_at: Moment | None = None
    expires_at: Moment | None = None
    published_at: Moment | None = None
    origin: str | None = None
    reply_by: Moment | None = None
    only_if_online: bool = False
    deliver: str = "now"
    contact_until: Moment | None = None
    collapse_key: str | None = None
    superseded_by: str | None = None
    urgent: bool = False
    history: tuple[ShownAttempt, ...] = ()


class Page(BaseModel):
    """One page of messages, newest first."""

    messages: list[ShownMessage]
    next: str | None


class Sent(NamedTuple):
    """The answer to a send: 201 or 202."""

    acknowledged: bool  #: 201: the broker has it
    body: Mapping[str, object]
    location: str  #: where to look for the end of it


class Answered(NamedTuple):
    """The answer to one message of a bulk call."""

    status: int
    body: Mapping[str, object]

    @property
    def accepted(self) -> bool:
        """Return whether the message is saved and goes, or went, to its device."""
        return self.status in _SENT


class Cancelled(NamedTuple):
    """The answer to a cancellation."""

    done: bool  #: else the broker has yet to forget a message that it retains
    message: Mapping[str, object]  #: the one withdrawn; else the empty one that makes the broker forget


class _BulkBody(BaseModel):
    answers: list[Answered]


class GatewayClient:
    """A gateway at a URL, or the one on this machine. Every method raises GatewayError: one of its kinds."""

    def __init__(self, url: str | None, language: Language, transport: httpx.BaseTransport | None = None) -> None:
        checked = _checked(url or _own_url())
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

    def send(self, request: Mapping[str, object], patience: float, key: str | None = None) -> Sent:
        """POST /messaging/send; waits `patience` seconds for the answer."""
        return self._sent(self._post("/messaging/send", patience, key, json.dumps(request)))

    def send_all(self, messages: Sequence[bytes], patience: float, key: str | None = None) -> list[Answered]:
        """POST /messaging/bulk with messages in JSON; an answer for each."""
        answer = self._post("/messaging/bulk", patience, key, b'{"messages":[%b]}' % b",".join(messages))
        try:
            answers = _BulkBody.model_validate_json(answer.content).answers
        except ValidationError:
            raise NotAGateway(self.url, answer.status_code) from None
        if len(answers) != len(messages):
            raise NotAGateway(self.url, answer.status_code)
        return answers

    def resend(self, message_id: str, query: Mapping[str, str], patience: float, key: str | None = None) -> Sent:
        """POST /messaging/messages/{id}/resend."""
        return self._sent(self._post(f"{_path(message_id)}/resend?{urlencode(query)}", patience, key))

    def cancel(self, message_id: str) -> Cancelled:
        """POST /messaging/messages/{id}/cancel."""
        answer = self._post(f"{_path(message_id)}/cancel", READ_TIMEOUT)
        return Cancelled(answer.status_code == HTTPStatus.OK, self._message_in(answer))

    def report(
        self, filters: Filters, form: Format, options: Mapping[str, str]
    ) -> AbstractContextManager[Iterator[bytes]]:
        """GET /reporting/all, piece by piece as it comes."""
        return self.download("/reporting/all", {**_query(filters), "format": form.value, **options}, form)

    @contextmanager
    def download(self, path: str, query: Query, form: Format) -> Iterator[Iterator[bytes]]:
        """GET a file that comes in this form, piece by piece as it comes."""
        patience = SPREADSHEET_TIMEOUT if form is Format.XLSX else READ_TIMEOUT
        timeout = httpx.Timeout(patience, connect=CONNECT_TIMEOUT)
        try:
            with self._http.stream("GET", path, params=query, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    self._check(answer)
                if _media_type(answer) != form.media_type:
                    raise NotAGateway(self.url, answer.status_code)
                yield answer.iter_bytes()
        except httpx.RequestError as error:
            raise self._failure(error) from None

    @contextmanager
    def events(self, query: Query, last: str | None = None) -> Iterator[Iterator[str]]:
        """GET /events, line by line as they come, behind the event whose id is `last`."""
        timeout = httpx.Timeout(EVENTS_TIMEOUT, connect=CONNECT_TIMEOUT)
        headers = {} if last is None else {"Last-Event-ID": last}
        try:
            with self._http.stream("GET", "/events", params=query, headers=headers, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    self._check(answer)
                if _media_type(answer) != "text/event-stream":
                    raise NotAGateway(self.url, answer.status_code)
                yield answer.iter_lines()
        except httpx.RequestError as error:
            raise self._failure(error) from None

    def messages(self, filters: Filters, limit: int) -> list[ShownMessage]:
        """At most `limit` messages, newest first, over as many pages as it takes."""
        found: list[ShownMessage] = []
        cursor: str | None = None
        while len(found) < limit:
            query = _query(filters) | {"limit": str(min(limit - len(found), PAGE))}
            if cursor is not None:
                query["cursor"] = cursor
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

    def find(
        self, message_id: str, query: Mapping[str, str] | None = None, patience: float = READ_TIMEOUT
    ) -> ShownDetail:
        """The message with this id; where there is none, the gateway says so (404). The `query` may ask it to wait."""
        timeout = httpx.Timeout(patience, connect=CONNECT_TIMEOUT)
        answer = self._call(self._http.build_request("GET", _path(message_id), params=query, timeout=timeout))
        try:
            return ShownDetail.model_validate_json(answer.content)
        except ValidationError:
            raise NotAGateway(self.url, answer.status_code) from None

    def message(self, message_id: str) -> ShownMessage | None:
        """The message with this id, None where there is none (any more)."""
        try:
            return self.find(message_id)
        except GatewayRefused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    @overload
    def ask(self, shape: type[Shape], method: str, path: str, query: Query = ..., body: object = ...) -> Shape: ...

    @overload
    def ask(self, shape: None, method: str, path: str) -> None: ...

    def ask(
        self,
        shape: type[Shape] | None,
        method: str,
        path: str,
        query: Query = MappingProxyType({}),
        body: object = None,
    ) -> Shape | None:
        """Call a route with a query and a body in JSON; gives the answer in its shape, None where it has none."""
        answer = self._call(self._http.build_request(method, path, params=query, json=body))
        if shape is None:
            return None
        try:
            return shape.model_validate_json(answer.content)
        except ValidationError:
            raise NotAGateway(self.url, answer.status_code) from None

    def upload(
        self, shape: type[Shape], path: str, query: Query, content: bytes, media_type: str, patience: float
    ) -> Shape:
        """POST a file, and wait `patience` seconds for the answer in its shape."""
        timeout = httpx.Timeout(patience, connect=CONNECT_TIMEOUT)
        headers = {"Content-Type": media_type}
        answer = self._call(
            self._http.build_request("POST", path, params=query, content=content, headers=headers, timeout=timeout)
        )
        try:
            return shape.model_validate_json(answer.content)
        except ValidationError:
            raise NotAGateway(self.url, answer.status_code) from None

    def _post(
        self,
        path: str,
        patience: float,
        key: str | None = None,
        content: str | bytes | None = None,
    ) -> httpx.Response:
        headers = {} if content is None else {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = check_key(key, "--idempotency-key")
        timeout = httpx.Timeout(patience, connect=CONNECT_TIMEOUT)
        return self._call(self._http.build_request("POST", path, content=content, headers=headers, timeout=timeout))

    def _sent(self, answer: httpx.Response) -> Sent:
        if answer.status_code not in _SENT:
            raise NotAGateway(self.url, answer.status_code)
        location = answer.headers.get("location", "/messaging/messages").removeprefix(self._root_path)
        return Sent(answer.status_code == HTTPStatus.CREATED, self._message_in(answer), f"{self.url}{location}")

    def _call(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = self._http.send(request)
        except httpx.RequestError as error:
            raise self._failure(error) from None
        return self._check(answer)

    def _failure(self, error: httpx.RequestError) -> GatewayError:
        if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return GatewayLost(self.url, _cause(error))
        if (tls := _tls_error(error)) is not None:
            return GatewayUntrusted(self.url, tls_problem(tls, self._http.base_url.host))
        return GatewayUnreachable(self.url, _cause(error))

    def _check(self, answer: httpx.Response) -> httpx.Response:
        """The answer unchanged; raises GatewayRefused, NotAGateway where it is none that helps."""
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

    def _message_in(self, answer: httpx.Response) -> dict[str, object]:
        body = self._body(answer)
        if not isinstance(body.get("id"), str):
            raise NotAGateway(self.url, answer.status_code)
        return body

    def _read_clock(self, answer: httpx.Response) -> None:
        try:
            self.clock = parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
        except (KeyError, ValueError, OverflowError):
            self.clock = None


def _credential() -> dict[str, str]:
    """The API key or token to call with. From the environment or a file: a command's options are shown to everybody."""
    credential = secret_of_environment("CHAPAR_API_KEY")
    if credential is None:
        return {}
    if not (credential.isascii() and credential.isprintable() and " " not in credential):
        raise SettingInvalid("CHAPAR_API_KEY", Phrase("setting.api_key_malformed"))
    return {"Authorization": f"Bearer {credential}"}


def _own_url() -> str:
    """The gateway on this machine, as the settings say; raises SettingInvalid, UsageInvalid."""
    url = Listening.load().url
    if url is None:
        raise UsageInvalid(Phrase("usage.no_port"))
    return url


def _checked(url: str) -> httpx.URL:
    """The URL as it was written; raises UsageInvalid."""
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL:
        parsed = httpx.URL()
    is_address = is_host(parsed.raw_host.decode()) and (parsed.port is None or 0 < parsed.port <= LARGEST_PORT)
    if parsed.scheme not in {"http", "https"} or not is_address or parsed.query or parsed.fragment:
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


def _path(message_id: str) -> str:
    return f"/messaging/messages/{quote(os.fsencode(message_id), safe='')}"


def _media_type(answer: httpx.Response) -> str:
    media_type: str = answer.headers.get("content-type", "").partition(";")[0]
    return media_type.strip().lower()


def _query(filters: Filters) -> dict[str, str | list[str]]:
    query: dict[str, str | list[str]] = {"status": [status.value for status in filters.status]}
    texts = {"imei": filters.imei, "micro_op": filters.micro_op}
    times = {"since": filters.since, "until": filters.until}
    query |= {name: text for name, text in texts.items() if text is not None}
    query |= {name: time.astimezone(UTC).isoformat() for name, time in times.items() if time is not None}
    return query


def _cause(error: httpx.RequestError) -> str:
    """Return the system's sentence without its error number."""
    text = str(error)
    return text.partition("] ")[2] or text or type(error).__name__
