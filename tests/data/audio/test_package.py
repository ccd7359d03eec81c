"""What importing costs."""

import subprocess
import sys

import pytest

import perceiver.data.audio

CODE = """
import sys
import perceiver.data.audio
names = {"pytorch_lightning", "datasets", "torch", "transformers", "matplotlib", "pretty_midi"}
print(sorted(names & set(sys.modules)))
from perceiver.data.audio import decode_midi, encode_midi, render_wav, draw_piano_roll
print(sorted(names & set(sys.modules)))
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_inference_needs_pretty_midi_alone():
    assert run(CODE).split("\n") == ["[]", "['pretty_midi']", ""]


@pytest.mark.slow
def test_data_modules_do_without_datasets():
    """It is not in the extra `audio`."""
    run("import sys; sys.modules['datasets'] = None; from perceiver.data.audio import MaestroV3DataModule")


def test_every_exported_name_exists():
    for name in perceiver.data.audio.__all__:
        assert getattr(perceiver.data.audio, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        perceiver.data.audio.Missing  # noqa: B018
