"""Tables of devices: how a file is read, what its columns mean, and what becomes of its rows."""

import asyncio
import io
import json
import random
import string
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st

from chapar.devices.columns import Columns, cells_of, read_labels
from chapar.devices.importing import AT_ONCE, Importing, Outcome, Row
from chapar.devices.table_program import TableRefused, read
from chapar.devices.tables import Table, Tables
from chapar.errors import ChaparError, FieldInvalid, NotSaved, OutcomeUnknown, Phrase, TableMalformed, TableNotRead
from chapar.model.cells import guarded, unguarded
from chapar.model.device import Device, Edit, Registration
from chapar.runtime import programs
from support.callers import CALLER


def workbook(*rows: Sequence[Any]) -> bytes:
    content = io.BytesIO()
    with xlsxwriter.Workbook(content) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
    return content.getvalue()


def edit_of(heading: str, row: str) -> Edit:
    return Columns(heading.split(",")).edit(row.split(","))


# What stands in cells, and comes back.

TEXTS = st.text(st.sampled_from("'=+-@;\\: \"\t\nax\u200b\u200cپ＝"), max_size=12)
LABEL = st.text(st.sampled_from("'=+-@;\\ \"ax\u200cپ＝"), min_size=1, max_size=8)
VALUE = st.text(st.sampled_from("'=+-@;\\: \"ax\u200cپ＝"), max_size=8)


@given(TEXTS)
def test_no_cell_that_is_guarded_begins_with_a_formula_and_each_comes_back(text: str) -> None:
    cell = guarded(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t"))
    assert unguarded(cell) == text


@given(st.dictionaries(LABEL, VALUE, max_size=16))
def test_labels_in_a_cell_come_back_whatever_they_are(labels: dict[str, str]) -> None:
    device = Device("p", None, None, dict(sorted(labels.items())), 0)
    cell = cells_of(device)[-1]
    assert read_labels(cell) == read_labels(unguarded(guarded(cell))) == device.labels


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("", {}),
        (" ; ", {}),
        ("farm:1", {"farm": "1"}),
        (" farm : 1 ; zone: north ;", {"farm": "1", "zone": "north"}),
        (r"a:1\;2;b:c\\", {"a": "1;2", "b": "c\\"}),
        (r"a:\ x\ ;\ b:", {"a": " x ", " b": ""}),
        ("a:b:c", {"a": "b:c"}),
        ("a:\\", {"a": "\\"}),
    ],
)
def test_people_write_labels_as_they_please(cell: str, labels: dict[str, str]) -> None:
    assert read_labels(cell) == labels


@pytest.mark.parametrize(
    "cell", ["farm", "a:1;a:2", ":1", "a:1;b", "a:" + "x" * 129, *[";".join(f"{n}:" for n in range(17))]]
)
def test_what_are_no_labels_is_refused(cell: str) -> None:
    with pytest.raises(FieldInvalid):
        read_labels(cell)


# What columns mean.


@pytest.mark.parametrize("heading", ["imei", "IMEI", "Device", " imei ", "شناسه", "شناسهٔ", "شناسة"])
def test_a_heading_is_known_however_it_is_written(heading: str) -> None:
    known = heading != "شناسة"
    if not known:
        with pytest.raises(FieldInvalid, match="no column"):
            Columns([heading])
    else:
        assert Columns([heading]).edit(["۸۶۱"]).imei == "861"


@pytest.mark.parametrize("heading", ["برچسب‌ها.farm", "برچسب ها.farm", "labels.farm", "Labels. farm"])
def test_a_column_may_have_the_values_of_one_label(heading: str) -> None:
    assert edit_of(f"imei,{heading}", "p,1") == Edit("p", {}, {"farm": "1"})
    assert edit_of(f"imei,{heading}", "p,") == Edit("p", {}, {"farm": None}), "an empty cell removes it"


@pytest.mark.parametrize(
    ("heading", "row", "edit"),
    [
        ("imei", "p", Edit("p", {}, {})),
        ("name,imei", " pump ,'0012", Edit("0012", {"name": "pump"}, {})),
        ("imei,name,profile,labels", "p,,,", Edit("p", {"name": None, "profile": None}, {}, keeps_labels=False)),
        ("imei,name,profile", "p", Edit("p", {"name": None, "profile": None}, {})),
        ("imei,profile", "p,Chapar", Edit("p", {"profile": "chapar"}, {})),
        ("imei,profile", "p,DEFAULT", Edit("p", {"profile": None}, {})),
        ("imei,labels,labels.b", "p,a:1,2", Edit("p", {}, {"a": "1", "b": "2"}, keeps_labels=False)),
        (",imei,", ",p,", Edit("p", {}, {})),
        ("imei", "p,, ", Edit("p", {}, {})),
    ],
)
def test_a_row_says_what_its_columns_name(heading: str, row: str, edit: Edit) -> None:
    assert edit_of(heading, row) == edit


@pytest.mark.parametrize(
    ("heading", "row", "words"),
    [
        ("imei", "a/b", "A-Z a-z"),
        ("imei,name", ",x", "A-Z a-z"),
        ("imei", "8.6E+14", "last digits"),
        ("imei", "'8.6E+14", "last digits"),
        ("imei", "1\u066b6E+14", "last digits"),
        ("imei,name", "p," + "n" * 101, "100"),
        ("imei,name", "p,\u202enp", "printable"),
        ("imei,profile", "p,zigbee", "text, chapar, default"),
        ("imei,labels", "p,farm", "farm:1"),
        ("imei,labels.a", "p," + "x" * 129, "128"),
        ("imei,", "p,note", "no heading"),
        ("imei", "p,note", "no heading"),
    ],
)
def test_a_row_that_is_wrong_is_refused(heading: str, row: str, words: str) -> None:
    with pytest.raises(FieldInvalid, match=words):
        edit_of(heading, row)


@pytest.mark.parametrize(
    "heading", ["", "name", "imei,imei", "imei,شناسه", "imei,labels.", "imei,.a", "imei,labels.a:b", "imei,x\u202e"]
)
def test_a_header_that_is_none_is_refused(heading: str) -> None:
    with pytest.raises(FieldInvalid):
        Columns(heading.split(","))


# What becomes of rows.


class Register:
    """A register that notes what it is asked, and answers as a test says."""

    def __init__(self, *failing: Exception) -> None:
        self.failing = list(failing)
        self.asked: list[tuple[str, list[str], int]] = []

    async def edit(self, _: object, edits: Sequence[Edit]) -> list[Registration]:
        self.asked.append(("edit", [edit.imei for edit in edits], 0))
        if self.failing:
            raise self.failing.pop(0)
        return [Registration.MADE] * len(edits)

    async def foresee(self, _: object, edits: Sequence[Edit], made: int) -> list[Registration]:
        self.asked.append(("foresee", [edit.imei for edit in edits], made))
        return [Registration.MADE] * len(edits)


def table(*rows: Sequence[str]) -> Table:
    header, *others = rows
    return Table(list(header), [json.dumps([number, *row]).encode() for number, row in enumerate(others, 2)])


async def rows_of(register: Any, table: Table, *, dry_run: bool = False) -> list[Row]:
    found = Importing(register).rows(CALLER, table, dry_run=dry_run)
    return [row async for rows in found for row in rows]


async def test_rows_are_imported_some_at_a_time_and_a_dry_run_counts_what_it_would_make() -> None:
    many = table(["imei"], *([f"p{number}"] for number in range(AT_ONCE + 1)))
    for dry_run, asked in ((True, "foresee"), (False, "edit")):
        register = Register()
        rows = await rows_of(register, many, dry_run=dry_run)
        assert {row.outcome for row in rows} == {Outcome.CREATED}
        assert [(name, len(imeis)) for name, imeis, _ in register.asked] == [(asked, AT_ONCE), (asked, 1)]
        assert register.asked[1][2] == (AT_ONCE if dry_run else 0)


async def test_of_rows_for_one_device_the_first_that_is_right_counts() -> None:
    register = Register()
    found = await rows_of(
        register, table(["imei", "name"], ["p", "\x07"], ["p", "x"], ["۱", ""], ["1", ""], ["p", ""], ["", ""])
    )
    assert [(row.number, row.imei, row.outcome) for row in found] == [
        (2, "p", "refused"),
        (3, "p", "created"),
        (4, "1", "created"),
        (5, "1", "refused"),
        (6, "p", "refused"),
        (7, "", "refused"),
    ]
    assert "row 4" in str(found[3].error)
    assert "row 3" in str(found[4].error)
    assert register.asked == [("edit", ["p", "1"], 0)]


async def test_what_the_database_does_not_save_is_refused_and_the_rest_goes_on() -> None:
    many = table(["imei"], *([f"p{number}"] for number in range(2 * AT_ONCE)))
    rows = await rows_of(Register(NotSaved("a test says so")), many)
    assert [row.outcome for row in rows] == ["refused"] * AT_ONCE + ["created"] * AT_ONCE
    assert isinstance(rows[0].error, NotSaved)
    with pytest.raises(OutcomeUnknown):
        await rows_of(Register(OutcomeUnknown()), many)


# How a file is read.


def rows(content: bytes) -> list[tuple[int, list[str]]]:
    return [(number, list(row)) for number, row in read(content)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_is_read_as_all_countries_write_it(separator: str, end: str, encoding: str) -> None:
    lines = [["imei", "name"], ["0012", '"پمپ\u200c, ; ""دو"""'], ["", ""], ["p", ""]]
    text = end.join(separator.join(line) for line in lines) + end
    assert rows(text.encode(encoding)) == [
        (1, ["imei", "name"]),
        (2, ["0012", 'پمپ\u200c, ; "دو"']),
        (4, ["p", ""]),
    ]


def test_a_cell_may_have_lines_and_rows_are_counted_as_a_spreadsheet_does() -> None:
    assert rows(b'sep=;\r\nimei;name\r\np;"a\nb"\r\nq;c\r\n') == [
        (2, ["imei", "name"]),
        (3, ["p", "a\nb"]),
        (4, ["q", "c"]),
    ]


def test_what_windows_writes_in_iran_is_read_with_a_persian_yeh() -> None:
    assert rows("imei,name\np,گچ پژ شمالي".encode("cp1256"))[1] == (2, ["p", "گچ پژ شمالی"])


def test_a_workbook_is_read_as_text_and_no_number_passes_that_has_lost_digits() -> None:
    found = rows(workbook(["imei", "x"], [861234567890123, 1.5], [8612345678901234, True], ["0012", "=1+1"]))
    assert found[1:3] == [(2, ["861234567890123", "1.5"]), (3, ["8.61234567890123E+15", "true"])]
    with pytest.raises(FieldInvalid, match="last digits"):
        Columns(["imei"]).edit(found[2][1][:1])


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b'imei\n"a', "csv"),
        (b'imei\n"a"b', "csv"),
        (b"a\0b", "encoding"),
        (b"\xff\xfea", "encoding"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old"),
        (b"PK\3\4", "workbook"),
        (b"imei\n" + b"x" * 16_385, "row"),
        (b"," * 1000 + b"x", "columns"),
        (b"imei\n" + b"x\n" * 100_001, "rows"),
        (b"imei\n" + (b"x" * 16_000 + b"\n") * 1100, "text"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, key: str) -> None:
    with pytest.raises(TableRefused) as refused:
        rows(content)
    assert refused.value.key == key
    for language in ("en", "fa"):
        assert TableMalformed(Phrase(f"table.{key}", **refused.value.facts)).sentence(language)


def mangled(content: bytes, count: int) -> Iterator[bytes]:
    source = random.Random(1405)
    for _ in range(count):
        some = bytearray(content)
        for _ in range(source.randrange(1, 20)):
            some[source.randrange(len(some))] = source.randrange(256)
        yield bytes(some[: source.randrange(len(some))]) if source.random() < 0.2 else bytes(some)


def repacked(parts: dict[str, bytes], name: str, part: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, held in parts.items():
            archive.writestr(each, part if each == name else held)
    return content.getvalue()


def test_whatever_a_workbook_holds_it_is_read_or_refused() -> None:
    whole = workbook(["imei", "name"], *([f"p{number}", string.printable] for number in range(20)))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    outcomes = set()
    cases = list(mangled(whole, 150))
    for name, part in parts.items():
        cases += [repacked(parts, name, each) for each in mangled(part, 25)]
    for case in cases:
        try:
            outcomes.add(bool(rows(case)))
        except TableRefused as refused:
            outcomes.add(refused.key)
    assert outcomes >= {True, "workbook"}
    assert outcomes <= {True, False, "workbook", "large", "encoding", "columns", "csv", "row"}


async def test_a_table_is_read_in_a_process_of_its_own() -> None:
    read = await Tables().read("imei,name\n\np,پمپ\n".encode())
    assert read.header == ["imei", "name"]
    assert [json.loads(row) for row in read.rows] == [[3, "p", "پمپ"]]
    assert read.size == len(read.rows[0])
    for content in (b"", b"imei", b"\0"):
        with pytest.raises(TableMalformed):
            await Tables().read(content)


async def test_a_workbook_that_takes_all_memory_takes_none_of_the_gateway() -> None:
    wide = io.BytesIO()
    with xlsxwriter.Workbook(wide) as book:
        sheet = book.add_worksheet()
        sheet.write(0, 0, "imei")
        sheet.write(1_048_575, 16_383, "x")
    with pytest.raises(TableMalformed, match="memory"):
        await Tables().read(wide.getvalue())


async def test_a_process_that_ends_early_or_never_begins_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.sys, "executable", "/bin/false")
    with pytest.raises(TableMalformed, match="memory"):
        await Tables().read(b"imei\np\n" * 100_000)
    monkeypatch.setattr(programs.sys, "executable", "/nowhere/python")
    with pytest.raises(TableNotRead, match="No such file"):
        await Tables().read(b"imei\np\n")


async def test_whoever_hangs_up_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    began: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    real = programs.start

    async def noted(*_: Any, **options: Any) -> Any:
        process = await real("-c", "import time; time.sleep(600)", **options)
        began.set_result(process)
        return process

    monkeypatch.setattr(programs, "start", noted)
    reading = asyncio.create_task(Tables().read(b"imei\np\n"))
    process = await began
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert process.returncode is not None


def test_the_library_of_workbooks_is_loaded_where_one_is_read_alone() -> None:
    script = "import sys, chapar.app.wiring; print('python_calamine' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    assert issubclass(TableMalformed, ChaparError)
