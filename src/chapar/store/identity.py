"""The identity of a file, whatever names it has, asked without asking for its times.

From Linux 6.13 on, the first write after somebody asked for a file's times changes them, however short the time in
between. An fsync then writes the file system's journal too, and takes twice as long.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

_HERE: Final = -100  # AT_FDCWD
_INODE: Final = 0x100  # STATX_INO


class Identity(NamedTuple):
    """The identity of a file, whatever names it has."""

    device: int
    inode: int

    @classmethod
    def of(cls, file: Path | int) -> Self:
        """The identity of the file with this name or descriptor; raises OSError."""
        found = file.stat() if isinstance(file, Path) else os.fstat(file)
        return cls(found.st_dev, found.st_ino)


def _by_stat(name: bytes) -> Identity:
    found = os.stat(name)  # noqa: PTH116 - before each commit, and a Path takes twice as long
    return Identity(found.st_dev, found.st_ino)


def _by_statx() -> Callable[[bytes], Identity] | None:
    """Return how to ask the C library; None where it has no such function, or Python no way to call it."""
    try:
        import ctypes  # noqa: PLC0415 - a Python that was built without libffi has no such module

        statx = getattr(ctypes.CDLL(None), "statx", None)
    except (ImportError, OSError):
        return None
    if statx is None:
        return None

    class Found(ctypes.Structure):
        """struct statx (statx(2))."""

        _fields_ = (
            ("_before", ctypes.c_uint32 * 8),
            ("inode", ctypes.c_uint64),
            ("_times", ctypes.c_uint64 * 11),
            ("_special", ctypes.c_uint32 * 2),
            ("major", ctypes.c_uint32),
            ("minor", ctypes.c_uint32),
            ("_after", ctypes.c_uint64 * 14),
        )

        inode: int
        major: int
        minor: int

    statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)

    def ask(name: bytes) -> Identity:
        found = Found()
        if statx(_HERE, name, 0, _INODE, ctypes.byref(found)):
            return _by_stat(name)  # it says why, or the kernel does not know the question
        return Identity(os.makedev(found.major, found.minor), found.inode)

    return ask


identity_of: Final[Callable[[bytes], Identity]] = _by_statx() or _by_stat
"""The identity of the file to which a name leads; raises OSError."""
