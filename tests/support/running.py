"""Run `kinfold` as a process."""

import asyncio

from tests.support.command_line import Said
from tests.support.projecting import KINFOLD, clean_environment

COMMAND_S = 60.0


async def kinfold(url: str, *arguments: object, **variables: str) -> Said:
    """Run one command against a server to its end, without the machine's settings."""
    process = await asyncio.create_subprocess_exec(
        *KINFOLD,
        *map(str, arguments),
        env=clean_environment(KINFOLD_REDIS_URL=url, **variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Said(process.returncode, out, err.decode())
