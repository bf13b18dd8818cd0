"""Results: medians of rounds, tables for people, JSON for the report."""

import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

RESULTS: Final = Path(__file__).parents[1] / "results"
_FILE_COLUMNS: Final = 140


class Figure(msgspec.Struct, omit_defaults=True):
    """The results of one case: events per second as median and by round, and CPU time in microseconds per event."""

    name: str
    events: int
    events_per_s: int
    rounds: list[int]
    cpu_us: float | None = None
    server_cpu_us: float | None = None
    ratios: dict[str, float] = {}
    """For each reference, the median of the ratios of all rounds."""


def figure(name: str, events: int, seconds: list[float], **more: Any) -> Figure:
    """Make a figure from the events per round and the seconds of each round."""
    rates = [round(events / each) for each in seconds]
    return Figure(name, events, round(statistics.median(rates)), rates, **more)


def ratio(one: Figure, other: Figure) -> float:
    """The median of the ratios of all rounds. Other load in a round affects both sides."""
    return significant(statistics.median(a / b for a, b in zip(one.rounds, other.rounds, strict=True)))


def significant(number: float) -> float:
    """Round to three significant digits."""
    return float(f"{number:.3g}")


def environment(server: str) -> dict[str, object]:
    """Describe the machine and the software of a run."""
    return {
        "python": platform.python_version(),
        "server": server,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def write(name: str, result: dict[str, Any], path: Path | None = None) -> None:
    """Write `benchmarks/results/<name>.json`, or `path`."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"benchmark": name, **result}), indent=2) + b"\n")


def show(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(_cell(each) for each in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return str(value)
