"""Sessions of the screen: what is not the text of a session is none."""

import pytest
from redis.asyncio import Redis

from kinfold_services.access.keys import Caller, KeyRing, create_key, id_of
from kinfold_services.access.sessions import Sessions


@pytest.mark.parametrize("signature", ["", "0" * 64, "ä" * 64, "\udca6", "%a6", "\x00", "same"])
async def test_session_with_another_signature_is_invalid(redis: Redis, signature: str):
    """Also with one that is not ASCII: a browser may send any text."""
    made = await create_key(redis, "default", "secret")
    sessions = Sessions(redis, KeyRing(redis))
    text = await sessions.start(Caller("default", id_of(made), "secret"), "Ada")
    payload, _, good = text.partition(".")

    found = await sessions.read(f"{payload}.{good if signature == 'same' else signature}")

    assert (found is not None) is (signature == "same")
