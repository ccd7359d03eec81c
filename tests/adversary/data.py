"""An adversary of what the data layer reads and writes: see `tests/adversary/__init__.py`.

damaged_files      every kind of file is read, or one error names it
damaged_caches     what is in a cache is read, or one error names it; it always ends
killed_caches      processes that make one cache and are ended at any time leave nothing wrong, and nothing for ever
killed_downloads   the same of downloads, from a server that hangs up
full_disk          a small disk (where mounting is allowed): complete, or an error and nothing left
"""

import bz2
import gzip
import hashlib
import io
import json
import logging
import lzma
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image
from transformers import PerceiverTokenizer

from perceiver.data.audio import piano_piece
from perceiver.data.audio.download import download
from perceiver.data.audio.files import unpack
from perceiver.data.audio.maestro import TABLE, split_by_table
from perceiver.data.text.common import Task
from perceiver.data.text.enwik8 import Enwik8
from perceiver.data.text.files import FileSplits
from perceiver.data.text.local import LocalTextDataModule
from perceiver.data.vision.flow_folders import FlowFiles, FlowFolder
from perceiver.data.vision.flow_io import read_flo, read_kitti_flow, write_flo, write_kitti_flow
from perceiver.data.vision.images import read_image
from perceiver.processing.midi import encode_midi
from tests.adversary import Check, main

Random = random.Random
ROOT = Path(__file__).parents[2]
ENDINGS = (signal.SIGKILL, signal.SIGTERM)


# --- damaged files ---


def damaged(rng: Random, content: bytes) -> bytes:
    """Some bytes are others, some are missing, some are there twice."""
    result = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(rng.choice([16, 100, len(content)])) % len(result)
        kind = rng.random()
        if kind < 0.7:
            result[place] = rng.choice([rng.randrange(256), result[place] ^ (1 << rng.randrange(8)), 0, 255])
        elif kind < 0.85:
            del result[place : place + rng.randrange(1, 9)]
        else:
            result[place:place] = result[place : place + rng.randrange(1, 9)]
        result = result or bytearray(b"\0")
    return bytes(result[: rng.randrange(len(result))] if rng.random() < 0.2 else result)


def table_of(rng: Random) -> pa.Table:
    rows = rng.randrange(1, 50)
    return pa.table({"text": [f'text {i}, "häßlich"\n' * rng.randrange(3) for i in range(rows)], "label": range(rows)})


def json_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode("utf-8-sig")


def read_text(path: Path) -> None:
    columns = {"text": "text"} if path.name.startswith("a.txt") else {"text": "text", "label": "label"}
    if path.suffix == ".conll":
        columns = {"tokens": "tokens", "tags": "tags"}
    work = path.parent / "work"
    work.mkdir()
    try:
        for split in FileSplits({"train": str(path)}, columns).load(work).values():
            len(split.with_format("arrow")[:])
    finally:
        shutil.rmtree(work)


def read_archive(path: Path) -> None:
    try:
        unpack(path, path.parent / "unpacked", (".mid",), 1 << 20)
    finally:
        shutil.rmtree(path.parent / "unpacked")


def read_maestro(path: Path) -> None:
    for files in split_by_table(path.parent).values():
        assert all(path.parent in file.parents and ".." not in file.parts for file in files)


def read_enwik8(path: Path) -> None:
    (path.parent / "work").mkdir()
    try:
        Enwik8(str(path), max_bytes=1 << 20).load(path.parent / "work")
    finally:
        shutil.rmtree(path.parent / "work")


def archive(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as result:
        result.writestr(name, content)
    return file.getvalue()


def image(rng: Random, format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(rng.randrange(99)).integers(0, 256, (rng.randrange(1, 30), 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(rng.choice(["RGB", "L"])).save(file, format)
    return file.getvalue()


def file_kinds(rng: Random, folder: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """Names of files: what is in them, what reads them."""
    table, lines = table_of(rng), b"a line\nand one more\r\n" * rng.randrange(1, 99)
    piano_piece(rng.randrange(99)).midi.write(str(folder / "piece"))
    midi = (folder / "piece").read_bytes()
    flow = np.zeros((rng.randrange(1, 20), 7, 2))
    write_flo(folder / "flo", flow)
    write_kitti_flow(folder / "kitti", flow)
    pyarrow.parquet.write_table(table, folder / "parquet", compression=rng.choice(["snappy", "none", "zstd", "gzip"]))
    csv = io.BytesIO()
    pa.csv.write_csv(table, csv)
    maestro = b"split,midi_filename,duration\n" + b"train,a/0.mid,1.5\nvalidation,b.mid,3\n" * 9

    def frame(path: Path) -> None:
        FlowFolder([FlowFiles(path, path, folder / "flo")])[0]

    def picture(path: Path) -> None:
        try:
            read_image({"path": str(path), "bytes": None}, single_channel=rng.random() < 0.5, max_pixels=1 << 20)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error  # who asks for an example says which one

    return {
        "a.txt": (lines, read_text),
        "a.txt.gz": (gzip.compress(lines), read_text),
        "a.txt.xz": (lzma.compress(lines), read_text),
        "a.txt.bz2": (bz2.compress(lines), read_text),
        "a.txt.zip": (archive("a.txt", lines), read_text),
        "a.jsonl": (json_lines(table), read_text),
        "a.jsonl.gz": (gzip.compress(json_lines(table)), read_text),
        "a.csv": (csv.getvalue(), read_text),
        "a.conll": ("Zoë B-PER\nlives O\n\nKöln\tB-LOC\n".encode() * 9, read_text),
        "a.parquet": ((folder / "parquet").read_bytes(), read_text),
        "a.mid": (midi[:2000], encode_midi),
        "a.zip": (archive("x/a.mid", midi), read_archive),
        TABLE: (maestro, read_maestro),
        "enwik8.zip": (archive("enwik8", lines * 9), read_enwik8),
        "a.flo": ((folder / "flo").read_bytes(), read_flo),
        "kitti.png": ((folder / "kitti").read_bytes(), read_kitti_flow),
        "frame.png": (image(rng, "PNG"), frame),
        **{f"a.{kind.lower()}": (image(rng, kind), picture) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")},
    }


def damaged_files(rng: Random, folder: Path) -> None:
    kinds = file_kinds(rng, folder)
    (folder / "read").mkdir()
    for name, (content, read) in kinds.items():
        path = folder / "read" / name
        for _ in range(10):
            path.write_bytes(damaged(rng, content))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # libraries say what they could read all the same
                    read(path)
            except (ValueError, OSError) as error:
                reason = str(error)
                empty = "are empty" in reason or "too few to split" in reason or "differ in size" in reason
                assert path.name in reason and (len(reason) > len(str(path)) + 5 or empty), (name, repr(error))
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"adversary-{path.name}"
                shutil.copy(path, kept)
                raise AssertionError(f"{kept}: {error!r}") from error
        path.unlink()


# --- caches ---


def text_module(folder: Path, **kwargs: Any) -> LocalTextDataModule:
    if not (folder / "tokenizer").exists():
        PerceiverTokenizer().save_pretrained(folder / "tokenizer")
    if not (folder / "a.csv").exists():
        rows = "".join(f"text {i} of the file,{i % 3}\n" for i in range(200))
        (folder / "a.csv").write_text(f"text,label\n{rows}")
    options = {"max_seq_len": 16, "num_workers": 0, "batch_size": 7, "preproc_batch_size": 20, **kwargs}
    files, tokenizer = str(folder / "a.csv"), str(folder / "tokenizer")
    return LocalTextDataModule(str(folder / "cache"), tokenizer=tokenizer, train_files=files, **options)


def damaged_caches(rng: Random, folder: Path) -> None:
    data = text_module(folder, task=rng.choice([Task.mlm, Task.clf]))
    data.prepare_data()
    small = sorted(data.cache_dir.iterdir())
    for _ in range(10):
        path = rng.choice(small)
        content = path.read_bytes()
        path.write_bytes(damaged(rng, content))
        changed = path.read_bytes() != content
        try:
            data.setup()
            assert not changed or path.name in ("checksums.json", "key.json"), (
                f"{path.name} is changed, and nobody said"
            )
            for split in data.examples.values():
                for index in range(len(split)):
                    split[index]
        except ValueError as error:
            assert str(data.cache_dir) in str(error), repr(error)
        path.write_bytes(content)


PREPARE = """
import datasets, sys
from pathlib import Path
from tests.adversary.data import text_module
datasets.disable_progress_bars()
data = text_module(Path(sys.argv[1]), preproc_workers=int(sys.argv[2]))
print("ready", flush=True)
data.prepare_data()
"""


def killed_caches(rng: Random, folder: Path) -> None:
    text_module(folder)
    commands = [
        [sys.executable, "-c", PREPARE, str(folder), str(rng.choice([1, 2]))] for _ in range(rng.choice([1, 2]))
    ]
    processes = [subprocess.Popen(c, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for c in commands]
    for process in processes:
        assert process.stdout is not None and process.stdout.read(6) == b"ready\n"
    for process in processes:
        if rng.random() < 0.8:
            time.sleep(rng.random() * 0.3)
            process.send_signal(rng.choice(ENDINGS))
    for process in processes:
        _, errors = process.communicate(timeout=120)  # ends when all of its workers have
        assert process.returncode in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), errors.decode()
    data = text_module(folder)
    data.prepare_data()
    data.setup()
    assert len(data.chunks["train"].tokens) == len("".join(f"text {i} of the file" for i in range(190)))
    if all(process.returncode for process in processes):  # this one made the cache, and cleaned up
        assert list((folder / "cache").iterdir()) == [data.cache_dir]


# --- downloads ---

DOWNLOAD = """
import sys
from pathlib import Path
from perceiver.data.audio.download import download
print("ready", flush=True)
download(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
"""


@contextmanager
def server(rng: Random, content: bytes) -> Iterator[str]:
    """Serves `content`, slowly, and sometimes a part of it only."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = len(content) if rng.random() < 0.6 else rng.randrange(start, len(content) + 1)
            try:
                for first in range(start, stop, 1 << 14):
                    self.wfile.write(content[first : min(first + (1 << 14), stop)])
                    time.sleep(0.002)
            except OSError:
                pass  # it was killed

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/data.zip"
        finally:
            http.shutdown()
            thread.join()


def killed_downloads(rng: Random, folder: Path) -> None:
    content = rng.randbytes(rng.randrange(1, 1_000_000))
    checksum, path = hashlib.sha256(content).hexdigest(), folder / "data.zip"
    with server(rng, content) as url:
        command = [sys.executable, "-c", DOWNLOAD, url, str(path), checksum]
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None and process.stdout.read(6) == b"ready\n"
            if rng.random() < 0.5:
                time.sleep(rng.random() * 0.1)
                process.kill()
        for process in processes:
            process.communicate()
        assert not path.exists() or path.read_bytes() == content
        for _ in range(30):
            try:
                download(url, path, checksum)
                break
            except OSError as error:
                assert "Another try goes on" in str(error)
    assert path.read_bytes() == content


# --- full disk ---


def full_disk(rng: Random, folder: Path) -> None:
    disk = folder / "cache"
    disk.mkdir()
    command = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={rng.choice([4, 8, 16, 24, 32, 48, 64, 4096])}k",
        "tmpfs",
        str(disk),
    ]
    if shutil.which("mount") is None or subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
        return
    try:
        data = text_module(folder, preproc_workers=rng.choice([1, 1, 2]), task=rng.choice([Task.mlm, Task.clf]))
        try:
            data.prepare_data()
        except OSError as error:
            assert "has no space left: what was begun there is deleted" in str(error), repr(error)
            assert list(disk.iterdir()) == []
        else:
            data.setup()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # arrays of it are mapped


CHECKS: dict[str, Check] = {
    "damaged_files": damaged_files,
    "damaged_caches": damaged_caches,
    "killed_caches": killed_caches,
    "killed_downloads": killed_downloads,
    "full_disk": full_disk,
}

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    datasets.disable_progress_bars()
    sys.exit(main(CHECKS))
