"""Sound and pictures. Where fluidsynth is not installed, a script plays its part."""

import os
import shutil
import stat
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from pretty_midi import PrettyMIDI

from perceiver.data.audio.synthetic import piano_piece
from perceiver.processing.midi import PAD, decode_midi, encode_midi
from perceiver.processing.sound import SAMPLE_RATE, SOUND_FONT, draw_piano_roll, render_wav
from tests.data.audio.midi_pieces import piece

# Writes eight samples, and its arguments to a file beside itself.
FAKE = f"""#!{sys.executable}
import pathlib, struct, sys
arguments = sys.argv[1:]
here = pathlib.Path(__file__).parent
(here / "arguments").write_text("\\n".join(arguments))
(here / "score.mid").write_bytes(pathlib.Path(arguments[-1]).read_bytes())
if "quiet" in arguments[-2]:
    sys.exit("fluidsynth: error: no voice left")
if "damaged" in arguments[-2]:
    print("Failed to load the SoundFont", arguments[-2], file=sys.stderr)
samples = [0, 100, -400, 200, 0, 0, 100, 0]
pathlib.Path(arguments[arguments.index("-F") + 1]).write_bytes(struct.pack("<8i", *samples))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the script is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "fluidsynth"
    program.write_text(FAKE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def sound_font(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"RIFF\x00\x00\x00\x00sfbk")
    return path


def test_what_fluidsynth_gets_and_what_becomes_of_it(fake, tmp_path):
    midi = piece((64, 60, 0.5, 1.0))
    samples = render_wav(midi, tmp_path / "a.wav", sound_font(tmp_path, "a.sf2"))
    arguments = (fake / "arguments").read_text().split("\n")
    assert arguments[:-4] == ["-niq", "-r", "44100", "-O", "s32", "-E", "little", "-T", "raw"]
    assert arguments[-2] == str(tmp_path / "a.sf2")
    (note,) = PrettyMIDI(str(fake / "score.mid")).instruments[0].notes
    assert (note.velocity, note.pitch, note.start, note.end) == (64, 60, 0.5, 1.0)
    expected = np.array([[0, 0.225], [-0.9, 0.45], [0, 0], [0.225, 0]], np.float32)
    np.testing.assert_allclose(samples, expected, rtol=1e-6)
    with wave.open(str(tmp_path / "a.wav")) as reader:
        assert reader.getparams()[:4] == (2, 2, SAMPLE_RATE, 4)
        written = np.frombuffer(reader.readframes(4), "<i2").reshape(4, 2)
    assert written.tolist() == (expected * 32767).astype(int).tolist()


def test_defaults(fake):
    """The sound font that pretty_midi brings, and no file."""
    assert render_wav(piece((64, 60, 0.5, 1.0))).dtype == np.float32
    assert (fake / "arguments").read_text().split("\n")[-2] == str(SOUND_FONT)
    assert SOUND_FONT.is_file()


def test_no_fluidsynth(monkeypatch, tmp_path, caplog):
    """Two notes sound as sine waves of their frequencies, when they are on; a sound font has nobody to play it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    piece((64, 69, 0.5, 1.0), (64, 81, 1.5, 2.0)).write(str(tmp_path / "a.mid"))
    samples = render_wav(tmp_path / "a.mid", tmp_path / "a.wav")
    assert "the program fluidsynth is not installed (apt-get install fluidsynth" in caplog.text
    assert samples.dtype == np.float32 and np.abs(samples).max() == pytest.approx(0.9)
    assert (samples[:, 0] == samples[:, 1]).all() and not samples[: SAMPLE_RATE // 2 - 1].any()
    for begin, pitch in ((0.6, 440), (1.6, 880)):
        part = samples[int(begin * SAMPLE_RATE) :, 0][: SAMPLE_RATE // 4]
        assert abs(np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() * 4 - pitch) <= 8
    with wave.open(str(tmp_path / "a.wav")) as reader:
        assert reader.getparams()[:4] == (2, 2, SAMPLE_RATE, len(samples))
    with pytest.raises(FileNotFoundError, match=r"sf2_path='.*a.sf2' needs the program fluidsynth, which is not inst"):
        render_wav(tmp_path / "a.mid", sf2_path=sound_font(tmp_path, "a.sf2"))


def test_failures_of_fluidsynth(fake, tmp_path):
    midi = piece((64, 60, 0.5, 1.0))
    with pytest.raises(OSError, match="fluidsynth failed with exit code 1: fluidsynth: error: no voice left"):
        render_wav(midi, tmp_path / "a.wav", sound_font(tmp_path, "quiet.sf2"))
    with pytest.raises(OSError, match=r"exit code 0: Failed to load the SoundFont .*damaged.sf2"):
        render_wav(midi, tmp_path / "a.wav", sound_font(tmp_path, "damaged.sf2"))
    assert not (tmp_path / "a.wav").exists()


def test_wrong_sound_font(tmp_path):
    midi = piece((64, 60, 0.5, 1.0))
    with pytest.raises(ValueError, match=r"sf2_path='.*missing.sf2' is no file: it must be a sound font, .sf2"):
        render_wav(midi, sf2_path=tmp_path / "missing.sf2")
    (tmp_path / "a.sf2").write_text("not a sound font")
    with pytest.raises(ValueError, match=r"sf2_path='.*a.sf2' is no sound font: it must be in the format .sf2"):
        render_wav(midi, sf2_path=str(tmp_path / "a.sf2"))


def test_output_that_cannot_be_written(fake, tmp_path):
    for path in (tmp_path / "missing" / "a.png", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            render_wav(piece((64, 60, 0.5, 1.0)), path)
    with pytest.raises(OSError, match=r"missing/a\.png"):
        draw_piano_roll(piece((64, 60, 0.5, 1.0)), tmp_path / "missing" / "a.png")


def test_pieces_that_cannot_be_rendered(fake, tmp_path):
    for render in (render_wav, draw_piano_roll):
        with pytest.raises(ValueError, match="the piece has no notes"):
            render(decode_midi([]))
        with pytest.raises(ValueError, match=r"Note\(start=-0.500000, .* starts before the piece"):
            render(piece((64, 60, 0.1, 1.0), (64, 60, -0.5, 1.0)))
        with pytest.raises(ValueError, match=r"velocity=128\): pitch and velocity must be in 0 \.\. 127"):
            render(decode_midi([PAD, 60, 300, 188]))
        with pytest.raises(OSError, match=r"no\.mid"):
            render(tmp_path / "no.mid")


@pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth is not installed")
def test_fluidsynth(tmp_path):
    """Two notes: sound begins with the first one and is louder in the octave of each."""
    midi = piece((100, 69, 0.5, 1.0), (100, 81, 1.5, 2.0))
    samples = render_wav(midi, tmp_path / "a.wav")
    assert np.abs(samples).max() == pytest.approx(0.9)
    loudness = [np.abs(samples[int(t * SAMPLE_RATE) :][: SAMPLE_RATE // 4]).max() for t in (0.2, 0.5, 1.5)]
    assert loudness[0] < 0.01 < 0.1 < min(loudness[1:])
    for begin, pitch in ((0.6, 440), (1.6, 880)):
        part = samples[int(begin * SAMPLE_RATE) :, 0][: SAMPLE_RATE // 4]
        assert abs(np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() * 4 - pitch) <= 8
    damaged = tmp_path / "damaged.sf2"
    damaged.write_bytes(SOUND_FONT.read_bytes()[:100_000])
    with pytest.raises(OSError, match="Failed to load"):
        render_wav(midi, sf2_path=damaged)


def test_piano_roll(tmp_path):
    """A bar per note, at its time and pitch, coloured by its velocity, and one per pedal."""
    midi = piano_piece(11).midi
    figure = draw_piano_roll(midi, tmp_path / "roll.png")
    assert (tmp_path / "roll.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    bars, pedals = axes.collections
    notes = midi.instruments[0].notes
    assert bars.get_array().tolist() == [note.velocity for note in notes]
    for path, note in zip(bars.get_paths(), notes, strict=True):
        left, bottom, right, top = path.get_extents().extents
        assert (left, right, (bottom + top) / 2) == pytest.approx((note.start, note.end, note.pitch))
    downs = [change.time for change in midi.instruments[0].control_changes if change.value == 127]
    assert [path.get_extents().x0 for path in pedals.get_paths()] == downs != []
    octaves = {
        label.get_text(): position for label, position in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    }
    assert octaves["C4"] == 60
    assert figure.get_size_inches()[0] == pytest.approx(1.5 + 0.6 * midi.get_end_time())


def test_piano_roll_shows_where_a_prompt_ends(tmp_path):
    ids = encode_midi(piece((64, 60, 0.5, 1.0), (64, 62, 1.0, 2.5)))
    decode_midi(ids, prompt_length=4).write(str(tmp_path / "a.mid"))  # loudness, half a second, note on, half a second
    axes = draw_piano_roll(tmp_path / "a.mid").axes[0]
    (line,), (text,) = axes.lines, axes.texts
    assert line.get_xdata() == pytest.approx([1.0, 1.0]) and text.get_text().strip() == "continuation"
    assert not draw_piano_roll(decode_midi(ids)).axes[0].lines


def test_piano_roll_of_any_size():
    for midi in (piece((0, 0, 0.0, 0.01)), piece((127, 127, 0.0, 1e4), (1, 0, 5e3, 5e3))):
        assert 6 <= draw_piano_roll(midi).get_size_inches()[0] <= 40


def test_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"draw_piano_roll needs matplotlib: pip install perceiver-io\[audio\]"):
        draw_piano_roll(piece((64, 60, 0.5, 1.0)))
