"""A proxy that counts bytes: it cuts or pauses a connection after an exact byte of the requests or the answers."""

import asyncio
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit

Way = Literal["request", "answer"]

_CHUNK_BYTES: Final = 65_536


class CuttingProxy:
    """Forwards everything to the server at `upstream_url` until a cut or a pause is due."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream: Final = urlsplit(upstream_url)
        self._server: asyncio.Server | None = None
        self._handlers: Final[set[asyncio.Task[None]]] = set()
        self._left: Final[dict[Way, int]] = {}
        self._pauses = False
        self.passed: Final[dict[Way, int]] = {"request": 0, "answer": 0}
        """Bytes forwarded since `count_anew`."""
        self.bytes_per_s = 0.0
        """The rate at which requests are forwarded; 0: no limit."""
        self.connections = 0
        self.cuts = 0
        self.reached: Final = asyncio.Event()
        """Set when a cut or a pause has happened."""
        self._resume: Final = asyncio.Event()

    @property
    def url(self) -> str:
        """The URL of the server through the proxy."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{self._upstream.path.strip('/') or 0}"

    def count_anew(self) -> None:
        """Set the counters to zero."""
        self.passed.update({"request": 0, "answer": 0})

    @property
    def open_connections(self) -> int:
        """The number of connections that may still forward something."""
        return len(self._handlers)

    def cut_after(self, way: Way, count: int) -> None:
        """Cut the connection after the next `count` bytes of this direction; later connections are left alone."""
        self._left[way], self._pauses = count, False

    def pause_after(self, way: Way, count: int) -> None:
        """Forward the next `count` bytes of this direction, and the rest of that connection's after `resume`."""
        self._left[way], self._pauses = count, True

    def resume(self) -> None:
        """End the pause."""
        self._resume.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for each in list(self._handlers):
            each.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self.connections += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await self._connect()
        try:
            ways = [
                asyncio.create_task(self._pass_on("request", reader, up_writer)),
                asyncio.create_task(self._pass_on("answer", up_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                writer.transport.abort()
                if self._pauses:  # the bytes that were held back still reach the server, although their sender is gone
                    await ways[0]
            finally:
                for each in ways:
                    each.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            writer.transport.abort()
            up_writer.close()  # with a FIN, so the forwarded bytes arrive

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream.scheme == "unix":
            return await asyncio.open_unix_connection(self._upstream.path)
        return await asyncio.open_connection(self._upstream.hostname, self._upstream.port)

    async def _pass_on(self, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(_CHUNK_BYTES):
                if way == "request" and self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                left = self._left.get(way)
                if left is not None and len(data) >= left:
                    del self._left[way]
                    await self._write(way, target, data[:left])
                    self.reached.set()
                    if not self._pauses:
                        self.cuts += 1
                        return
                    await self._resume.wait()
                    data = data[left:]
                elif left is not None:
                    self._left[way] = left - len(data)
                await self._write(way, target, data)
        except OSError:
            pass

    async def _write(self, way: Way, target: asyncio.StreamWriter, data: bytes) -> None:
        self.passed[way] += len(data)
        target.write(data)
        await target.drain()
