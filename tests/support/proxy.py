"""A TCP proxy that imitates network failures: delays, refused connections, and resets in the middle of a reply."""

import contextlib
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Listens on its own port and forwards everything to the server at `upstream_url`, until told otherwise."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream: Final = urlsplit(upstream_url)
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        self._lock: Final = threading.Lock()
        self._open: Final[set[socket.socket]] = set()
        self._silent: Final[set[socket.socket]] = set()
        self._threads: Final[list[threading.Thread]] = []
        self._dice: Final = random.Random(7)  # noqa: S311  a fixed seed makes runs repeatable
        self.port: Final[int] = self._listener.getsockname()[1]
        self.cut_share = 0.0
        """The share of replies that are cut after the first byte, with a reset of the connection."""
        self.cuts = 0
        """The number of replies cut so far."""
        self.delay_s = 0.0
        """The delay of every reply. `close` does not wait for it."""
        self.question_delay_s = 0.0
        """The delay of every request."""
        self.is_refusing = False
        """Whether new connections are reset at once."""
        self._ends: Final = threading.Event()
        self._passes: Final = threading.Event()
        self._passes.set()
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The URL of the server through the proxy."""
        if self._upstream.scheme in {"http", "https"}:
            return f"http://127.0.0.1:{self.port}"
        return f"redis://127.0.0.1:{self.port}/0"

    def refuse(self) -> None:
        """Reset every connection, and every new one from now on."""
        self.is_refusing = True
        self.cut()

    def cut(self) -> None:
        """Reset every open connection."""
        for each in self._snapshot():
            _reset(each)

    def go_silent(self) -> None:
        """Drop everything on the open connections, like a firewall that forgot them. New connections work."""
        with self._lock:
            self._silent.update(self._open)

    def fall_silent(self) -> None:
        """Forward nothing and reset nothing, like a pulled cable: neither end notices."""
        self._passes.clear()

    def accept(self) -> None:
        """Forward new connections again."""
        self.is_refusing = False

    def close(self) -> None:
        """Close the proxy and every connection."""
        self.is_refusing = True
        self._ends.set()
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
                    break  # the data in transit is lost with the connection
                if is_answer and self._is_to_be_cut():
                    target.sendall(data[:1])
                    break
                self._ends.wait(self.delay_s if is_answer else self.question_delay_s)
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
    """Close with an RST instead of a FIN."""
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
