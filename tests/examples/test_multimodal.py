"""The multimodal autoencoder of synthetic clips: `examples/training/multimodal/train.py`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from perceiver.data.multimodal import SyntheticClipDataModule
from perceiver.model.multimodal import autoencoder
from tests.examples.scripts import load

example = load("training/multimodal/train.py")
SMALL = {"num_train_clips": 32, "num_valid_clips": 8, "num_test_clips": 8}


def test_model_has_the_size_that_the_page_says() -> None:
    data = SyntheticClipDataModule(num_frames=6, image_shape=(24, 24), num_audio_samples=256)
    model = autoencoder.MultimodalAutoencoder(example.model_config(data))
    assert sum(p.numel() for p in model.parameters()) == 317_318


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)
    monkeypatch.setattr(example, "SyntheticClipDataModule", lambda **kwargs: SyntheticClipDataModule(**kwargs | SMALL))
    results = example.main([f"--output_dir={tmp_path}", "--max_steps=2"])
    assert results.keys() == {"video_psnr", "audio_psnr", "acc", "mean_video_psnr", "mean_audio_psnr", "chance"}
    assert "8 test clips, label masked" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert isinstance(model, autoencoder.PerceiverMultimodalAutoencoder)
    assert model.config.id2label[0] == "disc"
    assert (tmp_path / "clips.png").stat().st_size > 0
