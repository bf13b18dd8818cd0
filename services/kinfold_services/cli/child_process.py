"""A child process of `kinfold up`: the gateway, the directory."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from kinfold_services.settings import inherited_environment

_STOP_S: Final = 10.0


class ChildProcess:
    """A process that ends with this one. If it ends by itself, it also ends this process, so that nobody misses it."""

    def __init__(self, command: str, redis_url: str, options: Sequence[str], ended: threading.Event) -> None:
        """Start `kinfold COMMAND` with some options. Sets `ended` if it ends by itself."""
        self._command: Final = command
        self._process: Final = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", "kinfold_services", command, "--until-stdin-ends", *options],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches this process alone
            env={**inherited_environment(), "KINFOLD_REDIS_URL": redis_url},
        )
        self._ended: Final = ended
        self._stopping = False
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping = True
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _watch(self) -> None:
        status = self._process.wait()
        if not self._stopping:
            self._ended.set()
            sys.stderr.write(f"kinfold: the {self._command} ended with status {status}\n")
            os.kill(os.getpid(), signal.SIGTERM)


class DirectoryProcess(ChildProcess):
    """The directory. It waits for its database by itself."""

    def __init__(self, redis_url: str, data_dir: str, ended: threading.Event) -> None:
        super().__init__("directory", redis_url, ["--data-dir", data_dir], ended)
