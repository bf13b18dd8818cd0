"""A reverse proxy or firewall in front of a gateway, which may refuse requests."""

import socket
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self

Opinion = Callable[[bytes], int | None]
"""Returns the status with which to refuse a body, or None to pass it on."""


class Front:
    """Forwards POST requests to the gateway unless `opinion` refuses them or they exceed `max_bytes`.

    Like common proxies, it does not read a body that is too large, but responds and closes the connection.
    """

    def __init__(self, gateway_url: str, *, opinion: Opinion = lambda _: None, max_bytes: int = 1 << 30) -> None:
        self.opinion: Opinion = opinion
        self.page: tuple[int, bytes] = 404, b""
        """The status and body of the response to every GET request."""
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                if length > max_bytes:
                    self.answer(413, b"<html>Request Entity Too Large</html>", is_last=True)
                    return
                body = self.rfile.read(length)
                status = front.opinion(body)
                if status is not None:
                    self.answer(status, b"<html>What was that?</html>")
                    return
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
                request = urllib.request.Request(f"{gateway_url}{self.path}", body, headers)  # noqa: S310  our own gateway
                with urllib.request.urlopen(request) as response:  # noqa: S310  as above
                    self.answer(response.status, response.read())

            def do_GET(self) -> None:
                self.answer(*front.page)

            def answer(self, status: int, body: bytes, *, is_last: bool = False) -> None:
                self.send_response(status)
                if is_last:
                    self.send_header("Connection", "close")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class' name
                pass

        class Server(ThreadingHTTPServer):
            def server_bind(self) -> None:
                # A small buffer, so that a large upload is still unfinished when the connection closes. Connections inherit it.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                super().server_bind()

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
