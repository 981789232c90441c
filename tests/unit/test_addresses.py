"""The URL of a broker: every right way is read, and each wrong way is told by its own sentence."""

import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chapar.errors import CATALOGS, ChaparError, Problem, SettingInvalid
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.settings import Settings

CANARY = "c4nary"
PORTS = {"mqtt": 1883, "mqtts": 8883}

FAULTS = [key.removeprefix("broker_url.") for key in CATALOGS["en"] if key.startswith("broker_url.")]
WRONG = {
    "empty": ["", "  "],
    "no_item": [",", "mqtt://a,", ",mqtt://a", "mqtt://a,,mqtt://b", "mqtt://a, ,mqtt://b"],
    "quoted": [
        '"mqtt://host:1883"',
        "'mqtts://gate:c4nary@host'",
        "“mqtt://host”",
        "«mqtt://host»",
        '"mqtt://a,mqtt://b"',
        "mqtt://a,'mqtt://b'",
        '"mqtt://host',
        "mqtt://host`",
    ],
    "controls": ["mqtt://gate:c4nary\x00@host", "mqtt://gate:c4nary\udce9@host", "mqtt://ho\x1bst"],
    "comma_in_secret": ["mqtt://gate:c4nary,x@host:1883", "mqtt://a,broker:1883", "mqtt://c4nary,@host"],
    "no_scheme": [
        "broker",
        "broker:1883",
        "127.0.0.1:1883",
        "gate:c4nary@host",
        "mqtt:host",
        "mqtt:/host:1883",
        "mqtt//host",
        "://host",
        "//host:1883",
        "::1",
        "mqtt:\\\\host",
    ],
    "websockets": ["ws://host:9001", "wss://gate:c4nary@host/mqtt", "WSS://host"],
    "web": ["http://host:1883", "https://gate:c4nary@host"],
    "alias": ["tcp://host:1883", "ssl://gate:c4nary@host:8883", "tls://host", "mqtt5://host", "mqtt+ssl://host"],
    "other_scheme": ["amqp://gate:c4nary@host", "c4nary://host", "mqttt://host", "redis://host"],
    "several": [
        "mqtt://a:1883 mqtt://b:1883",
        "mqtt://a;mqtts://gate:c4nary@b",
        "mqtt://mqtt://host",
        "mqtt://a|mqtt://b",
    ],
    "slash_in_secret": [
        "mqtt://gate:c4nary/x@host",
        "mqtt://gate:12?c4nary@host",
        "mqtt://gate:12#c4nary@host:1883",
        "mqtts://c4nary/@host",
    ],
    "beyond": ["mqtt://host/topic", "mqtt://host:1883?c4nary=1", "mqtt://host#x", "mqtt://host:1883/c4nary"],
    "bracket_in_secret": [
        "mqtt://gate:[c4nary@host",
        "mqtt://gate:c4nary]@host",
        "mqtt://[gate]:c4nary@host",
        "mqtt://gate:[::1]@host",
        "mqtt://gate:c4[nary@[::1]:1883",
    ],
    "percent_in_secret": ["mqtt://gate:%c4nary%@host", "mqtt://gate:%zzc4nary@host", "mqtt://100%:x@host"],
    "encoding_in_secret": ["mqtt://gate:%ffc4nary@host", "mqtt://%e9:c4nary@host"],
    "control_in_user": ["mqtt://gate%00:c4nary@host", "mqtt://ga%0ate@host"],
    "long_field": ["mqtt://gate:" + "c4nary" * 11_000 + "@host", "mqtt://" + "é" * 40_000 + "@host"],
    "no_host": [
        "mqtt://",
        "mqtts://:8883",
        "mqtt://gate:c4nary@",
        "mqtt://gate:c4nary@:1883",
        "mqtt:///host",
        "mqtt://@",
    ],
    "bare_ipv6": ["mqtt://::1", "mqtt://::1:1883", "mqtt://2001:db8::7:1883", "mqtt://gate:c4nary@fe80::1%eth0"],
    "not_ipv6": ["mqtt://[host]:1883", "mqtt://[::1", "mqtt://[::1]1883", "mqtt://[127.0.0.1]", "mqtt://[]"],
    "colons": ["mqtt://gate:c4nary:1883", "mqtt://host:1883:1883", "mqtt://gate:c4:nary:host"],
    "port": [
        "mqtt://host:0",
        "mqtt://host:70000",
        "mqtt://host:65536",
        "mqtt://host:-1",
        "mqtt://host:1883x",
        "mqtt://gate:c4nary",
        "mqtt://host:" + "9" * 5000,
        "mqtt://host:1_883",
        "mqtt://[::1]:0",
        "mqtt://host:²",
    ],
    "space": ["mqtt://my host:1883", "mqtt://host :1883", "mqtt://host: 1883", "mqtt:// host", "mqtt://a b"],
    "bad_host": [
        "mqtt://a..b",
        "mqtt://.example",
        "mqtt://ho*st",
        "mqtt://host<name>",
        "mqtt://" + "x" * 64,
        "mqtt://a\u2100b",
        "mqtt://ho%20st",
        "mqtt://host;1883",
        "mqtt://${BROKER}",
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_way_to_write_it_wrong_has_a_sentence_of_its_own(fault: str) -> None:
    for url in WRONG[fault]:
        with pytest.raises(Problem) as problem:
            BrokerAddress.parse_list(url)
        phrase = problem.value.phrase
        assert phrase.key == f"broker_url.{fault}", url
        for sentence in (phrase.sentence("en"), phrase.sentence("fa")):
            assert sentence.endswith(".")
            assert CANARY not in sentence
        assert str(problem.value) == phrase.sentence("en")
        assert CANARY not in "".join(traceback.format_exception(problem.value)).replace(url, "")


@pytest.mark.parametrize(("wrong", "right"), [("tcp", "mqtt"), ("mqtt5", "mqtt"), ("ssl", "mqtts"), ("tls", "mqtts")])
def test_another_name_of_a_scheme_is_told_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(Problem, match=f"write {right}:// in place of {wrong}://"):
        BrokerAddress.parse_list(f"{wrong}://host")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_setting_repeats_it_in_both_languages(fault: str) -> None:
    url = WRONG[fault][0]
    with pytest.raises(SettingInvalid) as error:
        Settings.load(broker_url=url)
    assert str(error.value).startswith("CHAPAR_BROKER_URL cannot be used: ")
    assert CANARY not in str(error.value) + error.value.sentence("fa")


@pytest.mark.parametrize(
    ("url", "shown", "username", "password"),
    [
        ("mqtt://host", "mqtt://host:1883", None, None),
        ("MQTTS://Host", "mqtts://host:8883", None, None),
        ("mqtt://host:", "mqtt://host:1883", None, None),
        ("mqtt://host:65535/", "mqtt://host:65535", None, None),
        ("mqtt://my_broker", "mqtt://my_broker:1883", None, None),
        ("mqtt://broker.example.org.", "mqtt://broker.example.org.:1883", None, None),
        ("mqtt://gate:secret@host:1", "mqtt://host:1", "gate", "secret"),
        ("mqtt://gate@host", "mqtt://host:1883", "gate", None),
        ("mqtt://:secret@host", "mqtt://host:1883", None, "secret"),
        ("mqtt://gate:a:b@host", "mqtt://host:1883", "gate", "a:b"),
        ("mqtt://gate:a@b@host", "mqtt://host:1883", "gate", "a@b"),
        ("mqtt://gate:my secret@host", "mqtt://host:1883", "gate", "my secret"),
        ("mqtt://g%40te:%40%2F%3F%23%2C%25%5B%20:%C3%A9@host", "mqtt://host:1883", "g@te", "@/?#,%[ :é"),
        ("mqtt://gate:%00@host", "mqtt://host:1883", "gate", "\x00"),
        ("mqtt://[::1]", "mqtt://[::1]:1883", None, None),
        ("mqtts://gate:secret@[2001:DB8:0::7]:1", "mqtts://[2001:db8::7]:1", "gate", "secret"),
        ("mqtt://[fe80::1%25eth0]:1883", "mqtt://[fe80::1%eth0]:1883", None, None),
        ("mqtt://[fe80::1%eth0]:1883", "mqtt://[fe80::1%eth0]:1883", None, None),
        ("mqtt://bücher.example", "mqtt://xn--bcher-kva.example:1883", None, None),
        ("mqtt://کارگزار.example", "mqtt://xn--mgba3abd52emb.example:1883", None, None),
        ("mqtt://host:۱۸۸۳", "mqtt://host:1883", None, None),
    ],
)
def test_every_right_way_is_read(url: str, shown: str, username: str | None, password: str | None) -> None:
    (address,) = BrokerAddress.parse_list(f" {url} ")
    assert (str(address), address.username, address.password) == (shown, username, password)
    assert BrokerAddress.parse(str(address)) == BrokerAddress(address.host, address.port, address.tls)


def test_several_are_read_in_their_order() -> None:
    addresses = BrokerAddress.parse_list("mqtt://a:1883, mqtts://gate:x@b ,mqtt://[::1]:7")
    assert [str(address) for address in addresses] == ["mqtt://a:1883", "mqtts://b:8883", "mqtt://[::1]:7"]


@pytest.mark.parametrize(
    ("url", "name"),
    [("mqtts://broker.example.", "broker.example"), ("mqtts://[fe80::1%25eth0]", "fe80::1"), ("mqtts://host", "host")],
)
def test_a_certificate_names_the_host_alone(url: str, name: str) -> None:
    assert BrokerAddress.parse(url).certificate_name == name


@given(st.text(max_size=80) | st.text("mqts:/@[]%?#,. \"'1a۱", max_size=40).map("mqtt://".__add__))
@example("mqtt://[::1%]")
@example("mqtt://gate:%@%")
def test_whatever_is_written_is_read_or_refused(url: str) -> None:
    try:
        addresses = BrokerAddress.parse_list(url)
    except Problem:
        return
    for address in addresses:
        assert address.host.isascii()
        assert 1 <= address.port <= 65535
        again = BrokerAddress.parse(str(address))
        assert (again.host, again.port, again.tls) == (address.host, address.port, address.tls)


class TestTls:
    @pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file", "server_name"])
    @pytest.mark.parametrize("url", [None, "mqtt://host", "mqtt://a,mqtt://b"])
    def test_a_setting_for_it_is_refused_where_nothing_is_encrypted(self, name: str, url: str | None) -> None:
        with pytest.raises(SettingInvalid) as error:
            Settings.load(broker_url=url, **{f"broker_{name}": "x"})
        sentence = str(error.value)
        assert sentence.startswith(f"CHAPAR_BROKER_{name.upper()} cannot be used: it is for mqtts:// only")
        assert "رمزگذاری" in error.value.sentence("fa")

    @pytest.mark.parametrize("url", ["mqtts://host", "mqtt://a,mqtts://b"])
    def test_one_encrypted_address_is_enough(self, url: str) -> None:
        assert str(Settings.load(broker_url=url, broker_ca_file="ca.pem").broker_ca_file) == "ca.pem"

    def test_a_key_without_its_certificate_is_refused(self) -> None:
        with pytest.raises(SettingInvalid) as error:
            Settings.load(broker_url="mqtts://host", broker_key_file="gate.key")
        assert "CHAPAR_BROKER_CERT_FILE is not set" in str(error.value)

    def test_what_is_empty_is_not_set(self) -> None:
        settings = Settings.load(broker_url="mqtt://host", broker_ca_file="", broker_server_name="")
        assert (settings.broker_ca_file, settings.broker_server_name) == (None, None)

    def test_a_url_that_is_wrong_is_told_alone(self) -> None:
        with pytest.raises(ChaparError, match="CHAPAR_BROKER_URL"):
            Settings.load(broker_url="host", broker_ca_file="ca.pem")


def test_what_is_set_and_does_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPAR_EMBEDDED_PORT", "1883")
    monkeypatch.setenv("CHAPAR_BURST", "10")
    assert set(Settings.load(broker_url="mqtt://host").without_effect()) == {"CHAPAR_EMBEDDED_PORT", "CHAPAR_BURST"}
    monkeypatch.setenv("CHAPAR_REQUESTS_PER_SECOND", "5")
    assert Settings.load().without_effect() == {}
