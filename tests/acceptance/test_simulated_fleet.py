"""One bulk call to devices that come and go: what the gateway says of each message is what its device knows."""

import json
from pathlib import Path

import pytest

from chapar.devices.firmware import Behaviour, Deed
from chapar.devices.simulated import FellSilent, Took
from chapar.model.message import Profile
from chapar.runtime.descriptors import raise_limit
from support.fleet import PlayedFleet
from support.site import HOLDS_NOTHING_BACK, Site, until

OPEN = {"status": ["queued", "publishing", "published", "acknowledged"], "limit": 1}
ENDED = {Deed.RAN: "succeeded", Deed.FAILED: "failed"}


@pytest.mark.parametrize(
    ("profile", "version", "devices"),
    [
        ("chapar", 3, 300),
        ("text", 5, 300),
        pytest.param("chapar", 3, 9_800, marks=pytest.mark.long),
        pytest.param("text", 5, 9_800, marks=pytest.mark.long),
    ],
)
def test_the_state_of_each_message_is_what_its_device_did(
    tmp_path: Path, profile: str, version: int, devices: int
) -> None:
    raise_limit()  # the broker and these devices need a descriptor for each
    names = [f"pump-{number}" for number in range(devices)]
    spell = 1 + devices / 1000  # seconds; more at a time could not connect again
    behaviour = Behaviour(
        Profile(profile), delay=spell / 4, progress=1, failures=0.05, duplicates=0.05, away=0.2, spell=spell
    )
    with (
        Site(tmp_path, *HOLDS_NOTHING_BACK, "log_type none", default_profile=profile) as site,
        PlayedFleet(site.broker.settings_env, names, behaviour, version=version, persistent=True) as fleet,
    ):
        fleet.wait_for(lambda: any(isinstance(event, FellSilent) for event in fleet.events))
        messages = [{"imei": name, "micro_op": "push_down", "wait": "none", "reply_within": 3600} for name in names]
        accepted = site.api.post("/messaging/bulk", json={"messages": messages})
        assert accepted.json()["summary"] == {"202": devices}

        until(lambda: not site.api.get("/messaging/messages", params=OPEN).json()["messages"], 60 + devices / 10)
        report = site.api.get("/reporting/all", params={"format": "ndjson"}).text
    said = {row["imei"]: row["status"] for row in map(json.loads, report.splitlines())}
    took = [event for event in fleet.events if isinstance(event, Took) and event.reaction.deed in ENDED]
    # The first word stands, where a lost acknowledgement made a device run a command without an id twice.
    assert said == {event.device: ENDED[event.reaction.deed] for event in reversed(took)}
    assert sorted(said.values()) != ["succeeded"] * devices
