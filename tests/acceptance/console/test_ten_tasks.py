"""What an operator does, from the first click to the end, on a phone and on a desk, in both languages."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from chapar.model.principal import Scope
from chapar.web.console.words import words_of
from support import mosquitto as mosquitto_support
from support.console import NARROW, WIDE, check_layout, opened, sign_in
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.processes import Program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

    from chapar.errors import Language

DESKS = [(language, width) for language in ("en", "fa") for width in (NARROW, WIDE)]


def device_of(language: str, width: int) -> str:
    return f"pump-{language}-{width}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, str]]:
    """A gateway on Mosquitto, a key that may do everything, and simulated devices, one for each desk."""
    if not mosquitto_support.installed():
        pytest.skip("Mosquitto is not installed")
    folder = tmp_path_factory.mktemp("tasks")
    command = [find_command(), "keys", "create", "--name=operator", *(f"--scope={scope}" for scope in Scope)]
    key = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with Mosquitto() as broker, GatewayProcess(folder, broker.settings_env) as gateway:
        imeis = [device_of(*desk) for desk in DESKS]
        devices = Program([find_command(), "simulate", *imeis, "--broker", broker.url], folder=folder)
        try:
            devices.wait_for_line(f"Connected: {len(imeis)} of {len(imeis)}")
            yield gateway, key
        finally:
            devices.close()


class Desk(NamedTuple):
    """An operator who has signed in, at a screen."""

    page: "Page"
    gateway: GatewayProcess
    key: str
    api: httpx.Client
    language: "Language"
    imei: str  #: of a device that answers

    def said(self, key: str, **facts: object) -> str:
        """The words of the console that an operator reads."""
        return words_of(key, self.language, **facts)

    def link(self, key: str, **facts: object) -> "Locator":
        return self.page.get_by_role("link", name=self.said(key, **facts), exact=True).first

    def button(self, key: str) -> "Locator":
        return self.page.get_by_role("button", name=self.said(key), exact=True)

    def field(self, key: str) -> "Locator":
        return self.page.get_by_label(self.said(key), exact=True).first

    def open(self, key: str) -> None:
        """Follow the navigation to a page."""
        self.page.locator("nav").get_by_role("link", name=self.said(f"nav.{key}"), exact=True).click()
        self.page.wait_for_url(f"**/{key}")
        check_layout(self.page, self.language)

    def open_device(self) -> None:
        self.open("devices")
        self.field("devices.search").fill(self.imei)
        self.button("devices.show").click()
        self.page.wait_for_url("**q=*")
        self.page.get_by_text(self.imei, exact=True).click()
        self.page.wait_for_url(f"**/devices/{self.imei}")
        check_layout(self.page, self.language)

    def sent(self, operation: str, **fields: Any) -> dict[str, Any]:
        """A message that somebody else has sent to the device, or to another one."""
        asked = {"imei": self.imei, "micro_op": operation, **fields}
        answer: dict[str, Any] = self.api.post("/messaging/send", json=asked).json()
        return answer

    def messages(self, operation: str) -> list[dict[str, Any]]:
        asked = {"imei": self.imei, "micro_op": operation}
        found: list[dict[str, Any]] = self.api.get("/messaging/messages", params=asked).json()["messages"]
        return found


@pytest.fixture(scope="module", params=DESKS, ids=lambda desk: f"{desk[0]}-{desk[1]}")
def desk(
    request: pytest.FixtureRequest, browser: "Browser", gateway: GatewayProcess, key: str, api: httpx.Client
) -> Iterator[Desk]:
    language, width = request.param
    with opened(browser, gateway, language, width) as page:
        sign_in(page, gateway, key)
        yield Desk(page, gateway, key, api, language, device_of(language, width))


def signs_in(desk: Desk) -> None:
    """With the keyboard alone."""
    desk.page.locator("form[action$=sign-out] button").press("Enter")
    desk.page.get_by_text(desk.said("sign_in.why_out")).wait_for()
    check_layout(desk.page, desk.language)
    desk.field("sign_in.key").press_sequentially(desk.key[:9])
    desk.page.keyboard.insert_text(desk.key[9:])
    desk.page.keyboard.press("Enter")
    desk.page.wait_for_url("**/overview")


def sends_to_one_device(desk: Desk) -> None:
    desk.open_device()
    desk.link("device.send").click()
    assert desk.field("send.devices").input_value() == desk.imei
    desk.field("send.operation").fill("push_down")
    desk.page.locator("summary", has_text=desk.said("send.more")).click()
    desk.field("send.reply_within").fill("2")
    check_layout(desk.page, desk.language)
    desk.button("send.go").click()
    desk.page.wait_for_url("**/messages/*")
    desk.page.locator(".why .status.succeeded").wait_for()
    check_layout(desk.page, desk.language)
    assert [message["status"] for message in desk.messages("push_down")] == ["succeeded"]


def sees_why_something_did_not_arrive(desk: Desk) -> None:
    refused = desk.sent("open", imei=f"never-met-{desk.imei}", only_if_online=True)
    assert refused["code"] == "presence_unknown"
    desk.open("overview")
    desk.page.locator("tr", has_text=desk.said("reason.presence_unknown")).get_by_role("link").click()
    desk.page.wait_for_url("**/messages?status=rejected")
    desk.page.locator(f"tbody a[href$='/messages/{refused['id']}']").click()
    headers = {"Accept-Language": desk.language}
    why = desk.api.get(f"/messaging/messages/{refused['id']}/explain", headers=headers).json()
    beginning = why["sentence"][:20]
    assert beginning in desk.page.locator(".why").inner_text()
    check_layout(desk.page, desk.language)


def cancels_what_waits(desk: Desk) -> None:
    """With the keyboard alone, once the list is there."""
    waiting = desk.sent("cancelled", imei=f"idle-{desk.imei}", deliver="on_contact")
    desk.open("messages")
    desk.field("messages.device").fill(f"idle-{desk.imei}")
    desk.page.keyboard.press("Enter")
    desk.page.wait_for_url("**imei=idle*")
    desk.page.locator(f"tbody a[href$='/messages/{waiting['id']}']").press("Enter")
    desk.page.locator("summary", has_text=desk.said("message.cancel")).press("Enter")
    check_layout(desk.page, desk.language)
    desk.button("message.cancel_yes").press("Enter")
    desk.page.locator(".why .status.cancelled").wait_for()
    assert desk.api.get(f"/messaging/messages/{waiting['id']}").json()["status"] == "cancelled"


def sends_something_again(desk: Desk) -> None:
    first = desk.sent("again")
    desk.open("messages")
    desk.page.locator(f"tbody a[href$='/messages/{first['id']}']").click()
    desk.page.locator("summary", has_text=desk.said("message.resend")).click()
    desk.button("message.resend_yes").click()
    desk.page.wait_for_url(lambda url: "/messages/" in url and first["id"] not in url)
    desk.page.locator(f"dl a[href$='{first['id']}']").wait_for()
    assert [message["origin"] for message in desk.messages("again")] == [first["id"], None]


def finds_a_device_by_a_part_of_its_name(desk: Desk) -> None:
    name = f"پمپ شمالی {desk.imei}"
    assert desk.api.put(f"/devices/found-{desk.imei}", json={"name": name}).is_success
    desk.open("devices")
    desk.field("devices.search").fill(name[5:-3])
    desk.button("devices.show").click()
    desk.page.wait_for_url("**q=*")
    check_layout(desk.page, desk.language)
    desk.page.locator("tbody tr", has_text=name).get_by_role("link").first.click()
    desk.page.wait_for_url(f"**/devices/found-{desk.imei}")


def edits_labels(desk: Desk) -> None:
    desk.open_device()
    desk.page.locator("summary", has_text=desk.said("device.describe")).click()
    desk.field("devices.labels").fill("farm:7\nنوع:چاه")
    check_layout(desk.page, desk.language)
    desk.button("device.save").click()
    desk.page.get_by_text(desk.said("device.done_described"), exact=True).wait_for()
    desk.page.locator("dl").get_by_text("نوع:چاه").wait_for()
    assert desk.api.get(f"/devices/{desk.imei}").json()["labels"] == {"farm": "7", "نوع": "چاه"}


def purges_a_queue(desk: Desk) -> None:
    later = (datetime.now(UTC) + timedelta(hours=9)).isoformat()
    for _ in range(2):
        assert desk.sent("purged", deliver_at=later, wait="none")["status"] == "scheduled"
    desk.open_device()
    desk.page.locator("summary", has_text=desk.said("device.purge")).click()
    check_layout(desk.page, desk.language)
    desk.button("device.purge_yes").click()
    desk.page.locator("main [role=status]").wait_for()
    assert {message["status"] for message in desk.messages("purged")} == {"cancelled"}
    assert desk.api.get(f"/devices/{desk.imei}").json()["queue"]["depth"] == 0


def makes_a_key_for_some_devices_and_revokes_it(desk: Desk) -> None:
    name = f"app-{desk.imei}"
    desk.open("keys")
    desk.link("keys.new").click()
    desk.field("keys.name").fill(name)
    desk.page.locator("input[name='scope:messages:read']").check()
    desk.page.locator("input[name='scope:devices:read']").check()
    desk.field("keys.devices").fill(f"{desk.imei}")
    check_layout(desk.page, desk.language)
    desk.button("keys.make").click()
    secret = desk.page.locator("pre.secret").inner_text()
    check_layout(desk.page, desk.language)
    with httpx.Client(base_url=desk.gateway.url, headers={"Authorization": f"Bearer {secret}"}) as app:
        assert [each["imei"] for each in app.get("/devices").json()["devices"]] == [desk.imei]
        desk.open("keys")
        desk.field("keys.find").fill(name)
        desk.button("messages.show").click()
        desk.page.wait_for_url("**name=*")
        desk.page.get_by_role("link", name=name).click()
        desk.page.locator("summary", has_text=desk.said("keys.revoke")).click()
        desk.button("keys.revoke_yes").click()
        desk.page.locator(".status.revoked").wait_for()
        assert app.get("/devices").status_code == 401


def saves_messages_as_csv(desk: Desk) -> None:
    sent = desk.sent("saved")
    desk.open("messages")
    desk.field("messages.device").fill(desk.imei)
    desk.field("messages.operation").fill("saved")
    desk.button("messages.show").click()
    desk.page.wait_for_url("**micro_op=saved*")
    with desk.page.expect_download() as download:
        desk.link("messages.export").click()
    heading, *rows = download.value.path().read_text("utf-8-sig").splitlines()
    assert '"imei"' in heading
    assert [sent["id"] in row for row in rows] == [True]


def finds_who_sent_what(desk: Desk) -> None:
    sent = desk.sent("audited")
    desk.open("audit")
    desk.field("messages.device").fill(desk.imei)
    desk.field("audit.action").select_option(label=desk.said("action.message_sent"))
    desk.button("messages.show").click()
    desk.page.wait_for_url("**imei=*")
    row = desk.page.locator("tbody tr", has_text=sent["id"])
    assert "operator" in row.inner_text()
    assert "audited" in row.inner_text()
    check_layout(desk.page, desk.language)


TASKS = [
    signs_in,
    sends_to_one_device,
    sees_why_something_did_not_arrive,
    cancels_what_waits,
    sends_something_again,
    finds_a_device_by_a_part_of_its_name,
    edits_labels,
    purges_a_queue,
    makes_a_key_for_some_devices_and_revokes_it,
    saves_messages_as_csv,
    finds_who_sent_what,
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_an_operator(desk: Desk, task: Callable[[Desk], None]) -> None:
    task(desk)
