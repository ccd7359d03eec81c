"""What is in a file, local or remote, as Arrow batches.

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
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import fsspec.compression
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from perceiver.data.text.encoders import TOKENS

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 268_435_456
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_DEPTH = 100  # of brackets in JSON: pyarrow recurses, and some thousands crash it
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')  # of JSON
ZstdError = getattr(getattr(fsspec.compression, "zstd", None), "ZstdError", OSError)  # where it is installed
# What readers of damaged files raise; an encrypted zip archive is a RuntimeError
BROKEN_ARCHIVE = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, ZstdError)
UNREADABLE = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, *BROKEN_ARCHIVE)


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
    tables = ((file, table) for file in files for table in read_tables(file, columns, max_line_bytes, csv_numbers))
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


def read_tables(
    file: str, columns: Mapping[str, str], max_line_bytes: int = MAX_LINE_BYTES, csv_numbers: bool = False
) -> Iterator[pa.Table]:
    """The rows of one file. Arguments and errors as in `read_columns`."""
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
