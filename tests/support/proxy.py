"""A TCP proxy that can be as bad as a network: slow, deaf, gone, or cutting connections in the middle of an answer."""

import contextlib
import random
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Listens on a port of its own and passes everything on to the server that a URL names, until told otherwise."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream: Final = urlsplit(upstream_url)
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        self._lock: Final = threading.Lock()
        self._open: Final[set[socket.socket]] = set()
        self._silent: Final[set[socket.socket]] = set()
        self._threads: Final[list[threading.Thread]] = []
        self._dice: Final = random.Random(7)  # noqa: S311  the same run again
        self.port: Final[int] = self._listener.getsockname()[1]
        self.cut_share = 0.0
        """Which part of the answers is cut after the first byte, and the connection reset; 0: none."""
        self.cuts = 0
        """How many were."""
        self.delay_s = 0.0
        """How long every answer is held back."""
        self.question_delay_s = 0.0
        """How long everything that is asked is held back."""
        self.is_refusing = False
        """Whether connections are reset at once, new ones and old."""
        self._passes: Final = threading.Event()
        self._passes.set()
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The URL of the server behind the proxy."""
        if self._upstream.scheme in {"http", "https"}:
            return f"http://127.0.0.1:{self.port}"
        return f"redis://127.0.0.1:{self.port}/0"

    def refuse(self) -> None:
        """Resets every connection, and every new one."""
        self.is_refusing = True
        self.cut()

    def cut(self) -> None:
        """Resets every connection that there is."""
        for each in self._snapshot():
            _reset(each)

    def go_silent(self) -> None:
        """Passes nothing on any more on the connections that there are, as a firewall that forgot them; new ones work."""
        with self._lock:
            self._silent.update(self._open)

    def fall_silent(self) -> None:
        """Pass nothing on any more, and reset nothing: as a cable that is pulled, neither end is told."""
        self._passes.clear()

    def accept(self) -> None:
        """Passes on again."""
        self.is_refusing = False

    def close(self) -> None:
        """Ends it, and every connection."""
        self.is_refusing = True
        self._passes.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _snapshot(self) -> list[socket.socket]:
        with self._lock:
            return list(self._open)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                down, _ = self._listener.accept()
            except OSError:
                return
            if self.is_refusing:
                _reset(down)
                continue
            try:
                up = self._connect()
            except OSError:
                _reset(down)
                continue
            with self._lock:
                self._open.update((down, up))
            self._start(self._pass_on, down, up)
            self._start(self._pass_back, up, down)

    def _connect(self) -> socket.socket:
        if self._upstream.scheme == "unix":
            up = socket.socket(socket.AF_UNIX)
            up.connect(self._upstream.path)
            return up
        return socket.create_connection((self._upstream.hostname or "", self._upstream.port or 0))

    def _pass_back(self, source: socket.socket, target: socket.socket) -> None:
        self._pass_on(source, target, is_answer=True)

    def _pass_on(self, source: socket.socket, target: socket.socket, *, is_answer: bool = False) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                if source in self._silent:
                    continue
                if not self._passes.is_set():
                    self._passes.wait()
                    break  # what was on its way is lost, as the connection is
                if is_answer and self._is_to_be_cut():
                    target.sendall(data[:1])
                    break
                time.sleep(self.delay_s if is_answer else self.question_delay_s)
                target.sendall(data)
        except OSError:
            pass
        with self._lock:
            self._open.difference_update((source, target))
        _reset(source)
        _reset(target)

    def _is_to_be_cut(self) -> bool:
        with self._lock:
            is_cut = self._dice.random() < self.cut_share
            self.cuts += is_cut
            return is_cut


def _reset(each: socket.socket) -> None:
    """Closes with an RST rather than a FIN."""
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
