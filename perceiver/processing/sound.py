"""Makes a piece heard and seen: WAV files, piano rolls through matplotlib.

The program fluidsynth plays the instruments of a sound font. Where it is missing, each note is a sine wave.
"""

import logging
import shutil
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pretty_midi
from pretty_midi import PrettyMIDI

from perceiver.processing.midi import CONTINUATION, pedals, read_midi

SAMPLE_RATE = 44100
LOUDEST = 0.9  # of 1, the loudest sample
SOUND_FONT = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2")  # comes with pretty_midi
INCHES_PER_SECOND, MAX_INCHES, HEIGHT = 0.6, 40, 4.5  # of a piano roll
INSTALL = "apt-get install fluidsynth, brew install fluid-synth, choco install fluidsynth"

logger = logging.getLogger(__name__)


def render_wav(
    piece: PrettyMIDI | str | Path, path: str | Path | None = None, sf2_path: str | Path | None = None
) -> npt.NDArray[np.float32]:
    """Plays a piece with the instruments of a sound font, or with sine waves where the program fluidsynth is missing.

    Args:
        piece: a `PrettyMIDI`, or the path of a MIDI file. It has notes.
        path: where to write it, as WAV file of 16 bits; None writes none.
        sf2_path: sound font, .sf2; that of pretty_midi by default.

    Returns:
        Samples (n, 2), left and right, `SAMPLE_RATE` in a second; the loudest is 0.9 or -0.9.

    Raises:
        ValueError: if the piece has no notes, or times, pitches or velocities that MIDI files can't hold, or if
            `sf2_path` is no sound font.
        OSError: if `piece` is no MIDI file, there is a sound font but no fluidsynth, it fails, or `path` cannot be
            written.
    """
    midi = read_midi(piece)
    _check_notes(midi)
    player = find_player(sf2_path)
    if player is None:
        logger.warning("the program fluidsynth is not installed (%s): sine waves play instead of a piano", INSTALL)
        samples = np.repeat(midi.synthesize(fs=SAMPLE_RATE)[:, None], 2, axis=1).astype(np.float32)
    else:
        samples = _played(midi, *player)
    samples *= LOUDEST / max(np.abs(samples).max(initial=0), 1e-9)
    if path is not None:
        with Path(path).open("wb") as file, wave.open(file, "wb") as writer:
            writer.setparams((2, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
            writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return samples


def find_player(sf2_path: str | Path | None = None) -> tuple[str, Path] | None:
    """The program and the sound font that `render_wav` uses; None if sine waves take their place.

    Raises:
        ValueError: if `sf2_path` is no sound font.
        FileNotFoundError: if there is one, and no fluidsynth.
    """
    if sf2_path is not None:
        _check_sound_font(Path(sf2_path))
    program = shutil.which("fluidsynth")
    if program is not None:
        return program, SOUND_FONT if sf2_path is None else Path(sf2_path)
    if sf2_path is None:
        return None
    raise FileNotFoundError(
        f"sf2_path={str(sf2_path)!r} needs the program fluidsynth, which is not installed or not in PATH: for example "
        f"{INSTALL}"
    )


def _played(midi: PrettyMIDI, program: str, sound_font: Path) -> npt.NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder) / "score.mid", Path(folder) / "sound.raw"
        midi.write(str(score))
        options = ["-niq", "-r", str(SAMPLE_RATE), "-O", "s32", "-E", "little", "-T", "raw", "-F", str(sound)]
        result = subprocess.run(
            [program, *options, str(sound_font), str(score)], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        # It plays another sound font, or silence, where it cannot load the one it is given, and counts that as success.
        if result.returncode or "Failed to load" in result.stderr or not sound.is_file():
            raise OSError(f"{program} failed with exit code {result.returncode}: {result.stderr.strip()}")
        return np.fromfile(sound, "<i4").reshape(-1, 2).astype(np.float32)


def draw_piano_roll(piece: PrettyMIDI | str | Path, path: str | Path | None = None) -> Any:
    """Draws notes over time: darker is louder. Grey below them is where the sustain pedal is down.

    A line is where a prompt ends, if the piece has a text event "continuation", as those of the pipeline have.

    Args:
        piece: a `PrettyMIDI`, or the path of a MIDI file. It has notes.
        path: where to save the picture; its suffix says in which format. None saves none.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        OSError: if `piece` is no MIDI file, or `path` cannot be written.
        ValueError: if the piece has no notes.
    """
    try:
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("draw_piano_roll needs matplotlib: pip install perceiver-io[audio]") from error
    midi = read_midi(piece)
    _check_notes(midi)
    notes = [note for instrument in midi.instruments for note in instrument.notes]
    seconds, lowest, highest = midi.get_end_time(), min(n.pitch for n in notes) - 3, max(n.pitch for n in notes) + 3
    figure = Figure((min(max(6, 1.5 + INCHES_PER_SECOND * seconds), MAX_INCHES), HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, seconds), ylim=(lowest - 1, highest), xlabel="seconds", ylabel="pitch")
    axes.set_yticks(octaves := range(-(-lowest // 12) * 12, highest, 12), [f"C{pitch // 12 - 1}" for pitch in octaves])
    axes.grid(axis="y", color="0.85")
    axes.set_axisbelow(True)
    bars = PolyCollection(
        [_rectangle(note.start, note.end, note.pitch - 0.45, note.pitch + 0.45) for note in notes],
        array=[note.velocity for note in notes],
        cmap="YlGnBu",
        clim=(0, 127),
    )
    figure.colorbar(axes.add_collection(bars), label="velocity", pad=0.01)
    for instrument in midi.instruments:
        downs, ups = pedals(instrument, np.array([seconds]))
        rectangles = [_rectangle(down, up, lowest - 1, lowest) for down, up in zip(downs, ups, strict=True)]
        axes.add_collection(PolyCollection(rectangles, color="0.6"))
    for event in midi.text_events:
        if event.text == CONTINUATION:
            axes.axvline(event.time, color="tab:red", linewidth=1)
            axes.text(event.time, highest - 0.5, f" {CONTINUATION}", color="tab:red", va="top")
    if path is not None:
        figure.savefig(path)
    return figure


def _rectangle(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _check_notes(midi: PrettyMIDI) -> None:
    notes = [note for instrument in midi.instruments for note in instrument.notes]
    if not notes:
        raise ValueError("the piece has no notes")
    for note in notes:
        if note.start < 0:
            raise ValueError(f"{note} starts before the piece")
        if not (0 <= note.pitch <= 127 and 0 <= note.velocity <= 127):
            raise ValueError(f"{note}: pitch and velocity must be in 0 .. 127")


def _check_sound_font(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"sf2_path={str(path)!r} is no file: it must be a sound font, .sf2")
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise ValueError(f"sf2_path={str(path)!r} is no sound font: it must be in the format .sf2")
