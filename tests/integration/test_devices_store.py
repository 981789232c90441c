"""Devices, their presence and the receiver's lease in both databases."""

import asyncio
import random
from itertools import product
from typing import Any, Final

import pytest
from sqlalchemy import Engine, func, insert, select, update

from chapar.errors import NotSaved
from chapar.model.acceptance import Addition
from chapar.model.audit import Action, Entry
from chapar.model.device import (
    GRACE,
    Device,
    DeviceFilters,
    DeviceQueue,
    Edit,
    Evidence,
    Ground,
    Presence,
    Registration,
    State,
)
from chapar.model.message import Message, Status
from chapar.model.principal import EVERYWHERE, Reach
from chapar.store import device_search, schema
from chapar.store.administration import administer
from chapar.store.database import Role, open_engine
from chapar.store.devices import Put, find, owed, page
from chapar.store.migrations import migrate
from chapar.store.presences import Noted, Track, presences_of
from chapar.store.purges import Purge
from chapar.store.receiving import Reception, life_down_since
from chapar.store.schema import DATABASE_TIME
from chapar.store.store import Store
from support.plans import avoid_scans, counting, plans_on
from support.stores import CLAIM, add_one, entries, new_message, now

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE, OTHER = "0" * 16, "1" * 16
T = 1_700_000_000_000
ONLINE = Evidence(State.ONLINE, T, Ground.ANNOUNCED, None)
OFFLINE = Evidence(State.OFFLINE, T, Ground.RETAINED, None)
DOUBTED = Evidence(State.ONLINE, T, Ground.SPOKE, T + 100)
NEW = Evidence(State.UNKNOWN, T, Ground.ANNOUNCED, T)


@pytest.fixture
def store(shared_store: Store) -> Store:
    return shared_store


def deadline() -> float:
    return asyncio.get_running_loop().time() + 30


def entry(action: Action, imei: str, at: int = T) -> Entry:
    return Entry(at, "key:anna", "Anna", "192.0.2.7", action.value, imei, imei)


async def put(store: Store, imei: str, at: int = T, room: int = 100, **fields: Any) -> Registration:
    said = {"name": None, "profile": None} | fields
    edit = Edit(imei, said, said.pop("labels", {}), keeps_labels=False)
    [registration] = await put_all(store, Put(edit, entry(Action.DEVICE_PUT, imei, at), room))
    return registration


async def put_all(store: Store, *puts: Put) -> list[Registration]:
    done = await store.devices.put_all(puts, deadline())
    assert not any(isinstance(each, NotSaved) for each in done)
    return [each for each in done if isinstance(each, Registration)]


async def ids(store: Store, at: int = T, **filters: Any) -> list[str]:
    found = await store.devices.page(DeviceFilters(**filters), after=None, limit=100, now=at)
    assert found.next is None
    return [each.device.imei for each in found.devices]


async def acquire(store: Store, process: str, seconds: float = 60, **fields: Any) -> Any:
    return await store.receiving.acquire(Reception(process, seconds, **{"alone": False, "life_is_up": False} | fields))


async def test_a_device_is_registered_described_anew_and_forgotten(store: Store) -> None:
    assert await store.devices.find("pump", EVERYWHERE, T) is None
    assert await put(store, "pump", name="پمپ شمالی", labels={"farm": "۱"}) is Registration.MADE
    assert await put(store, "pump", T + 5, profile="chapar") is Registration.CHANGED
    found = await store.devices.find("pump", EVERYWHERE, T)
    assert found is not None
    assert found.device == Device("pump", None, "chapar", {}, T)
    assert found.presence[:3] == (State.UNKNOWN, None, None)
    assert (found.last_seen, found.queue) == (None, DeviceQueue(0, None))
    await store.presences.note([Noted("pump", ONLINE, T)])
    assert await store.devices.delete(entry(Action.DEVICE_FORGOTTEN, "pump"), deadline())
    assert not await store.devices.delete(entry(Action.DEVICE_FORGOTTEN, "pump"), deadline())
    assert await store.devices.find("pump", EVERYWHERE, T) is None
    assert [each async for each in store.presences.tracks()] == []
    said = [(each.action, each.imei) for each in await entries(store)]
    assert said == [("device_put", "pump"), ("device_put", "pump"), ("device_forgotten", "pump")]


async def test_many_are_put_in_one_commit_one_after_the_other(store: Store) -> None:
    def edited(imei: str, at: int, **fields: str) -> Put:
        return Put(Edit(imei, {}, fields), entry(Action.DEVICE_PUT, imei, at), 3)

    made = await put_all(
        store, edited("a", T), edited("b", T, x="1"), edited("c", T), edited("d", T), edited("b", T + 1)
    )
    assert made == [*[Registration.MADE] * 3, Registration.NO_ROOM, Registration.UNCHANGED]
    later = edited("b", T + 2, y="پمپ"), edited("a", T + 2), edited("b", T + 3, x="2"), edited("d", T + 3)
    done = await put_all(store, *later)
    assert done == [Registration.CHANGED, Registration.UNCHANGED, Registration.CHANGED, Registration.NO_ROOM]
    known, count = await store.devices.described(["b", "a", "nobody"])
    assert count == 3
    assert known == {"a": Device("a", None, None, {}, T), "b": Device("b", None, None, {"x": "2", "y": "پمپ"}, T)}
    assert [each.imei for each in await entries(store)] == ["a", "b", "c", "b", "b"]
    again = await put_all(store, later[2])
    assert again == [Registration.CHANGED], "it is repeated, because its answer was lost"
    assert len(await entries(store)) == 5


async def test_what_is_repeated_because_its_answer_was_lost_is_in_the_trail_once(store: Store) -> None:
    assert [await put(store, "pump", name="a") for _ in range(2)] == [Registration.MADE] * 2
    assert [await put(store, "pump", T + 1, name="b") for _ in range(2)] == [Registration.CHANGED] * 2
    assert len(await entries(store)) == 2


async def test_no_more_devices_are_registered_than_may_be(store: Store) -> None:
    assert await put(store, "a", room=1) is Registration.MADE
    assert await put(store, "b", room=1) is Registration.NO_ROOM
    assert await put(store, "a", T + 1, room=1, name="x") is Registration.CHANGED
    noted = [Noted(imei, ONLINE, T, register_at=T, max_devices=3) for imei in ("a", "b", "c", "d")]
    assert await store.presences.note(noted) == [True, True, True, False]
    assert await ids(store) == ["a", "b", "c"]


async def test_only_what_is_registered_has_a_presence(store: Store) -> None:
    assert await store.presences.note([Noted("stranger", ONLINE, T)]) == [False]
    assert await store.presences.sight([("stranger", T)]) == [False]
    assert await store.presences.note([Noted("met", None, T, register_at=T, max_devices=9)]) == [True]
    assert await store.presences.note([Noted("met", DOUBTED, T + 1)]) == [True]
    assert await store.presences.sight([("met", T + 5), ("stranger", T)]) == [True, False]
    assert [each async for each in store.presences.tracks()] == [[Track("met", DOUBTED, T + 5)]]
    assert await store.presences.note([Noted("met", None, T + 9)]) == [True]
    assert [each async for each in store.presences.tracks()] == [[Track("met", None, T + 9)]]


async def test_devices_are_found_by_what_is_known_of_them(store: Store) -> None:
    await put(store, "farm1-a", name="Pump 1", labels={"farm": "1", "جای": "شمال: بالا"}, profile="chapar")
    await put(store, "farm1-b", name="100% _x", labels={"farm": "2"}, profile="text")
    await put(store, "farm2-c", labels={"farm": "1", "key": '"quoted"'})
    await put(store, "Farm3", name="پمپ ۲ HÄUS")
    evidence = {"farm1-a": ONLINE, "farm1-b": OFFLINE, "farm2-c": DOUBTED, "Farm3": NEW}
    await store.presences.note([Noted(imei, each, None) for imei, each in evidence.items()])
    later = T + 100 + GRACE
    for expected, filters in [
        (["Farm3", "farm1-a", "farm1-b", "farm2-c"], {}),
        (["farm1-a", "farm1-b"], {"reach": Reach(("farm1-*",))}),
        (["Farm3", "farm1-b"], {"imeis": ("farm1-b", "Farm3", "unknown")}),
        (["farm1-b"], {"imeis": ("farm1-b", "Farm3"), "reach": Reach(("farm1-*",))}),
        ([], {"imeis": ()}),
        (["farm1-a"], {"profile": "chapar"}),
        (["Farm3", "farm1-b", "farm2-c"], {"profile": "text"}),
        (["Farm3", "farm1-a", "farm2-c"], {"profile": "chapar", "default_profile": "chapar"}),
        (["farm1-a", "farm2-c"], {"labels": (("farm", "1"),)}),
        (["farm1-a"], {"labels": (("farm", "1"), ("جای", "شمال: بالا"))}),
        (["farm2-c"], {"labels": (("key", '"quoted"'),)}),
        ([], {"labels": (("farm", "1"), ("key", "x"))}),
        ([], {"labels": (('"farm', "1"),)}),
        (["farm1-a"], {"text": "pump"}),
        (["farm1-b"], {"text": "% _"}),
        (["Farm3", "farm1-a", "farm1-b", "farm2-c"], {"text": "FARM"}),
        ([], {"text": "farm_"}),
        (["farm2-c"], {"text": "m۲"}),
        (["Farm3", "farm2-c"], {"text": "۲"}),
        (["Farm3"], {"text": "hÄus"}),
        ([], {"text": "häus"}),  # as it is in both databases
        (["farm1-a", "farm2-c"], {"state": State.ONLINE}),
        (["farm1-b"], {"state": State.OFFLINE}),
        (["Farm3"], {"state": State.UNKNOWN}),
        (["farm1-a"], {"state": State.ONLINE, "at": later}),
        (["Farm3", "farm1-b", "farm2-c"], {"state": State.OFFLINE, "at": later}),
        ([], {"state": State.UNKNOWN, "at": later}),
    ]:
        assert await ids(store, **filters) == expected, filters  # type: ignore[arg-type]
        if (state := filters.get("state")) is not None:  # type: ignore[attr-defined]
            at = filters.get("at", T)  # type: ignore[attr-defined]
            shown = (await store.devices.page(DeviceFilters(), after=None, limit=9, now=at)).devices
            assert [each.device.imei for each in shown if each.presence.state is state] == expected


@pytest.mark.parametrize("few", [1, 5, 2000])
async def test_each_page_of_a_presence_is_that_of_all_devices_without_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(device_search, "_FEW", few)
    lot = random.Random(few)
    chances = [ONLINE] * 6 + [OFFLINE, DOUBTED, NEW, None]
    for number in lot.sample(range(40), 40):
        await put(store, f"d{number:02}", name="odd" if number % 2 else "even", labels={"farm": str(number % 3)})
        await store.presences.note([Noted(f"d{number:02}", lot.choice(chances), None)])
    for state, (at, narrower) in product(State, product((T, T + 100 + GRACE), _NARROWER)):
        all_ = (await store.devices.page(DeviceFilters(**narrower), after=None, limit=99, now=at)).devices
        fitting = [each.device.imei for each in all_ if each.presence.state is state]
        filters = DeviceFilters(state=state, **narrower)
        for after, limit in product((None, "d07", "d20", "d39"), (1, 3, 50)):
            expected = [imei for imei in fitting if imei > (after or "")]
            shown = await store.devices.page(filters, after=after, limit=limit, now=at)
            assert [each.device.imei for each in shown.devices] == expected[:limit], (filters, after)
            assert (shown.next is None) == (len(expected) <= limit)


_NARROWER: Final[list[dict[str, Any]]] = [
    {},
    {"text": "odd"},
    {"text": "d1"},
    {"text": "nothing"},
    {"labels": (("farm", "1"),)},
    {"reach": Reach(("d1*", "d33"))},
    {"imeis": ("d01", "d02", "d33"), "text": "odd"},
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Many devices of which nearly all are online, on SQLite."""
    url = f"sqlite:///{tmp_path_factory.mktemp('fleet') / 'chapar.db'}"
    migrate(url)
    engine = open_engine(url, Role.ADMINISTRATOR)
    with engine.begin() as connection:
        rows = [{"imei": f"{number:05}", "name": "pump", "created_at": T, "changed_at": T} for number in range(12_000)]
        connection.execute(insert(schema.devices), rows)
        online = [{"imei": row["imei"], **ONLINE._asdict()} for row in rows if row["imei"] != "07777"]
        connection.execute(insert(schema.presences), online)
    return engine


@pytest.mark.parametrize("narrower", [{}, {"text": "ump"}, {"text": "nothing"}])
@pytest.mark.parametrize("state", [State.UNKNOWN, State.OFFLINE])
async def test_where_few_are_in_a_state_sqlite_seeks_no_presence_for_each_device(
    fleet: Engine, state: State, narrower: dict[str, Any]
) -> None:
    with fleet.connect() as connection:
        plans = plans_on(connection)
        found = page(connection, DeviceFilters(state=state, **narrower), None, 9, T).devices
    is_found = state is State.UNKNOWN and narrower.get("text") != "nothing"
    assert [each.device.imei for each in found] == ["07777"] * is_found
    assert plans
    assert not any("SCAN devices" in plan and "SEARCH presences" in plan for plan in plans)
    assert not any("SCAN presences" in plan and "SEARCH devices" in plan for plan in plans)


async def test_where_most_are_in_a_state_and_fit_sqlite_goes_through_few(fleet: Engine) -> None:
    with fleet.connect() as connection:
        with counting(connection) as every:
            assert page(connection, DeviceFilters(text="nothing"), None, 9, T).devices == []
        with counting(connection) as some:
            assert len(page(connection, DeviceFilters(state=State.ONLINE, text="ump"), None, 9, T).devices) == 9
    assert some[0] < every[0]


async def test_devices_are_counted_by_their_presence_within_reach(store: Store) -> None:
    assert set((await store.devices.counts(EVERYWHERE, T)).counts.values()) == {0}
    evidence = {"farm1-a": ONLINE, "farm1-b": OFFLINE, "farm2-c": DOUBTED, "farm2-d": NEW, "farm1-e": None, "F": None}
    for imei, each in evidence.items():
        await put(store, imei)
        if each is not None:
            await store.presences.note([Noted(imei, each, None)])
    for reach in (EVERYWHERE, Reach(("farm1-*",)), Reach(("farm2-*", "F"), ("open",)), Reach(("nothing",))):
        for at in (T, T + 100 + GRACE):
            counted = await store.devices.counts(reach, at)
            listed = {state: len(await ids(store, at, state=state, reach=reach)) for state in State}
            assert counted.counts == listed
            assert counted.stale
    assert (await store.devices.counts(EVERYWHERE, T)).counts == {
        State.ONLINE: 2,
        State.OFFLINE: 1,
        State.UNKNOWN: 3,
    }
    await acquire(store, ONE, life_is_up=True)
    assert not (await store.devices.counts(EVERYWHERE, T)).stale


async def test_pages_follow_each_other_and_end_where_their_text_is_long(store: Store) -> None:
    for number in range(7):
        await put(store, f"d{number}", name="n" * 100)
    first = await store.devices.page(DeviceFilters(), after=None, limit=3, now=T)
    second = await store.devices.page(DeviceFilters(), after=first.next, limit=3, now=T)
    last = await store.devices.page(DeviceFilters(), after=second.next, limit=3, now=T)
    assert [[each.device.imei for each in found.devices] for found in (first, second, last)] == [
        ["d0", "d1", "d2"],
        ["d3", "d4", "d5"],
        ["d6"],
    ]
    assert (first.next, second.next, last.next) == ("d2", "d5", None)
    named = await store.devices.page(DeviceFilters(text="N" * 90), after="d2", limit=3, now=T)
    assert ([each.device.imei for each in named.devices], named.next) == (["d3", "d4", "d5"], "d5")
    for number in range(5):
        await put(store, f"d{number}", T + 1, labels={"x": "y" * 100_000})
    page_ = await store.devices.page(DeviceFilters(), after=None, limit=100, now=T)
    assert len(page_.devices) == 2
    assert page_.next == "d1"


async def test_a_device_shows_how_much_waits_for_it_within_reach(store: Store) -> None:
    for imei in ("a", "b"):
        await put(store, imei)
    waiting = [
        new_message("a", Status.SCHEDULED, micro_op="open", claim=None, attempts=0, created_at=T + 5),
        new_message("a", Status.PUBLISHING, micro_op="close", claim=CLAIM, created_at=T + 6),
        new_message("a", Status.PUBLISHED, claim=None, created_at=T + 1, finished_at=T),
        new_message("a", Status.PUBLISHED, claim=None, created_at=T + 2),  # its reply is awaited
        new_message("a", Status.SCHEDULED, micro_op="", claim=None, attempts=0, created_at=T),
        new_message("stranger", Status.QUEUED, claim=None, attempts=0),
    ]
    for message in waiting:
        await add_one(store, message)
    found = (await store.devices.page(DeviceFilters(), after=None, limit=9, now=T)).devices
    assert [each.queue for each in found] == [DeviceQueue(2, T + 5), DeviceQueue(0, None)]
    narrow = await store.devices.find("a", Reach(operations=("close",)), T)
    assert narrow is not None
    assert narrow.queue == DeviceQueue(1, T + 6)

    async def of_a(reach: Reach = EVERYWHERE, limit: int = 9) -> list[Message]:
        return await store.devices.owed("a", reach, limit)

    scheduled, publishing, _, answerable, *_ = waiting
    assert await of_a() == [scheduled, publishing, answerable]
    assert await of_a(limit=2) == [scheduled, publishing]
    assert await of_a(Reach(operations=("close",))) == [publishing]
    assert await store.devices.owed("b", EVERYWHERE, 9) == []


async def test_what_a_device_is_owed_is_found_by_an_index(store: Store, shared_url: str) -> None:
    await add_one(store, new_message("a", Status.QUEUED, claim=None, attempts=0))
    with administer(shared_url) as connection:
        avoid_scans(connection)
        plans = plans_on(connection)
        assert len(owed(connection, "a", EVERYWHERE, 9)) == 1
    assert "ix_messages_unfinished" in plans[0]
    assert "SCAN messages" not in plans[0]
    assert "Seq Scan" not in plans[0]


async def test_an_index_has_the_order_of_devices_but_not_what_is_searched_in_them(
    store: Store, shared_url: str
) -> None:
    await put(store, "pump", name="north")
    with administer(shared_url) as connection:
        avoid_scans(connection)
        plans = plans_on(connection)
        assert len(page(connection, DeviceFilters(), None, 9, T).devices) == 1
        in_order = plans[0]
        plans.clear()
        assert len(page(connection, DeviceFilters(text="orth"), None, 9, T).devices) == 1
    assert "Sort" not in in_order
    assert "ORDER BY" not in in_order
    assert "Sort" in plans[0] or "ORDER BY" in plans[0]


async def test_all_that_waits_for_a_device_is_withdrawn_in_short_commits(store: Store) -> None:
    changed: list[Any] = []
    store.changes.listen(changed.extend)
    others = [
        new_message("b", Status.QUEUED, claim=None, attempts=0),
        new_message("a", Status.PUBLISHING, micro_op="op1"),
        new_message("a", Status.SCHEDULED, micro_op="", claim=None, attempts=0),
    ]
    for message in others:
        await add_one(store, message)
    waiting = [
        new_message(
            "a",
            Status.QUEUED if number % 2 else Status.SCHEDULED,
            micro_op=f"op{number % 10}",
            claim=None,
            attempts=0,
            deliver_at=now() + 10**7,
        )
        for number in range(1100)
    ]
    await store.messages.add(list(map(Addition, waiting)))
    changed.clear()
    asked = Purge(
        entry(Action.CANCELLED, "a")._replace(subject="", detail="purged"), Reach(operations=("op[0-4]", "op1"))
    )
    assert await store.purges.purge(asked, 30) == 110
    assert await store.purges.purge(asked._replace(reach=EVERYWHERE), 30) == 990
    assert await store.purges.purge(asked._replace(reach=EVERYWHERE), 30) == 0
    await asyncio.sleep(0)  # what has changed is announced behind the answer
    withdrawn = [each for each in changed if each.after is Status.CANCELLED]
    assert len(withdrawn) == len({each.id for each in withdrawn}) == 1100
    assert {each.reason for each in withdrawn} == {"purged"}
    for change in (withdrawn[0], withdrawn[-1]):
        assert await store.messages.find(change.id) == change.message
    assert [(await store.messages.find(each.id)).status for each in others] == [each.status for each in others]  # type: ignore[union-attr]
    [last] = await entries(store, subject=withdrawn[0].id)
    assert (last.action, last.imei, last.detail) == ("message_cancelled", "a", "purged")


async def test_one_process_at_a_time_receives(store: Store) -> None:
    assert (await acquire(store, ONE)).filters == ()
    assert await acquire(store, OTHER) is None
    assert (await acquire(store, ONE, filters=("devices/+/reply",))).filters == ("devices/+/reply",)
    assert await acquire(store, OTHER) is None
    assert (await acquire(store, OTHER, alone=True)).filters == ("devices/+/reply",)
    assert await acquire(store, ONE) is None
    await store.receiving.release(ONE)  # it holds nothing any more
    assert await acquire(store, ONE) is None
    await store.receiving.release(OTHER)
    assert (await acquire(store, ONE, seconds=0)).filters == ("devices/+/reply",)
    assert (await acquire(store, OTHER)).filters == ("devices/+/reply",), "the lease was over"


async def test_nobody_listens_from_when_a_link_fell_or_a_lease_ended(store: Store, shared_url: str) -> None:
    def down_for() -> int | None:
        with administer(shared_url) as connection:
            since = life_down_since(connection, T)
        return None if since is None else T - since

    def shift(**columns: Any) -> None:
        with administer(shared_url) as connection:
            connection.execute(update(schema.receiver).values(**columns))

    ever = down_for()
    assert ever is not None
    assert ever > 10**9, "nobody has ever listened"
    await acquire(store, ONE)
    assert (down_for() or 0) > 10**9, "the link is not up yet"
    await acquire(store, ONE, life_is_up=True)
    assert down_for() is None
    await acquire(store, ONE)
    assert 0 <= (down_for() or 0) < 60_000
    shift(life_down_since=DATABASE_TIME - 100_000)
    await acquire(store, ONE)
    assert 100_000 <= (down_for() or 0) < 160_000, "since when does not move"
    await acquire(store, ONE, life_is_up=True)
    shift(lease_until=DATABASE_TIME - 200_000)  # it died
    assert 200_000 <= (down_for() or 0) < 260_000
    await acquire(store, OTHER)
    assert 200_000 <= (down_for() or 0) < 260_000
    await acquire(store, OTHER, life_is_up=True)
    await store.receiving.release(OTHER)
    assert 0 <= (down_for() or 0) < 60_000
    await acquire(store, OTHER, life_is_up=True, alone=True, seconds=0)
    assert down_for() is None, "whoever is alone loses nothing to nobody"
    await acquire(store, ONE, alone=True)
    assert (down_for() or 0) > 10**9, "nobody knows since when the other one has been dead"


async def test_others_ask_for_presences_in_their_own_transaction(store: Store, shared_url: str) -> None:
    await store.presences.note([Noted("a", ONLINE, T, register_at=T, max_devices=9)])
    with administer(shared_url) as connection:
        found = presences_of(connection, ["a", "b"], T)
    assert found == {
        "a": Presence(State.ONLINE, T, Ground.ANNOUNCED, stale=True),
        "b": Presence(State.UNKNOWN, None, None, stale=True),
    }
    await acquire(store, ONE, life_is_up=True)
    with administer(shared_url) as connection:
        assert not presences_of(connection, ["a"], T)["a"].stale
        assert find(connection, "a", EVERYWHERE, T) == page(connection, DeviceFilters(), None, 1, T).devices[0]
        assert connection.execute(select(func.count()).select_from(schema.presences)).scalar_one() == 1
