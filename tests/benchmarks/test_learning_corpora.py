"""Tasks of the learning benchmark whose data are those of a package: their readers, and what they say without it."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.learning import corpora, run, tasks
from perceiver.processing.midi import PAD, decode_midi

SCORE = """<?xml version="1.0"?>
<score-partwise version="3.1">
  <part-list><score-part id="P1"><part-name>Soprano</part-name></score-part></part-list>
  <part id="P1">
    <measure number="1">
      <attributes><divisions>2</divisions><time><beats>2</beats><beat-type>4</beat-type></time></attributes>
      <note><pitch><step>G</step><octave>4</octave></pitch><duration>1</duration><type>eighth</type></note>
      <note><grace/><pitch><step>B</step><octave>4</octave></pitch><type>eighth</type></note>
      <note><rest/><duration>1</duration><type>eighth</type></note>
      <note><pitch><step>A</step><octave>4</octave></pitch><duration>2</duration><tie type="start"/></note>
    </measure>
    <measure number="2">
      <note><pitch><step>A</step><octave>4</octave></pitch><duration>1</duration><tie type="stop"/></note>
      <note><pitch><step>F</step><alter>1</alter><octave>4</octave></pitch><duration>3</duration></note>
    </measure>
  </part>
</score-partwise>
"""
NOTES = [(0.0, 0.5, 67), (1.0, 1.5, 69), (2.5, 1.5, 66)]


def test_notes_of_a_score(tmp_path: Path) -> None:
    """Tied notes are one, rests and grace notes none."""
    converter = pytest.importorskip("music21.converter", reason="pip install music21")
    file = tmp_path / "score.musicxml"
    file.write_text(SCORE, encoding="utf-8")
    (part,) = converter.parse(file, forceSource=True).parts
    assert corpora.notes_of(part) == NOTES


def test_events_are_those_notes() -> None:
    bass = [(0.0, 1.0, 43), (1.0, 3.0, 50)]
    ids = corpora.events([NOTES, bass])
    notes = decode_midi(ids).instruments[0].notes
    found = sorted(
        (note.start / corpora.SECONDS, (note.end - note.start) / corpora.SECONDS, note.pitch) for note in notes
    )
    np.testing.assert_allclose(found, sorted(NOTES + bass), atol=1e-9)


def test_a_piece_in_another_key_is_the_same() -> None:
    raised = [(start, length, pitch + 3) for start, length, pitch in NOTES]
    longer = [*NOTES[:2], (2.5, 1.0, 66)]
    ids, in_other_key, other = (corpora.events([voice]) for voice in (NOTES, raised, longer))
    assert ids != in_other_key and corpora.in_one_key(ids) == corpora.in_one_key(in_other_key)
    assert corpora.in_one_key(ids) != corpora.in_one_key(other)


def test_pieces_of_four_voices_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = [(start, length, pitch + 3) for start, length, pitch in NOTES]
    scores = {"a": [NOTES] * 4, "trio": [NOTES[:2]] * 3, "a in another key": [raised] * 4, "b": [NOTES[1:]] * 4}
    corpus = SimpleNamespace(
        chorales=SimpleNamespace(Iterator=lambda returnType: scores),
        parse=lambda name: SimpleNamespace(parts=scores[name]),
    )
    monkeypatch.setitem(sys.modules, "music21", SimpleNamespace(corpus=corpus))
    monkeypatch.setattr(corpora, "notes_of", lambda part: part)
    assert corpora.read_chorales() == [corpora.events(scores["a"]), corpora.events(scores["b"])]


def test_chorales_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [[60 + i, 256, 188 + i] for i in range(20)]
    monkeypatch.setattr(corpora, "CACHE", tmp_path / "new")
    monkeypatch.setattr(corpora, "folder_of", lambda *_: tmp_path)
    monkeypatch.setattr(corpora, "version", lambda _: "1")
    monkeypatch.setattr(corpora, "read_chorales", iter([pieces]).__next__)  # a second call would fail
    assert corpora.chorales() == corpora.chorales() == pieces
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chorales-music21-1.json"]

    task = tasks.chorales(seq_len=6, num_latents=3)
    assert task.text is not None and task.text.tolist() == [
        token for i, piece in enumerate(pieces) if i not in (9, 19) for token in [*piece, PAD]
    ]
    x, labels = task.test()
    assert set(x.flatten().tolist()) <= {69, 79, 197, 207, 256, PAD} and torch.equal(x[:, 4:], labels[:, 3:-1])


def write_series(folder: Path, part: str, *rows: str) -> Path:
    file = folder / "datasets" / "data" / "OSULeaf" / f"OSULeaf_{part}.ts"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#A comment", "@problemName OSULeaf", "@data", *rows, ""]), encoding="utf-8")
    return file


def test_leaves_are_the_series_of_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, "TRAIN", "0.5,-1e-1,2:6", "1,2,3:2")
    write_series(tmp_path, "TEST", "7,8,9:4")
    monkeypatch.setattr(corpora, "folder_of", lambda *_: tmp_path)
    task = tasks.leaf()
    assert task.num_train == 2 and task.shape == (3,) and task.y.tolist() == [2, 0, 1]
    torch.testing.assert_close(task.x[..., 1], torch.tensor([[0.5, -0.1, 2], [1, 2, 3], [7, 8, 9]]))
    torch.testing.assert_close(task.x[1, :, 0], torch.tensor([-1.0, 0, 1]))


@pytest.mark.parametrize("rows", [[], ["1,2:a", "1,2,3:b"], ["1,2"], ["1,2:3,4:a"]])
def test_other_series_are_an_error(rows: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"OSULeaf_TEST\.ts must hold series of one variable and equal length"):
        corpora.read_series(write_series(tmp_path, "TEST", *rows))


@pytest.mark.parametrize("task, command", [("chorales", "pip install music21"), ("leaf", "pip install --no-deps aeon")])
def test_without_the_package_the_error_says_what_to_install(
    task: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=f"{task}: the data are those of .* not installed: {command}"):
        run.main([task, f"--results={tmp_path / 'runs.jsonl'}"])


@pytest.mark.skipif(find_spec("aeon") is None, reason="pip install --no-deps aeon")
def test_leaves_of_aeon() -> None:
    x, y, num_train = corpora.leaves()
    assert x.shape == (442, 427) and num_train == 200 and np.bincount(y[:200]).tolist() == [34, 29, 33, 53, 36, 15]
    np.testing.assert_allclose(x.std(axis=1, ddof=1), 1, atol=1e-3)
