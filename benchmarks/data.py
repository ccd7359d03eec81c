"""Throughput of the text data path: reading, tokenising, preprocessing to disk, loading, masking, streaming.

    python benchmarks/data.py                      the table of benchmarks/results/data_*.md
    python benchmarks/data.py --memory 400         peak memory of preprocessing a text file of so many MB

Tokenising is measured beside transformers' `PerceiverTokenizer` on the same documents, taking turns. Everything runs in
one thread, the loaders without workers. The text is the language reference that every Python carries, repeated.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets
import pyarrow as pa
import torch
from timing import alternate, machine
from transformers import PerceiverTokenizer

from perceiver.data.text import C4DataModule, LocalTextDataModule, Task
from perceiver.data.text.files import find_files
from perceiver.data.text.rows import read_columns
from perceiver.processing.tokenization import encode, word_ids

MAX_SEQ_LEN = 2048
BATCHES = 60
README = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
---
"""


def lines_of(num_bytes: int) -> list[str]:
    text = "".join(topics[name] for name in sorted(topics))
    return (text * (num_bytes // len(text.encode()) + 1)).encode()[:num_bytes].decode(errors="ignore").splitlines(True)


def megabytes(documents: Iterable[str]) -> float:
    return sum(len(document.encode()) for document in documents) / 1e6


def rate(run: Callable[[], float], repeats: int) -> float:
    """Median MB/s of a function that returns the MB it has done."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        done = run()
        rates.append(done / (time.perf_counter() - start))
    return statistics.median(rates)


def row(name: str, value: float) -> None:
    print(f"| {name} | {value:,.1f} |", flush=True)


def tokenising(repeats: int) -> float:
    """Documents of a few kilobytes, as arrow has them, and one MB for transformers, in the same turns."""
    lines = lines_of(1_000_000)
    documents = ["".join(lines[i : i + 50]) for i in range(0, len(lines), 50)]
    array = pa.array(documents, pa.large_string())
    tokenizer = PerceiverTokenizer()
    size = megabytes(documents)
    repeated = 20  # ours alone takes too little time to measure

    def ours() -> None:
        for _ in range(repeated):
            encode(tokenizer, array)

    def ours_with_words() -> None:
        for _ in range(repeated):
            word_ids(encode(tokenizer, array).marks)

    def theirs() -> None:
        for document in documents:
            tokenizer(document, add_special_tokens=False)

    assert (
        encode(tokenizer, array[:1]).tokens.tolist() == tokenizer(documents[0], add_special_tokens=False)["input_ids"]
    )
    times = alternate({"ours": ours, "words": ours_with_words, "theirs": theirs}, repeats)
    rates = {name: size * (1 if name == "theirs" else repeated) / statistics.median(t) for name, t in times.items()}
    row("tokenise: transformers' PerceiverTokenizer", rates["theirs"])
    row("tokenise and mark words: ours", rates["ours"])
    row("the same, and number the words", rates["words"])
    print(f"\nours / transformers: {rates['ours'] / rates['theirs']:.0f}\n\n| step | MB/s |\n|---|---|")
    return rates["theirs"]


def preprocessing(folder: Path, tokenizer: str, num_bytes: int, theirs: float) -> dict[Task, LocalTextDataModule]:
    path = folder / "text.txt"
    path.write_text("".join(lines_of(num_bytes)), encoding="utf-8")
    size = path.stat().st_size / 1e6

    def read() -> float:
        with tempfile.TemporaryDirectory() as work:
            read_columns(find_files(str(path)), {"text": "text"}, Path(work), "train")
        return size

    def preprocess() -> float:
        with tempfile.TemporaryDirectory() as cache:
            LocalTextDataModule(cache, train_files=str(path), tokenizer=tokenizer, max_seq_len=8).prepare_data()
        return size

    row("read lines of a text file to Arrow on disk", rate(read, 3))
    all_of_it = rate(preprocess, 3)
    row(f"preprocess it: read, tokenise, write ({all_of_it / theirs:.0f} x transformers' tokenising)", all_of_it)
    modules = {}
    for task in (Task.mlm, Task.clm):
        data = LocalTextDataModule(
            str(folder / "cache"),
            train_files=str(path),
            tokenizer=tokenizer,
            max_seq_len=MAX_SEQ_LEN,
            task=task,
            num_workers=0,
            random_train_shift=task is Task.clm,
        )
        data.prepare_data()
        data.setup()
        modules[task] = data
    return modules


def loading(modules: dict[Task, LocalTextDataModule], repeats: int) -> None:
    for task, data in modules.items():
        loader = data.train_dataloader()

        def run(loader: Any = loader) -> float:
            return sum(int((~pad_mask).sum()) for _, _, pad_mask in islice(loader, BATCHES)) / 1e6

        what = "mask words" if task is Task.mlm else "next tokens, random shift"
        row(f"load batches of 64 x {MAX_SEQ_LEN}: shuffle, {what}, pad", rate(run, repeats))


def streaming(folder: Path, tokenizer: str, repeats: int) -> None:
    (folder / "hub" / "en").mkdir(parents=True)
    lines = lines_of(20_000_000)
    documents = ["".join(lines[i : i + 50]) for i in range(0, len(lines), 50)]
    for shard in range(4):
        rows = "".join(json.dumps({"text": text, "url": ""}) + "\n" for text in documents[shard::4])
        (folder / "hub" / "en" / f"c4-train.{shard:05}-of-00004.json.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / "hub" / "README.md").write_text(README)
    options = {"source": str(folder / "hub"), "num_train_workers": 0, "shuffle_window_size": 500}

    def run() -> float:
        loader = C4DataModule(tokenizer, MAX_SEQ_LEN, **options).train_dataloader()
        return sum(int((~pad_mask).sum()) for _, _, pad_mask in islice(loader, BATCHES)) / 1e6

    row("stream gzipped JSON lines: read, shuffle, tokenise, next tokens", rate(run, repeats))


def memory(num_bytes: int) -> None:
    """Peak memory of preprocessing a text file, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        PerceiverTokenizer().save_pretrained(folder / "tokenizer")
        block = "".join(lines_of(10_000_000))
        with (folder / "text.txt").open("w", encoding="utf-8") as file:
            for _ in range(num_bytes // 10_000_000):
                file.write(block)
        for size in ("small", "text"):
            if size == "small":
                (folder / "small.txt").write_text(block[:100_000], encoding="utf-8")
            command = [sys.executable, __file__, "--preprocess", str(folder), f"{size}.txt"]
            start = time.perf_counter()
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            megabytes = (folder / f"{size}.txt").stat().st_size / 1e6
            took = time.perf_counter() - start
            print(f"{megabytes:,.1f} MB of text: {result.stdout.strip()}, {took:.1f} s with imports")


def preprocess(folder: Path, name: str) -> None:
    data = LocalTextDataModule(
        str(folder / "cache"), train_files=str(folder / name), tokenizer=str(folder / "tokenizer"), max_seq_len=8
    )
    data.tokenizer  # noqa: B018  # transformers' modules, which preprocessing needs anyway
    before, peaks, done = resident_mb(), {"RssAnon": 0.0, "RssFile": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for name, value in resident_mb().items():
                peaks[name] = max(peaks[name], value)

    thread = threading.Thread(target=watch)
    thread.start()
    data.prepare_data()
    done.set()
    thread.join()
    anonymous, mapped = (peaks[name] - before[name] for name in ("RssAnon", "RssFile"))
    print(f"{anonymous:,.0f} MB more than before, and {mapped:,.0f} MB of mapped files that the system can take back")


def resident_mb() -> dict[str, float]:
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {name.rstrip(":"): int(rest[0]) / 1e3 for name, *rest in lines if name in ("RssAnon:", "RssFile:")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=50, help="size of the text file")
    parser.add_argument("--memory", type=int, metavar="MB", help="peak memory instead of throughput")
    parser.add_argument("--preprocess", nargs=2, metavar=("FOLDER", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    if arguments.preprocess:
        preprocess(Path(arguments.preprocess[0]), arguments.preprocess[1])
        return
    if arguments.memory:
        memory(arguments.memory * 1_000_000)
        return
    print(f"{machine()}, datasets {datasets.__version__}\n")
    print("| step | MB/s |\n|---|---|")
    theirs = tokenising(arguments.repeats)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        PerceiverTokenizer().save_pretrained(folder / "tokenizer")
        modules = preprocessing(folder, str(folder / "tokenizer"), arguments.megabytes * 1_000_000, theirs)
        loading(modules, arguments.repeats)
        streaming(folder, str(folder / "tokenizer"), 3)


if __name__ == "__main__":
    main()
