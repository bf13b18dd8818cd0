"""Progress of long work on standard error: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from kinfold_services.runtime.terminal import visible

_LINE_EVERY_S: Final = 2.0

Advance = Callable[[int], None]
"""Reports how many more items are done."""


@contextmanager
def progress(label: str, total: int | None) -> Generator[Advance]:
    """Show how many of `total` items (None: unknown) are done."""
    label = visible(label)  # it may contain the name of a file
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(label, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(escape(label), total=total)
        yield lambda count: bar.advance(task, count)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed is not None and task.speed > 0 else "")  # a replay may begin again


def _lines(label: str, total: int | None) -> Advance:
    done = 0
    printed_at = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, printed_at
        done += count
        if (count and done == total) or time.monotonic() - printed_at > _LINE_EVERY_S:
            printed_at = time.monotonic()
            sys.stderr.write(f"{label}: {done}" + (f" of {total}\n" if total is not None else "\n"))

    return advance
