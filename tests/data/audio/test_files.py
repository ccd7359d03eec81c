"""Data modules over MIDI files: folders, archives, splits, and files that can't be used."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import mido
import pytest
from pretty_midi import PrettyMIDI

from perceiver.data.audio import files as files_module
from perceiver.data.audio.files import midi_files, split_by_name
from perceiver.data.audio.giantmidi import GiantMidiPianoDataModule
from perceiver.data.audio.local import LocalMidiDataModule
from perceiver.data.audio.maestro import SHA256, URL, MaestroV3DataModule
from perceiver.processing.midi import encode_midi, read_midi
from tests.archives import encrypt

OPTIONS: dict[str, Any] = {"max_seq_len": 16, "num_workers": 0}


def local(tmp_path: Path, source: Path, **kwargs: Any) -> LocalMidiDataModule:
    return LocalMidiDataModule(str(tmp_path / "cache"), source=str(source), **OPTIONS, **kwargs)


def prepared(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


def all_pieces(data: Any) -> list[list[int]]:
    return sorted(split.piece(i).tolist() for split in data.pieces.values() for i in range(split.num_pieces))


def expected(folder: Path) -> list[list[int]]:
    good = [path for path in folder.rglob("[0-9].*") if path.suffix in (".mid", ".MIDI")]
    assert len(good) == 8
    return sorted(encode_midi(PrettyMIDI(str(path))) for path in good)


def test_folder(tmp_path, midi_folder):
    data = prepared(local(tmp_path, midi_folder, valid_fraction=0.4))
    assert all_pieces(data) == expected(midi_folder)
    assert {split: pieces.num_pieces for split, pieces in data.pieces.items()} == {"train": 4, "valid": 4}
    skipped = json.loads((data.cache_dir / "skipped.json").read_text())
    assert {Path(name).name: reason for name, reason in skipped.items()} == {
        "broken.mid": "no MIDI file, or a damaged one: it ends too early",
        "drums.mid": "it has no notes",
        "empty.mid": "no MIDI file, or a damaged one: it ends too early",
    }


def test_archive(tmp_path, midi_folder, caplog):
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", midi_folder)
    data = prepared(local(tmp_path, Path(archive)))
    assert all_pieces(data) == expected(midi_folder)
    skipped = "skipped unpacked/broken.mid: no MIDI file, or a damaged one: it ends too early"
    assert skipped in [record.getMessage() for record in caplog.records]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [data.cache_dir.name]


def test_url(tmp_path, midi_folder, monkeypatch):
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", midi_folder)
    calls = []

    def download(url: str, path: Path, sha256: str | None) -> None:
        calls.append((url, path, sha256))
        path.parent.mkdir(parents=True)
        shutil.copy(archive, path)

    monkeypatch.setattr(files_module, "download", download)
    url = "https://a.b/c/d.zip"
    place = tmp_path / "cache" / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16] / "d.zip"
    data = prepared(LocalMidiDataModule(str(tmp_path / "cache"), source=url, sha256="12", **OPTIONS))
    assert all_pieces(data) == expected(midi_folder)
    assert calls == [(url, place, "12")]
    assert data.raw_data.identity() == {"source": url, "sha256": "12", "valid_fraction": 0.05}


def test_urls_with_the_same_file_name(tmp_path, midi_folder, monkeypatch):
    """Each has its own music."""
    shutil.copytree(midi_folder / "more", tmp_path / "half")
    archives = {
        f"https://a.b/{name}/d.zip": shutil.make_archive(str(tmp_path / f"{name}-archive"), "zip", tmp_path / name)
        for name in ("midi", "half")
    }

    def download(url: str, path: Path, sha256: str | None) -> None:
        if not path.exists():
            path.parent.mkdir(parents=True)
            shutil.copy(archives[url], path)

    monkeypatch.setattr(files_module, "download", download)
    pieces = [
        len(all_pieces(prepared(LocalMidiDataModule(str(tmp_path / "cache"), source=url, **OPTIONS))))
        for url in archives
    ]
    assert pieces == [8, 4]


def test_folders_for_splits(tmp_path, midi_folder):
    for split, names in {"train": "01", "valid": "2", "test": "34"}.items():
        (tmp_path / "parts" / split).mkdir(parents=True)
        for name in names:
            (source,) = midi_folder.rglob(f"{name}.*")
            shutil.copy(source, tmp_path / "parts" / split)
    data = prepared(local(tmp_path, tmp_path / "parts"))
    assert {split: pieces.num_pieces for split, pieces in data.pieces.items()} == {"train": 2, "valid": 1, "test": 2}
    number_of_tokens = {split: len(pieces.tokens) for split, pieces in data.pieces.items()}
    # k + 2 notes of velocity, on, shift, off, and a shift between them
    assert number_of_tokens == {"train": 9 + 14, "valid": 19, "test": 24 + 29}


def test_the_split_is_by_names():
    files = [Path(f"a/{number}.mid") for number in range(40)]
    splits = split_by_name(files, 0.1)
    assert [path.name for path in splits["valid"]] == ["6.mid", "16.mid", "18.mid", "29.mid"]
    assert sorted(splits["train"] + splits["valid"]) == sorted(files)
    moved = split_by_name([Path("b") / path.name for path in files], 0.1)
    assert [path.name for path in moved["valid"]] == [path.name for path in splits["valid"]]
    assert [len(part) for part in split_by_name(files[:2], 0.9).values()] == [1, 1]
    with pytest.raises(ValueError, match=r"a/0.mid is the only MIDI file: there must be one for training and one for"):
        split_by_name(files[:1], 0.5)


def test_changed_files_are_encoded_anew(tmp_path, midi_folder):
    first = local(tmp_path, midi_folder)
    assert first.cache_dir == local(tmp_path, midi_folder).cache_dir
    assert first.cache_dir != local(tmp_path, midi_folder, valid_fraction=0.2).cache_dir
    (midi_folder / "readme.txt").write_text("more")
    assert first.cache_dir == local(tmp_path, midi_folder).cache_dir
    shutil.copy(midi_folder / "0.mid", midi_folder / "more" / "8.mid")
    assert first.cache_dir != local(tmp_path, midi_folder).cache_dir


def test_a_second_run_reads_nothing(tmp_path, midi_folder, monkeypatch):
    prepared(local(tmp_path, midi_folder))
    monkeypatch.setattr("perceiver.data.audio.base.write_pieces", None)
    prepared(local(tmp_path, midi_folder))


def test_doubtful_tempo_is_reported(tmp_path, caplog):
    """MIDI wants tempo changes on the first track; what is elsewhere is not heard."""
    file = mido.MidiFile()
    note = [mido.Message("note_on", note=60, velocity=80), mido.Message("note_off", note=60, time=480)]
    file.tracks += [mido.MidiTrack(note), mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=1_000_000)])]
    file.save(tmp_path / "a.mid")
    assert encode_midi(read_midi(tmp_path / "a.mid")) == [376, 60, 305, 188]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'a.mid'}: Tempo, Key or Time signature change events found")


def test_wrong_sources(tmp_path, midi_folder):
    with pytest.raises(ValueError, match=r"source='.*missing' is no file or folder"):
        local(tmp_path, tmp_path / "missing").prepare_data()
    with pytest.raises(ValueError, match=r"cannot unpack .*0.mid: File is not a zip file"):
        local(tmp_path, midi_folder / "0.mid").prepare_data()
    with pytest.raises(ValueError, match=r"empty has no .mid or .midi files"):
        (tmp_path / "empty").mkdir()
        midi_files(tmp_path / "empty")
    for fraction in (0, 1, -0.5):
        with pytest.raises(ValueError, match=rf"valid_fraction={fraction} must be in \(0, 1\)"):
            local(tmp_path, midi_folder, valid_fraction=fraction)
        with pytest.raises(ValueError, match=rf"valid_fraction={fraction} must be in \(0, 1\)"):
            GiantMidiPianoDataModule(source="x.zip", valid_fraction=fraction, **OPTIONS)
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_giantmidi(tmp_path, midi_folder):
    with pytest.raises(
        ValueError, match=r"must be downloaded by hand, see https://github.com/bytedance/.*: source=path"
    ):
        GiantMidiPianoDataModule(**OPTIONS)
    data = prepared(GiantMidiPianoDataModule(str(tmp_path / "cache"), str(midi_folder), **OPTIONS))
    assert all_pieces(data) == expected(midi_folder)
    assert data.pieces["valid"].num_pieces == 1


TABLE = """canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration
A,"One, Two",train,2004,0.mid,0.wav,1.0
B,Three,validation,2004,2.mid,2.wav,1.0
C,Vier für Ü,test,2004,more/3.MIDI,3.wav,1.0
C,Fünf,train,2004,more/5.MIDI,5.wav,1.0
"""


@pytest.mark.parametrize("archive", [False, True])
def test_maestro(tmp_path, midi_folder, archive):
    """Splits are those of its table."""
    folder = tmp_path / "outer" / "maestro-v3.0.0"
    shutil.copytree(midi_folder, folder)
    (folder / "maestro-v3.0.0.csv").write_text(TABLE, encoding="utf-8")
    source = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "outer") if archive else str(folder)
    data = prepared(MaestroV3DataModule(str(tmp_path / "cache"), source, **OPTIONS))
    assert {split: len(pieces.tokens) for split, pieces in data.pieces.items()} == {
        "train": 9 + 34,
        "valid": 19,
        "test": 24,
    }


def test_maestro_downloads_by_default(tmp_path):
    data = MaestroV3DataModule(str(tmp_path), **OPTIONS)
    assert data.raw_data.identity() == {"source": URL, "sha256": SHA256}


def test_something_else_than_maestro(tmp_path, midi_folder):
    data = MaestroV3DataModule(str(tmp_path / "cache"), str(midi_folder), **OPTIONS)
    with pytest.raises(ValueError, match=r"midi has no maestro-v3.0.0.csv, the table that says what is for training"):
        data.prepare_data()
    (midi_folder / "maestro-v3.0.0.csv").write_text("split,midi_filename\nother,0.mid\n")
    data = MaestroV3DataModule(str(tmp_path / "cache"), str(midi_folder), **OPTIONS)
    with pytest.raises(ValueError, match=r"maestro-v3.0.0.csv is not the table of MAESTRO v3.0.0: KeyError\('other'\)"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train,../0.mid", r"'../0.mid' is no file below it"),
        ("train,more/../../0.mid", r"'more/../../0.mid' is no file below it"),
        ("train,{folder}/0.mid", r"'/.*/0.mid' is no file below it"),
        ("train", "'' is no file below it"),
        ("train,", "'' is no file below it"),
    ],
)
def test_files_that_are_not_in_the_folder(tmp_path, midi_folder, row, message):
    """Nothing else on the machine is read, and a short row is an error that names the table."""
    table = midi_folder / "maestro-v3.0.0.csv"
    table.write_text(f"split,midi_filename\n{row.format(folder=midi_folder)}\n")
    data = MaestroV3DataModule(str(tmp_path / "cache"), str(midi_folder), **OPTIONS)
    with pytest.raises(ValueError, match=rf"maestro-v3.0.0.csv is not the table of MAESTRO v3.0.0: .*{message}"):
        data.prepare_data()


def test_a_table_with_a_byte_order_mark(tmp_path, midi_folder):
    rows = "split,midi_filename\ntrain,0.mid\nvalidation,2.mid\ntest,4.mid\n"
    (midi_folder / "maestro-v3.0.0.csv").write_text(rows, encoding="utf-8-sig")
    data = prepared(MaestroV3DataModule(str(tmp_path / "cache"), str(midi_folder), **OPTIONS))
    assert {split: pieces.num_pieces for split, pieces in data.pieces.items()} == {"train": 1, "valid": 1, "test": 1}


def test_archives_have_a_limit(tmp_path, midi_folder):
    """Of what is used of them."""
    used = sum(path.stat().st_size for path in midi_folder.rglob("*.[mM][iI]*"))
    (midi_folder / "other.bin").write_bytes(bytes(1 << 20))
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", midi_folder))
    message = rf"cannot unpack .*archive.zip: it has {used:,} bytes, more than max_unpacked_bytes={used - 1}"
    with pytest.raises(ValueError, match=message):
        local(tmp_path, archive, max_unpacked_bytes=used - 1).prepare_data()
    assert all_pieces(prepared(local(tmp_path, archive, max_unpacked_bytes=used))) == expected(midi_folder)
    for module in (GiantMidiPianoDataModule, MaestroV3DataModule):
        with pytest.raises(ValueError, match=message):
            module(str(tmp_path / "b"), str(archive), max_unpacked_bytes=used - 1, **OPTIONS).prepare_data()


def test_archives_that_cannot_be_read(tmp_path, midi_folder):
    path = tmp_path / "a.zip"
    for damage in (encrypt, lambda path: path.write_bytes(path.read_bytes()[:-30])):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(midi_folder / "0.mid", "../0.mid")
        damage(path)
        with pytest.raises(ValueError, match=r"cannot unpack .*a.zip: .*(encrypted|not a zip)"):
            local(tmp_path, path).prepare_data()
    content = bytearray(path.read_bytes())
    for place in range(len(content)):
        content[place] ^= 0xFF
        path.write_bytes(content)
        try:
            files_module.unpack(path, tmp_path / str(place), (".mid",), 1 << 20)
        except ValueError as error:
            assert str(error).startswith(f"cannot unpack {path}: ")
        content[place] ^= 0xFF
