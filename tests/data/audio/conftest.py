"""Small MIDI files."""

from pathlib import Path

import pytest

from tests.data.audio.midi_pieces import piece


@pytest.fixture
def midi_folder(tmp_path: Path) -> Path:
    """A folder of eight good files of 2, 3, ... 9 notes, and of three that can't be used."""
    folder = tmp_path / "midi"
    (folder / "more").mkdir(parents=True)
    for number in range(8):
        name = f"more/{number}.MIDI" if number % 2 else f"{number}.mid"
        notes = [(64, 40 + 5 * number, 0.1 * k, 0.1 * k + 0.05) for k in range(number + 2)]
        piece(*notes).write(str(folder / name))
    piece((64, 40, 0, 1), is_drum=True).write(str(folder / "drums.mid"))
    (folder / "broken.mid").write_bytes((folder / "0.mid").read_bytes()[:-9])
    (folder / "empty.mid").touch()
    (folder / "._0.mid").touch()
    (folder / "readme.txt").touch()
    return folder
