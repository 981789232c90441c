"""A secret comes from the environment or a file, and is never repeated: not by a sentence, not by `repr`."""

import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from chapar.cli.client import GatewayClient
from chapar.errors import ChaparError, GatewayError, SettingInvalid
from chapar.link.publication import SignOn
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.secret_files import secrets_of
from chapar.runtime.settings import Settings
from chapar.store import database

SECRETS = secrets_of(Settings)
CANARY = "c4nary"
VALUES = {
    "broker_url": f"mqtts://gate:{CANARY}@broker.example",
    "database_url": f"postgresql://gate:{CANARY}@db.example/chapar",
    "proxy": f"http://gate:{CANARY}@proxy.example:3128",
}
ODD = ["{0}/{0}", "{0}?{0}", "{0}#{0}", "12/{0}", "12?{0}", "12#{0}", "{0}@{0}", "{0}@1/{0}@{0}", "{0}:{0}", "{0},{0}"]
ODD += ["[{0}", "{0}]", "%{0}", "{0}\n", "\udce9{0}", "{0}℀", "{0} {0}", "", "12,{0}", "{0}\x1b[2J"]
BROKER_FORMS = [
    f"{scheme}://{start}{{0}}@broker.example" for scheme in ("mqtt", "mqtts", "http") for start in ("gate:", "")
]
DATABASE_FORMS = [
    *(
        f"{scheme}://{start}{{0}}@db.example/chapar"
        for scheme in ("postgresql", "postgres", "mysql")
        for start in ("gate:", "")
    ),
    "postgresql://db.example/chapar?password={0}",
    "postgresql://gate:{0}@db.example:port/chapar",
    "postgresql:gate:{0}@db.example/chapar",
]


AROUND = ["{}", "{}\n", "{}\r\n", "{}\n\n", "\ufeff{}\n", " {}\t", "\n\ufeff {} \r\n\r\n", "\u200f{}\u2028\xa0"]
CONTROLS = ["\n", "\r\n", "\0", "\t", "\x1b[2J", "\x7f", "\x85", "\u2028", "\ufeff"]


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHAPAR_")]:
        monkeypatch.delenv(name)


def value_of(settings: Settings, name: str) -> str:
    text: str = getattr(settings, name).get_secret_value()
    return text


def shown_by(settings: Settings) -> str:
    addresses = settings.brokers()
    sign_ons = [SignOn("id", 1, username=address.username, password=address.password) for address in addresses]
    return " ".join(
        [repr(settings), str(settings), settings.database, repr(addresses), repr(sign_ons), str(addresses[0])]
    )


def refused_without_repeating(setting: str, load: Callable[[], object] = Settings.load) -> None:
    with pytest.raises(SettingInvalid, match="control character") as error:
        load()
    assert error.value.setting == setting
    assert "نویسهٔ کنترلی" in error.value.sentence("fa")
    assert CANARY not in error.value.sentence("fa") + "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("name", SECRETS)
class TestFromFiles:
    @pytest.mark.parametrize("around", AROUND)
    def test_what_stands_around_the_value_is_no_part_of_it(
        self, name: str, around: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        value = VALUES.get(name, CANARY * 8)
        (tmp_path / "secret").write_text(around.format(value), encoding="utf-8", newline="")
        monkeypatch.setenv(f"CHAPAR_{name.upper()}_FILE", str(tmp_path / "secret"))
        from_file = Settings.load()
        assert value_of(from_file, name) == value
        assert CANARY not in shown_by(from_file)
        monkeypatch.delenv(f"CHAPAR_{name.upper()}_FILE")
        monkeypatch.setenv(f"CHAPAR_{name.upper()}", around.format(value))
        assert value_of(Settings.load(), name) == value

    @pytest.mark.parametrize("inside", CONTROLS)
    def test_a_control_character_inside_is_refused(
        self, name: str, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        value = VALUES.get(name, CANARY * 8).replace(CANARY, f"{CANARY}{inside}{CANARY}")
        (tmp_path / "secret").write_text(value, encoding="utf-8", newline="")
        monkeypatch.setenv(f"CHAPAR_{name.upper()}_FILE", str(tmp_path / "secret"))
        refused_without_repeating(f"CHAPAR_{name.upper()}_FILE")
        monkeypatch.delenv(f"CHAPAR_{name.upper()}_FILE")
        if inside != "\0":  # which no environment can hold
            monkeypatch.setenv(f"CHAPAR_{name.upper()}", value)
            refused_without_repeating(f"CHAPAR_{name.upper()}")

    @pytest.mark.parametrize("content", ["", "\n\n", " \t\r\n", "\ufeff\n"])
    def test_an_empty_file_is_a_mistake_and_no_default(
        self, name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "secret").write_text(content, encoding="utf-8", newline="")
        monkeypatch.setenv(f"CHAPAR_{name.upper()}_FILE", str(tmp_path / "secret"))
        with pytest.raises(SettingInvalid, match="holds no secret"):
            Settings.load()

    def test_both_at_once_are_refused(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"CHAPAR_{name.upper()}", VALUES.get(name, CANARY * 8))
        monkeypatch.setenv(f"CHAPAR_{name.upper()}_FILE", str(tmp_path / "secret"))
        with pytest.raises(SettingInvalid) as error:
            Settings.load()
        assert str(error.value) == (
            f"CHAPAR_{name.upper()}_FILE cannot be used: CHAPAR_{name.upper()} is set too. Set one of the two."
        )
        assert "تنها یکی از این دو" in error.value.sentence("fa")

    def test_a_file_that_cannot_be_read(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bytes").write_bytes(b"\xff" + CANARY.encode())
        for file, problem, persian in (
            (tmp_path / "missing", "cannot be read: No such file or directory.", "خوانده نمی‌شود"),
            (tmp_path, "cannot be read: Is a directory.", "خوانده نمی‌شود"),
            (tmp_path / "bytes", "is not text in UTF-8.", "متن UTF-8 نیست"),
            (Path("/dev/zero"), "is larger than 64 KiB.", "بزرگ‌تر است"),
        ):
            monkeypatch.setenv(f"CHAPAR_{name.upper()}_FILE", str(file))
            with pytest.raises(SettingInvalid) as error:
                Settings.load()
            assert str(error.value) == f"CHAPAR_{name.upper()}_FILE cannot be used: {file} {problem}"
            assert persian in error.value.sentence("fa")
            assert CANARY not in "".join(traceback.format_exception(error.value))


def everything_said(**values: str) -> str:
    """All that may be shown of these settings, whether they can be used or not."""
    try:
        settings = Settings.load(**values)
        database.parse(settings.database_url.get_secret_value())
    except ChaparError as error:
        return error.sentence("en") + error.sentence("fa") + "".join(traceback.format_exception(error))
    return shown_by(settings)


@pytest.mark.parametrize("secret", ODD)
def test_no_form_of_a_url_gives_its_secret_away(secret: str) -> None:
    password = secret.format(CANARY)
    for form in BROKER_FORMS:
        assert CANARY not in everything_said(broker_url=form.format(password)), form
    for form in DATABASE_FORMS:
        assert CANARY not in everything_said(database_url=form.format(password)), form


def test_what_is_wrong_is_said_in_both_languages() -> None:
    for values in ({"broker_url": "http://x"}, {"broker_url": "mqtt://x\x00"}, {"database_url": "mysql://x"}):
        with pytest.raises(SettingInvalid) as error:
            Settings.load(**values)
        assert "بنویسید" in error.value.sentence("fa")
        assert str(error.value.problem) not in error.value.sentence("fa")


def test_an_odd_password_arrives_whole() -> None:
    address = BrokerAddress.parse("mqtt://g%40te:%40%2F%3F%23%2C%25:%C3%A9@broker.example")
    assert (address.username, address.password, address.host) == ("g@te", "@/?#,%:é", "broker.example")
    assert Settings.load(database_url="postgresql://g:%40%2F@[::1]:5433/x?sslmode=require").database == (
        "postgresql://[::1]:5433/x"
    )


class TestTheKeyOfTheCommandLine:
    KEY = f"chapar_{CANARY}"

    @staticmethod
    def sent_authorization() -> str | None:
        sent: list[str | None] = []

        def answer(request: httpx.Request) -> httpx.Response:
            sent.append(request.headers.get("authorization"))
            return httpx.Response(404)

        with (
            GatewayClient("http://127.0.0.1:1", "en", httpx.MockTransport(answer)) as gateway,
            contextlib.suppress(GatewayError),
        ):
            gateway.message("id")
        [authorization] = sent
        return authorization

    @pytest.mark.parametrize("around", AROUND)
    def test_what_stands_around_it_is_no_part_of_it(
        self, around: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "key").write_text(around.format(self.KEY), encoding="utf-8", newline="")
        forms = {"CHAPAR_API_KEY": around.format(self.KEY), "CHAPAR_API_KEY_FILE": str(tmp_path / "key")}
        for name, value in forms.items():
            monkeypatch.setenv(name, value)
            assert self.sent_authorization() == f"Bearer {self.KEY}"
            monkeypatch.delenv(name)

    @pytest.mark.parametrize("inside", CONTROLS)
    def test_a_control_character_inside_is_refused(
        self, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "key").write_text(f"{self.KEY}{inside}{self.KEY}", encoding="utf-8", newline="")
        monkeypatch.setenv("CHAPAR_API_KEY_FILE", str(tmp_path / "key"))
        refused_without_repeating("CHAPAR_API_KEY_FILE", lambda: GatewayClient("http://127.0.0.1:1", "en"))

    @pytest.mark.parametrize("wrong", [f"chapar_{CANARY} x", f"{CANARY}é", f"{CANARY}\u200c", f"{CANARY}\xa0x"])
    def test_what_no_header_can_hold_is_refused(self, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHAPAR_API_KEY", wrong)
        with pytest.raises(SettingInvalid, match="neither an API key nor a token") as error:
            GatewayClient("http://127.0.0.1:1", "en")
        assert CANARY not in "".join(traceback.format_exception(error.value))

    def test_an_empty_one_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHAPAR_API_KEY", " \n")
        assert self.sent_authorization() is None
