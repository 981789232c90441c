"""What is finished and old enough is forgotten, by itself or by `chapar prune`; what is unfinished never."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from chapar.model.message import Message, Status, new_id
from chapar.store.database import Role, open_engine
from chapar.store.schema import messages, to_row
from support.gateway import find_command
from support.site import Site, until, written
from support.stores import new_message
from support.tables import rows_in

DAY = 86_400_000  # ms
AT_ONCE = "0.000001"  # days, which is 86 ms


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def some_of_each(site: Site) -> tuple[set[str], set[str]]:
    """Messages that ended in several ways, and some that did not end; the broker is away afterwards."""
    imei = site.new_imei()
    scheduled, cancelled = (site.accepted(imei, deliver_at=written(time.time() + 3600)) for _ in range(2))
    assert site.cancel(cancelled).status_code == 200
    finished = {cancelled, *(site.send(imei).json()["id"] for _ in range(3))}
    site.part()
    rejected, expired = site.send(imei).json()["id"], site.accepted(imei, expires_in=0.05)
    site.message_in(expired, "expired")
    return {*finished, rejected, expired}, {scheduled, site.accepted(imei)}


def store_as_of(site: Site, days: float, status: Status, **fields: Any) -> str:
    """Put a message of some days ago past the stopped gateway; gives its id."""
    now = time.time_ns() // 1_000_000
    at = now - round(days * DAY)
    message = new_message("861", status, id=new_id(at * 1_000_000), created_at=at, claim=None, attempts=0, **fields)
    engine = open_engine(site.database_url, Role.MIGRATOR)
    try:
        with engine.begin() as connection:
            connection.execute(insert(messages).values(dict(zip(Message._fields, to_row(message), strict=True))))
    finally:
        engine.dispose()
    return message.id


def chapar(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "CHAPAR_DATABASE_URL": database_url}
    command = [find_command(), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)


def test_a_gateway_forgets_what_is_older_than_the_days_it_is_told_and_nothing_else(site: Site) -> None:
    finished, unfinished = some_of_each(site)
    site.gateway.terminate()
    kept = {*rows_in(site.database_url), store_as_of(site, 0.9, Status.PUBLISHED)}
    assert kept >= finished | unfinished
    later = time.time_ns() // 1_000_000 + DAY
    kept.add(store_as_of(site, 1.1, Status.SCHEDULED, deliver_at=later, expires_at=later + DAY))
    store_as_of(site, 1.1, Status.PUBLISHED)
    site.gateway.env["CHAPAR_RETENTION_DAYS"] = "1"
    site.gateway.start(until="live")
    until(lambda: {row["id"] for row in site.api.get("/reporting/all").json()} == kept)
    site.rejoin()


def test_whatever_the_days_what_is_unfinished_is_kept_and_delivered(site: Site) -> None:
    finished, unfinished = some_of_each(site)
    scheduled, queued = sorted(unfinished, key=lambda message_id: site.message(message_id)["status"], reverse=True)
    site.gateway.terminate()
    site.gateway.env["CHAPAR_RETENTION_DAYS"] = AT_ONCE
    site.gateway.start(until="live")
    until(lambda: not finished & {row["id"] for row in site.api.get("/reporting/all").json()})
    assert {site.api.get(f"/messaging/messages/{message_id}").status_code for message_id in finished} == {404}
    site.rejoin()
    assert site.message_in(queued, "published")["attempts"] == 1
    assert site.message(scheduled)["status"] == "scheduled"


def test_prune_removes_what_is_finished_once_the_gateway_is_stopped(site: Site) -> None:
    finished, _ = some_of_each(site)
    refused = chapar(site.database_url, "prune", "--days", "0")
    assert (refused.returncode, refused.stdout) == (1, "")
    [sentence] = refused.stderr.strip().splitlines()
    assert "Another Chapar already serves" in sentence
    site.gateway.terminate()
    before = rows_in(site.database_url)
    assert before.keys() >= finished
    removed = chapar(site.database_url, "prune", "--days", "0")
    rows = rows_in(site.database_url)
    assert {row["status"] for row in rows.values()} == {"scheduled", "queued"}
    count = len(before) - len(rows)
    assert (removed.returncode, removed.stdout) == (0, f"{site.database_url}: {count} messages removed.\n")
    assert rows.items() <= before.items(), "and what is left is as it was"
    pruned = chapar(site.database_url, "audit", "--action", "messages_pruned", "--json").stdout.splitlines()
    assert [json.loads(line)["detail"].partition(": ")[2] for line in pruned] == ["begun", f"{count} removed"]
    site.line.resume()
    site.gateway.start()


@pytest.mark.parametrize("arguments", [(), ("--days", "-1")], ids=["none", "negative"])
def test_prune_wants_to_be_told_how_many_days(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "chapar.db"
    refused = chapar(f"sqlite:///{file}", "prune", *arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert not file.exists()
