"""The preprocessing command: what it writes, what it says, and that a training finds it."""

from pathlib import Path

import pytest

from perceiver.data.audio import LocalMidiDataModule, SyntheticPianoDataModule
from perceiver.data.audio.synthetic import piano_piece
from perceiver.scripts.audio import preproc


def test_a_training_finds_what_was_preprocessed(tmp_path, capsys, monkeypatch):
    flags = [f"--dataset_dir={tmp_path}", "--num_train_pieces=3", "--num_valid_pieces=1"]
    preproc.main(["synthetic", *flags, "--max_seq_len=100"])
    first, test, train, valid = capsys.readouterr().out.splitlines()
    assert Path(first).is_dir()
    assert [line.split()[::2] for line in (test, train, valid)] == [
        ["test", "pieces", "tokens", "examples"],
        ["train", "pieces", "tokens", "examples"],
        ["valid", "pieces", "tokens", "examples"],
    ]
    data = SyntheticPianoDataModule(str(tmp_path), 3, 1, max_seq_len=50, min_seq_len=20, seed=3)
    assert str(data.cache_dir) == first
    monkeypatch.setattr("perceiver.data.audio.base.write_pieces", None)
    data.prepare_data()
    data.setup()
    assert train.split()[1::2] == ["3", f"{len(data.pieces['train'].tokens):,}", train.split()[5]]
    preproc.main(["synthetic", *flags, "--max_seq_len=100"])
    assert capsys.readouterr().out.splitlines()[0] == f"{first} (was there already)"


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python >= 3.12
def test_broken_files_are_reported(tmp_path, capsys):
    for seed in range(4):
        piano_piece(seed).midi.write(str(tmp_path / f"{seed}.mid"))
    (tmp_path / "broken.mid").write_text("not music")
    flags = [f"--source={tmp_path}", f"--dataset_dir={tmp_path / 'cache'}", "--max_seq_len=64"]
    preproc.main(["local", *flags, "--preproc_workers=2"])
    *_, train, valid, skipped = capsys.readouterr().out.splitlines()
    assert int(train.split()[1]) + int(valid.split()[1]) == 4
    data = LocalMidiDataModule(str(tmp_path / "cache"), source=str(tmp_path), max_seq_len=64)
    assert skipped.split(maxsplit=3) == ["skipped", "1", "pieces,", f"listed in {data.cache_dir / 'skipped.json'}"]


@pytest.mark.parametrize("name", preproc.DATA_MODULES)
def test_every_data_module_has_its_flags(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        preproc.main([name, "--help"])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    flags = ("dataset_dir", "max_seq_len", "min_seq_len", "preproc_workers", "random_transposition")
    assert all(f"--{flag} " in help_text for flag in flags)
    assert ("--source " in help_text) is (name != "synthetic")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["songs"], "songs"),
        (["maestro"], "max_seq_len"),
        (["local", "--max_seq_len=8"], "source"),
        (["maestro", "--max_seq_len=8", "--unknown=1"], "unknown"),
    ],
)
def test_wrong_usage(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        preproc.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"preproc: error: GiantMIDI-Piano must be downloaded by hand"):
        preproc.main(["giantmidi", "--max_seq_len=8"])
    with pytest.raises(SystemExit, match=r"preproc: error: source='missing' is no file or folder"):
        preproc.main(["local", "--max_seq_len=8", "--source=missing", f"--dataset_dir={tmp_path}"])
