"""Files, local or remote, and what is in them as Arrow batches.

    .txt (and any other suffix)   UTF-8 lines, each with its line break ("\\r\\n" and "\\r" become "\\n"); for words
                                  with labels, lines of CoNLL: `LocalTokenClassificationDataModule`
    .jsonl, .json                 an object per line
    .csv                          with a header line
    .parquet

but .parquet also compressed (.gz, .bz2, .xz, .zst). A name with "://" is remote, read through fsspec: `s3://...`,
`https://...`. A byte order mark of UTF-8 is left out. Memory is bounded by the longest line, not by the size of a file.
"""

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import fsspec.asyn
import fsspec.compression
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from perceiver.data.cache import Source, file_stamp
from perceiver.data.checks import check_share
from perceiver.data.hub import SplitOff
from perceiver.data.text.encoders import TOKENS

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")  # what is looked for in folders
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 268_435_456
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_DEPTH = 100  # of brackets in JSON: pyarrow recurses, and some thousands crash it
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')  # of JSON
INTEGER = r"^(0|-?[1-9][0-9]{0,17})?$"  # as one writes it, or nothing
ZstdError = getattr(getattr(fsspec.compression, "zstd", None), "ZstdError", OSError)  # where it is installed
# What readers of damaged files raise; an encrypted zip archive is a RuntimeError
BROKEN_ARCHIVE = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, ZstdError)
UNREADABLE = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, *BROKEN_ARCHIVE)
STAMPS = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "created")  # as file systems call them


def file_system(name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Where a file or pattern is, and what it is called there."""
    return url_to_fs(name) if "://" in name else (LocalFileSystem(), name)


def open_rows(name: str) -> Any:
    """Opens a file for reading bytes, decompressed."""
    fs, path = file_system(name)
    if Path(name).suffix.lower() == ".zst" and "zstd" not in fsspec.compression.compr:
        raise ValueError("it needs zstandard: pip install zstandard")
    return fs.open(path, "rb", compression=None if suffix(name) == ".parquet" else "infer")


def suffix(name: str) -> str:
    """Suffix of a file, without that of a compression."""
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def resolved(name: str) -> str:
    """The same name for all paths to a file."""
    return name if "://" in name else str(Path(name).resolve())


def stamp(name: str) -> list[Any]:
    """Name, size and modification time (or what a remote file system has in its place): changes with the file."""
    if "://" not in name:
        return file_stamp(Path(name))
    fs, path = file_system(name)
    info = fs.info(path)
    return [name, info.get("size"), *(str(info[key]) for key in STAMPS if key in info)]


@dataclass(frozen=True)
class FileSplits:
    """Files of each split, as a source (`cache.py`).

    Args:
        patterns: see `find_files`; by split, None for one that there is not.
        columns: see `read_columns`.
        max_line_bytes: see `read_columns`.
    """

    patterns: Mapping[str, Sequence[str] | str | None]
    columns: Mapping[str, str]
    max_line_bytes: int = MAX_LINE_BYTES

    def files(self) -> dict[str, list[str]]:
        """Raises:
        ValueError: see `find_files`; also if a file is for training and for something else.
        """
        splits = {split: find_files(pattern) for split, pattern in self.patterns.items() if pattern is not None}
        train = set(map(resolved, splits["train"]))
        for split in splits.keys() - {"train"}:
            if both := [file for file in splits[split] if resolved(file) in train]:
                raise ValueError(f"{both} are in train_files and in {split}_files: {split} text must not be trained on")
        return splits

    def identity(self) -> dict[str, Any]:
        files = {split: [stamp(file) for file in found] for split, found in self.files().items()}
        return {"files": files, "columns": dict(self.columns)}

    def load(self, work_dir: Path) -> dict[str, datasets.Dataset]:
        splits = self.files()
        files = [file for found in splits.values() for file in found]
        limit, numbers = self.max_line_bytes, self._csv_numbers(files)
        return {
            split: read_columns(found, self.columns, work_dir, split, max_line_bytes=limit, csv_numbers=numbers)
            for split, found in splits.items()
        }

    def _csv_numbers(self, files: Sequence[str]) -> bool:
        """Whether the labels of all CSV files are integers, written as one writes them: else "01" is no 1."""
        label = list(self.columns.values())[-1]
        tables = (table for file in files if suffix(file) == ".csv" for table in _read(file, self.columns))
        return len(self.columns) > 1 and all(
            pc.all(pc.match_substring_regex(t[label], INTEGER)).as_py() for t in tables
        )


def file_source(files: FileSplits, valid_fraction: float, *, scattered: bool) -> Source:
    """Files for training, and for validation either files or some of the training documents, see `SplitOff`.

    Args:
        files: with patterns for "train", "valid" and "test".
        valid_fraction: share of the documents for validation if there are no files for it, in (0, 1).
        scattered: whether they are from everywhere; otherwise the last ones.
    """
    check_share(valid_fraction=valid_fraction)
    return files if files.patterns["valid"] is not None else SplitOff(files, None, valid_fraction, scattered)


def find_files(patterns: Sequence[str] | str) -> list[str]:
    """Resolves files, folders and glob patterns to readable files, in the order given, each pattern sorted.

    A file that is found more than once is in the result once, where it was found first.

    Raises:
        ValueError: if a pattern matches nothing or a file cannot be read.
    """
    files: dict[str, str] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = _found(pattern)
        except (*UNREADABLE, ImportError) as error:
            raise ValueError(f"cannot read {pattern}: {error}") from error
        if not found:
            suffixes = ", ".join(SUFFIXES)
            raise ValueError(f"{pattern!r} is no file, no folder with files ({suffixes}) and no pattern with a match")
        for file in found:
            files.setdefault(resolved(file), file)
    for file in files.values():
        try:
            open_rows(file).close()
        except UNREADABLE as error:
            raise ValueError(f"cannot read {file}: {error}") from error
    return list(files.values())


def _found(pattern: str) -> list[str]:
    fs, path = file_system(pattern)
    is_local, is_file = isinstance(fs, LocalFileSystem), fs.isfile(path)
    is_folder = not is_file and fs.isdir(path)  # which reads an https:// file
    if is_file:
        names = [path]  # also if its name looks like a pattern
    elif is_local:
        found = Path(path).rglob("*") if is_folder else map(Path, glob(path, recursive=True))  # noqa: PTH207
        names = [str(name) for name in sorted(found) if name.is_file()]
    else:
        names = sorted(fs.find(path)) if is_folder else [name for name in sorted(fs.glob(path)) if fs.isfile(name)]
    files = names if is_local else [fs.unstrip_protocol(name) for name in names]
    return [file for file in files if suffix(file) in SUFFIXES] if is_folder else files


def forget_connections() -> None:
    """For a process that was forked: connections and threads of the other one can't be used."""
    fsspec.asyn.reset_lock()


def read_columns(
    files: Sequence[str],
    columns: Mapping[str, str],
    work_dir: Path,
    name: str,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    csv_numbers: bool = False,
) -> datasets.Dataset:
    """The rows of files as a data set on disk.

    Args:
        files: to be read one after the other.
        columns: what a column is called in the files: what it is called in the result. Text files have the column
            "text" only. The first one holds strings, or lists of them if it is called "tokens" in the result.
        work_dir: existing folder for the data.
        name: of the data in this folder.
        max_line_bytes: length that a line may have, decompressed, but in CSV.
        csv_numbers: whether the second column of CSV files holds integers; otherwise it is text.

    Raises:
        ValueError: if a file cannot be read, lacks a column or has another type of column than the files before it, or
            if there are no rows.
    """
    tables = ((file, table) for file in files for table in _read(file, columns, max_line_bytes, csv_numbers))
    first = next(tables, None)
    if first is None:
        raise ValueError(f"{list(files)}: all files are empty")
    path, schema = str(work_dir / f"{name}.arrow"), first[1].schema
    with pa.RecordBatchStreamWriter(path, schema) as writer:
        for file, table in chain([first], tables):
            if table.schema != schema:
                raise ValueError(f"{file} has {_types(table.schema)}, files or rows before it {_types(schema)}")
            writer.write_table(table)
    return datasets.Dataset.from_file(path)


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _read(
    file: str, columns: Mapping[str, str], max_line_bytes: int = MAX_LINE_BYTES, csv_numbers: bool = False
) -> Iterator[pa.Table]:
    kind, words = suffix(file), TOKENS in columns.values()
    reader = _json_rows if kind in (".jsonl", ".json") else _conll_rows if words else _lines
    text = pa.list_(pa.large_string()) if words else pa.large_string()
    try:
        with open_rows(file) as stream:
            if kind == ".csv":
                tables = _csv_rows(stream, list(columns), csv_numbers)
            elif kind == ".parquet":
                tables = _parquet_rows(stream, list(columns))
            else:
                whole_lines = blocks(stream, max_line_bytes)
                tables = reader(whole_lines, list(columns), text)
            for table in tables:
                if missing := [name for name in columns if name not in table.column_names]:
                    raise ValueError(f"there is no column {missing}, only {table.column_names}")
                if table.num_rows:
                    yield _large_strings(table.select(list(columns))).rename_columns(list(columns.values()))
    except (*UNREADABLE, pa.ArrowException) as error:
        raise ValueError(f"cannot read {file} as {kind or 'text'}: {error}") from error


def _large_strings(table: pa.Table) -> pa.Table:
    """Strings of any length in total, so that no batch is too large."""

    def wide(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
            return pa.large_string()
        return pa.list_(wide(kind.value_type)) if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind

    fields = [pa.field(field.name, wide(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def blocks(stream: Any, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """Blocks of whole lines of UTF-8, about `BLOCK_BYTES` long, with "\\n" for "\\r\\n" and "\\r".

    A byte order mark is left out.

    Raises:
        ValueError: if it is not UTF-8, or a line is longer than `max_line_bytes`.
    """
    first = stream.read(len(BYTE_ORDER_MARK))
    rest, done = b"", 0
    if first == BYTE_ORDER_MARK:
        first, done = b"", len(first)
    while block := first + stream.read(BLOCK_BYTES):
        first = b""
        while block.endswith(b"\r") and (more := stream.read(1)):
            block += more
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = block.rfind(b"\n") + 1
        whole, rest = (rest + block[:end], block[end:]) if end else (b"", rest + block)
        if len(rest) > max_line_bytes:
            raise ValueError(
                f"the line at byte {done + len(whole)} has more than max_line_bytes={max_line_bytes} bytes"
            )
        if whole:
            yield _checked(whole, done)
            done += len(whole)
    if rest:
        yield _checked(rest, done)


def _checked(block: bytes, start: int) -> bytes:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 near byte {start + error.start}: {error}") from error
    return block


def line_array(block: bytes) -> pa.Array:
    """The lines of a block, each with its line break, without a Python object per line."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends, [len(block)] if not block.endswith(b"\n") else []]).astype(np.int64)
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(block))


def _lines(blocks: Iterator[bytes], columns: list[str], text: pa.DataType) -> Iterator[pa.Table]:
    for block in blocks:
        yield pa.table({"text": line_array(block)})


def _conll_rows(blocks: Iterator[bytes], columns: list[str], text: pa.DataType) -> Iterator[pa.Table]:
    """The sentences of a file: a line per word, in whose first column it is and in whose last its label."""
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    lines = (line for block in blocks for line in block.decode().removesuffix("\n").split("\n"))
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if not any(cells) or cells[0].startswith("-DOCSTART-"):
            sentences.append(([], []))
            continue
        if len(cells) < 2 or not cells[0] or not cells[-1]:
            raise ValueError(f"line {number}: {line!r} must have a word and a label")
        sentences[-1][0].append(cells[0])
        sentences[-1][1].append(cells[-1])
    rows = [dict(zip(columns, sentence, strict=True)) for sentence in sentences if sentence[0]]
    yield pa.Table.from_pylist(rows, schema=pa.schema([(name, text) for name in columns]))


def _json_rows(blocks: Iterator[bytes], columns: list[str], text: pa.DataType) -> Iterator[pa.Table]:
    for block in blocks:
        _check_depth(block)
        if not block.strip():
            continue
        table = pa.json.read_json(
            io.BytesIO(block),
            read_options=pa.json.ReadOptions(block_size=len(block) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=pa.schema([(columns[0], text)])),
        )
        # A column of the schema is there even if no row has it.
        absent = table.column(columns[0]).null_count == table.num_rows
        yield table.drop_columns(columns[:1]) if absent else table


def _check_depth(block: bytes) -> None:
    """Raises:
    ValueError: if brackets of JSON are nested too deeply.
    """
    if block.count(b"[") + block.count(b"{") <= MAX_DEPTH:
        return
    for line in block.split(b"\n"):
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH:
            values = np.frombuffer(STRING.sub(b"", line), np.uint8)
            depths = np.cumsum(np.isin(values, list(b"[{")).astype(int) - np.isin(values, list(b"]}")))
            if depths.max(initial=0) > MAX_DEPTH:
                raise ValueError(f"brackets are nested {depths.max()} deep, more than {MAX_DEPTH}: {line[:40]!r}...")


def _csv_rows(stream: Any, columns: list[str], numbers: bool) -> Iterator[pa.Table]:
    kinds = {columns[0]: pa.large_string(), columns[-1]: pa.int64() if numbers else pa.large_string()}
    reader = pa.csv.open_csv(
        stream,
        read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=kinds, strings_can_be_null=False),
    )
    for batch in reader:
        table = pa.Table.from_batches([batch])
        label = table.column_names.index(columns[-1]) if len(columns) > 1 and columns[-1] in table.column_names else -1
        if label >= 0 and not numbers:  # an empty one is missing, as it is among numbers
            given = pc.if_else(pc.equal(table[label], ""), None, table[label])
            table = table.set_column(label, columns[-1], given)
        yield table


def _parquet_rows(stream: Any, columns: list[str]) -> Iterator[pa.Table]:
    file = pa.parquet.ParquetFile(stream)
    yield file.schema_arrow.empty_table()  # says which columns there are
    for batch in file.iter_batches(batch_size=1000, columns=columns):
        yield pa.Table.from_batches([batch])
