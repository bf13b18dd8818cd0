"""Text from a request is data: no 5xx, and no row of another workspace.

By default some hundred cases; `KINFOLD_TEST_INJECTIONS=100000` is the long form.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from kinfold_schemas.filters import FIELDS
from kinfold_services.access.keys import create_key
from kinfold_services.settings import Settings
from tests.support.directories import following
from tests.support.gateways import Gateway, serving
from tests.support.projecting import projecting

CASES: Final = int(os.environ.get("KINFOLD_TEST_INJECTIONS", "400"))
SEED: Final = int(os.environ.get("KINFOLD_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
AT_ONCE: Final = 8
OTHERS: Final = "of-the-other-workspace"

PAYLOADS: Final = (
    "'",
    "''",
    '"',
    "`",
    "\\",
    "%",
    "_",
    ";",
    "--",
    "/*",
    "#",
    "' OR '1'='1",
    "' OR 1=1--",
    '" OR ""="',
    "') OR ('1'='1",
    "1) OR 1=1 --",
    "1' AND 1=CAST((SELECT version()) AS int)--",
    "' UNION SELECT record FROM directory2_contacts--",
    "' UNION ALL SELECT NULL,NULL,NULL--",
    "1; DROP TABLE directory2_contacts",
    "'; DELETE FROM directory_builds; --",
    "1 AND SLEEP(5)",
    "'; SELECT pg_sleep(5)--",
    "1 AND 1=(SELECT 1 FROM pg_sleep(5))",
    "' AND randomblob(1000000000)--",
    "' AND 1=like('ABCDEFG',upper(hex(randomblob(500000000/2))))--",
    "(SELECT CASE WHEN (1=1) THEN 1 ELSE json('') END)",
    "' AND extractvalue(1,concat(0x7e,version()))--",
    "$.plan",
    '$."plan"',
    "$[*] ? (@ == 1)",
    '"} || {"',
    "{:value}",
    ":workspace",
    "%s%(x)s",
    "?1",
    '"a" OR "b"*',
    "NEAR(a b, 5)",
    "search_text : ada",
    "^ada",
    "ada*",
    "\u0000",
    "\U0001f600",
    "\ufeff",
    "\u202e",
    "é" * 60,
    "x" * 5000,
    "-" * 100,
    "((((((((((((((((((",
    "not " * 30,
    "metadata.",
    'metadata."',
    "1e999",
    "9" * 400,
    "2026-02-30",
    "99999999999999999999d",
    "null",
    "true",
)
"""The classics of sqlmap for SQLite and PostgreSQL, the languages of FTS5, JSON paths and formats, and awkward text."""


class Attacked(NamedTuple):
    """A gateway whose directory has a contact of the caller's workspace, and ten of another one, which `other` asks for."""

    gateway: Gateway
    other: httpx.AsyncClient


@pytest.fixture(params=["sqlite", "postgresql"])
async def attacked(request: pytest.FixtureRequest, redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Attacked]:
    """Give the two workspaces, on each kind of database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    settings = Settings(data_dir=tmp_path, directory_url=url)
    served = ("default", "other")
    async with (
        projecting(redis_url, *served),
        following(settings, redis_url, *served),
        serving(redis_url, redis, data_dir=tmp_path, directory_url=url) as gateway,
        gateway.client_of(await create_key(redis, "other", "secret", "test")) as other,
    ):
        events = [
            {"type": "VisitorIdentified", "name": OTHERS, "externalId": f"{OTHERS}-{number}", "metadata": {OTHERS: number}}
            for number in range(10)
        ]
        for client, some in (
            (other, events),
            (gateway.client, [{"type": "VisitorIdentified", "externalId": "u-1", "name": "Ada"}]),
        ):
            answer = await client.post("/v1/events", json=some)
            counted = await client.get("/v1/contacts/count", params={"after": answer.json()["position"]})
            assert counted.json()["count"] == len(some)
        yield Attacked(gateway, other)


def requests(rng: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that carry payloads in every parameter, also in filters that are right otherwise."""
    while True:
        one, two = rng.choices(PAYLOADS, k=2)
        quoted_two = rng.choice([json.dumps(two), json.dumps(two), two, f"'{two}'"])
        field = rng.choice(
            [*FIELDS, "plan", f"metadata.{json.dumps(one)}", f"metadata.{json.dumps(one)}", f"metadata.{one}", one]
        )
        comparison = rng.choice(
            [
                *(f"{field} {operator} {quoted_two}" for operator in ("=", "!=", "<", ">=", "contains", "before", one)),
                f"{field} in ({quoted_two}, {json.dumps(one)})",
                f"{field} exists",
            ]
        )
        where = rng.choice([comparison, f"not ({comparison}) or id = {json.dumps(two)}", f"{comparison} or {one}"])
        sort = f"{rng.choice(['', '-'])}{field}"
        path = f"/v1/contacts/{quote(one, safe='')}/timeline"
        possible: list[tuple[str, dict[str, Any]]] = [
            ("/v1/contacts", {"q": one, "where": where}),
            ("/v1/contacts", {"q": one, "sort": sort}),
            ("/v1/contacts", {"where": [where, f"not plan = {json.dumps(one)}"], "sort": sort}),
            ("/v1/contacts", {"where": where, "count": "true", "limit": rng.choice(["1", "500", one])}),
            ("/v1/contacts", {"q": two, "cursor": one}),
            ("/v1/contacts", {"sort": one, one: two}),
            ("/v1/contacts/count", {"where": where}),
            ("/v1/contacts/count", {"q": one, "by": field}),
            ("/v1/contacts/count", {"q": one, "after": rng.choice(["0", two])}),
            ("/v1/conflicts", {"status": rng.choice(["open", "all", one])}),
            ("/v1/conflicts", {"cursor": two}),
            (path, {}),
            (path, {"cursor": two}),
        ]
        yield rng.choice(possible)


@pytest.mark.slow
@pytest.mark.timeout(max(300, CASES // 10))
async def test_injections_find_nothing_and_break_nothing(attacked: Attacked):
    """Every answer is a 200, 400 or 404, without anything of the other workspace, and both workspaces stay as they are."""
    source = requests(random.Random(SEED))  # noqa: S311  chooses no secret
    clients = (attacked.gateway.client, attacked.other)
    everything: dict[str, Any] = {"sort": "id", "limit": 500}
    before = [(await client.get("/v1/contacts", params=everything)).json() for client in clients]
    statuses = Counter[int]()

    async def attack() -> None:
        for _ in range(CASES // AT_ONCE):
            path, params = next(source)
            answer = await attacked.gateway.client.get(path, params=params)
            assert answer.status_code in {200, 400, 404}, (SEED, path, params, answer.text)
            assert OTHERS not in answer.text, (SEED, path, params)
            statuses[answer.status_code] += 1

    await asyncio.gather(*(attack() for _ in range(AT_ONCE)))

    assert [(await client.get("/v1/contacts", params=everything)).json() for client in clients] == before
    assert [len(page["contacts"]) for page in before] == [1, 10]
    assert statuses[200] > CASES // 5, statuses  # else little reached the database
