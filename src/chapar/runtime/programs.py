"""Programs of ours that run as processes of their own."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import IO, Final

_LONGEST_LINE: Final = 64 * 1024  # bytes that are read as a line; asyncio's own


async def start(
    *program: str | PathLike[str],
    stdin: int = PIPE,
    stdout: int | IO[bytes] | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    longest_line: int = _LONGEST_LINE,
) -> Process:
    """Start our interpreter on a program: `"-m"` and a module, or `"-c"` and its text; then its arguments.

    Where its standard input is a pipe, that closes when we end, so also where we are killed. Raises OSError.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a file in the working folder must not stand in for a module
        *program,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=env,
        limit=longest_line,
        start_new_session=True,  # only the gateway gets Ctrl-C
    )
