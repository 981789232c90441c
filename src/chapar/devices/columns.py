"""The columns of a table of devices: what its header may name, and how a row is read by it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

from chapar.errors import FieldInvalid, Language, Phrase
from chapar.model.cells import is_shortened
from chapar.model.device import MAX_LABELS, Device, Edit, check_label, check_labels, check_name
from chapar.model.json_text import shown
from chapar.model.message import Profile, check_device_id

COLUMNS: Final = ("imei", "name", "profile", "labels")
"""The columns of a table that is written."""

_LABEL: Final = "labels."  # how the name of a column begins that has the values of one label
_ALIKE: Final = str.maketrans({" ": "", "\u200c": "", "\u0654": "", "\u064a": "\u06cc", "\u0643": "\u06a9"})
_DEFAULT: Final = "default"

_SIGN: Final = re.compile(r"\\(.)", re.DOTALL)
_NEXT_LABEL: Final = re.compile(r"[; ]*((?:[^\\;]|\\.?)*)", re.DOTALL)
_BLANKS: Final = re.compile(r"^ | $")


class Columns:
    """The header of a table, by which its rows are read."""

    def __init__(self, header: Sequence[str]) -> None:
        """Raises FieldInvalid for a column that is none, or is there twice, and where none has the ids."""
        self._names = [_column(name) for name in header]
        for place, name in enumerate(self._names):
            if name and name in self._names[:place]:
                raise FieldInvalid(shown(header[place]), Phrase("rule.repeated"))
        if "imei" not in self._names:
            raise FieldInvalid("imei", Phrase("rule.no_column"))
        self._place = self._names.index("imei")
        self._unnamed = [place for place, name in enumerate(self._names) if not name]

    def device_of(self, row: Sequence[str]) -> str:
        """The device that a row names, as it does."""
        return row[self._place].strip() if self._place < len(row) else ""

    def edit(self, row: Sequence[str]) -> Edit:
        """Return what a row says of its device; raises FieldInvalid."""
        full = [*row, *[""] * (len(self._names) - len(row))]
        if any(full[place].strip() for place in self._unnamed) or any(map(str.strip, full[len(self._names) :])):
            raise FieldInvalid("row", Phrase("rule.unnamed_cell"))
        cells = dict(zip(self._names, full, strict=False))
        imei = _id(self.device_of(row))
        fields = {name: read(cells[name].strip()) for name, read in _FIELDS.items() if name in cells}
        labels: dict[str, str | None] = dict(read_labels(cells.get("labels", "")))
        for name, cell in cells.items():
            if name.startswith(_LABEL):
                label, value = name.removeprefix(_LABEL), cell.strip()
                check_label(label, value)
                labels[label] = value or None
        return Edit(imei, fields, labels, keeps_labels="labels" not in cells)


def cells_of(device: Device) -> list[str]:
    """The row that says the same of a device, in the order of `COLUMNS`."""
    labels = ";".join(f"{_quoted(name)}:{_quoted(value)}" for name, value in device.labels.items())
    return [device.imei, device.name or "", device.profile or "", labels]


def read_labels(text: str) -> dict[str, str]:
    r"""The labels that a cell lists, as `farm:1;zone:north`; `\;` and `\\` are signs. Raises FieldInvalid."""
    labels: dict[str, str] = {}
    at = 0
    while at < len(text) and len(labels) <= MAX_LABELS:
        found = _NEXT_LABEL.match(text, at)
        assert found is not None  # noqa: S101 - it matches everywhere
        at = found.end()
        name, colon, value = _stripped(found[1]).partition(":")
        if not (name or colon):
            continue
        name, value = _SIGN.sub(r"\1", _stripped(name)), _SIGN.sub(r"\1", _stripped(value))
        if not colon or name in labels:
            raise FieldInvalid("labels", Phrase("rule.repeated" if colon else "rule.label_list"))
        labels[name] = value
    return check_labels(labels)


def _quoted(text: str) -> str:
    r"""A name or a value of a label, in which `\` stands before what would be read as something else."""
    return _BLANKS.sub(r"\\\g<0>", text.replace("\\", "\\\\").replace(";", "\\;"))


def _stripped(text: str) -> str:
    r"""The text without blanks around it, but for those behind a `\`."""
    stripped = text.strip()
    is_sign = (len(stripped) - len(stripped.rstrip("\\"))) % 2 == 1
    return stripped + " " if is_sign and text.lstrip() != stripped else stripped


def _column(name: str) -> str:
    """The column that a heading means; empty for none. Raises FieldInvalid."""
    text = name.strip()
    found = _heading(text)
    if found is not None or not text:
        return found or ""
    head, _, label = (part.strip() for part in text.partition("."))
    if not label or _heading(head) != "labels":
        raise FieldInvalid(shown(text), Phrase("rule.table_column"))
    check_label(label, "", shown(text))
    return f"{_LABEL}{label}"


def _heading(text: str) -> str | None:
    return _HEADINGS.get(_folded(text))


def _folded(text: str) -> str:
    """A heading without what people write in one way or another."""
    return text.lower().translate(_ALIKE)


_HEADINGS: Final = {
    _folded(heading): name
    for name in COLUMNS
    for heading in (name, *(Phrase(f"column.{name}").sentence(language) for language in get_args(Language)))
}


def _id(text: str) -> str:
    # An apostrophe in front is how people have a spreadsheet keep a number as text.
    bare = text.removeprefix("'")
    if is_shortened(bare):
        raise FieldInvalid("imei", Phrase("rule.shortened"))
    return check_device_id(bare)


def _name(text: str) -> str | None:
    return check_name(text) if text else None


def _profile(text: str) -> str | None:
    name = text.lower()
    if name in ("", _DEFAULT):
        return None
    if name not in set(Profile):
        raise FieldInvalid("profile", Phrase("rule.one_of", names=(*Profile, _DEFAULT)))
    return name


_FIELDS: Final[Mapping[str, Callable[[str], str | None]]] = {"name": _name, "profile": _profile}
