"""Report the results of the benchmarks: tables with targets and a chart in the docs, and three figures in the README.

    python benchmarks/report.py [--no-docs]

Reads `benchmarks/results/*.json`, prints the table, draws `docs/images/speed.svg`, and replaces the text between two marks in
`docs/explanation/benchmarks.md` (all tables) and in `README.md` (three figures). `make bench` runs it last.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from chart import draw
from harness.results import RESULTS, show

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
PAGE: Final = ROOT / "docs/explanation/benchmarks.md"
CHART: Final = ROOT / "docs/images/speed.svg"
BEGINS: Final = "<!-- made by `make bench`: do not edit -->"
ENDS: Final = "<!-- end of what `make bench` made -->"
MIB: Final = 2**20
_CHART_TITLE: Final = "![Events per second, compared with the reference systems]"

Results = dict[str, Any]


class Floor(NamedTuple):
    """One target: at least `least`, or at most `most`."""

    title: str
    find: Callable[[Results], float]
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def target(self) -> str:
        """The target as text."""
        return f"≥ {self.least:g}{self.unit}" if self.least is not None else f"≤ {self.most:g}{self.unit}"

    def holds(self, found: float) -> bool:
        """Whether a result meets the target."""
        return (self.least is None or found >= self.least) and (self.most is None or found <= self.most)


def _live(results: Results, scenario: str) -> float:
    return float(results["live"]["scenarios"][scenario]["figures"][0]["ratios"]["redis-py"])


def _beside(results: Results, peer: str) -> float:
    return float(results["peers"]["figures"][0]["ratios"][peer])


def _replay(results: Results, log: str) -> float:
    return float(results["replay"]["scenarios"][log]["figures"][0]["ratios"]["redis-py"])


def _latency(results: Results, field: str) -> float:
    return float(next(each[field] for each in results["latency"]["rates"] if each["events_per_s"] == 5000))


def _workspaces(results: Results, name: str) -> float:
    found = next(each for each in results["workspaces"]["figures"] if each["name"] == name)
    return float(found["ratios"]["one workspace"])


def _large(results: Results) -> float:
    return float(results["growth"]["large_to_middle"]["cost"])


def _memory(results: Results) -> float:
    bounded = results["growth-full"]["bounded"]
    assert bounded["visitors"] >= 5_000_000, bounded
    return float(bounded["projector_peak_bytes"] / MIB)


def _asked(results: Results, database: str, question: str) -> float:
    asked = results["directory_queries"]["databases"][database]["questions"]
    return float(next(each["cpu_p95_ms"] for each in asked if each["question"].startswith(question)))


def _applied(results: Results, database: str) -> float:
    return float(next(each["cpu_ratio"] for each in results["directory"]["applied"] if each["database"] == database))


FLOORS: Final = (
    Floor("live, 50,000 visitors, against redis-py XREAD and decode", lambda r: _live(r, "middle-uniform"), 0.11),
    Floor("live, 90 % no-ops, against the same", lambda r: _live(r, "no-ops"), 0.13),
    Floor("live, against an idiomatic FastStream service", lambda r: _beside(r, "idiomatic"), 25, unit=" ×"),
    Floor("live, against `eventsourcing` with SQLite", lambda r: _beside(r, "eventsourcing"), 5, unit=" ×"),
    Floor("replay, 50,000 visitors, against redis-py XREAD and decode", lambda r: _replay(r, "middle-uniform"), 0.21),
    Floor("replay, Swift history, against the same", lambda r: _replay(r, "history"), 0.21),
    Floor("an event's cost, 2,000,000 visitors against 50,000", _large, most=1.7, unit=" ×"),
    Floor("latency at 5,000 events/s, p50", lambda r: _latency(r, "p50_ms"), most=2, unit=" ms"),
    Floor("latency at 5,000 events/s, p99", lambda r: _latency(r, "p99_ms"), most=8, unit=" ms"),
    Floor("projector's memory at 5,000,000 visitors, with a small cache", _memory, most=400, unit=" MiB"),
    Floor("1,000 workspaces against one, same load", lambda r: _workspaces(r, "1,000"), 0.6),
    Floor("directory on SQLite, `q` of three letters, p95 of CPU", lambda r: _asked(r, "sqlite", "q of"), most=50, unit=" ms"),
    Floor("the same on PostgreSQL", lambda r: _asked(r, "postgresql", "q of"), most=30, unit=" ms"),
    Floor("directory on SQLite, filter and sort, p95 of CPU", lambda r: _asked(r, "sqlite", "plan=pro"), most=50, unit=" ms"),
    Floor("the same on PostgreSQL", lambda r: _asked(r, "postgresql", "plan=pro"), most=30, unit=" ms"),
    Floor("directory's changes on SQLite, against bare executemany, of CPU", lambda r: _applied(r, "sqlite"), 0.5),
    Floor("the same on PostgreSQL", lambda r: _applied(r, "postgresql"), 0.5),
    Floor("directory's lag at 1,000 changes/s, p99", lambda r: float(r["directory"]["lag"]["p99_ms"]), most=100, unit=" ms"),
)


class Line(NamedTuple):
    """One line of the table."""

    title: str
    target: str
    found: str
    verdict: str


def lines(results: Results) -> list[Line]:
    """All targets with their results, if measured."""
    told = []
    for floor in FLOORS:
        try:
            found = floor.find(results)
        except (KeyError, StopIteration):
            told.append(Line(floor.title, floor.target, "not measured", ""))
        else:
            number = f"{found:.3g}" if found < 100 else f"{found:.0f}"
            told.append(Line(floor.title, floor.target, number + floor.unit, "yes" if floor.holds(found) else "**no**"))
    return told


def section(results: Results) -> str:
    """The text for the docs."""
    where = results["live"]["environment"]
    rounds = results["live"]["scenarios"]["middle-uniform"]["figures"][0]["rounds"]
    told = [
        f"{_CHART_TITLE}({os.path.relpath(CHART, PAGE.parent)})",
        "",
        f"Found by `make bench` with Python {where.get('python')} and {where.get('server')}, on {where.get('machine')}:",
        f"medians of {len(rounds)} rounds, each beside its reference in the same round.",
        "",
        "| | found | aim |",
        "|---|---|---|",
        *(f"| {line.title} | {line.found} | {line.target} |" for line in lines(results)),
        "",
        "| events a second | live | × redis-py | replay | × redis-py |",
        "|---|---|---|---|---|",
        *_rates(results),
        *_over_http(results),
    ]
    return "\n".join(told)


def summary(results: Results) -> str:
    """The text for the README: three figures, and the chart."""
    live = results["live"]
    middle = live["scenarios"]["middle-uniform"]["figures"][0]["events_per_s"]
    replayed = results["replay"]["scenarios"]["middle-uniform"]["figures"][0]["events_per_s"]
    where = live["environment"]
    latency = f"p50 {_latency(results, 'p50_ms'):.3g} ms, p99 {_latency(results, 'p99_ms'):.3g} ms"
    return "\n".join(
        [
            f"On {where.get('machine')}, with one projector, 50,000 visitors and the benchmark event mix:",
            "",
            f"- **live: {middle:,} events/s**, each batch with its state, feed and position in one transaction",
            f"- **replay: {replayed:,} events/s**",
            f"- **from append to feed at 5,000 events/s: {latency}**",
            "",
            f"{_CHART_TITLE}({os.path.relpath(CHART, README.parent)})",
        ]
    )


def _rates(results: Results) -> list[str]:
    live = dict(results.get("live", {}).get("scenarios", {}))
    replays = results.get("replay", {}).get("scenarios", {})
    large = results.get("growth", {})
    if "large_to_middle" in large:
        live["large-uniform"] = {"title": "mix, 2,000,000 visitors", "figures": large["large_to_middle"]["large"]}
        live["large-zipf"] = {"title": "mix, 2,000,000 visitors, Zipf", "figures": large["large_zipf"]}
    told = []
    for name, scenario in live.items():
        cells = [scenario["title"], *_cells(scenario), *_cells(replays.get(name))]
        told.append(f"| {' | '.join(cells)} |")
    return told


def _over_http(results: Results) -> list[str]:
    told: list[str] = []
    for each in results.get("gateway_ingest", {}).get("figures", []):
        if each["name"].startswith("http"):
            found = f"{each['events_per_s']:,} events/s, {each['ratios']['redis']:.2f} of redis-py's"
            told.append(f"| `POST /v1/events`, batches of 100{each['name'].removeprefix('http')} | {found} |")
    for each in results.get("gateway_feed", {}).get("crowds", []):
        title = f"`GET /v1/changes`, {each['readers']:,} readers, {each['changes_per_s']} changes/s, append to arrival"
        told.append(f"| {title} | p50 {each['p50_ms']:g} ms, p99 {each['p99_ms']:g} ms |")
    return ["", "| over HTTP | |", "|---|---|", *told] if told else []


def _cells(scenario: Results | None) -> tuple[str, str]:
    if scenario is None:
        return "", ""
    kinfold = scenario["figures"][0]
    return f"{kinfold['events_per_s']:,}", f"{kinfold['ratios']['redis-py']:.2f}"


def put_into(page: Path, text: str) -> None:
    """Replace the text between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGINS)
    _, mark, after = rest.partition(ENDS)
    assert mark, f"{page}: expected {BEGINS!r} with {ENDS!r} behind it"
    page.write_text(f"{before}{BEGINS}\n{text}\n{ENDS}{after}")


def main() -> None:
    """Print the table, draw the chart and update the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--no-docs", action="store_true", help="only print")
    options: Any = parser.parse_args()
    results: Results = {file.stem: msgspec.json.decode(file.read_bytes()) for file in sorted(RESULTS.glob("*.json"))}
    show("targets", ("", "target", "measured", "met"), lines(results))
    if "live" not in results:
        print("The chart and the docs were not updated, because there are no results of benchmarks/live.py")
    elif not options.no_docs:
        draw(results, CHART)
        put_into(PAGE, section(results))
        put_into(README, summary(results))


if __name__ == "__main__":
    main()
