"""Listeners to a gateway's events, each on a connection of its own, as a browser is one."""

import json
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from support.site import until

Query = Mapping[str, str | Sequence[str]]


class Received(NamedTuple):
    """One event."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def about(self) -> tuple[str, str]:
        """What a test compares: the message, or the device, and the type."""
        message = self.data.get("message")
        return (self.data["imei"] if message is None else message["id"], self.type)


class Listener:
    """Connected from `with` on; it goes on by itself where it was as long as `again` says so."""

    def __init__(
        self,
        url: str,
        query: Query | None = None,
        *,
        last: str | None = None,
        headers: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> None:
        self.events: list[Received] = []
        self.comments: list[str] = []
        self.last = last
        self.connections = 0
        self.ended = threading.Event()
        self.url = url
        self._again = again
        self._query = dict(query or {})
        self._headers = dict(headers or {})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._http = httpx.Client(timeout=httpx.Timeout(60, connect=5))

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.last is not None or self.ended.is_set())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._http.close()

    @property
    def abouts(self) -> list[tuple[str, str]]:
        return [event.about for event in self.events]

    def wait_for(self, count: int) -> list[Received]:
        """The events, once there are so many."""
        until(lambda: len(self.events) >= count)
        return self.events

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._connect()
            except httpx.TransportError:
                pass
            except (RuntimeError, OSError, httpx.StreamError):
                if not self._stopped.is_set():
                    raise
            if not self._again:
                break
            self._stopped.wait(0.05)
        self.ended.set()

    def _connect(self) -> None:
        headers = self._headers | ({} if self.last is None else {"Last-Event-ID": self.last})
        with self._http.stream("GET", f"{self.url}/events", params=self._query, headers=headers) as answer:
            if answer.status_code != 200:
                return
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            self.connections += 1
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    if name == "":
                        self.comments.append(value)
                    else:
                        fields[name] = value
                    continue
                if "data" in fields:
                    data = json.loads(fields["data"])
                    assert (fields["id"], fields["event"]) == (data["id"], data["type"])
                    self.events.append(Received(fields["id"], fields["event"], data))
                self.last = fields.get("id", self.last)
                fields = {}
