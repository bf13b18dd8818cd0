"""A file from somebody else takes no more memory than its lines may have, however much it decompresses to."""

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import typer

from kinfold_schemas.identifiers import CONTRACT_RULES
from kinfold_services.cli.ndjson import MAX_LINE_BYTES, read_lines
from kinfold_services.cli.replaying import lines_of as lines_of_option
from kinfold_services.contact_files import reading_csv, reading_parquet
from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.contact_files.reading_csv import MAX_ROW_CHARS, CsvTable
from kinfold_services.contact_files.reading_parquet import ParquetTable
from kinfold_services.contact_files.tables import WrongFile
from kinfold_services.log.streams import StreamEntry
from kinfold_services.transfer import files, log_file
from kinfold_services.transfer.files import DecompressedTooLarge, bounded_lines, open_compressed, replacing
from kinfold_services.transfer.log_file import BrokenFile, EntryTooLarge, LogFile, LogWriter, encode_header
from tests.support.command_line import Kinfold
from tests.transfer.test_log_file import HEADER

EVENT: Final = b'{"type":"VisitorSeen","visitorId":"v-1"}'
LONG: Final = 64 << 20
MOST: Final = 16 << 20
"""What reading may take at most."""


def compressed(path: Path, *parts: bytes) -> Path:
    """A file of these parts, compressed by its name."""
    with replacing(path) as file:
        for part in parts:
            file.write(part)
    return path


def peak_of(work: Callable[[], object]) -> int:
    """How many bytes some work takes at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_long_line_is_skipped_without_being_kept() -> None:
    data = b"a\n" + b"b" * 11 + b"\n" + b"c" * 10 + b"\n" + b"d" * 10 + b"e" * 90

    assert list(bounded_lines(io.BytesIO(data), 10)) == [b"a\n", None, b"c" * 10 + b"\n", None]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_long_line_of_events_is_too_large(tmp_path: Path, suffix: str) -> None:
    """It has its number, and so have the lines behind it."""
    path = compressed(tmp_path / f"events.ndjson{suffix}", EVENT + b"\n", *[b" " * (1 << 20)] * 64, b"\n" + EVENT)
    found: list[tuple[int, str]] = []

    def read() -> None:
        with open_compressed(path) as file:
            found.extend(
                (line.number, line.rejection.detail if line.rejection else "") for line in read_lines(file, CONTRACT_RULES)
            )

    assert peak_of(read) < MOST
    assert found == [(1, ""), (2, f"line: expected at most {MAX_LINE_BYTES} bytes, got more"), (3, "")]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_file_may_decompress_to_a_thousand_times_its_size(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a small one to a gigabyte. A bomb is larger than what anybody compresses in earnest."""
    monkeypatch.setattr(files, "DECOMPRESSED_BYTES", 1 << 20)
    monkeypatch.setattr(files, "DECOMPRESSED_RATIO", 100)
    fits = compressed(tmp_path / f"fits{suffix}", b"\n" * (1 << 20))
    bomb = compressed(tmp_path / f"bomb{suffix}", b"\n" * (64 << 20))

    with open_compressed(fits) as file:
        assert sum(map(len, file)) == 1 << 20
    with open_compressed(bomb) as file, pytest.raises(DecompressedTooLarge, match="bytes once decompressed, got more"):
        sum(map(len, file))


def test_bomb_is_refused_by_every_command_that_reads_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setattr(files, "DECOMPRESSED_BYTES", 1 << 20)
    monkeypatch.setattr(files, "DECOMPRESSED_RATIO", 10)
    kinfold = Kinfold("--redis-url", redis_url, "--data-dir", tmp_path / "data")
    bombs = {
        "publish": (compressed(tmp_path / "events.ndjson.gz", (EVENT + b"\n") * 100_000), 2),
        "import": (compressed(tmp_path / "log.zst", encode_header(HEADER), b'{"id":"1-0","event":{}}\n' * 100_000), 1),
        "import-contacts": (compressed(tmp_path / "users.csv.gz", b"email\n", b"a@x.org\n" * 200_000), 2),
    }
    for command, (path, status) in bombs.items():
        said = kinfold.run(command, path)
        assert (said.status, "bytes once decompressed, got more" in said.err) == (status, True), said


def test_long_line_of_an_export_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "MAX_LINE_BYTES", 1 << 20)
    path = compressed(
        tmp_path / "log.gz", encode_header(HEADER), b'{"id":"1-0","event":{}}\n', *[b"x" * (1 << 20)] * (LONG >> 20)
    )

    def read() -> None:
        with (
            LogFile(path) as file,
            pytest.raises(BrokenFile, match="line 3: expected a line of at most 1048576 bytes, got more"),
        ):
            list(file.pages())

    assert peak_of(read) < MOST


def test_entry_that_could_not_be_imported_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names it, so that it can be deleted. A file that no import accepts would be worse than none."""
    monkeypatch.setattr(log_file, "MAX_LINE_BYTES", 1000)
    writer = LogWriter(io.BytesIO(), HEADER)

    with pytest.raises(EntryTooLarge, match="entry 1-0: expected at most 1000 bytes as a line of the file, got 1"):
        writer.write([StreamEntry(b"1-0", [b"event", b"x" * 1000])])


@pytest.mark.parametrize("content", [b"x" * (5 << 20), b"email\n" + b'"\n",' * (5 << 18)], ids=["line", "row"])
def test_long_row_of_contacts_is_refused(tmp_path: Path, content: bytes) -> None:
    """A row can go on over many lines."""
    path = tmp_path / "users.csv"
    path.write_bytes(content)

    with pytest.raises(WrongFile, match=f"expected a row of at most {reading_csv.MAX_ROW_CHARS} characters, got more"):
        list(CsvTable(path, delimiter=",", encoding=None).rows())


@pytest.mark.parametrize("content", [b"x" * LONG, b"1-0\n" * 1_000_001], ids=["a line", "lines"])
def test_list_of_a_replay_is_bounded(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "entries"
    path.write_bytes(content)

    with pytest.raises(typer.BadParameter, match="expected at most 1000000 lines of at most 8192 bytes, got more"):
        lines_of_option(path, "--exclude-events")


def parquet(path: Path, compression: str = "zstd", **columns: list[str]) -> Path:
    """A Parquet file with these columns."""
    arrow = load_arrow()
    arrow.parquet.write_table(arrow.table(columns), path, compression=compression)
    return path


def test_parquet_that_states_too_large_a_size_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "DECOMPRESSED_BYTES", 1 << 20)
    monkeypatch.setattr(files, "DECOMPRESSED_RATIO", 10)
    bomb = parquet(tmp_path / "bomb.parquet", id=[str(number) + "x" * 100_000 for number in range(40)])

    with pytest.raises(DecompressedTooLarge, match=r"expected at most 1048576 bytes once decompressed, got more"):
        ParquetTable(bomb)


def test_value_that_many_rows_of_parquet_share_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is stated once, however many rows have it."""
    monkeypatch.setattr(files, "DECOMPRESSED_BYTES", 8 << 20)
    bomb = parquet(tmp_path / "bomb.parquet", id=["x" * 30_000] * 2000)
    pool = load_arrow().default_memory_pool()
    before = pool.max_memory()

    def read() -> None:
        table = ParquetTable(bomb)
        with pytest.raises(DecompressedTooLarge, match=r"once decompressed, got more"):
            for _ in table.rows():
                pass

    assert peak_of(read) < MOST
    assert pool.max_memory() - before < MOST


def test_long_row_of_parquet_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "users.parquet", id=["u-1", "u-2"], note=["short", "x" * MAX_ROW_CHARS])

    with pytest.raises(WrongFile, match=f"row 2: expected a row of at most {MAX_ROW_CHARS} characters, got more"):
        list(ParquetTable(path).rows())


def test_large_row_group_of_parquet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_parquet, "MAX_GROUP_BYTES", 1000)

    with pytest.raises(WrongFile, match="expected row groups of at most 1000 bytes, got one of"):
        ParquetTable(parquet(tmp_path / "users.parquet", id=[f"u-{number}" for number in range(1000)]))


def test_rows_of_parquet_are_read_in_small_batches_where_they_are_large(tmp_path: Path) -> None:
    ids = [f"{number}-" + "x" * 50_000 for number in range(2000)]
    path = parquet(tmp_path / "users.parquet", "none", id=ids)
    del ids

    def read() -> None:
        assert sum(1 for _ in ParquetTable(path).rows()) == 2000

    assert peak_of(read) < 3 * MOST  # one batch, and the next while it comes
