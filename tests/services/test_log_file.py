"""The file of an export: whatever an entry's bytes are they come back, and whatever happens to the file is noticed."""

import io
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold_services.files import replacing
from kinfold_services.log_file import (
    BrokenFile,
    Header,
    LogFile,
    LogWriter,
    Trailer,
    decode_entry,
    encode_entry,
    encode_header,
)
from kinfold_services.streams import StreamEntry

HEADER = Header(workspace="acme", blocked_identifiers=["/^test-/", "ünknown"], settled_rejects={"1-0": "2-0"})
ENTRIES = [
    StreamEntry(b"1-0", [b"event", b'{"type":"VisitorSeen","visitorId":"v-1"}']),
    StreamEntry(b"1-1", [b"event", b"\xff\xfe"]),
    StreamEntry(b"7-0", [b"event", b'{ "type" : "VisitorSeen", "visitorId":"\xc3\xa9" }']),
    StreamEntry(b"7-5", [b"a", b"1", b"a", b"2", b"", b""]),
]

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
events = st.dictionaries(st.text(), json_like, max_size=4).map(lambda event: json.dumps(event).encode())
values = st.one_of(st.binary(), events, events.map(lambda event: event + b" "), events.map(lambda event: event[:-1]))
fields = st.one_of(
    st.tuples(st.just(b"event"), values).map(list),
    st.lists(st.tuples(st.binary(), values), min_size=1, max_size=3).map(lambda pairs: [x for pair in pairs for x in pair]),
)


def file_of(entries: list[StreamEntry], *, header: Header = HEADER, lost: int = 0) -> bytes:
    file = io.BytesIO()
    writer = LogWriter(file, header)
    writer.write(entries)
    writer.finish(lost)
    return file.getvalue()


def read(path: Path) -> tuple[Header, list[StreamEntry], Trailer]:
    with LogFile(path) as file:
        entries = [StreamEntry(entry.id, list(entry.fields)) for page in file.pages() for entry in page]
        return file.header, entries, file.trailer


class TestLine:
    @given(fields)
    def test_any_bytes_come_back(self, fields: list[bytes]) -> None:
        """An entry's fields survive, in their order, whatever they are called and whatever they hold."""
        line = encode_entry(StreamEntry(b"1732262400000-3", fields))

        entry_id, decoded = decode_entry(line)

        assert (entry_id, list(decoded)) == (b"1732262400000-3", fields)

    @given(fields)
    def test_a_line_is_one_json_object(self, fields: list[bytes]) -> None:
        """Every line is NDJSON for any other program."""
        line = encode_entry(StreamEntry(b"1732262400000-3", fields))

        assert line.count(b"\n") == 1
        assert json.loads(line)["id"] == "1732262400000-3"

    def test_a_good_event_can_be_read_in_the_file(self) -> None:
        """What producers append stands in the file as it is."""
        event = b'{"type":"VisitorSeen","visitorId":"v-1","n":1.0}'

        line = encode_entry(StreamEntry(b"1-0", [b"event", event]))

        assert line == b'{"id":"1-0","event":' + event + b"}\n"

    @pytest.mark.parametrize(
        "event",
        [
            b"",
            b"[]",
            b'{"a":1',
            b'{"a":1}}',
            b'{"a":1},"b":{}',
            b'{"a":\n1}',
            b'{"a":"\x00"}',
            b' {"a":1}',
            b'{"a":"\xff"}',
            b'{"a":NaN}',
            b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        ],
    )
    def test_what_is_no_json_object_on_one_line_is_in_base64(self, event: bytes) -> None:
        """Nothing that an event holds can break the line that it stands in."""
        line = encode_entry(StreamEntry(b"1-0", [b"event", event]))

        assert line.startswith(b'{"id":"1-0","base64":')
        assert list(decode_entry(line).fields) == [b"event", event]

    @pytest.mark.parametrize("line", [b"", b"{}\n", b'{"id":"1","event":{}}\n', b'{"id":"1-0","base64":[["?","?"]]}\n'])
    def test_what_is_no_line_is_refused(self, line: bytes) -> None:
        """The message says what was expected and what it got."""
        with pytest.raises(ValueError, match=r"expected .*, got "):
            decode_entry(line)


class TestFile:
    @pytest.mark.parametrize("name", ["log.ndjson", "log.ndjson.gz", "log.ndjson.zst"])
    def test_what_was_written_is_read(self, tmp_path: Path, name: str) -> None:
        """Packed or not, by the file's name."""
        path = tmp_path / name
        with replacing(path) as file:
            writer = LogWriter(file, HEADER)
            writer.write(ENTRIES[:2])
            writer.write(ENTRIES[2:])
            written = writer.finish(lost=3)

        header, entries, trailer = read(path)

        assert (header, entries, trailer) == (HEADER, ENTRIES, written)
        assert trailer == Trailer(entries=4, lost=3, first="1-0", last="7-5", sha256=trailer.sha256)

    @pytest.mark.parametrize("name", ["log.ndjson.gz", "log.ndjson.zst"])
    def test_a_packed_file_is_what_its_name_says(self, tmp_path: Path, name: str) -> None:
        """An ending that does not fit is named, rather than guessed around."""
        path = tmp_path / name
        path.write_bytes(file_of(ENTRIES))

        with pytest.raises(BrokenFile, match="cannot be unpacked"):
            read(path)

    def test_an_empty_log_is_a_file_too(self, tmp_path: Path) -> None:
        """Neither a first nor a last entry, and a checksum all the same."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of([]))

        _, entries, trailer = read(path)

        assert entries == []
        assert (trailer.entries, trailer.first, trailer.last) == (0, None, None)

    def test_every_flipped_bit_is_found(self, tmp_path: Path) -> None:
        """Wherever it is: in the header, an entry, the trailer."""
        path = tmp_path / "log.ndjson"
        whole = file_of(ENTRIES)
        survived = [
            (place, bit) for place in range(len(whole)) for bit in range(8) if is_read(path, flipped(whole, place, bit))
        ]

        assert survived == []

    def test_every_truncation_is_found(self, tmp_path: Path) -> None:
        """Be it by one byte."""
        path = tmp_path / "log.ndjson"
        whole = file_of(ENTRIES)
        survived = [length for length in range(len(whole)) if is_read(path, whole[:length])]

        assert survived == []

    @pytest.mark.parametrize("name", ["log.ndjson.gz", "log.ndjson.zst"])
    def test_a_damaged_packed_file_is_refused_or_read_as_it_was(self, tmp_path: Path, name: str) -> None:
        """A bit may flip where a packer keeps something that is not the log, and then it does no harm."""
        path = tmp_path / name
        with replacing(path) as file:
            file.write(file_of(ENTRIES))
        whole = path.read_bytes()

        for place in range(len(whole)):
            path.write_bytes(flipped(whole, place, place % 8))
            try:
                assert read(path)[1] == ENTRIES
            except BrokenFile:
                continue

        refused = [length for length in range(len(whole)) if not is_read(path, whole[:length])]
        assert refused == list(range(len(whole)))

    def test_a_wrong_count_is_named(self, tmp_path: Path) -> None:
        """With what the trailer says and what the lines come to."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of(ENTRIES).replace(b'{"entries":4', b'{"entries":5'))

        with pytest.raises(BrokenFile, match="entries: expected 4, as counted in the lines before the trailer, got 5"):
            read(path)

    def test_a_missing_line_is_named(self, tmp_path: Path) -> None:
        """As a count that does not fit."""
        path = tmp_path / "log.ndjson"
        lines = file_of(ENTRIES).splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:2] + lines[3:]))

        with pytest.raises(BrokenFile, match="entries: expected 3, as counted in the lines before the trailer, got 4"):
            read(path)

    def test_ids_rise(self, tmp_path: Path) -> None:
        """A file that was put together by hand, with a checksum that fits, is not believed either."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of([ENTRIES[2], ENTRIES[1]]))

        with pytest.raises(BrokenFile, match="line 3: id: expected an id greater than 7-0, got 1-1"):
            read(path)

    def test_nothing_stands_behind_the_trailer(self, tmp_path: Path) -> None:
        """Two exports in one file are none."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of(ENTRIES) * 2)

        with pytest.raises(BrokenFile):
            read(path)

    def test_a_newer_version_is_named(self, tmp_path: Path) -> None:
        """An old kinfold says that it is too old."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of([], header=msgspec.structs.replace(HEADER, version=2)))

        with pytest.raises(BrokenFile, match="version: expected 1, got 2"):
            read(path)

    def test_unknown_fields_in_the_header_are_ignored(self, tmp_path: Path) -> None:
        """So that a newer kinfold can say more."""
        path = tmp_path / "log.ndjson"
        file = io.BytesIO()
        writer = LogWriter(file, HEADER)
        writer.finish(0)
        header = json.loads(encode_header(HEADER))

        assert msgspec.json.decode(json.dumps({**header, "more": 1}), type=Header) == HEADER
        path.write_bytes(file.getvalue())
        assert read(path)[0] == HEADER


class TestReplacing:
    def test_a_file_that_could_not_be_finished_is_not_there(self, tmp_path: Path) -> None:
        """Nor is anything else."""
        with pytest.raises(RuntimeError, match="half way"):
            write_half(tmp_path / "log.ndjson")

        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_could_not_be_finished_leaves_the_older_one(self, tmp_path: Path) -> None:
        """Last night's backup is still good."""
        path = tmp_path / "log.ndjson"
        path.write_text("older")

        with pytest.raises(RuntimeError, match="half way"):
            write_half(path)

        assert path.read_text() == "older"

    def test_only_its_owner_can_read_it(self, tmp_path: Path) -> None:
        """It holds people's names and addresses."""
        path = tmp_path / "log.ndjson"
        with replacing(path) as file:
            file.write(b"x")

        assert path.stat().st_mode & 0o777 == 0o600


def write_half(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("half way")


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def is_read(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        read(path)
    except BrokenFile:
        return False
    return True
