"""Draw the chart of the results as a small SVG with real text. Equal results give equal bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Results = dict[str, Any]

OURS: Final = "#0b6e4f"
LIGHT: Final = "#7fb8a4"
OTHERS: Final = "#b8bec7"
INK: Final = "#333333"
STYLE: Final[Any] = {
    "svg.fonttype": "none",  # keeps text as text: smaller and searchable
    "svg.hashsalt": "kinfold",  # makes the ids reproducible
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(results: Results, path: Path) -> None:
    """Draw the chart of the available results."""
    panels: list[tuple[str, Callable[[Axes, Results], None]]] = [
        ("live", _rates),
        ("live", _scenarios),
        ("growth", _growth),
        ("latency", _latency),
    ]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(11, 6.8), layout="constrained")
        figure.patch.set_facecolor("white")
        for axis, (needed, panel) in zip(axes.flat, panels, strict=True):
            if needed in results:
                panel(axis, results)
                axis.minorticks_off()
            else:
                axis.set_axis_off()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _rates(axis: Axes, results: Results) -> None:
    """Events per second of the projector and its peers, on one core."""
    live = {each["name"]: each["events_per_s"] for each in results["live"]["scenarios"]["middle-uniform"]["figures"]}
    peers = {each["name"]: each["events_per_s"] for each in results.get("peers", {}).get("figures", [])}
    replays = results.get("replay", {}).get("scenarios", {}).get("middle-uniform", {}).get("figures", [])
    replayed = {each["name"]: each["events_per_s"] for each in replays}
    bars = [
        ("hiredis, read only", live.get("hiredis"), OTHERS),
        ("redis-py, read and decode", live.get("redis-py"), OTHERS),
        ("FastStream's batch parser", peers.get("faststream batch"), OTHERS),
        ("kinfold replay", replayed.get("replay"), OURS),
        ("kinfold live", live.get("kinfold"), OURS),
        ("eventsourcing, SQLite", peers.get("eventsourcing"), OTHERS),
        ("idiomatic FastStream service", peers.get("idiomatic"), OTHERS),
    ]
    there = [(name, rate, colour) for name, rate, colour in reversed(bars) if rate]
    axis.barh([name for name, _, _ in there], [rate for _, rate, _ in there], color=[colour for *_, colour in there])
    for row, (_, rate, _) in enumerate(there):
        axis.text(rate * 1.1, row, f"{rate:,}", va="center")
    axis.set_xscale("log")
    axis.set_xlim(right=max(rate for _, rate, _ in there) * 8)
    axis.set_title("Events a second, 50,000 visitors (logarithmic)")


def _scenarios(axis: Axes, results: Results) -> None:
    """Live and replay speed, relative to redis-py reading and msgspec decoding."""
    live, replays = results["live"]["scenarios"], results.get("replay", {}).get("scenarios", {})
    names = list(reversed(live))
    for offset, scenarios, colour, label in ((0.2, live, OURS, "live"), (-0.2, replays, LIGHT, "replay")):
        there = [
            (row, scenarios[name]["figures"][0]["ratios"]["redis-py"]) for row, name in enumerate(names) if name in scenarios
        ]
        axis.barh([row + offset for row, _ in there], [found for _, found in there], height=0.38, color=colour, label=label)
    axis.set_yticks(range(len(names)), [live[name]["title"] for name in names])
    axis.set_title("Share of redis-py's speed")
    axis.legend(frameon=False, loc="lower right")


def _growth(axis: Axes, results: Results) -> None:
    """Cost per event by population."""
    sizes = results["growth"]["sizes"]
    visitors = [each["visitors"] for each in sizes]
    axis.plot(
        visitors, [1e6 / each["figures"][0]["events_per_s"] for each in sizes], color=OURS, marker="o", label="µs an event"
    )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("visitors")
    axis.set_ylabel("µs an event")
    memory = axis.twinx()
    memory.plot(visitors, [each["projector_bytes"] / 2**20 for each in sizes], color=LIGHT, marker="s", linestyle=":")
    memory.set_ylim(bottom=0)
    memory.set_ylabel("projector's memory, MiB (dotted)")
    axis.set_title("As the population grows")


def _latency(axis: Axes, results: Results) -> None:
    """Latency from XADD to the feed."""
    rates = results["latency"]["rates"]
    fields = (("p50_ms", "p50", OURS), ("p99_ms", "p99", LIGHT), ("p999_ms", "p99.9", OTHERS))
    for number, (field, label, colour) in enumerate(fields):
        places = [row + (number - 1) * 0.27 for row in range(len(rates))]
        axis.bar(places, [each[field] for each in rates], width=0.25, color=colour, label=label)
        for place, each in zip(places, rates, strict=True):
            axis.text(place, each[field] * 1.08, _short(each[field]), ha="center", fontsize=8)
    axis.set_yscale("log")
    axis.set_ylim(top=max(each["p999_ms"] for each in rates) * 3)
    axis.set_xticks(range(len(rates)), [f"{each['events_per_s']:,}/s" for each in rates])
    axis.set_ylabel("ms (logarithmic)")
    axis.set_title("From XADD to the feed")
    axis.legend(frameon=False, loc="upper left")


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 100 else f"{number:,.0f}"
