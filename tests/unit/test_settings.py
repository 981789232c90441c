"""The numbers among the settings: each has two bounds, and what a caller may ask for fits every field behind it."""

from typing import get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt

from chapar.errors import SettingInvalid
from chapar.runtime.settings import Settings

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


def test_no_expiry_is_longer_than_a_publish_can_say() -> None:
    assert bound("max_expiry", Le) == bound("default_expiry", Le) == 4_294_967_295  # MQTT 5.0 §3.3.2.3.3
