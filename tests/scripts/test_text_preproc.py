"""The preprocessing command: what it writes, what it says, and that a training finds it."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from perceiver.data.text import LocalTextDataModule, Task, encoders
from perceiver.scripts import main as main_module
from perceiver.scripts.text import preproc
from tests.tokenizers import byte_tokenizer


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    byte_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("a line of text\n" * 40)
    values = {"dataset_dir": "cache", "tokenizer": "tokenizer", "train_files": "a.txt"}
    return [f"--{name}={tmp_path / value}" for name, value in values.items()] + ["--max_seq_len=32", "--task=clm"]


def test_a_training_finds_what_was_preprocessed(tmp_path, flags, capsys, monkeypatch):
    preproc.main(["local", *flags])
    first, train, valid = capsys.readouterr().out.splitlines()
    assert Path(first).is_dir()
    assert train.split() == ["train", "570", "bytes", "570", "tokens", "18", "examples"]
    assert valid.split() == ["valid", "30", "bytes", "30", "tokens", "1", "examples"]
    data = LocalTextDataModule(
        str(tmp_path / "cache"),
        tokenizer=str(tmp_path / "tokenizer"),
        train_files=str(tmp_path / "a.txt"),
        max_seq_len=128,
        task=Task.mlm,
    )
    assert str(data.cache_dir) == first
    monkeypatch.setattr("perceiver.data.text.common.write_corpus", None)
    data.prepare_data()
    preproc.main(["local", *flags])
    assert capsys.readouterr().out.splitlines()[0] == f"{first} (was there already)"


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python >= 3.12
def test_workers(tmp_path, flags, capsys):
    for workers in (1, 2):
        preproc.main(["local", *flags, f"--preproc_workers={workers}", f"--dataset_dir={tmp_path / str(workers)}"])
    one, two = (sorted((tmp_path / str(workers)).glob("*/*")) for workers in (1, 2))
    assert [path.name for path in one] == [path.name for path in two] != []
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.parametrize("name", preproc.DATA_MODULES)
def test_every_data_module_has_its_flags(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        preproc.main([name, "--help"])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    assert all(f"--{flag} " in help_text for flag in ("tokenizer", "max_seq_len", "preproc_workers", "dataset_dir"))
    assert ("--task TASK" in help_text or "--task {" in help_text) is ("token_classification" not in name)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["books"], "books"),
        (["local", "--max_seq_len=8"], "tokenizer"),
        (["wikitext", "--tokenizer=t", "--max_seq_len=8", "--unknown=1"], "unknown"),
        (["wikitext", "--tokenizer=t", "--max_seq_len=8", "--task=no"], "task"),
        (["c4", "--tokenizer=t", "--max_seq_len=8"], "c4"),
    ],
)
def test_wrong_usage(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        preproc.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_are_one_line(flags, capsys):
    with pytest.raises(SystemExit, match=r"preproc: error: task=Task.clf is not supported by WikiTextDataModule"):
        preproc.main(["wikitext", *flags[:2], "--max_seq_len=8", "--task=clf"])
    with pytest.raises(SystemExit, match=r"preproc: error: 'missing.txt' is no file"):
        preproc.main(["local", *flags, "--train_files=missing.txt"])


def test_console_command(monkeypatch):
    calls = []
    monkeypatch.setattr(main_module.preproc, "main", lambda *args: calls.append(args))
    assert main_module.main(["preproc", "wikitext", "--help"]) == 0
    assert calls == [("text", ["wikitext", "--help"])]


def preprocess(flags: list[str], log: Path) -> None:
    """In a process of its own, which is killed at the third batch."""
    encode, num_batches = encoders.encode, 0

    def encode_two_batches(*args):
        nonlocal num_batches
        num_batches += 1
        if num_batches > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*args)

    encoders.encode = encode_two_batches
    with log.open("w", buffering=1) as sys.stderr:
        preproc.main(flags)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python >= 3.12
def test_progress_and_an_interrupted_run(tmp_path, flags, capsys):
    """Killed in the middle of tokenising: the next run starts anew, and finds nothing to mistake for complete."""
    flags = ["local", *flags, "--preproc_batch_size=10"]  # of 38 lines
    log = tmp_path / "log"
    killed = multiprocessing.get_context("fork").Process(target=preprocess, args=(flags, log))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, log.read_text()
    assert "Tokenizing train:" in log.read_text() and "examples/s" in log.read_text()
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert left and all(name.startswith("incomplete-") for name in left)
    preproc.main(flags)
    first, train, _ = capsys.readouterr().out.splitlines()
    assert Path(first).is_dir() and train.split()[1] == "570"
