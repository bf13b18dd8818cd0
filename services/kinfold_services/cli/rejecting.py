"""`kinfold rejects`: lists the entries that could not be folded, and appends corrected events again."""

import sys
from collections import Counter
from itertools import dropwhile
from typing import Final

from kinfold_projections.entries import EVENT_FIELD
from kinfold_schemas.rejections import Rejection, found_bytes
from kinfold_services.cli.editing import EditorFailed
from kinfold_services.cli.editing import edit as edit_text
from kinfold_services.cli.output import DONE, NO, USAGE, complain, print_json, say
from kinfold_services.rejects.retry import DamagedReject, RejectedEntry, Rejects, compact, editable_text
from kinfold_services.server.choice import connected
from kinfold_services.settings import Settings

_COMMENT: Final = "#"
_NAMED: Final = 20


async def list_rejects(settings: Settings, *, count: bool, everything: bool) -> int:
    """Print each reject, or with `count` the number by reason."""
    counts: Counter[str] = Counter()
    async with connected(settings) as client:
        rejects = Rejects(client, settings.workspace)
        try:
            async for reject in rejects.each(settled=everything):
                counts[reject.reason] += 1
                if not count:
                    print_json(reject.as_json())
        except DamagedReject as error:
            return complain(str(error), NO)
    if count:
        print_json(dict(sorted(counts.items())))
    elif not counts:
        say(f"no rejects in workspace {settings.workspace}{'' if everything else ' that are not settled'}")
    return DONE


async def retry_rejects(settings: Settings, *, edit: bool) -> int:
    """Append again the events that are valid now, with `edit` after editing. Exit status 1 if some are left."""
    retried = left = 0
    async with connected(settings, writes=True) as client:
        rejects = Rejects(client, settings.workspace)
        try:
            async for reject in rejects.each():
                outcome = await (_edit(rejects, reject) if edit else _retry(rejects, reject))
                if isinstance(outcome, str):
                    retried += 1
                    print_json({"entry": reject.entry, "position": outcome})
                    continue
                left += 1
                if outcome is not None and left <= _NAMED:
                    say(f"{reject.entry}: still {outcome.reason}: {outcome.detail}")
        except DamagedReject as error:
            return complain(str(error), NO)
        except EditorFailed as error:
            return complain(str(error), USAGE)
    say(f"{retried} appended again, {left} left unchanged")
    return NO if left else DONE


async def _retry(rejects: Rejects, reject: RejectedEntry) -> str | Rejection | RejectedEntry:
    if reject.event is None:
        return reject  # without an event there is nothing to append
    return await rejects.retry(reject, reject.event)


async def _edit(rejects: Rejects, reject: RejectedEntry) -> str | Rejection | None:
    """Open the event in the editor until it is valid. Returns None if the user leaves it unchanged.

    Without a terminal it opens once: an editor that is a script would make the same change forever.
    """
    reason, detail, text = reject.reason, reject.detail, editable_text(reject.event) + "\n"
    while True:
        edited = edit_text(_comments(reject, reason, detail) + text, ".json")
        text = "" if edited is None else "\n".join(dropwhile(lambda line: line.startswith(_COMMENT), edited.split("\n")))
        if not text.strip():
            return None
        outcome = await rejects.retry(reject, compact(text.encode(errors="surrogateescape")))
        if isinstance(outcome, str) or not sys.stdin.isatty():
            return outcome
        reason, detail = outcome.reason, outcome.detail


def _comments(reject: RejectedEntry, reason: str, detail: str) -> str:
    others = [f"# field {found_bytes(name)}: {found_bytes(value)}" for name, value in reject.fields if name != EVENT_FIELD]
    lines = [
        f"# Entry {reject.entry} of the log was rejected. {reason}: {detail}",
        *others,
        "# Correct the event below and save it to append it again.",
        "# Leave it unchanged, or delete it, to do nothing.",
    ]
    return "".join(line.replace("\n", " ") + "\n" for line in lines)
