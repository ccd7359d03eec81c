"""Files, local or remote, and what is in them as Arrow batches.

    .txt (and any other suffix)   UTF-8 lines, each with its line break ("\\r\\n" and "\\r" become "\\n")
    .jsonl, .json                 an object per line
    .csv                          with a header line
    .parquet

but .parquet also compressed (.gz, .bz2, .xz, .zst). A name with "://" is remote, read through fsspec: `s3://...`,
`https://...`. Memory is bounded by the longest line, not by the size of a file.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import datasets
import fsspec.asyn
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")  # what is looked for in folders
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
BLOCK_BYTES = 16 << 20
STAMPS = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "created")  # as file systems call them


@dataclass(frozen=True)
class File:
    """A file of an fsspec file system."""

    fs: fsspec.AbstractFileSystem
    path: str

    def __str__(self) -> str:
        return self.path if isinstance(self.fs, LocalFileSystem) else self.fs.unstrip_protocol(self.path)

    def open(self) -> Any:
        """Opens it for reading bytes, decompressed."""
        return self.fs.open(self.path, "rb", compression=None if self.kind == ".parquet" else "infer")

    @property
    def kind(self) -> str:
        """Suffix, without that of a compression."""
        path = Path(self.path)
        return (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix.lower()

    def stamp(self) -> list[Any]:
        """Name, size and modification time (or what a remote file system has in its place): changes with the file."""
        if isinstance(self.fs, LocalFileSystem):
            status = Path(self.path).stat()
            return [str(Path(self.path).resolve()), status.st_size, status.st_mtime_ns]
        info = self.fs.info(self.path)
        return [str(self), info.get("size"), *(str(info[name]) for name in STAMPS if name in info)]


def find_files(patterns: Sequence[str] | str) -> list[File]:
    """Resolves files, folders and glob patterns to readable files, in the order given, each pattern sorted.

    A file that is found more than once is in the result once, where it was found first.

    Raises:
        ValueError: if a pattern matches nothing or a file cannot be read.
    """
    files: dict[tuple[str, str], File] = {}  # by what they resolve to
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = _remote_files(pattern) if "://" in pattern else _local_files(pattern)
        except (OSError, ImportError, ValueError) as error:
            raise ValueError(f"cannot read {pattern}: {error}") from error
        if not found:
            suffixes = ", ".join(SUFFIXES)
            raise ValueError(f"{pattern!r} is no file, no folder with files ({suffixes}) and no pattern with a match")
        for file in found:
            local = isinstance(file.fs, LocalFileSystem)
            key = ("", str(Path(file.path).resolve())) if local else (str(file.fs.protocol), file.path)
            files.setdefault(key, file)
    for file in files.values():
        try:
            file.open().close()
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {file}: {error}") from error
    return list(files.values())


def open_url(url: str) -> Any:
    """Opens a file, local or remote, for reading bytes as they are."""
    return Path(url).open("rb") if "://" not in url else fsspec.open(url, "rb").open()


def forget_connections() -> None:
    """For a process that was forked: connections and threads of the other one can't be used."""
    fsspec.asyn.reset_lock()


def _local_files(pattern: str) -> list[File]:
    path, fs = Path(pattern), LocalFileSystem()
    if path.is_file():
        return [File(fs, pattern)]  # also if its name looks like a pattern
    if path.is_dir():
        found = [str(file) for file in path.rglob("*") if file.is_file() and File(fs, str(file)).kind in SUFFIXES]
    else:
        found = [name for name in glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207
    return [File(fs, name) for name in sorted(found, key=Path)]


def _remote_files(pattern: str) -> list[File]:
    fs, path = url_to_fs(pattern)
    if fs.isfile(path):
        return [File(fs, path)]
    if fs.isdir(path):
        return [file for file in (File(fs, name) for name in sorted(fs.find(path))) if file.kind in SUFFIXES]
    return [File(fs, name) for name in sorted(fs.glob(path)) if fs.isfile(name)]


def read_columns(files: Iterable[File], columns: Mapping[str, str], work_dir: Path, name: str) -> datasets.Dataset:
    """The rows of files as a data set on disk.

    Args:
        files: to be read one after the other.
        columns: what a column is called in the files: what it is called in the result. Text files have the column
            "text" only. The first one holds strings or lists of strings.
        work_dir: existing folder for the data.
        name: of the data in this folder.

    Raises:
        ValueError: if a file cannot be read, lacks a column or has another type of column than the files before it, or
            if there are no rows.
    """
    files = list(files)
    path = work_dir / f"{name}.arrow"
    writer: pa.RecordBatchStreamWriter | None = None
    schema: pa.Schema | None = None
    try:
        for file in files:
            for table in _read(file, list(columns)):
                table = table.rename_columns(list(columns.values()))
                if writer is None:
                    schema = table.schema
                    writer = pa.RecordBatchStreamWriter(str(path), schema)
                elif table.schema != schema:
                    raise ValueError(f"{file} has {_types(table.schema)}, files or rows before it {_types(schema)}")
                writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise ValueError(f"{[str(file) for file in files]}: all files are empty")
    return datasets.Dataset.from_file(str(path))


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _read(file: File, columns: list[str]) -> Iterator[pa.Table]:
    kind = file.kind
    reader = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}.get(kind, _lines)
    try:
        with file.open() as stream:
            for table in reader(stream, columns):
                missing = [name for name in columns if name not in table.column_names]
                if missing:
                    raise ValueError(f"there is no column {missing}, only {table.column_names}")
                if table.num_rows:
                    yield _large_strings(table.select(columns))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read {file} as {kind or 'text'}: {error}") from error


def _large_strings(table: pa.Table) -> pa.Table:
    """Strings of any length in total, so that no batch is too large."""

    def wide(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
            return pa.large_string()
        return pa.list_(wide(kind.value_type)) if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind

    fields = [pa.field(field.name, wide(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def blocks(stream: Any) -> Iterator[bytes]:
    """Blocks of whole lines of UTF-8, about `BLOCK_BYTES` long, with "\\n" for "\\r\\n" and "\\r".

    Raises:
        UnicodeDecodeError: if it is not UTF-8.
    """
    rest, done = b"", 0
    while block := stream.read(BLOCK_BYTES):
        while block.endswith(b"\r") and (more := stream.read(1)):
            block += more
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = block.rfind(b"\n") + 1
        if end == 0:
            rest += block
            continue
        whole, rest = rest + block[:end], block[end:]
        _check_utf8(whole, done)
        done += len(whole)
        yield whole
    if rest:
        _check_utf8(rest, done)
        yield rest


def _check_utf8(block: bytes, start: int) -> None:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 near byte {start + error.start}: {error}") from error


def line_array(block: bytes) -> pa.Array:
    """The lines of a block, each with its line break, without a Python object per line."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends, [len(block)] if not block.endswith(b"\n") else []]).astype(np.int64)
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(block))


def _lines(stream: Any, columns: list[str]) -> Iterator[pa.Table]:
    for block in blocks(stream):
        yield pa.table({"text": line_array(block)})


def _json_rows(stream: Any, columns: list[str]) -> Iterator[pa.Table]:
    # Text is text, also where all of it looks like dates.
    strings = pa.large_string() if columns[0] != "tokens" else pa.list_(pa.large_string())
    for block in blocks(stream):
        if not block.strip():
            continue
        table = pa.json.read_json(
            io.BytesIO(block),
            read_options=pa.json.ReadOptions(block_size=len(block) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=pa.schema([(columns[0], strings)])),
        )
        # A column of the schema is there even if no row has it.
        absent = table.column(columns[0]).null_count == table.num_rows
        yield table.drop_columns(columns[:1]) if absent else table


def _csv_rows(stream: Any, columns: list[str]) -> Iterator[pa.Table]:
    reader = pa.csv.open_csv(
        stream,
        read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types={columns[0]: pa.large_string()}, strings_can_be_null=False),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _parquet_rows(stream: Any, columns: list[str]) -> Iterator[pa.Table]:
    file = pa.parquet.ParquetFile(stream)
    present = [name for name in columns if name in file.schema_arrow.names]
    if present != columns:
        yield pa.Table.from_batches([], file.schema_arrow)  # says which columns there are
        return
    for batch in file.iter_batches(batch_size=1000, columns=columns):
        yield pa.Table.from_batches([batch])
