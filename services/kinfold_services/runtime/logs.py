"""Structured logs on standard error: readable text on a terminal, JSON lines elsewhere."""

import logging
import os
import sys

import structlog

_MAX_CHARS = 2000


def configure_logs(log_format: str = "auto", level: str = "info") -> None:
    """Configure structlog, and give the logs of the standard library (FastStream, asyncio) the same form.

    `log_format` is auto, console or json; `level` is debug, info, warning or error.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _cut_long_texts,
    ]
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=colours)
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


def _cut_long_texts(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut long texts: what a line shows may come from outside."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > _MAX_CHARS:
            event[name] = f"{value[:_MAX_CHARS]}... ({len(value)} characters)"
    return event


def _exceptions(*, console: bool) -> list[structlog.typing.Processor]:
    return [] if console else [structlog.processors.format_exc_info]
