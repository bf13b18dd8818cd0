"""The program `kinfold` for a shell, without starting Python's half second of imports: see `tests.support.prefork`.

    python tests/support/preforked_kinfold.py SOCKET ARGUMENT...

The process behind SOCKET forks the command, which gets this process's environment, working directory and standard streams, and
the signals that end a program. This process ends with the command's exit status.
"""

import os
import signal
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])

from tests.support.prefork import Forked  # noqa: E402  found by the line above


def _main(socket: str, *arguments: str) -> int:
    streams = (sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer)
    process = Forked(arguments, os.environ, streams, parent=socket)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: process.send_signal(received))
    status = process.wait()
    return 128 - status if status < 0 else status  # as a shell counts


sys.exit(_main(*sys.argv[1:]))
