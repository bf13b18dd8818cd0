"""Structured logs on standard error: readable text on a terminal, JSON lines elsewhere."""

import io
import logging
import os
import sys
import time
from collections import Counter
from typing import Final, TextIO

import structlog

from kinfold_services.runtime.terminal import visible_lines

_MAX_CHARS = 2000
_SELDOM_S = 1.0


def configure_logs(log_format: str = "auto", level: str = "info") -> None:
    """Configure structlog, and give the logs of the standard library (FastStream, asyncio) the same form.

    `log_format` is auto, console or json; `level` is debug, info, warning or error.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        _Seldom(),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _cut_long_texts,
    ]
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_write_traceback)
        shared.append(_visible_values)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.processors.StackInfoRenderer(), *_exceptions(console=console), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


class _Seldom:
    """Drops lines with `seldom=True` while one with the same event was written within the last second.

    All workspaces of a process notice an outage, and try again several times a second. The next line says how many were left
    out.
    """

    def __init__(self) -> None:
        self._silent_until: Final[dict[str, float]] = {}
        self._left_out: Final[Counter[str]] = Counter()

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if not event.pop("seldom", False):
            return event
        name, now = str(event["event"]), time.monotonic()
        if now < self._silent_until.get(name, 0.0):
            self._left_out[name] += 1
            raise structlog.DropEvent
        self._silent_until[name] = now + _SELDOM_S
        if left_out := self._left_out.pop(name, 0):
            event["left_out"] = left_out
        return event


def _cut_long_texts(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut long texts: what a line shows may come from outside."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > _MAX_CHARS:
            event[name] = f"{value[:_MAX_CHARS]}... ({len(value)} characters)"
    return event


def _visible_values(_: object, __: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what a value could do to a terminal. JSON escapes it anyway."""
    return {
        name: value if name.startswith("_") or name == "exc_info" else visible_lines(str(value))
        for name, value in fields.items()
    }


def _write_traceback(file: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write a traceback without the values of variables, which may be passwords. structlog's default shows them."""
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    file.write(visible_lines(plain.getvalue()))


def _exceptions(*, console: bool) -> list[structlog.typing.Processor]:
    return [] if console else [structlog.processors.format_exc_info]
