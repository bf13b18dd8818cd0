"""`kinfold explain`: the history of a contact, as JSON or as a table."""

import time

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_services.cli.hints import warn_about_losses
from kinfold_services.cli.output import DONE, NO, complain, print_json
from kinfold_services.cli.reading import When, asking, say_how_found
from kinfold_services.history.explanation import Step, Story
from kinfold_services.history.moments import check_moment, parse_moment
from kinfold_services.history.past import Past
from kinfold_services.log.pages import log_extent
from kinfold_services.runtime.terminal import visible
from kinfold_services.settings import Settings
from kinfold_services.state.queries import Identifier
from kinfold_services.state.reader import StateReader

_COLOURS = {"folded": "green", "no-op": "dim", "stale": "yellow", "duplicate": "dim", "rejected": "red"}
_ENTRY_CHARS = 18
_WIDE = 100


async def explain(settings: Settings, identifier: Identifier, when: When, *, as_json: bool) -> int:
    """Print every event that shaped a contact. Exit status 1 if the contact never existed."""
    async with asking(settings, when.wait, when.timeout_s) as (client, workspace):
        extent = await log_extent(client, settings.workspace)
        if when.at is None:
            position, exclusions_upto = (await workspace.position()).stream_id, extent.last
        else:
            position = exclusions_upto = parse_moment(when.at)
            check_moment(position, extent, now_ms=time.time_ns() // 1_000_000)
        warn_about_losses(extent)
        blocked = await StateReader(client, settings.workspace).blocked_identifiers()
        story = Story(Past(client, settings, IdentifierRules(blocked)), position, exclusions_upto)
        if not position or not await story.open(identifier):
            return complain(f"{identifier}: not found in workspace {settings.workspace}", NO)
        if story.contact is not None:
            say_how_found(identifier, story.contact)
        console = Console()
        async for step in story.steps():
            if as_json:
                print_json(step)
            else:
                print_step(console, step)
    return DONE


def print_step(console: Console, step: Step) -> None:
    """Print one event: time, entry, and what it did; on a narrow terminal the latter goes below."""
    colour = _COLOURS[step.outcome]
    deeds = Text("\n").join(
        Text.assemble((visible(deed.what), colour), (f"  [{deed.rule}]", "dim"), overflow="fold") for deed in step.did
    )
    entry = f"{step.entry:<{_ENTRY_CHARS}}"
    if console.width < _WIDE:
        console.print(Text.assemble((step.at, "bold"), "  ", entry.rstrip()), Padding(deeds, (0, 0, 0, 2)))
        return
    line = Table.grid(padding=(0, 2, 0, 0))
    for width in (len(step.at), len(entry)):
        line.add_column(no_wrap=True, min_width=width)
    line.add_column(overflow="fold")
    line.add_row(Text(step.at, "bold"), entry, deeds)
    console.print(line)
