"""Which file a name leads to."""

import subprocess
import sys
from pathlib import Path

import pytest

from chapar.store.identity import Identity, identity_of


def test_a_name_leads_to_the_file_that_it_is_opened_by(tmp_path: Path) -> None:
    file, link, hard = tmp_path / "پرونده", tmp_path / "link", tmp_path / "hard"
    file.touch()
    link.symlink_to(file)
    hard.hardlink_to(file)
    with file.open() as opened:
        identities = {Identity.of(file), Identity.of(opened.fileno())}
    identities |= {identity_of(bytes(name)) for name in (file, link, hard)}
    assert len(identities) == 1


def test_another_file_under_the_same_name_is_another(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.touch()
    other.touch()
    before = identity_of(bytes(file))
    assert identity_of(bytes(other)) != before
    other.replace(file)
    assert identity_of(bytes(file)) != before


def test_files_of_other_file_systems_are_told_apart() -> None:
    assert identity_of(b"/proc") == Identity.of(Path("/proc")) != identity_of(b"/")


@pytest.mark.parametrize("name", ["missing", "file/below"])
def test_a_name_that_leads_nowhere_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        identity_of(bytes(tmp_path / name))


@pytest.mark.parametrize("lacking", ["import _ctypes", "ctypes.CDLL(None)"])
def test_a_python_that_calls_no_c_library_asks_in_its_own_way(lacking: str) -> None:
    """A small computer's Python may be built without libffi."""
    program = f"""
import sys
from pathlib import Path
if "{lacking}" == "import _ctypes":
    sys.modules["_ctypes"] = None
else:
    import ctypes
    def refuse(name):
        raise OSError("no such library")
    ctypes.CDLL = refuse
from chapar.store.identity import Identity, identity_of
assert identity_of(b"/proc") == Identity.of(Path("/proc"))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
