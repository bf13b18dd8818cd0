"""Health: what is wrong in one sentence, and how the workspace was in the last ten minutes."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from litestar import Request, Response, get

from kinfold_services.gateway.screen.pages import html, is_fragment, page, render
from kinfold_services.gateway.screen.people import chrome
from kinfold_services.gateway.screen.sessions import workspace_of
from kinfold_services.gateway.screen.words import plural
from kinfold_services.gateway.vitals import WINDOW_S, Sample
from kinfold_services.state.status import Status

BEHIND_S: Final = 3.0
"""The projector counts as behind when an event has waited for longer."""
DIRECTORY_BEHIND_S: Final = 5.0

_WIDTH: Final = 300
_HEIGHT: Final = 64
_GAP_S: Final = 20.0
"""Two samples that are further apart are not joined by a line."""

Point = tuple[float, float]
"""A time in seconds since 1970, and a value."""


class Trouble(NamedTuple):
    """Something that is wrong: a sentence, and where to look."""

    sentence: str
    link: str | None = None
    link_text: str = ""


class Chart(NamedTuple):
    """A chart: the value now in words, the line and the area as SVG paths, and what a screen reader says."""

    title: str
    now: str
    note: str
    line: str
    area: str
    highest: str
    label: str
    is_bad: bool = False


@get("/health")
async def health(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page, or its part that is loaded again every five seconds."""
    workspace = workspace_of(request)
    status, sample = await workspace.vitals.now()
    samples = [*workspace.vitals.samples, sample]
    shown: dict[str, Any] = {
        "workspace": workspace.name,
        "troubles": list(troubles(status, samples)),
        "charts": charts(samples),
        "figures": status,
        "ignored": workspace.ignored,
        "last_ignored": workspace.last_ignored,
        "width": _WIDTH,
        "height": _HEIGHT,
    }
    if is_fragment(request):
        return html(request, render("_health.html", **shown))
    return page(request, "health.html", **{**chrome(request), **shown})


def troubles(status: Status, samples: Sequence[Sample]) -> Iterator[Trouble]:
    """What is wrong, the worst first."""
    name, now = status.workspace, samples[-1]
    if status.damage is not None:
        yield Trouble(f"No projector can serve {name}: {status.damage}")
    elif now.behind_s >= BEHIND_S:
        waits = plural(now.lag, "event waits", "events wait")
        if status.position is None:
            yield Trouble(f"No projector has folded anything in {name} yet: {waits}, the oldest for {duration(now.behind_s)}.")
        else:
            yield Trouble(f"The projector is {duration(now.behind_s)} behind in {name}: {waits}.", "/live", "Watch the log")
    directory = status.directory
    if directory is None:
        if status.contacts:
            yield Trouble(
                f"No directory follows {name}, so search, lists and timelines do not work. `kinfold directory` starts one."
            )
    elif directory.state != "current":
        yield Trouble(f"The directory of {name} is being built. Search and lists work when it is complete.")
    elif directory.lag_ms / 1000 >= DIRECTORY_BEHIND_S:
        yield Trouble(f"The directory is {duration(directory.lag_ms / 1000)} behind in {name}, so lists are not up to date.")
    rejected = now.rejected - samples[0].rejected
    if rejected > 0:
        minutes = max(1, round((now.at_s - samples[0].at_s) / 60))
        last = "in the last minute" if minutes == 1 else f"in the last {minutes} minutes"
        yield Trouble(f"{plural(rejected, 'event was', 'events were')} rejected {last}.", "/rejects", "Look at the rejects")
    if status.entries_lost:
        lost = plural(status.entries_lost, "log entry was", "log entries were")
        yield Trouble(f"{lost} removed before the projector had folded them.")


def duration(seconds: float) -> str:
    """A span of time for people: `0.4 s`, `12 s`, `3 min`, `2 h`."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds < 0.05 else f"{seconds:.1f} s"  # noqa: PLR2004  as precise as it is useful


def charts(samples: Sequence[Sample]) -> list[Chart]:
    """The charts, in the order of the page."""
    now = samples[-1]
    rates = [(each.at_s, rate) for each, rate in _rates(samples, lambda sample: sample.entries)]
    rejects = [(each.at_s, rate * 60) for each, rate in _rates(samples, lambda sample: sample.rejected)]
    directory = [(each.at_s, each.directory_s) for each in samples if each.directory_s is not None]

    def each(of: Callable[[Sample], float]) -> list[Point]:
        return [(sample.at_s, of(sample)) for sample in samples]

    return [
        _chart("Events per second", rates, lambda rate: f"{_figure(rate)}/s", "all events, rejected ones included"),
        _chart(
            "Projector delay",
            each(lambda sample: sample.behind_s),
            duration,
            f"{plural(now.lag, 'event waits', 'events wait')} in the log",
            is_bad=now.behind_s >= BEHIND_S,
            at_least=BEHIND_S,
        ),
        _chart(
            "Directory delay",
            directory,
            duration,
            "age of search and lists" if directory else "no directory is running",
            is_bad=now.directory_s is None or now.directory_s >= DIRECTORY_BEHIND_S,
            at_least=DIRECTORY_BEHIND_S,
        ),
        _chart(
            "Rejected events per minute",
            rejects,
            lambda rate: f"{_figure(rate)}/min",
            f"{now.rejected:,} rejected in total",
            is_bad=now.rejected > samples[0].rejected,
        ),
        _chart("Feed readers", each(lambda sample: sample.readers), _figure, "connected to this gateway"),
        _chart("People", each(lambda sample: sample.contacts), _figure, plural(now.visitors, "device"), from_zero=False),
    ]


def _rates(samples: Sequence[Sample], count: Callable[[Sample], int]) -> Iterator[tuple[Sample, float]]:
    """How fast a count grew before each sample, in 1/s. A replay may make a count smaller: then it did not grow."""
    for one, other in pairwise(samples):
        if other.at_s - one.at_s > 0.5:  # noqa: PLR2004  two samples at one moment say nothing
            yield other, max(0, count(other) - count(one)) / (other.at_s - one.at_s)


def _chart(  # noqa: PLR0913  each is a part of the chart
    title: str,
    points: Sequence[Point],
    words: Callable[[float], str],
    note: str,
    *,
    is_bad: bool = False,
    from_zero: bool = True,
    at_least: float = 1,
) -> Chart:
    values = [value for _, value in points]
    now = words(values[-1]) if values else "–"
    highest, low = max(values, default=0), 0 if from_zero else min(values, default=0)
    top = max(highest, at_least) if from_zero else highest
    parts = _parts(points)
    scaled = [[_scaled(point, low, top) for point in part] for part in parts]
    line = " ".join(f"M{' L'.join(part)}" for part in scaled)
    area = " ".join(
        f"M{part[0].partition(' ')[0]} {_HEIGHT} L{' L'.join(part)} L{part[-1].partition(' ')[0]} {_HEIGHT}Z" for part in scaled
    )
    label = f"{title}: {now} now, at most {words(highest)} in the last 10 minutes" if values else f"{title}: not known yet"
    return Chart(title, now, note, line, area, words(highest) if values else "", label, is_bad)


def _parts(points: Sequence[Point]) -> list[list[Point]]:
    """The points in parts without a gap in time."""
    parts: list[list[Point]] = []
    for point in points:
        if parts and point[0] - parts[-1][-1][0] <= _GAP_S:
            parts[-1].append(point)
        else:
            parts.append([point])
    return parts


def _scaled(point: Point, low: float, top: float) -> str:
    x = _WIDTH * (1 - min(1, max(0, (time.time() - point[0]) / WINDOW_S)))
    share = (point[1] - low) / (top - low) if top > low else 0.0 if top == 0 else 0.5
    return f"{x:.1f} {_HEIGHT - 2 - share * (_HEIGHT - 6):.1f}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"  # noqa: PLR2004
