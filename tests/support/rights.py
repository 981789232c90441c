"""Folders that the tests' own user may not enter, although it may be root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """In the block, this process may not enter the folder."""
    me = os.geteuid()
    folder.chmod(0)
    if me == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)
        folder.chmod(0o700)
