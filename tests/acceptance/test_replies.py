"""Replies of devices, as plain ones send them: matched, listed, and none lost."""

from collections.abc import Iterator

import pytest

from support.site import Site, until


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        until(lambda: site.api.get("/health/ready").json()["replies"] == "up")
        yield site


def test_an_old_device_answers_in_plain_text(site: Site) -> None:
    imei = site.new_imei()
    with site.broker.device(imei) as device:
        sent = site.accepted(imei, reply_within=30)
        device.wait_for(1)
        device.reply("push_down received")
        site.message_in(sent, "acknowledged")
        device.reply("push_down failed: dry")
        message = site.message_in(sent, "failed")
        device.reply("good morning")
        stray = until(lambda: site.api.get("/replies", params={"matched": "false", "imei": imei}).json()["replies"])

    assert (message["reply"]["matched_by"], message["reply"]["payload"]) == ("order", "push_down failed: dry")
    listed = site.api.get(f"/messaging/messages/{sent}/replies").json()["replies"]
    assert [(each["status"], each["word"], each["stands"]) for each in listed] == [
        ("acknowledged", "received", False),
        ("failed", "failed", True),
    ]
    assert [(each["payload"], each["reason"]) for each in stray] == [("good morning", "no_candidate")]
