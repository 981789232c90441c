"""The numbers among the settings: each has two bounds, and what a caller may ask for fits every field behind it."""

import contextlib
import re
from collections.abc import Callable
from typing import get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt

from chapar.errors import SettingInvalid
from chapar.runtime.secret_files import secrets_of
from chapar.runtime.settings import Settings, check_language

NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
]


def bound(name: str, *kinds: type) -> float:
    [value] = [
        getattr(each, kind.__name__.lower())
        for each in Settings.model_fields[name].metadata
        for kind in kinds
        if isinstance(each, kind)
    ]
    return float(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_least_and_a_largest_value(name: str) -> None:
    assert bound(name, Ge, Gt) <= float(Settings.model_fields[name].default or 1) <= bound(name, Le, Lt)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e308", "9" * 400])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_no_timer_and_no_column_takes_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CHAPAR_{name.upper()}", value)
    with pytest.raises(SettingInvalid) as raised:
        Settings.load()
    assert raised.value.setting == f"CHAPAR_{name.upper()}"


BAD = ["", "x", "-1", "1.5", "nan", "1e400", "9" * 400, "[]", "{}", "%", "http://", "a@b", ","]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_whatever_is_wrong_with_a_setting_is_said_in_persian(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"CHAPAR_{name.upper()}"
    for bad in BAD:
        monkeypatch.setenv(variable, bad)
        with contextlib.suppress(SettingInvalid):
            Settings.load()
            continue
        with pytest.raises(SettingInvalid) as refused:
            Settings.load()
        _, _, problem = refused.value.sentence("fa").partition(":")
        assert re.search("[\u0600-\u06ff]", problem), bad
        assert not re.search("Input|should|valid", problem), bad


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [("port", "۹۰۰۰", 9000), ("port", "٩٠٠٠", 9000), ("connect_timeout", "۲٫۵", 2.5), ("max_queue", "۲٬۰۰۰", 2000)],
)
def test_a_number_may_have_the_digits_of_its_reader(
    name: str, written: str, meant: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CHAPAR_{name.upper()}", written)
    assert getattr(Settings.load(), name) == meant


def test_no_expiry_is_longer_than_a_publish_can_say() -> None:
    assert bound("max_expiry", Le) == bound("default_expiry", Le) == 4_294_967_295  # MQTT 5.0 §3.3.2.3.3


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Load the settings with these variables."""

    def with_variables(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(f"CHAPAR_{name.upper()}", value)
        return Settings.load()

    return with_variables


@pytest.mark.parametrize("name", [*Settings.model_fields, *(f"{secret}_file" for secret in secrets_of(Settings))])
def test_an_empty_variable_means_the_default(load: Callable[..., Settings], name: str) -> None:
    assert load(**{name: ""}) == Settings.model_construct()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_level", "INFO"),
        ("log_level", "Warning"),
        ("log_format", "JSON"),
        ("auto_migrate", "TRUE"),
        ("auto_migrate", "Yes"),
        ("auto_migrate", "on"),
        ("auto_migrate", "0"),
    ],
)
def test_words_are_taken_in_any_case(load: Callable[..., Settings], name: str, value: str) -> None:
    expected = value.lower() if name != "auto_migrate" else value != "0"
    assert getattr(load(**{name: value}), name) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "http://127.0.0.1"),
        ("host", "127.0.0.1:8000"),
        ("host", "[::1]"),
        ("host", "a b"),
        ("host", "a" * 300),
        ("host", "host\0"),
        ("trusted_proxies", "not an ip"),
        ("trusted_proxies", "10.0.0.256"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("trusted_proxies", "10.0.0.1, proxy.example"),
        ("trusted_proxies", "*"),
        ("trusted_proxies", "10.0.0.1:80"),
        ("cors_origins", "*"),
        ("cors_origins", "null"),
        ("cors_origins", "https://"),
        ("cors_origins", "https://*.example.org"),
        ("cors_origins", "https://ops.example.org/"),
        ("cors_origins", "https://Ops.example.org"),
        ("cors_origins", "https://ops.example.org:443"),
        ("cors_origins", "http://ops.example.org:80"),
        ("cors_origins", "https://ops.example.org:0"),
        ("cors_origins", "https://ops.example.org:99999"),
        ("cors_origins", "https://ops.example.org:"),
        ("cors_origins", "https://me@ops.example.org"),
        ("cors_origins", "https://a b"),
        ("cors_origins", "https://بازار.example"),
        ("cors_origins", "https://[::1"),
        ("cors_origins", "https://[127.0.0.1]"),
        ("cors_origins", "ops.example.org"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "https://gateway.example.org"),
        ("allowed_hosts", "gateway.example.org:8000"),
        ("allowed_hosts", "[::g]"),
        ("allowed_hosts", "a..b"),
        ("allowed_hosts", "::1"),
        ("broker_server_name", "a b"),
        ("broker_server_name", "broker.example:8883"),
        ("broker_server_name", "mqtts://broker.example"),
        ("proxy", "proxy.example:3128"),
        ("proxy", "socks5://proxy.example"),
        ("proxy", "http://"),
        ("log_level", "verbose"),
        ("log_format", "text"),
        ("auto_migrate", "perhaps"),
    ],
)
def test_what_cannot_work_is_refused_by_name(load: Callable[..., Settings], name: str, value: str) -> None:
    if "\0" in value:
        with pytest.raises(SettingInvalid):
            Settings.load(**{name: value})
        return
    with pytest.raises(SettingInvalid) as raised:
        load(broker_url="mqtts://broker.example", **{name: value})
    assert raised.value.setting == f"CHAPAR_{name.upper()}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "::"),
        ("host", "fe80::1%eth0"),
        ("host", "gateway_1.example.org"),
        ("trusted_proxies", "10.0.0.1, 10.0.0.0/8,fd00::/8, ::1"),
        ("cors_origins", "https://ops.example.org, http://localhost:3000,https://[::1]:8443"),
        ("allowed_hosts", "gateway.example.org, 10.0.0.1,[::1]"),
        ("broker_server_name", "bücher.example"),
        ("proxy", "http://gate:secret@proxy.example:3128"),
    ],
)
def test_what_can_work_is_taken(load: Callable[..., Settings], name: str, value: str) -> None:
    load(broker_url="mqtts://broker.example", **{name: value})


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"lease": "20"}, "CHAPAR_LEASE"),
        ({"lease": "20", "database_url": "postgresql://db/x"}, None),
        ({"jwt_ca_file": "/ca.pem"}, "CHAPAR_JWT_CA_FILE"),
        ({"jwt_ca_file": "/ca.pem", "jwt_jwks_url": "https://id.example/keys"}, None),
        ({"burst": "5"}, "CHAPAR_BURST"),
        ({"default_expiry": "7200", "max_expiry": "3600"}, "CHAPAR_DEFAULT_EXPIRY"),
        ({"embedded_port": "1884", "broker_url": "mqtt://b"}, "CHAPAR_EMBEDDED_PORT"),
        ({}, None),
    ],
)
def test_settings_that_do_nothing_as_things_are_are_found(
    load: Callable[..., Settings], variables: dict[str, str], found: str | None
) -> None:
    assert list(load(**variables).without_effect()) == ([] if found is None else [found])


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"CHAPAR_LANGUAGE": "FA"}, "fa"),
        ({"CHAPAR_LANGUAGE": "fa_IR.UTF-8"}, "fa"),
        ({"CHAPAR_LANGUAGE": "en"}, "en"),
        ({"CHAPAR_LANGUAGE": "", "LANG": "fa_IR.UTF-8"}, "fa"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"CHAPAR_LANGUAGE": "farsi"}, None),
        ({"CHAPAR_LANGUAGE": "de"}, None),
    ],
)
def test_the_language_is_one_that_there_is(
    variables: dict[str, str], language: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHAPAR_LANGUAGE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if language is None:
        with pytest.raises(SettingInvalid, match="CHAPAR_LANGUAGE"):
            check_language()
    else:
        assert check_language() == language
