"""The link to the screen that `kinfold up` prints: it signs in once."""

import asyncio
import getpass
from urllib.parse import quote

from kinfold_services.access.keys import id_of, list_keys
from kinfold_services.access.sessions import create_link
from kinfold_services.connections import connect
from kinfold_services.server.choice import ANSWER_S


def sign_in_url(gateway: str, redis_url: str, workspace: str, new_key: str | None) -> str:
    """The address to open: with a link for the new key, else for the oldest secret key. Without a secret key it has no link."""

    async def token() -> str | None:
        async with connect(redis_url, ANSWER_S) as client:
            if new_key is not None:
                return await create_link(client, workspace, id_of(new_key), _user(), new_key)
            for each in await list_keys(client, workspace):
                if each.kind == "secret" and each.revoked_at is None:
                    return await create_link(client, workspace, each.id, _user())
        return None

    link = asyncio.run(token())
    return gateway if link is None else f"{gateway}/sign-in?link={quote(link)}"


def _user() -> str:
    """The name of this system's user, which the form suggests; empty if it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
