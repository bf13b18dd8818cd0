"""`kinfold export` and `kinfold import` move a log to another server, where it gives the same contacts."""

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.connections import connect
from kinfold_services.log.streams import StreamEntry
from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.transfer.importing import Checked, Import, ImportRefused
from kinfold_services.transfer.log_file import Header, LogFile, Trailer
from tests.support.event_log import HISTORY_CONTACTS, HISTORY_ENTRIES, append, entry_id, history
from tests.support.lengths import short_or_long
from tests.support.projecting import fold_log, projecting, wait_until_folded
from tests.support.running import kinfold
from tests.support.transferring import damage, killed_import, log, names_in, producing, raw, start, state
from tests.support.waiting import wait_until

HEADER = Header(workspace="default", blocked_identifiers=[], settled_rejects={})
TRAILER = Trailer(entries=2, lost=0, first="1-0", last="3-0", sha256="")
KILLS = short_or_long(4, 8)
SOME = 3000


@pytest.fixture
def elsewhere_url(tmp_path: Path) -> Iterator[str]:
    """Give the URL of a second server: the laptop to which the production log is copied."""
    with EmbeddedServer.start(tmp_path / "elsewhere") as server:
        yield server.url


@pytest.fixture
async def elsewhere(elsewhere_url: str) -> AsyncIterator[Redis]:
    """Give a client of the second server."""
    async with Redis.from_url(elsewhere_url) as client:
        yield client


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["log.ndjson", "log.ndjson.gz", "log.ndjson.zst"])
    async def test_contacts_are_the_same_byte_for_byte(
        self, redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, *, tmp_path: Path, name: str
    ) -> None:
        """`kinfold contacts` prints the same on both servers, each with a real projector."""
        file = tmp_path / name
        last = await append(redis, "default", history())
        await fold_log(redis, redis_url, "default")

        exported = await kinfold(redis_url, "export", file)
        imported = await kinfold(elsewhere_url, "import", file)
        await fold_log(elsewhere, elsewhere_url, "default")

        assert (exported.status, imported.status) == (0, 0), (exported, imported)
        assert imported.lines == [
            {"workspace": "default", "entries": HISTORY_ENTRIES, "appended": HISTORY_ENTRIES, "position": last}
        ]
        here, there = await kinfold(redis_url, "contacts"), await kinfold(elsewhere_url, "contacts")
        assert len(here.lines) == HISTORY_CONTACTS
        assert there.out == here.out
        assert await state(elsewhere, "default") == await state(redis, "default")

    async def test_every_byte_of_every_entry_is_restored(
        self, redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, tmp_path: Path
    ) -> None:
        """Unknown fields, repeated names, bytes that are not text, and more fields than a script call takes."""
        many = [part for number in range(4500) for part in (f"f{number}", "x")]
        entries: list[list[Any]] = [
            ["event", b'{"type":"VisitorSeen","visitorId":"v-1"}'],
            ["event", b"\xff\x00\r\n"],
            ["a", "1", "a", "2", "event", "{}"],
            [b"\xfe", b""],
            many,
            ["event", b"{}", "event", b"[]"],
        ]
        for number, fields in enumerate(entries):
            await raw(redis, "XADD", key("default", "events"), f"5-{number}", *fields)
        file = tmp_path / "log.ndjson.gz"

        await kinfold(redis_url, "export", file)
        await kinfold(elsewhere_url, "import", file)

        assert len(await log(redis, "default")) == len(entries)
        assert await log(elsewhere, "default") == await log(redis, "default")

    async def test_blocked_identifiers_of_the_workspace_are_imported(
        self, redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, tmp_path: Path
    ) -> None:
        """They decide which identifiers name a person. A projector that already waits for the first entry applies them."""
        await redis.sadd(key("default", "blocked-identifiers"), "kiosk", "/^test-/")
        await append(redis, "default", [identified("kiosk", "v-1"), identified("test-1", "v-2"), identified("u-1", "v-3")])
        await fold_log(redis, redis_url, "default")
        file = tmp_path / "log.ndjson"
        await kinfold(redis_url, "export", file)

        async with projecting(elsewhere_url):
            await wait_until(lambda: elsewhere.exists(key("default", "events")))  # the projector waits for entries
            await kinfold(elsewhere_url, "import", file)
            await wait_until_folded(elsewhere, "default", entry_id(2))

        assert len((await kinfold(elsewhere_url, "contacts")).lines) == 1
        assert await state(elsewhere, "default") == await state(redis, "default")

    async def test_replay_honours_the_events_that_the_log_excludes(
        self, redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, tmp_path: Path
    ) -> None:
        """The target first folds a merge that the source has reverted, and tells so; after a replay the contacts are equal."""
        merging = {"type": "VisitorIdentified", "externalId": "u-1", "email": "b@example.org"}
        ben = {"type": "VisitorIdentified", "email": "b@example.org", "name": "Ben"}
        last = await append(redis, "default", [identified("u-1", "v-1"), ben, merging])
        await fold_log(redis, redis_url, "default")
        (tmp_path / "excluded").write_text(last)
        await kinfold(redis_url, "replay", "--exclude-events", tmp_path / "excluded")
        await kinfold(redis_url, "export", tmp_path / "log.ndjson")

        imported = await kinfold(elsewhere_url, "import", tmp_path / "log.ndjson")
        await fold_log(elsewhere, elsewhere_url, "default")
        replayed = await kinfold(elsewhere_url, "replay")

        assert "the log has 1 EventsExcluded: run kinfold replay" in imported.err
        assert replayed.status == 0, replayed
        here, there = await kinfold(redis_url, "contacts"), await kinfold(elsewhere_url, "contacts")
        assert len(here.lines) == 2
        assert there.out == here.out

    async def test_export_ends_at_the_moment_it_began(self, redis: Redis, redis_url: str, tmp_path: Path) -> None:
        """Events that producers append during the export are not in the file."""
        await append(redis, "default", history()[:SOME])
        file = tmp_path / "log.ndjson.gz"

        async with producing(redis, "default", start=SOME):
            said = await kinfold(redis_url, "export", file)

        assert said.status == 0, said
        trailer = said.lines[0]["trailer"]
        with LogFile(file) as read:
            ids = [entry.id.decode() for page in read.pages() for entry in page]
        there = [entry for entry, _ in await log(redis, "default")]
        assert [each.encode() for each in ids] == there[: len(ids)]
        assert (trailer["entries"], trailer["last"], trailer["lost"]) == (len(ids), ids[-1], 0)
        assert len(ids) >= SOME

    async def test_same_log_gives_the_same_file(self, redis: Redis, redis_url: str, tmp_path: Path) -> None:
        """The file contains neither time nor file name, so backups can be compared."""
        await append(redis, "default", history()[:SOME])

        for name in ("a.gz", "b.gz", "a.zst", "b.zst"):
            await kinfold(redis_url, "export", tmp_path / name)

        assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
        assert (tmp_path / "a.zst").read_bytes() == (tmp_path / "b.zst").read_bytes()


class TestInterrupted:
    @pytest.mark.slow
    async def test_import_killed_at_random_moments_continues(
        self, redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, tmp_path: Path
    ) -> None:
        """After many SIGKILLs, with a projector running, the log holds every entry of the file exactly once."""
        file = tmp_path / "log.ndjson.zst"
        last = await append(redis, "default", history())
        await kinfold(redis_url, "export", file)
        await fold_log(redis, redis_url, "default")
        dice = random.Random(20261122)  # noqa: S311  a test is reproducible
        instants = sorted(dice.randrange(HISTORY_ENTRIES) for _ in range(KILLS))

        async with projecting(elsewhere_url):
            lengths = [await killed_import(elsewhere, elsewhere_url, file, instant) for instant in instants]
            finished = await kinfold(elsewhere_url, "import", file)
            await wait_until_folded(elsewhere, "default", last)

        assert finished.status == 0, finished
        assert lengths == sorted(lengths)
        assert any(0 < length < HISTORY_ENTRIES for length in lengths), lengths
        assert finished.lines[0]["appended"] == HISTORY_ENTRIES - lengths[-1]
        assert await log(elsewhere, "default") == await log(redis, "default")
        assert await state(elsewhere, "default") == await state(redis, "default")

    @pytest.mark.slow
    async def test_killed_export_leaves_no_file_under_the_final_name(
        self, redis: Redis, redis_url: str, tmp_path: Path
    ) -> None:
        """The file gets its name when it is complete."""
        await append(redis, "default", history())
        file = tmp_path / "log.ndjson.gz"
        process = await start(redis_url, "export", file)

        await wait_until(lambda: list(tmp_path.glob(".*.partial")))
        process.kill()
        await process.wait()

        assert not file.exists()
        assert (await kinfold(redis_url, "export", file)).status == 0

    async def test_second_import_appends_nothing(
        self, redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, tmp_path: Path
    ) -> None:
        """A user who missed the result can repeat the command."""
        await append(redis, "default", history()[:SOME])
        file = tmp_path / "log.ndjson"
        await kinfold(redis_url, "export", file)
        await kinfold(elsewhere_url, "import", file)

        again = await kinfold(elsewhere_url, "import", file)

        assert again.status == 0, again
        assert again.lines[0]["appended"] == 0
        assert await elsewhere.xlen(key("default", "events")) == SOME


class TestRefused:
    """Every refusal has exit status 1 and one sentence, and appends nothing."""

    @pytest.fixture
    async def file(self, redis: Redis, redis_url: str, tmp_path: Path) -> Path:
        """Give an export of a log with three entries."""
        await append(redis, "default", [identified(f"u-{number}", f"v-{number}") for number in range(3)])
        file = tmp_path / "log.ndjson"
        await kinfold(redis_url, "export", file)
        return file

    @pytest.mark.parametrize(
        ("pattern", "replacement", "sentence"),
        [
            (rb"u-1", b"u-7", "sha256: expected"),
            (rb".{100}\Z", b"", "truncated"),
            (rb'\{"entries".*\Z', b"", "truncated"),
            (rb'"entries":3', b'"entries":2', "entries: expected 3, as counted in the lines before the trailer, got 2"),
            (
                rb'\{"id":"\d+-0","event":\{[^{]*v-2[^}]*\}\}\n',
                b"",
                "entries: expected 2, as counted in the lines before the trailer, got 3",
            ),
            (rb"\A.*\Z", b"", "expected the header of a file that kinfold export made"),
            (
                rb"\A.*\Z",
                b'{"type":"VisitorSeen","visitorId":"v-1"}\n',
                "expected the header of a file that kinfold export made",
            ),
        ],
    )
    async def test_damaged_file_is_refused(
        self, file: Path, elsewhere: Redis, elsewhere_url: str, *, pattern: bytes, replacement: bytes, sentence: str
    ) -> None:
        """The damage is found before the first entry is appended."""
        damage(file, pattern, replacement)

        said = await kinfold(elsewhere_url, "import", file)

        assert said.status == 1
        assert f"{file}: " in said.err
        assert sentence in said.err
        assert await elsewhere.keys() == []

    async def test_log_with_other_entries_is_refused(self, file: Path, elsewhere: Redis, elsewhere_url: str) -> None:
        """Two histories are never mixed."""
        await append(elsewhere, "default", [identified("somebody-else", "v-1")])

        said = await kinfold(elsewhere_url, "import", file)

        assert said.status == 1
        assert f"got {entry_id(0)}, where the file has other fields" in said.err
        assert await elsewhere.keys() == [key("default", "events").encode()]
        assert await elsewhere.xlen(key("default", "events")) == 1

    async def test_log_that_has_grown_since_the_import(self, file: Path, elsewhere: Redis, elsewhere_url: str) -> None:
        """The message tells that the log already holds the whole file."""
        await kinfold(elsewhere_url, "import", file)
        await append(elsewhere, "default", [identified("u-9", "v-9")], start=10)

        said = await kinfold(elsewhere_url, "import", file)

        assert said.status == 1
        assert "the log already holds the whole file" in said.err
        assert await elsewhere.xlen(key("default", "events")) == 4

    async def test_workspace_with_a_state_is_refused(self, file: Path, elsewhere: Redis, elsewhere_url: str) -> None:
        """A deleted log leaves a position behind, and a projector would skip the entries before it."""
        await append(elsewhere, "default", [identified("u-9", "v-9")], start=10)
        await fold_log(elsewhere, elsewhere_url, "default")
        await elsewhere.delete(key("default", "events"))

        said = await kinfold(elsewhere_url, "import", file)

        assert said.status == 1
        assert "position: expected an empty workspace, got a state in workspace default" in said.err
        assert await elsewhere.exists(key("default", "events")) == 0

    async def test_log_whose_entries_were_deleted(self, file: Path, elsewhere: Redis, elsewhere_url: str) -> None:
        """Redis never accepts an id that is not newer than the last one."""
        await append(elsewhere, "default", [identified("u-9", "v-9")], start=10)
        await elsewhere.xtrim(key("default", "events"), maxlen=0, approximate=False)

        said = await kinfold(elsewhere_url, "import", file)

        assert said.status == 1
        assert "expected a workspace that never had entries" in said.err

    async def test_workspace_with_other_blocked_identifiers(self, file: Path, elsewhere: Redis, elsewhere_url: str) -> None:
        """Different rules give different contacts."""
        await elsewhere.sadd(key("default", "blocked-identifiers"), "u-1")

        said = await kinfold(elsewhere_url, "import", file)

        assert said.status == 1
        assert "got a different set of 1 in workspace" in said.err
        assert await elsewhere.exists(key("default", "events")) == 0

    async def test_workspace_with_another_name(self, file: Path, elsewhere: Redis, elsewhere_url: str) -> None:
        """Contact ids depend on the name; --rename accepts other ids."""
        said = await kinfold(elsewhere_url, "import", file, "--workspace", "acme")

        assert said.status == 1
        assert "workspace: expected acme, got default" in said.err
        assert await elsewhere.keys() == []

        renamed = await kinfold(elsewhere_url, "import", file, "--workspace", "acme", "--rename")

        assert renamed.status == 0, renamed
        assert WORKSPACES in renamed.err, "the hint that no projector serves it"
        assert await elsewhere.xlen(key("acme", "events")) == 3

    async def test_log_without_its_first_entries(
        self, redis: Redis, redis_url: str, elsewhere_url: str, tmp_path: Path
    ) -> None:
        """It can be exported with a warning, and imported only with --allow-truncated."""
        await append(redis, "default", [identified(f"u-{number}", f"v-{number}") for number in range(3)])
        await redis.xtrim(key("default", "events"), maxlen=1, approximate=False)
        file = tmp_path / "log.ndjson"

        exported = await kinfold(redis_url, "export", file)
        refused = await kinfold(elsewhere_url, "import", file)
        allowed = await kinfold(elsewhere_url, "import", file, "--allow-truncated")

        assert exported.status == 0
        assert "lost 2 entries" in exported.err
        assert refused.status == 1
        assert "got one that had lost 2 entries" in refused.err
        assert allowed.status == 0

    async def test_workspace_without_a_log_is_refused(self, redis_url: str, redis: Redis, tmp_path: Path) -> None:
        """It is probably a misspelt name, so the export is refused."""
        said = await kinfold(redis_url, "export", tmp_path / "log.ndjson", "--workspace", "nobody")

        assert said.status == 1
        assert "workspace nobody: there is no log" in said.err
        assert names_in(tmp_path) == []
        assert await redis.keys() == []

    @pytest.mark.usefixtures("file")
    async def test_missing_directory_is_named(self, redis_url: str, tmp_path: Path) -> None:
        """The message names it, without a traceback."""
        said = await kinfold(redis_url, "export", tmp_path / "nowhere" / "log.ndjson")

        assert said.status == 1
        assert "nowhere" in said.err
        assert "Traceback" not in said.err

    async def test_missing_server_is_status_3(self, file: Path, tmp_path: Path) -> None:
        """Unlike the other refusals, this one has exit status 3."""
        url = f"unix://{tmp_path}/nobody.sock"
        assert (await kinfold(url, "export", tmp_path / "other.ndjson")).status == 3
        assert (await kinfold(url, "import", file)).status == 3
        assert not (tmp_path / "other.ndjson").exists()


async def test_import_stops_at_another_writer(
    redis: Redis, redis_url: str, elsewhere: Redis, elsewhere_url: str, tmp_path: Path
) -> None:
    """A producer appends during the import: the import stops with a message, and the imported entries keep their order."""
    await append(redis, "default", history())
    file = tmp_path / "log.ndjson"
    await kinfold(redis_url, "export", file)
    process = await start(elsewhere_url, "import", file)

    await wait_until(lambda: elsewhere.xlen(key("default", "events")))
    await append(elsewhere, "default", [identified("u-9", "v-9")], start=10 * HISTORY_ENTRIES)
    _, errors = await process.communicate()

    assert process.returncode == 1, errors
    assert b"expected no other writer" in errors
    there = await log(elsewhere, "default")
    assert there[:-1] == (await log(redis, "default"))[: len(there) - 1]


async def test_import_notices_an_entry_between_two_of_the_file(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """Redis would accept the next entry, but the log would differ from the file."""
    file = tmp_path / "log.ndjson"
    job = Import(connect(redis_url), "default", file, Checked(HEADER, TRAILER, exclusions=0))
    await job._append_batch([StreamEntry(b"1-0", [b"event", b"{}"])])
    await redis.xadd(key("default", "events"), {"event": "{}"}, id="2-0")

    with pytest.raises(ImportRefused, match="expected no other writer"):
        await job._append_batch([StreamEntry(b"3-0", [b"event", b"{}"])])

    assert [entry for entry, _ in await log(redis, "default")] == [b"1-0", b"2-0"]
    await job._client.aclose()


def identified(external_id: str, visitor_id: str) -> dict[str, Any]:
    return {"type": "VisitorIdentified", "externalId": external_id, "visitorId": visitor_id}
