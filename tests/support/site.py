"""A web site for a test: pages by their paths, on a separate origin."""

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from threading import Thread
from typing import Self
from urllib.parse import urlsplit


class Site:
    """Serves `pages`, and the files of `directory`. Any other path gets the page `/`, as single-page applications need it."""

    def __init__(self, pages: Mapping[str, str], directory: Path | None = None) -> None:
        self.pages = dict(pages)
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                file = directory / path.lstrip("/") if directory is not None else None
                if file is not None and file.is_file():
                    body, kind = file.read_bytes(), guess_type(file.name)[0] or "application/octet-stream"
                else:
                    body, kind = site.pages.get(path, site.pages["/"]).encode(), "text/html; charset=utf-8"
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class' name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
