"""Forms of the console with files: their parts, and tables that they carry from page to page."""

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.devices.table_program import read
from chapar.web.console.importing import packed, unpacked
from chapar.web.console.multipart import fields_of_parts
from chapar.web.console.routes import FormExpired

BOUNDARY = b"------WebKitFormBoundary7MA4YWxk"


def form(**fields: bytes) -> bytes:
    """A form as a browser writes it."""
    parts = (
        b'%b\r\nContent-Disposition: form-data; name="%b"; filename="a; name=.csv"\r\nA: b\r\n\r\n%b\r\n'
        % (BOUNDARY, name.encode(), content)
        for name, content in fields.items()
    )
    return b"".join(parts) + BOUNDARY + b"--\r\n"


@given(st.binary(), st.binary())
def test_files_come_byte_for_byte(one: bytes, other: bytes) -> None:
    assert fields_of_parts(form(one=one, other=other), 2) == {"one": one, "other": other}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"no boundary\r\n",
        BOUNDARY,
        BOUNDARY + b"\r\n",
        form(one=b"x")[:-4],
        form(one=b"x") + b"more",
        b"-" * 73 + form(one=b"x")[len(BOUNDARY) :],
        BOUNDARY + b"\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + BOUNDARY + b"--\r\n",
        BOUNDARY + b'\r\nContent-Disposition: form-data; name="a"\r\nx\r\n' + BOUNDARY + b"--\r\n",
        form(one=b"", two=b"", three=b""),
        b"--x\r\n" * 100_000,
    ],
)
def test_what_no_browser_sends_is_no_form(body: bytes) -> None:
    with pytest.raises(FormExpired):
        fields_of_parts(body, 2)


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("'=+-@;,\"\n"), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=3), min_size=1, max_size=4))
def test_a_table_is_carried_as_it_was_seen(rows: list[list[str]]) -> None:
    lines = [json.dumps([number, *row]).encode() for number, row in enumerate(rows)]
    found = [list(row) for _, row in read(unpacked(packed(["imei", "=name"], lines).encode()))]
    assert found == [["imei", "=name"], *(row for row in rows if any(map(str.strip, row)))]


@pytest.mark.parametrize(
    "carried",
    [
        b"",
        b"%",
        b"eA==",
        base64.b64encode(zlib.compress(b"x" * 1000)[:-5]),
        base64.b64encode(zlib.compress(bytes(65 << 20))),
    ],
)
def test_what_no_page_has_carried_is_no_form(carried: bytes) -> None:
    with pytest.raises(FormExpired):
        unpacked(carried)
