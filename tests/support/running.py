"""Run `kinfold` as a process."""

from tests.support.command_line import Said
from tests.support.prefork import run_kinfold
from tests.support.projecting import clean_environment

COMMAND_S = 60.0


async def kinfold(url: str, *arguments: object, **variables: str) -> Said:
    """Run one command against a server to its end, without the machine's settings."""
    environment = clean_environment(KINFOLD_REDIS_URL=url, **variables)
    ended = await run_kinfold([*map(str, arguments)], environment, COMMAND_S)
    return Said(ended.status, ended.out, ended.err.decode())
