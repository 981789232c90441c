"""Following: every message and every change of state once, whatever the order in which they become visible."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count

import httpx
import pytest

from chapar.cli import follow
from chapar.cli.client import GatewayClient, ShownMessage
from chapar.cli.follow import MOST_ASKED, WINDOW, Follower
from chapar.cli.messages import follow_messages
from chapar.cli.options import Filters
from chapar.errors import GatewayLost, GatewayRefused, GatewayUnreachable
from chapar.model.message import UNFINISHED, Status


class FakeGateway:
    """Answers `/messaging/messages` out of a dict, at a time that only the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 6, 30, tzinfo=UTC)
        self.messages: dict[str, dict[str, object]] = {}
        self.away: httpx.Response | None = None  #: what it answers instead, `None` while it is well
        self.down = False
        self.breaks_at_status = False  #: the second list of a look fails
        self.asked: list[str] = []
        self._numbers = count()

    def accept(self, status: str = "published", imei: str = "pump-7", ago: float = 0.0) -> str:
        """A message that becomes visible now and was accepted `ago` seconds before."""
        created_at = self.now - timedelta(seconds=ago)
        # As in a UUIDv7 the time leads.
        message_id = f"{int(created_at.timestamp() * 1000):015}-{next(self._numbers):06}"
        self.messages[message_id] = {
            "id": message_id,
            "imei": imei,
            "micro_op": "open",
            "attempts": 1,
            "created_at": created_at.isoformat(timespec="milliseconds"),
        }
        self.move(message_id, status)
        return message_id

    def move(self, message_id: str, status: str) -> None:
        finished = None if status in UNFINISHED else self.now.isoformat()
        self.messages[message_id] |= {"status": status, "finished_at": finished}

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def client(self) -> GatewayClient:
        return GatewayClient("http://gateway.example", "en", httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("Connection refused")
        if self.away is not None:
            return self.away
        self.asked.append(request.url.path)
        headers = {"Date": format_datetime(self.now, usegmt=True)}
        _, _, message_id = request.url.path.partition("/messaging/messages/")
        if not message_id:
            return httpx.Response(200, json=self._page(request.url.params), headers=headers)
        if message_id in self.messages:
            return httpx.Response(200, json=self.messages[message_id], headers=headers)
        return httpx.Response(404, json={"reason": "no such message"}, headers=headers)

    def _page(self, query: httpx.QueryParams) -> dict[str, object]:
        if self.breaks_at_status and "status" in query:
            raise httpx.ReadError("")
        limit = int(query["limit"])
        since = datetime.fromisoformat(query.get("since", "1970-01-01T00:00Z"))
        found = [
            message
            for message_id, message in sorted(self.messages.items(), reverse=True)
            if message_id < query.get("cursor", "~")
            and datetime.fromisoformat(str(message["created_at"])) >= since
            and message["imei"] == query.get("imei", message["imei"])
            and message["status"] in (query.get_list("status") or list(Status))
        ][:limit]
        return {"messages": found, "next": found[-1]["id"] if len(found) == limit else None}


@pytest.fixture
def fake() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def gateway(fake: FakeGateway) -> Iterator[GatewayClient]:
    with fake.client() as client:
        yield client


@pytest.fixture
def follower(gateway: GatewayClient) -> Follower:
    """Of a gateway that is empty when it begins."""
    follower = Follower(gateway, Filters())
    follower.begin()
    return follower


def seen(follower: Follower) -> list[tuple[str, str]]:
    return [(message.id, message.status) for message in follower.refresh().changed]


def test_what_was_there_before_is_not_new(fake: FakeGateway, gateway: GatewayClient) -> None:
    for status in Status:
        fake.accept(status)
        fake.accept(status, ago=3600)
    follower = Follower(gateway, Filters())
    follower.begin()
    assert seen(follower) == []


def test_a_new_message_is_seen_once(fake: FakeGateway, follower: Follower) -> None:
    new = fake.accept()
    assert seen(follower) == [(new, "published")]
    assert seen(follower) == []


def test_messages_come_oldest_first(fake: FakeGateway, follower: Follower) -> None:
    late, early = fake.accept(ago=1), fake.accept(ago=2)
    assert [id_ for id_, _ in seen(follower)] == [early, late]


def test_every_change_of_state_is_seen_once(fake: FakeGateway, follower: Follower) -> None:
    new = fake.accept("publishing")
    assert seen(follower) == [(new, "publishing")]
    fake.move(new, "published")
    assert seen(follower) == [(new, "published")]
    assert seen(follower) == []


def test_another_attempt_is_a_change(fake: FakeGateway, follower: Follower) -> None:
    new = fake.accept("publishing")
    follower.refresh()
    fake.messages[new]["attempts"] = 2
    assert seen(follower) == [(new, "publishing")]


def test_a_message_that_becomes_visible_after_later_ones_is_seen(fake: FakeGateway, follower: Follower) -> None:
    fake.pass_time(20)
    follower.refresh()
    fake.accept()
    follower.refresh()
    late = fake.accept(ago=15)
    assert seen(follower) == [(late, "published")]


def test_what_happened_while_the_gateway_was_out_of_reach_is_seen(fake: FakeGateway, follower: Follower) -> None:
    fake.down = True
    fake.pass_time(1800)
    with pytest.raises(GatewayUnreachable):
        follower.refresh()
    early = fake.accept(ago=1700)
    fake.pass_time(1800)
    late = fake.accept()
    fake.down = False
    assert seen(follower) == [(early, "published"), (late, "published")]


def test_a_look_that_fails_halfway_loses_nothing(fake: FakeGateway, follower: Follower) -> None:
    old = fake.accept("queued")
    follower.refresh()
    fake.pass_time(3600)
    fake.move(old, "published")
    new = fake.accept()
    fake.breaks_at_status = True
    with pytest.raises(GatewayLost):
        follower.refresh()
    fake.breaks_at_status = False
    assert seen(follower) == [(old, "published"), (new, "published")]


def test_a_message_that_ends_long_after_it_was_accepted_is_seen(fake: FakeGateway, follower: Follower) -> None:
    old = fake.accept("queued")
    follower.refresh()
    fake.pass_time(3600)
    assert seen(follower) == []
    fake.move(old, "expired")
    assert seen(follower) == [(old, "expired")]
    assert seen(follower) == []


def test_a_message_queued_before_we_began_is_seen_when_it_moves(fake: FakeGateway, gateway: GatewayClient) -> None:
    old = fake.accept("queued", ago=3600)
    follower = Follower(gateway, Filters())
    follower.begin()
    fake.move(old, "published")
    assert seen(follower) == [(old, "published")]


def test_many_old_messages_that_end_at_once_are_seen_in_turn(fake: FakeGateway, gateway: GatewayClient) -> None:
    old = {fake.accept("queued", ago=3600) for _ in range(MOST_ASKED + 50)}
    follower = Follower(gateway, Filters())
    follower.begin()
    for message_id in old:
        fake.move(message_id, "published")
    first = {id_ for id_, _ in seen(follower)}
    assert len(first) == MOST_ASKED
    assert first | {id_ for id_, _ in seen(follower)} == old


def test_a_message_that_was_deleted_is_forgotten(fake: FakeGateway, follower: Follower) -> None:
    old = fake.accept("queued")
    follower.refresh()
    del fake.messages[old]
    fake.pass_time(3600)
    assert seen(follower) == []
    fake.asked.clear()
    follower.refresh()
    assert not any(old in path for path in fake.asked)


def test_memory_is_bounded_and_still_nothing_is_seen_twice(
    fake: FakeGateway, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "MOST_READ", 25)
    monkeypatch.setattr(follow, "MOST_REMEMBERED", 50)
    for _ in range(20):
        new = {fake.accept() for _ in range(10)} | {fake.accept("queued", ago=3600) for _ in range(10)}
        assert {id_ for id_, _ in seen(follower)} == new
        fake.pass_time(WINDOW.total_seconds() / 10)
    assert len(follower._known) == 50


def test_what_is_finished_and_out_of_the_window_is_forgotten(fake: FakeGateway, follower: Follower) -> None:
    fake.accept()
    follower.refresh()
    fake.pass_time(2 * WINDOW.total_seconds())
    follower.refresh()
    follower.refresh()
    assert follower._known == {}


def test_more_than_a_look_reads_is_said_and_the_newest_are_seen(
    fake: FakeGateway, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "MOST_READ", 5)
    fake.accept(ago=1)
    assert not follower.refresh().missed
    new = [fake.accept(ago=(9 - number) / 100) for number in range(9)]
    look = follower.refresh()
    assert look.missed
    assert [message.id for message in look.changed] == new[4:]
    assert seen(follower) == []
    newer = fake.accept()
    look = follower.refresh()
    assert not look.missed
    assert [message.id for message in look.changed] == [newer]


class Enough(BaseException):
    """Ends the endless, as Ctrl-C does."""


def followed(
    fake: FakeGateway, steps: list[Callable[[], object]], filters: Filters | None = None, limit: int = 20
) -> list[str]:
    """What is shown while between two looks each of the steps is done."""
    shown: list[str] = []
    todo = iter(steps)

    def show(messages: Iterable[ShownMessage]) -> None:
        shown.extend(f"{message.id} {message.status}" for message in messages)

    def pause(_seconds: float) -> None:
        step = next(todo, None)
        if step is None:
            raise Enough
        step()

    with fake.client() as gateway, pytest.raises(Enough):
        follow_messages(gateway, filters or Filters(), limit, show, "en", pause)
    return shown


def test_following_begins_with_the_newest_messages(fake: FakeGateway) -> None:
    ids = [fake.accept(ago=1000 - number) for number in range(5)]
    assert followed(fake, [lambda: None], limit=2) == [f"{ids[3]} published", f"{ids[4]} published"]


def test_only_the_states_asked_for_are_shown(fake: FakeGateway) -> None:
    fake.accept()
    old = fake.accept("queued", ago=3600)
    shown = followed(fake, [fake.accept, lambda: fake.move(old, "rejected")], Filters(status=(Status.REJECTED,)))
    assert shown == [f"{old} rejected"]


def test_only_the_device_asked_for_is_shown(fake: FakeGateway) -> None:
    shown = followed(fake, [lambda: fake.accept(imei="a"), lambda: fake.accept(imei="b")], Filters(imei="b"))
    assert shown == [f"{next(reversed(fake.messages))} published"]


@pytest.mark.parametrize("proxy", [False, True])
def test_a_restart_of_the_gateway_is_one_sentence(
    fake: FakeGateway, capsys: pytest.CaptureFixture[str], *, proxy: bool
) -> None:
    def away() -> None:
        fake.down = not proxy
        fake.away = httpx.Response(502) if proxy else None

    def back() -> None:
        fake.down, fake.away = False, None
        fake.accept()

    shown = followed(fake, [away, lambda: None, lambda: None, back, lambda: None])
    assert shown == [f"{next(iter(fake.messages))} published"]
    assert capsys.readouterr().err.count("chapar: ") == 1


def test_a_refusal_ends_it(fake: FakeGateway) -> None:
    def refuse() -> None:
        fake.away = httpx.Response(401, content=json.dumps({"reason": "who are you?"}))

    with fake.client() as gateway, pytest.raises(GatewayRefused, match="who are you"):
        follow_messages(gateway, Filters(), 20, lambda _: None, "en", lambda _: refuse())
