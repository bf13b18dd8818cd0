"""Each program works with the rights in docs/how-to/rights.md, and names a missing one when it starts."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import httpx
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

import kinfold
from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.access.keys import create_key
from kinfold_services.access.rights import (
    DIRECTORY,
    ERASE,
    GATEWAY,
    PROJECTOR,
    REPLAY,
    RETENTION,
    VERIFY,
    MissingRights,
    Role,
    check_rights,
)
from kinfold_services.connections import connect
from kinfold_services.server.binary import find_server_binary
from kinfold_services.settings import Settings
from tests.support.command_line import Kinfold
from tests.support.directories import DirectoryProcess, wait_until_current
from tests.support.directories import following as directory_following
from tests.support.engines import free_port, running
from tests.support.gateways import GatewayProcess
from tests.support.projecting import ProjectorProcess, newest_entry, wait_until_folded
from tests.support.sse import following
from tests.support.waiting import wait_until, wait_until_sync

USERS: Final = dict(
    re.findall(r"^user kinfold-(\S+) on >PASSWORD (.*)$", Path("docs/how-to/rights.md").read_text(), re.MULTILINE)
)
ROLES: Final = {role.name: role for role in (PROJECTOR, GATEWAY, DIRECTORY, VERIFY, REPLAY, ERASE, RETENTION)}
COMMANDS: Final[dict[str, list[str]]] = {
    "projector": [],
    "gateway": ["--port=0"],
    "verify": [],
    "replay": [],
    "erase": ["--resume"],
}
SERVICES: Final = {"projector", "gateway"}
"""They start in a process of their own: they need its signals."""
ERASED_S: Final = 300.0
"""An erasure runs in a process of its own."""
VISITORS: Final = 130
"""More visitors than a contact lists, because the projector also reads the others."""


class Server(NamedTuple):
    """A server with the users of the docs."""

    admin: Redis
    port: int

    def url(self, user: str) -> str:
        """The URL for one of the users."""
        return url_of(self.port, user)

    async def set_user(self, user: str, rights: str) -> None:
        """Give a user these rights and no others."""
        await cast("Any", self.admin).execute_command(*_acl(user, rights))

    async def denied(self) -> list[str]:
        """The commands that the server refused, except those that redis-py sends about itself and does not need."""
        entries = await cast("Any", self.admin).execute_command("ACL", "LOG")
        found = [{_text(name): _text(value) for name, value in _pairs(each)} for each in entries]
        return [f"{each['username']}: {each['object']}" for each in found if not each["object"].startswith("client")]


def _pairs(entry: dict[Any, Any] | list[Any]) -> list[tuple[Any, Any]]:
    """The fields of an entry of ACL LOG: a mapping in RESP3, a flat list in RESP2."""
    if isinstance(entry, dict):
        return list(entry.items())
    return list(zip(entry[::2], entry[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def running_with_users(directory: Path, program: str | None = None) -> Generator[SyncRedis]:
    """Run a server with the users of the docs, and give its administrator."""
    port = free_port()
    with running(directory, "--port", port, program=program), SyncRedis(port=port) as admin:
        wait_until_sync(lambda: _answers(admin))
        for user, rights in USERS.items():
            cast("Any", admin).execute_command(*_acl(user, rights))
        yield admin


@asynccontextmanager
async def serving(directory: Path, program: str | None = None) -> AsyncGenerator[Server]:
    """A server with the users of the docs."""
    with running_with_users(directory, program) as known:
        port = known.connection_pool.connection_kwargs["port"]
        async with Redis(port=port) as admin:
            yield Server(admin, port)


def url_of(port: int, user: str) -> str:
    """The URL for one of the users."""
    return f"redis://kinfold-{user}:secret@127.0.0.1:{port}"


def _acl(user: str, rights: str) -> list[str]:
    """The command that gives a user these rights and no others."""
    return ["ACL", "SETUSER", f"kinfold-{user}", "reset", "on", ">secret", *rights.split()]


def _answers(client: SyncRedis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def test_docs_list_the_rights_that_the_programs_check() -> None:
    """Exactly these; the check itself is EVALSHA."""
    for name, role in ROLES.items():
        keys, *commands = USERS[name].split()
        assert keys == "~kinfold:*"
        assert sorted(commands) == sorted(f"+{each}" for each in (*role.commands, "evalsha"))


def test_projector_has_the_rights_of_an_erasure() -> None:
    """It finishes erasures as its own user."""
    assert set(ERASE.commands) <= set(PROJECTOR.commands)
    assert set(ERASE.keys) <= set(PROJECTOR.keys)


@pytest.mark.parametrize("engine", ["redis-server", "the embedded server"])
async def test_every_program_works_with_the_rights_in_the_docs(tmp_path: Path, engine: str) -> None:
    """Side by side, each as its own user. The server refuses nothing."""
    program = shutil.which(engine) if engine == "redis-server" else str(find_server_binary().path)
    if program is None:
        pytest.skip("needs redis-server on PATH")
    async with serving(tmp_path / "server", program) as server:
        with ProjectorProcess(server.url("projector"), "default", tmp_path / "projector") as projector:
            await asyncio.to_thread(produce, server.url("producer"))
            await server.admin.xadd(key("default", "events"), {"event": "no JSON"})
            last = await newest_entry(server.admin, "default", "events")
            await wait_until_folded(server.admin, "default", last)
            assert await cast("Any", server.admin.sismember(WORKSPACES, "shop"))
            await asyncio.to_thread(follow, server.url("feed"))
            await ask_everything(server, tmp_path / "gateway")
            first = cast("Any", await server.admin.xrange(key("default", "events"), count=1))[0][0].decode()
            (tmp_path / "excluded").write_text(first)
            (tmp_path / "blocked").write_text("u-2")
            options = ["--exclude-events", tmp_path / "excluded", "--blocked-identifiers", tmp_path / "blocked"]
            await cast(
                "Any", server.admin.hset(key("default", "retention"), mapping={"events": 1, "anonymous": 1, "rejects": 1})
            )
            for name, arguments in (
                ("verify", []),
                ("replay", options),
                ("verify", []),
                ("erase", ["--external-id=u-seg", "--yes"]),
                ("verify", []),
                ("retention", ["run"]),
                ("verify", []),
            ):
                said = await asyncio.to_thread(Kinfold("--redis-url", server.url(name)).run, name, *arguments)
                assert said.status == 0, said
            assert projector.process.poll() is None, projector.log.read_text()
        with (
            ProjectorProcess(server.url("projector"), "default", tmp_path / "projector"),
            DirectoryProcess(server.url("directory"), tmp_path / "directory", {"data_dir": tmp_path / "data"}),
        ):
            await asyncio.to_thread(produce, server.url("producer"))
            await wait_until_folded(server.admin, "default", await newest_entry(server.admin, "default", "events"))
            for workspace in ("default", "shop"):
                await wait_until_current(server.admin, Settings(data_dir=tmp_path / "data"), workspace)
        await server.admin.xtrim(key("default", "changes"), maxlen=1, approximate=False)
        other = Settings(data_dir=tmp_path / "other data")
        async with directory_following(other, server.url("directory")):
            await wait_until_current(server.admin, other, "default")
        assert await server.denied() == []


def produce(url: str) -> None:
    """Send events that create, merge and separate contacts."""
    for workspace in ("default", "shop"):
        with kinfold.Producer(url, workspace=workspace) as producer:
            for number in range(VISITORS):
                producer.identify(f"v-{number}", external_id="u-1")
            producer.identify("v-a", email="ada@example.org")
            producer.identify("v-b", external_id="u-1", email="ada@example.org")
            producer.identify("v-1", external_id="u-2")
            producer.set_metadata("v-1", {"plan": "pro"})


def follow(url: str) -> None:
    """Read the feed from its beginning, and the contacts."""
    feed = kinfold.Feed(url)
    assert len(list(islice(feed.follow(since="0"), 3))) == 3
    assert list(islice(kinfold.Feed(url).follow(snapshot=True), 1))


async def ask_everything(server: Server, log: Path) -> None:
    """Ask the gateway every question."""
    secret = await create_key(server.admin, "default", "secret", "test")
    with GatewayProcess(server.url("gateway"), free_port(), log) as gateway:
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30) as client:
            event = {"type": "VisitorIdentified", "visitorId": "v-web", "externalId": "u-web"}
            position = (await client.post("/v1/events", json=event)).json()["position"]
            contacts = (await client.get("/v1/contacts", params={"after": position})).json()["contacts"]
            assert len(contacts) == 3
            paths = [f"/v1/contacts/{contacts[0]['id']}", f"/v1/contacts/{contacts[-1]['id']}/visitors", "/v1/visitors/v-1"]
            paths += ["/readyz", "/metrics", "/v1/contacts?order=created", "/v1/contacts?externalId=u-1"]
            page = (await client.get("/v1/contacts", params={"order": "created", "limit": 1})).json()
            paths.append(f"/v1/contacts?order=created&limit=1&cursor={page['nextCursor']}")
            paths += ["/v1/contacts?email=ada@example.org", "/v1/contacts?visitorId=v-1"]
            for path in paths:
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
            assert (await client.post("/v1/identify", json={"userId": "u-seg", "anonymousId": "v-seg"})).status_code == 200
            for params in ({"snapshot": "true"}, {"since": "0"}, {}):
                async with following(client, params) as stream:
                    if not params:
                        await client.post("/v1/events", json={**event, "name": "Web"})
                    assert await stream.message()
            await look_at_the_screen(client, secret, str(contacts[0]["id"]))
            await have_erased(client, "u-web")


async def have_erased(client: httpx.AsyncClient, external_id: str) -> None:
    """Ask for an erasure, and return when the projector has done it."""
    asked = await client.post("/v1/erasures", json={"externalId": external_id})
    assert asked.status_code == 202, asked.text

    async def is_done() -> bool:
        return bool((await client.get(asked.headers["Location"])).json()["state"] == "done")

    await wait_until(is_done, ERASED_S, 0.2)
    assert (await client.get("/v1/erasures/er_unknown")).status_code == 404
    assert len((await client.get("/v1/erasures")).json()) == 1


async def look_at_the_screen(client: httpx.AsyncClient, key: str, contact_id: str) -> None:
    """Look at every page that needs no directory, and retry a reject."""
    await client.post("/sign-in", data={"key": key, "by": "test"})
    person = f"/people/{contact_id}"
    for path in (
        "/rejects",
        "/live",
        "/health",
        person,
        f"{person}/why",
        f"{person}/at",
        f"{person}/correct",
        f"{person}/erase",
    ):
        page = await client.get(path)
        assert page.status_code == 200, (path, page.text)
    rejects = (await client.get("/rejects")).text
    csrf = cast("re.Match[str]", re.search(r'name="csrf" value="(\w+)"', rejects))[1]
    reject = cast("re.Match[str]", re.search(r'href="(/rejects/[0-9-]+)"', rejects))[1]
    event = {"type": "VisitorSeen", "visitorId": "v-1"}
    answer = await client.post(f"{reject}/retry", data={"csrf": csrf, "event": json.dumps(event)})
    assert answer.status_code == 303, answer.text


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncRedis]:
    """Give the administrator of a server with the users of the docs."""
    with running_with_users(tmp_path_factory.mktemp("server")) as known:
        yield known


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("right", ["+hgetall", "+info", "+evalsha", "~kinfold:{default}:contacts"])
def test_program_names_a_missing_right_when_it_starts(admin: SyncRedis, name: str, right: str) -> None:
    """With one sentence and exit status 3, before it writes anything. It does not hang."""
    admin.flushall()
    admin.xadd(key("default", "events"), {"event": '{"type":"VisitorSeen","visitorId":"v-1"}'})
    rights = USERS[name].replace("~kinfold:*", " ".join(f"~{each}" for each in keys_of(ROLES[name])))
    cast("Any", admin).execute_command(*_acl(name, " ".join(each for each in rights.split() if each != right)))

    program = Kinfold("--redis-url", url_of(admin.connection_pool.connection_kwargs["port"], name))
    said = (program.run_apart if name in SERVICES else program.run)(name, *COMMANDS[name])

    assert (said.status, said.out) == (3, b""), said
    assert said.err.count("\n") == 1, said.err
    assert right.removeprefix("+") in said.err
    assert admin.keys("*") == [key("default", "events").encode()]


def keys_of(role: Role) -> list[str]:
    """Every key of a role, one at a time."""
    return [
        WORKSPACES,
        *(key("default", name) for name in role.keys),
        *(f"kinfold:*:{each}:*" for each in role.staged),
    ]


@pytest.mark.parametrize("name", ROLES)
async def test_each_missing_command_is_named(tmp_path: Path, name: str) -> None:
    """Including the projector's PING, without which it would wait forever."""
    role = ROLES[name]
    async with serving(tmp_path) as server:
        client = connect(server.url(name), 5)
        await check_rights(client, role, "default")
        for command in set(role.commands) - {"script|load"}:
            await server.set_user(name, USERS[name].replace(f" +{command} ", " ").removesuffix(f" +{command}"))
            await client.connection_pool.disconnect()
            with pytest.raises(MissingRights, match=rf"without \+{re.escape(command)};"):
                await check_rights(client, role, "default")
        await server.set_user(name, USERS[name].replace("~kinfold:*", "~other:*"))
        await client.connection_pool.disconnect()
        with pytest.raises(MissingRights, match=r"without ~kinfold:\{default\}:\*;"):
            await check_rights(client, role, "default")
        await client.aclose()
