"""The file of an export restores the exact bytes of every entry, and reveals every kind of damage."""

import io
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold_services.log.streams import StreamEntry
from kinfold_services.transfer.files import replacing
from kinfold_services.transfer.log_file import (
    BrokenFile,
    Header,
    LogFile,
    LogWriter,
    Trailer,
    decode_entry,
    encode_entry,
    encode_header,
)

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
    def test_any_bytes_are_restored(self, fields: list[bytes]) -> None:
        """An entry's fields keep their order, names and values, including bytes that are not text."""
        line = encode_entry(StreamEntry(b"1732262400000-3", fields))

        entry_id, decoded = decode_entry(line)

        assert (entry_id, list(decoded)) == (b"1732262400000-3", fields)

    @given(fields)
    def test_line_is_one_json_object(self, fields: list[bytes]) -> None:
        """Other programs can read the file as NDJSON."""
        line = encode_entry(StreamEntry(b"1732262400000-3", fields))

        assert line.count(b"\n") == 1
        assert json.loads(line)["id"] == "1732262400000-3"

    def test_valid_event_is_readable_in_the_file(self) -> None:
        """The line holds the bytes that the producer appended."""
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
    def test_value_that_is_not_a_json_object_on_one_line_is_in_base64(self, event: bytes) -> None:
        """No value can break the line that holds it."""
        line = encode_entry(StreamEntry(b"1-0", [b"event", event]))

        assert line.startswith(b'{"id":"1-0","base64":')
        assert list(decode_entry(line).fields) == [b"event", event]

    @pytest.mark.parametrize("line", [b"", b"{}\n", b'{"id":"1","event":{}}\n', b'{"id":"1-0","base64":[["?","?"]]}\n'])
    def test_invalid_line_is_refused(self, line: bytes) -> None:
        """The message names the expected and the actual content."""
        with pytest.raises(ValueError, match=r"expected .*, got "):
            decode_entry(line)


class TestFile:
    @pytest.mark.parametrize("name", ["log.ndjson", "log.ndjson.gz", "log.ndjson.zst"])
    def test_reading_returns_what_was_written(self, tmp_path: Path, name: str) -> None:
        """The file's name decides whether it is compressed."""
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
    def test_file_that_is_not_compressed_as_its_name_says_is_refused(self, tmp_path: Path, name: str) -> None:
        """The suffix decides; kinfold does not guess the format."""
        path = tmp_path / name
        path.write_bytes(file_of(ENTRIES))

        with pytest.raises(BrokenFile, match="cannot be decompressed"):
            read(path)

    def test_empty_log_makes_a_valid_file(self, tmp_path: Path) -> None:
        """It has no first and no last entry, but it has a checksum."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of([]))

        _, entries, trailer = read(path)

        assert entries == []
        assert (trailer.entries, trailer.first, trailer.last) == (0, None, None)

    def test_every_flipped_bit_is_found(self, tmp_path: Path) -> None:
        """In the header, the entries and the trailer."""
        path = tmp_path / "log.ndjson"
        whole = file_of(ENTRIES)
        survived = [
            (place, bit) for place in range(len(whole)) for bit in range(8) if is_read(path, flipped(whole, place, bit))
        ]

        assert survived == []

    def test_every_truncation_is_found(self, tmp_path: Path) -> None:
        """Even one missing byte is found."""
        path = tmp_path / "log.ndjson"
        whole = file_of(ENTRIES)
        survived = [length for length in range(len(whole)) if is_read(path, whole[:length])]

        assert survived == []

    @pytest.mark.parametrize("name", ["log.ndjson.gz", "log.ndjson.zst"])
    def test_damaged_compressed_file_is_refused_or_read_correctly(self, tmp_path: Path, name: str) -> None:
        """A flipped bit is harmless if it is not in the data, for example in a gzip header."""
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

    def test_wrong_count_is_named(self, tmp_path: Path) -> None:
        """The message gives both the counted number and that of the trailer."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of(ENTRIES).replace(b'{"entries":4', b'{"entries":5'))

        with pytest.raises(BrokenFile, match="entries: expected 4, as counted in the lines before the trailer, got 5"):
            read(path)

    def test_missing_line_is_found(self, tmp_path: Path) -> None:
        """The count in the trailer is too high."""
        path = tmp_path / "log.ndjson"
        lines = file_of(ENTRIES).splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:2] + lines[3:]))

        with pytest.raises(BrokenFile, match="entries: expected 3, as counted in the lines before the trailer, got 4"):
            read(path)

    def test_ids_that_do_not_rise_are_refused(self, tmp_path: Path) -> None:
        """Even if the checksum is correct: the file may be made by hand."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of([ENTRIES[2], ENTRIES[1]]))

        with pytest.raises(BrokenFile, match="line 3: id: expected an id greater than 7-0, got 1-1"):
            read(path)

    def test_content_after_the_trailer_is_refused(self, tmp_path: Path) -> None:
        """Two exports in one file are not a valid file."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of(ENTRIES) * 2)

        with pytest.raises(BrokenFile):
            read(path)

    def test_newer_version_is_refused(self, tmp_path: Path) -> None:
        """The message tells that a newer kinfold is needed."""
        path = tmp_path / "log.ndjson"
        path.write_bytes(file_of([], header=msgspec.structs.replace(HEADER, version=2)))

        with pytest.raises(BrokenFile, match="version: expected 1, got 2"):
            read(path)

    def test_unknown_fields_in_the_header_are_ignored(self, tmp_path: Path) -> None:
        """A newer kinfold can add fields."""
        path = tmp_path / "log.ndjson"
        file = io.BytesIO()
        writer = LogWriter(file, HEADER)
        writer.finish(0)
        header = json.loads(encode_header(HEADER))

        assert msgspec.json.decode(json.dumps({**header, "more": 1}), type=Header) == HEADER
        path.write_bytes(file.getvalue())
        assert read(path)[0] == HEADER


class TestReplacing:
    def test_unfinished_file_is_removed(self, tmp_path: Path) -> None:
        """The directory is empty afterwards."""
        with pytest.raises(RuntimeError, match="half way"):
            write_half(tmp_path / "log.ndjson")

        assert list(tmp_path.iterdir()) == []

    def test_unfinished_file_leaves_the_older_one(self, tmp_path: Path) -> None:
        """Last night's backup is still valid."""
        path = tmp_path / "log.ndjson"
        path.write_text("older")

        with pytest.raises(RuntimeError, match="half way"):
            write_half(path)

        assert path.read_text() == "older"

    def test_only_the_owner_can_read_the_file(self, tmp_path: Path) -> None:
        """It contains people's names and addresses."""
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
