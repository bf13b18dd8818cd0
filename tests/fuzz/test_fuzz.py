"""Every byte that comes from outside: no exception but the documented one, and no answer of 5xx.

`make fuzz` tries a million (FUZZ_CASES). Each target gets its share.
"""

import asyncio
import base64
import contextlib
import gzip
import io
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import kinfold
from kinfold.web.cookies import Signer, values_of
from kinfold_projections.entries import read_entries
from kinfold_projections.fold import fold
from kinfold_projections.state import State
from kinfold_schemas.events import VisitorIdentified
from kinfold_schemas.filters import WrongFilter, parse, unparse
from kinfold_schemas.identifiers import CONTRACT_RULES
from kinfold_schemas.names import named_by
from kinfold_schemas.positions import position_key
from kinfold_schemas.rejections import Rejection
from kinfold_services.access.identity_tokens import BadToken, ensure_identity_secret, prove
from kinfold_services.access.keys import Caller, create_key
from kinfold_services.access.sessions import Sessions
from kinfold_services.cli.ndjson import read_lines
from kinfold_services.connections import connect
from kinfold_services.contact_files.columns import WrongColumns, columns_of
from kinfold_services.contact_files.reading_csv import CsvTable
from kinfold_services.contact_files.row_events import RowEvents
from kinfold_services.contact_files.tables import WrongFile
from kinfold_services.gateway.app import make_app
from kinfold_services.gateway.events.segment import BATCH_PATHS, CALL_PATHS
from kinfold_services.log.streams import StreamEntry, pairs_of
from kinfold_services.rejects.entries import read_reject
from kinfold_services.settings import Settings
from kinfold_services.transfer.files import DECOMPRESSION_ERRORS
from kinfold_services.transfer.log_file import BrokenFile, Header, LogFile, LogWriter
from tests.fuzz.mutations import as_json, damaged, damaged_text
from tests.support.gateways import NO_DATA_DIR
from tests.support.projecting import ProjectorProcess

CASES: Final = int(os.environ.get("FUZZ_CASES", "1200"))
TARGETS: Final = 12
"""How many tests share the cases."""
UNLIMITED: Final = 1e12
PATIENCE_S: Final = 120
ASCII: Final = "".join(map(chr, range(128)))
NO_DIRECTORY: Final = 503
MISSING: Final = (b'"no-directory"', b"none is running for this workspace yet")
"""What the gateway answers where there is no directory."""

SEEN: Final = {"type": "VisitorSeen", "visitorId": "v-1", "context": {"url": "/", "n": 1}, "at": "2026-11-27T08:00:00Z"}
IDENTIFIED: Final = {"type": "VisitorIdentified", "visitorId": "v-1", "externalId": "u-1", "email": "ä@b\u00fccher.example"}
SET: Final = {"type": "MetadataSet", "visitorId": "v-1", "metadata": {"plan": "pro", "mrr": 1.5}, "unset": ["x"], "id": "e-1"}
EXCLUDED: Final = {"type": "EventsExcluded", "entries": ["1-0"], "reason": "r"}
EVENTS: Final = as_json(
    SEEN, IDENTIFIED, SET, EXCLUDED, [SEEN, SET], {**IDENTIFIED, "token": "a.b.c", "sentAt": "2026-11-27T08:00:01Z"}
)
CALL: Final = {
    "type": "identify",
    "userId": "u-1",
    "anonymousId": "v-1",
    "messageId": "m",
    "traits": {"email": "a@x.org", "name": "Ada", "plan": {"a": [1]}, "createdAt": 1},
    "context": {"page": {"url": "/"}, "userAgent": "x", "ip": "192.0.2.1", "traits": {"a": 1}, "token": "a.b.c"},
    "timestamp": "2026-11-27T08:00:00Z",
    "sentAt": "2026-11-27T08:00:01Z",
    "originalTimestamp": "2026-11-27T07:59:59Z",
}
CALLS: Final = as_json(
    CALL,
    {
        "batch": [CALL, {**CALL, "type": "track", "event": "x", "properties": {"a": 1}}],
        "context": CALL["context"],
        "writeKey": "k",
    },
    {"batch": [{**CALL, "type": each} for each in ("page", "screen", "group", "alias")], "sentAt": "x"},
)
FILTERS: Final = [
    "plan=pro",
    'metadata."a b" != 1.5 and not (name ~ "x" or lastSeenAt before 30d)',
    "plan in (a, b, null)",
    "exists plan",
]
FUZZ: Final = settings(
    max_examples=max(1, CASES // TARGETS),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


class Asgi:
    """The gateway's application, asked without sockets: they would take most of the time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, app: Any, keys: dict[str, str]) -> None:
        self._loop = loop
        self._app = app
        self.keys = keys

    def ask(self, method: str, path: bytes, query: bytes = b"", headers: Any = (), body: bytes = b"") -> int:
        """The status of the answer. Fails for 5xx, except where no directory runs."""
        return int(self.run(asyncio.wait_for(self._ask(method, path, query, list(headers), body), PATIENCE_S)))

    def run(self, work: "Coroutine[Any, Any, Any]") -> Any:
        """Run something in the application's event loop."""
        return self._loop.run_until_complete(work)

    def bearer(self, kind: str) -> list[tuple[bytes, bytes]]:
        """The header with a key."""
        return [(b"authorization", b"Bearer " + self.keys[kind].encode())]

    async def _ask(self, method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> int:
        told: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
        heard: list[Any] = []

        async def receive() -> Any:
            return told.pop(0) if told else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            heard.append(message)

        sent_path = quote(path, safe="/%").encode()  # the server refuses what is not ASCII
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(sent_path.decode()),
            "raw_path": sent_path,
            "query_string": quote(query, safe=ASCII).encode(),
            "root_path": "",
            "headers": headers if any(name == b"host" for name, _ in headers) else [(b"host", b"x"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "extensions": {},
        }
        await self._app(scope, receive, send)
        status = int(heard[0]["status"])
        answer = b"".join(message.get("body", b"") for message in heard[1:])
        is_missing = status == NO_DIRECTORY and any(each in answer for each in MISSING)
        assert status < 500 or is_missing, (status, method, path, query, headers, body, answer)
        return status


@pytest.fixture(scope="module")
def gateway(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asgi]:
    """Give a gateway for a workspace with a projector, with a key of each kind, and without limits on requests."""
    loop = asyncio.new_event_loop()

    async def start() -> tuple[Any, Any, dict[str, str]]:
        client = connect(redis_url)
        await client.flushdb()
        unlimited = {f"gateway_{each}_per_s": UNLIMITED for each in ("requests", "browser_requests", "browser_events")}
        app, running = make_app(Settings(redis_url=redis_url, data_dir=NO_DATA_DIR, **unlimited), client)  # type: ignore[arg-type]
        keys = {kind: await create_key(client, "fuzz", kind) for kind in ("secret", "publishable", "read")}
        keys["empty"] = await create_key(client, "empty", "read")
        keys["identity"] = (await ensure_identity_secret(client, "fuzz"))[0].identity_secret
        keys["session"] = await Sessions(client, running.keys).start(
            Caller("fuzz", keys["secret"].split("_")[3], "secret"), "Ada"
        )
        return app, running, keys

    app, running, keys = loop.run_until_complete(start())
    with ProjectorProcess(redis_url, "fuzz", tmp_path_factory.mktemp("fuzz") / "projector"):
        yield Asgi(loop, app, keys)
    loop.run_until_complete(running.close())
    loop.close()


kinds: Final = st.sampled_from(["secret", "publishable"])
partly: Final = st.sampled_from([b"", b"partial=true", b"partial=x", b"partial=true&partial=false", b"writeKey=%00"])


def compressed(data: bytes, form: int) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A body, plain or gzipped, whole or cut, with its header."""
    if form == 0:
        return data, []
    body = gzip.compress(data)
    return body if form == 1 else body[: len(body) * form // 9] + data[:form], [(b"content-encoding", b"gzip")]


bodies: Final = st.builds(compressed, damaged(EVENTS), st.sampled_from([0, 0, 0, 1, 2, 5]))


@FUZZ
@given(sent=bodies, kind=kinds, query=partly, media=st.sampled_from([b"", b"application/x-ndjson"]))
@example(sent=(b"[" * 5000, []), kind="secret", query=b"", media=b"")
def test_any_body_of_events_gets_an_answer(gateway: Asgi, sent: Any, kind: str, query: bytes, media: bytes):
    body, headers = sent
    gateway.ask("POST", b"/v1/events", query, [*gateway.bearer(kind), *headers, (b"content-type", media)], body)


@FUZZ
@given(
    body=damaged(CALLS), kind=kinds, path=st.sampled_from([*BATCH_PATHS, *CALL_PATHS]), form=st.sampled_from([0, 0, 1, 2, 5])
)
def test_any_body_of_segment_calls_gets_an_answer(gateway: Asgi, body: bytes, kind: str, path: str, form: int):
    body, headers = compressed(body, form)
    basic = base64.b64encode(f"{gateway.keys[kind]}:".encode())
    gateway.ask("POST", path.encode(), b"", [(b"authorization", b"Basic " + basic), *headers], body)


HEADERS: Final = [
    *(
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"kinfold-workspace",
        b"origin",
        b"if-none-match",
    ),
    *(b"x-request-id", b"cookie", b"x-forwarded-for", b"x-forwarded-proto", b"sec-fetch-site", b"last-event-id", b"accept"),
    *(b"accept-encoding", b"hx-request", b"hx-current-url", b"host", b"access-control-request-method"),
    b"access-control-request-headers",
]
VALUES: Final = [
    b"Bearer kf_sk_fuzz_0_0",
    b"Basic Og==",
    b"gzip",
    b"5",
    b"http://localhost:3000",
    b"http://[::1]:99999/people?q=a",
    b"a@b.example:99999",
    b'"abc"',
    b"a=b; kinfold_session=x.y",
]
values: Final = damaged(VALUES).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b""))
PATHS: Final = [
    b"/v1/events",
    b"/v1/contacts",
    b"/v1/visitors/v-1",
    b"/v1/batch",
    b"/people",
    b"/sign-in",
    b"/docs",
    b"/none",
    b"/healthz",
]


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE", "X"]),
    path=st.sampled_from(PATHS),
    headers=st.lists(st.tuples(st.sampled_from(HEADERS), values), max_size=4),
    is_known=st.booleans(),
)
def test_any_headers_get_an_answer(
    gateway: Asgi, method: str, path: bytes, headers: list[tuple[bytes, bytes]], *, is_known: bool
):
    """A server hands headers on without line ends and NULs."""
    gateway.ask(
        method, path, b"", [*(gateway.bearer("read") if is_known else []), *headers], b"{}" if method == "POST" else b""
    )


QUERIES: Final = [
    *(
        b"cursor=AAAA",
        b"limit=3",
        b"externalId=u-1",
        b"email=a@b.org",
        b"visitorId=v-1",
        b"where=plan%3Dpro",
        b"q=ada&sort=-name",
    ),
    *(
        b"after=99999999999999-0",
        b"at=2026-01-01T00:00:00Z",
        b"by=plan&count=true",
        b"access_token=x",
        b"status=open",
        b"link=a.b",
    ),
]
CURSORS: Final = [
    base64.urlsafe_b64encode(each) for each in as_json(["created", "ct_1", ""], ["visitors", "v-1", "1", ["ct_1"]], ["x"])
]
asked: Final = st.one_of(damaged(QUERIES), damaged(CURSORS).map(lambda cursor: b"limit=2&cursor=" + cursor))
ASKED: Final = [
    b"/v1/contacts",
    b"/v1/contacts/count",
    b"/v1/contacts/ct_1",
    b"/v1/contacts/ct_1/visitors",
    b"/v1/contacts/ct_1/timeline",
]


@FUZZ
@given(
    path=st.one_of(
        st.sampled_from(
            [*ASKED, b"/v1/conflicts", b"/v1/visitors/v-1", b"/v1/changes", b"/sign-in", b"/kinfold.js", b"/sourceConfig"]
        ),
        damaged([b"/v1/visitors/a%2Fb", b"/v1/contacts/ct_1", b"/v1/projects/k/settings", b"/static/kinfold.css"]).map(
            lambda path: b"/" + path.partition(b"?")[0].lstrip(b"/")
        ),
    ),
    query=asked.map(lambda query: query.replace(b"#", b"").replace(b"snapshot", b"")),
)
def test_any_path_query_or_cursor_gets_an_answer(gateway: Asgi, path: bytes, query: bytes):
    """The workspace is empty, so that `after` waits for nothing."""
    gateway.ask("GET", path, query, gateway.bearer("empty"))


@FUZZ
@given(data=st.data())
def test_any_session_cookie_is_accepted_or_refused(gateway: Asgi, data: st.DataObject):
    session = gateway.keys["session"]
    cookie = data.draw(damaged([b"kinfold_session=" + session.encode(), b"kinfold_session=x.y; kinfold_first_key=k"]))
    form = data.draw(damaged([b"key=k&by=Ada&next=%2Fpeople", b"link=fuzz." + b"0" * 64 + b"&by=Ada", b"csrf=x"]))
    headers = [(b"cookie", cookie.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b""))]
    gateway.ask("GET", data.draw(st.sampled_from([b"/people", b"/people/ct_1", b"/people.csv", b"/"])), b"", headers)
    posted = [*headers, (b"content-type", b"application/x-www-form-urlencoded")]
    gateway.ask("POST", data.draw(st.sampled_from([b"/sign-in", b"/sign-out"])), b"", posted, form)


@FUZZ
@given(data=st.data())
def test_any_identity_token_is_accepted_or_refused(gateway: Asgi, data: st.DataObject):
    """A damaged token proves nothing."""
    secret = gateway.keys["identity"]
    good = kinfold.sign(secret, external_id="u-1", email="a@x.org", visitor_id="v-1")
    parts = [
        base64.urlsafe_b64encode(each).rstrip(b"=")
        for each in as_json({"alg": "HS256", "kid": secret.split("_")[2]}, {"sub": 1})
    ]
    token = data.draw(damaged_text([good, good, b".".join([*parts, b"x"]).decode(), "e30.e30."]))
    event = VisitorIdentified(external_id="u-1", email="a@x.org", visitor_id="v-1")
    names = named_by(event, CONTRACT_RULES)
    assert not isinstance(names, Rejection)

    proof = prove(token, {secret.split("_")[2]: secret}, event, names)

    assert isinstance(proof, BadToken) or token.rpartition(".")[0] == good.rpartition(".")[0]


@FUZZ
@given(text=damaged_text(FILTERS))
def test_any_filter_is_parsed_or_refused(text: str):
    """A filter that is one means the same when it is written out."""
    try:
        tree = parse(text)
    except WrongFilter:
        return
    assert parse(unparse(tree)) == tree


@FUZZ
@given(data=damaged([b"\n".join(EVENTS), b"\xef\xbb\xbf" + EVENTS[0] + b"\r\n\r\n"]))
def test_any_ndjson_is_read_or_refused(data: bytes):
    for line in read_lines(io.BytesIO(data), CONTRACT_RULES):
        assert line.rejection is None or line.rejection.detail


def an_export() -> bytes:
    """A file as `kinfold export` writes it."""
    file = io.BytesIO()
    writer = LogWriter(file, Header(workspace="acme", blocked_identifiers=["/^a/"], settled_rejects={"1-0": "2-0"}))
    writer.write([StreamEntry(b"1-0", [b"event", EVENTS[0]]), StreamEntry(b"2-0", [b"event", b"\xff", b"x", b""])])
    writer.finish(lost=0)
    return file.getvalue()


def in_a_file(suffix: str, data: bytes, read: Callable[[Path], object]) -> None:
    """Read data from a file."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        read(Path(file.name))


@FUZZ
@given(data=damaged([an_export()]), form=st.integers(0, 4))
def test_any_export_file_is_read_or_refused(data: bytes, form: int):
    def read(path: Path) -> None:
        with contextlib.suppress(BrokenFile), LogFile(path) as file:
            for page in file.pages():
                assert [position_key(entry.id.decode()) for entry in page]

    in_a_file(*(("", data) if form < 3 else (".gz", compressed(data, form - 2)[0])), read)


TABLES: Final = [
    b'email,name,plan\na@x.org,Ada,pro\n"b@x.org","B ""b""",1.5\n',
    b"sep=;\nexternal id;signed up;x\nu-1;2026-01-01;ja\n",
    "email\tname\r\nä@x.org\t=1+1\r\n".encode("utf-16"),
]


@FUZZ
@given(data=damaged(TABLES), suffix=st.sampled_from([".csv", ".csv", ".csv.gz"]))
def test_any_table_of_contacts_is_read_or_refused(data: bytes, suffix: str):
    def read(path: Path) -> None:
        with contextlib.suppress(WrongFile, WrongColumns, *DECOMPRESSION_ERRORS, OSError):
            table = CsvTable(path, delimiter=None, encoding=None)
            columns = columns_of(table.headings, {}, only_mapped=False)
            for _, event, rejection in RowEvents(table, columns, {}, "2026-01-01T00:00:00Z", CONTRACT_RULES):
                assert event or rejection

    in_a_file(suffix, data, read)


names: Final = st.sampled_from([b"event", b"event", b"event", b"Event", b"", b"entry", b"reason", b"detail", b"\xff"])
entries: Final = st.lists(st.lists(st.tuples(names, damaged(EVENTS)), max_size=4), max_size=6)


@FUZZ
@given(logged=entries)
def test_any_entries_of_the_log_are_folded_or_rejected(logged: list[list[tuple[bytes, bytes]]]):
    """Anybody who may append to the log may append anything: each entry has an outcome, and the log can be read as rejects."""
    raws = [(f"{1_700_000_000_000 + number}-0".encode(), dict(fields)) for number, fields in enumerate(logged)]

    outcomes = fold(State("fuzz"), read_entries(raws))

    assert len(outcomes) == len(raws)
    for fields in logged:
        read_reject(pairs_of(dict(fields)))


SIGNER: Final = Signer("the application's")


@FUZZ
@given(
    header=damaged_text(
        ["kinfold_visitor=v_AAAAAAAAAAAAAAAAAAAAAA..AAAAAAAAAAAAAAAAAAAAAA; a=b", "kinfold_visitor=; kinfold_visitor"]
    )
)
def test_any_cookie_of_a_middleware_is_read_or_refused(header: str):
    """Nobody makes a valid one by chance."""
    assert [SIGNER.read(value) for value in values_of(header, "kinfold_visitor")] == [None] * len(
        values_of(header, "kinfold_visitor")
    )
