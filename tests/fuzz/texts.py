"""Device ids, operations, parameters and topic templates: good ones, nearly good ones, and any text at all."""

import itertools
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

# What separates levels, matches many, ends strings, hides, or turns the direction of reading.
_ODD: Final = (
    "/+#$\0\x01\x1f\x7f\x85\t\r\n \u00a0\u00ad\u200b\u200c\u200e\u202e"
    "\ufeff\ufdd0\ufffe\uffff\U0001ffff\ud800\udfff۱٣é{}"
)

anything = st.text(st.characters() | st.sampled_from(_ODD), max_size=80)  # surrogates too

_ids = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True) | st.text(
    "0123456789۰۱۲۳۴۵۶۷۸۹٠١٢٣٤٥٦٧٨٩", min_size=1, max_size=64
)
_plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), min_size=1, max_size=40)


def _with_odd(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}{}".format, strategy, st.sampled_from(_ODD), strategy)


imeis = st.one_of(_ids, _ids, _with_odd(_ids), anything)
operations = st.one_of(_plain, _plain, _with_odd(_plain), anything, st.builds(str.__mul__, _plain, st.integers(1, 300)))

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | anything
parameters = st.none() | st.dictionaries(
    anything,
    st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)

_levels = st.lists(st.text("abc/é٣ ", max_size=8), max_size=6).map("/".join)
templates = st.one_of(
    st.sampled_from(["devices/{imei}", "{imei}", "دستگاه/{imei}/فرمان", "a/{imei}/b/c"]),
    st.sampled_from(["devices/{imei}", "/{imei}/", "devices-{imei}", " {imei} "]),
    st.builds("{}/{{imei}}/{}".format, _levels, _levels),
    st.builds("{}{{imei}}{}".format, anything, anything),
    st.builds(lambda text, times: text * times + "{imei}", _levels, st.integers(1, 3000)),
    anything,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to send."""

    imei: str
    micro_op: str
    params: dict[str, Any] | None
    qos: int
    retain: bool
    template: str

    @property
    def fields(self) -> dict[str, Any]:
        """As a request has them."""
        return {
            "imei": self.imei,
            "micro_op": self.micro_op,
            "params": self.params,
            "qos": self.qos,
            "retain": self.retain,
        }


def _crossed(
    all_imeis: list[str],
    all_operations: list[str],
    all_parameters: list[dict[str, Any] | None],
    all_templates: list[str],
) -> list[Case]:
    """Each device id with each operation: drawing them costs far more than sending them."""
    rest = zip(
        itertools.cycle(all_parameters),
        itertools.cycle([0, 1, 1, 2, 1]),
        itertools.cycle([False, True]),
        itertools.cycle(all_templates),
        strict=True,
    )
    return [
        Case(imei, operation, *each)
        for (imei, operation), each in zip(itertools.product(all_imeis, all_operations), rest, strict=False)
    ]


CASES_IN_A_LIST: Final = 100


def _list_of(strategy: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=size, max_size=size)


lists_of_cases = st.builds(
    _crossed, _list_of(imeis, 10), _list_of(operations, 10), _list_of(parameters, 3), _list_of(templates, 7)
)
