"""The command `chapar`: parse, call, print. What it does, the modules it calls know."""

import os
import signal
import sys
from typing import Final

from chapar.runtime.garbage import collect_rarely

INTERRUPTED = 130  # exit code, the shell's custom for Ctrl-C

# Another program's folder of measures: ours would be mixed with its. The library looks at them when it is loaded.
_FOREIGN: Final = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def main() -> None:
    """Run the command and exit with its code."""
    if os.getpid() == 1:  # as in a container: the kernel drops what process 1 does not handle, so it would not stop
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    collect_rarely()
    for name in _FOREIGN:
        os.environ.pop(name, None)
    try:
        from chapar.cli import command  # noqa: PLC0415 - loading it takes longer than a finger to reach Ctrl-C
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    command.main()
