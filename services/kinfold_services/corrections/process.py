"""Takes entries back in a process of its own: a replay holds a whole workspace in memory, and keeps a core busy."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from typing import Final

from kinfold_services.server.choice import server_url
from kinfold_services.settings import Settings, inherited_environment

TIMEOUT_S: Final = 600.0
_KINFOLD: Final = "kinfold: "
_DONE: Final = 0  # these two as in `cli.output`, whose package imports every command
_NO: Final = 1


class NotTakenBack(Exception):
    """It was refused, for the reason in the message."""


class NotAnswered(Exception):
    """It could not be done now: the server cannot be asked, lacks a right, or the log is too long."""


async def take_back_apart(  # noqa: PLR0913  who, why and how, by name
    settings: Settings, command: str, subjects: Sequence[str], *, by: str, reason: str | None, dry_run: bool
) -> bytes:
    """Run `kinfold correct undo ENTRY...` or `kinfold correct unmerge CONTACT`; returns a `TakenBack` as JSON.

    `settings` names the workspace and the server. Raises NotTakenBack, and NotAnswered after `TIMEOUT_S`. A process that is
    ended halfway leaves the state whole; what it recorded in the log takes effect with the next replay.
    """
    options = [f"--by={by}", "--dry-run" if dry_run else "--yes", "--json", *([f"--reason={reason}"] if reason else [])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kinfold_services", "correct", command, *options, "--", *subjects),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={**inherited_environment(), "KINFOLD_REDIS_URL": server_url(settings), "KINFOLD_WORKSPACE": settings.workspace},
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        detail = f"it takes more than {TIMEOUT_S:g} s; `kinfold correct {command}` has no limit"
        raise NotAnswered(detail) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == _DONE:
        return out
    said = [line for line in err.decode(errors="replace").splitlines() if line.strip()] or ["no reason"]
    sentence = said[-1].removeprefix(_KINFOLD)
    raise NotTakenBack(sentence) if process.returncode == _NO else NotAnswered(sentence)
