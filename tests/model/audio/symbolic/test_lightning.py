"""Training of the symbolic audio model: published checkpoints, and samples that can be heard and seen.

What it shares with the causal language model: tests/model/text/clm/test_lightning.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pretty_midi import PrettyMIDI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from perceiver.data.audio import SyntheticPianoDataModule, decode_midi, encode_midi, piano_piece
from perceiver.model.audio.symbolic.backend import PAD_TOKEN_ID, SymbolicAudioModelConfig
from perceiver.model.audio.symbolic.lightning import LitSymbolicAudioModel
from perceiver.model.core.sampling import sample
from perceiver.processing import sound as render
from tests.model.helpers import GOLDEN, assert_same_parameters, golden_cases, golden_parameters
from tests.model.trainers import trainer

CKPT = GOLDEN / "sam" / "lit.ckpt"
CONFIG = SymbolicAudioModelConfig(
    max_seq_len=48, max_latents=16, num_channels=20, num_heads=2, num_self_attention_layers=1, init_scale=0.2
)
PIECE = encode_midi(piano_piece(0).midi)


class LitSAM(LitSymbolicAudioModel):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.fixture
def data(tmp_path: Path) -> SyntheticPianoDataModule:
    sizes = {"num_train_pieces": 2, "num_valid_pieces": 1, "batch_size": 2, "max_seq_len": 48, "num_workers": 0}
    return SyntheticPianoDataModule(str(tmp_path / "cache"), **sizes)


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    """A MIDI file whose notes have ended: its tokens are those of what was written."""
    file = tmp_path / "prompt.mid"
    decode_midi(PIECE[:27]).write(str(file))
    return file


def trained(folder: Path, lit_model: LitSAM, data: SyntheticPianoDataModule, **kwargs: Any) -> pl.Trainer:
    fitting = trainer(folder, **({"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1} | kwargs))
    fitting.fit(lit_model, datamodule=data)
    return fitting


def expected_notes(lit_model: LitSymbolicAudioModel, prompt: Tensor) -> list[tuple[int, ...]]:
    """A prompt of at most 40 tokens is continued by 8, with 8 latents to start with: 48 positions and 16 latents."""
    generator = torch.Generator().manual_seed(0)
    tokens = sample(lit_model.model, prompt[None, -40:], 8, num_latents=8, generator=generator)[0]
    return notes(decode_midi(tokens[tokens != PAD_TOKEN_ID]))


def notes(midi: PrettyMIDI) -> list[tuple[int, ...]]:
    """Times in steps of 10 ms: a file has them in its own steps."""
    found = [note for instrument in midi.instruments for note in instrument.notes]
    return sorted((round(100 * n.start), round(100 * n.end), n.pitch, n.velocity) for n in found)


# --- checkpoints ---


def test_published_checkpoint_loads() -> None:
    lit_model = LitSymbolicAudioModel.load_from_checkpoint(str(CKPT), map_location="cpu")
    expected = {k: v for k, v in golden_parameters("sam").items() if not k.endswith("inv_freq")}
    assert_same_parameters(lit_model.backend_model.state_dict(), expected)
    assert lit_model.validation_sample_prompt is None and lit_model.validation_sample_record is None


def test_recorded_step() -> None:
    (case,) = golden_cases("sam", "lit_step")
    lit_model = LitSymbolicAudioModel.load_from_checkpoint(CKPT).eval()
    loss = lit_model.step((case.inputs["labels"], case.inputs["input_ids"], case.inputs["pad_mask"]))
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=1e-4)


def test_own_checkpoint_round_trip(tmp_path: Path, data: SyntheticPianoDataModule, prompt: Path) -> None:
    lit_model = LitSAM.create(CONFIG, validation_sample_prompt=str(prompt), validation_sample_record=-1)
    trained(tmp_path, lit_model, data).save_checkpoint(tmp_path / "last.ckpt")
    loaded = LitSAM.load_from_checkpoint(tmp_path / "last.ckpt")
    assert (loaded.validation_sample_prompt, loaded.validation_sample_record) == (str(prompt), -1)
    assert loaded.backend_model.config == CONFIG
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())


# --- samples ---


def test_samples_are_midi_files_beside_the_logs(tmp_path: Path, data: SyntheticPianoDataModule, prompt: Path) -> None:
    lit_model = LitSAM.create(CONFIG, validation_sample_prompt=str(prompt), validation_sample_record=3)
    logger = CSVLogger(tmp_path, name="sam")
    trained(tmp_path, lit_model, data, logger=logger, log_every_n_steps=1)
    record = data.validation_record(3)
    prompts = {"prompt": torch.tensor(encode_midi(PrettyMIDI(str(prompt)))), "record": record[: (len(record) + 1) // 2]}
    files = sorted(Path(logger.log_dir, "samples").iterdir())
    assert [file.name for file in files] == [f"validation_sample_{name}-000001.mid" for name in prompts]
    for file, tokens in zip(files, prompts.values(), strict=True):
        assert notes(PrettyMIDI(str(file))) == expected_notes(lit_model, tokens)


def logged(folder: str) -> EventAccumulator:
    events = EventAccumulator(folder, size_guidance={"images": 0, "audio": 0})
    events.Reload()
    return events


def test_tensorboard_gets_picture_and_sound(tmp_path: Path, data: SyntheticPianoDataModule, prompt: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="sam")
    lit_model = LitSAM.create(CONFIG, validation_sample_prompt=str(prompt))
    trained(tmp_path, lit_model, data, logger=logger, log_every_n_steps=1)
    logger.finalize("success")
    events = logged(logger.log_dir)
    (image,), (sound,) = events.Images("validation_sample_prompt"), events.Audio("validation_sample_prompt")
    assert (image.step, sound.step) == (1, 1) and min(image.width, image.height) > 100
    last_note = max(end for _, end, _, _ in expected_notes(lit_model, torch.tensor(PIECE[:27])))
    assert sound.sample_rate == render.SAMPLE_RATE and sound.length_frames > last_note / 100 * render.SAMPLE_RATE


def test_tensorboard_without_matplotlib(
    tmp_path: Path, data: SyntheticPianoDataModule, prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perceiver.model.audio.symbolic import lightning

    monkeypatch.setattr(lightning, "find_spec", lambda name: None)
    logger = TensorBoardLogger(tmp_path, name="sam")
    lit_model = LitSAM.create(CONFIG, validation_sample_prompt=str(prompt))
    trained(tmp_path, lit_model, data, logger=logger, log_every_n_steps=1)
    logger.finalize("success")
    tags = logged(logger.log_dir).Tags()
    assert (tags["images"], tags["audio"]) == ([], ["validation_sample_prompt"])
    assert len(list(Path(logger.log_dir, "samples").iterdir())) == 1


def test_padding_and_silence_are_left_out(tmp_path: Path) -> None:
    """An untrained model may predict padding, and nothing but it."""
    lit_model = LitSAM.create(CONFIG)
    midi = lit_model.decoded(torch.tensor(PIECE[:27]), torch.full((8,), PAD_TOKEN_ID))
    assert notes(midi) == notes(decode_midi(PIECE[:27]))
    lit_model.trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    lit_model.log_sample("silence", lit_model.decoded(torch.tensor([356]), torch.tensor([356])))
    assert notes(PrettyMIDI(str(tmp_path / "samples" / "silence-000000.mid"))) == []


@pytest.mark.parametrize(
    "prompt, error, message",
    [("silence.mid", ValueError, "the prompt is empty"), ("missing.mid", FileNotFoundError, "missing.mid")],
)
def test_impossible_prompts_are_an_error_before_training(
    tmp_path: Path, data: SyntheticPianoDataModule, prompt: str, error: type[Exception], message: str
) -> None:
    decode_midi([]).write(str(tmp_path / "silence.mid"))
    lit_model = LitSAM.create(CONFIG, validation_sample_prompt=str(tmp_path / prompt))
    with pytest.raises(error, match=message):
        trained(tmp_path, lit_model, data)


def test_record_that_does_not_exist(tmp_path: Path, data: SyntheticPianoDataModule) -> None:
    with pytest.raises(ValueError, match=r"validation record 999 must be in \[0, \d+\), or -1 for a random one"):
        trained(tmp_path, LitSAM.create(CONFIG, validation_sample_record=999), data)


def test_losses_of_batches(tmp_path: Path, data: SyntheticPianoDataModule) -> None:
    """Those of the model in evaluation mode, each target once."""
    lit_model = LitSAM.create(CONFIG)
    trainer = trained(tmp_path, lit_model, data, limit_val_batches=1.0)
    losses, weights = [], []
    lit_model.eval()
    for batch in data.val_dataloader():
        losses.append(lit_model.step(batch).item())
        weights.append(lit_model.num_targets(batch))
    expected = np.average(losses, weights=weights)
    assert trainer.callback_metrics["val_loss"].item() == pytest.approx(expected, abs=1e-5)
    assert sum(weights) < sum(batch[0].ne(-100).sum().item() for batch in data.val_dataloader())  # latents only
