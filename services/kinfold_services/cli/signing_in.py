"""The link to the screen that `kinfold up` prints: it signs in once."""

import asyncio
import getpass
from urllib.parse import quote

from kinfold_services.access.keys import list_keys
from kinfold_services.access.sessions import create_link
from kinfold_services.connections import connect
from kinfold_services.server.choice import ANSWER_S


def secret_key_ids(redis_url: str, workspace: str) -> list[str]:
    """The ids of the workspace's secret keys that are not revoked, oldest first."""

    async def ids() -> list[str]:
        async with connect(redis_url, ANSWER_S) as client:
            found = await list_keys(client, workspace)
        return [each.id for each in found if each.kind == "secret" and each.revoked_at is None]

    return asyncio.run(ids())


def sign_in_url(gateway: str, redis_url: str, workspace: str, key_id: str, new_key: str | None) -> str:
    """The address to open, with a new link for a key. `new_key` is the key itself, if it was created just now."""

    async def token() -> str:
        async with connect(redis_url, ANSWER_S) as client:
            return await create_link(client, workspace, key_id, _user(), new_key)

    return f"{gateway}/sign-in?link={quote(asyncio.run(token()))}"


def _user() -> str:
    """The name of this system's user, which the form suggests; empty if it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
