"""`python -m perceiver.scripts.multimodal.autoencoder`: flags, defaults, a run from fit to convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModel

from perceiver.model.multimodal.autoencoder import (
    MultimodalAutoencoderConfig,
    MultimodalDecoderConfig,
    MultimodalEncoderConfig,
    perceiver_io_multimodal,
)
from perceiver.scripts import main
from perceiver.scripts.multimodal import autoencoder

TINY = {
    "model.num_latents": 5,
    "model.num_latent_channels": 8,
    "model.num_video_frequency_bands": 2,
    "model.num_audio_frequency_bands": 2,
    "model.encoder.num_self_attention_layers_per_block": 1,
    "model.decoder.num_label_query_channels": 8,
    "model.decoder.num_cross_attention_qk_channels": 8,
    "model.decoder.num_cross_attention_v_channels": 8,
    "model.decoder.num_output_channels": 8,
    "data.num_frames": 2,
    "data.image_shape": [8, 12],
    "data.num_audio_samples": 64,
    "data.num_train_clips": 8,
    "data.num_valid_clips": 4,
    "data.num_test_clips": 4,
    "data.batch_size": 4,
    "data.num_workers": 0,
}


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        autoencoder.main([*args, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


def test_defaults_are_the_official_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = printed_config(capsys, "fit")["model"]
    names = MultimodalAutoencoderConfig.__dataclass_fields__.keys() & model.keys() - {"encoder", "decoder"}
    assert perceiver_io_multimodal() == MultimodalAutoencoderConfig(
        MultimodalEncoderConfig(**model["encoder"]),
        MultimodalDecoderConfig(**model["decoder"]),
        **{name: model[name] for name in names},
    )
    weights = {name: model[f"{name}_weight"] for name in ("video", "audio", "label")}
    assert weights == {"video": 0.03, "audio": 1.0, "label": 1e-4} and model["label_mask_prob"] == 0.5
    assert model["num_video_points"] == model["num_audio_points"] == 512


def test_fit_test_and_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data=SyntheticClipDataModule", *(f"--{name}={value}" for name, value in TINY.items())]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    autoencoder.main(["fit", *flags, *quiet, "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"])
    (ckpt,) = Path("logs/multimodal_autoencoder/version_0/checkpoints").glob("epoch=000-val_loss=*.ckpt")
    autoencoder.main(["test", *flags, *quiet, f"--ckpt_path={ckpt}"])
    assert main.main(["convert", "checkpoint", "--task=multimodal-autoencoder", str(ckpt), "model"]) == 0
    config = AutoModel.from_pretrained("model").config
    assert config.backend_config.video_shape == (2, 8, 12, 3) and config.backend_config.num_audio_samples == 64
    assert config.id2label == dict(enumerate(["disc", "ring", "square", "diamond", "plus", "cross"]))
