"""Parity with `transformers.PerceiverForMultimodalAutoencoding` with random weights, converted.

Their full decode raises, so that all outputs are asked for as chosen points. They always mask the label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, PerceiverConfig, PerceiverForMultimodalAutoencoding

from perceiver.model.multimodal import autoencoder
from perceiver.model.multimodal.autoencoder.huggingface import official_backend_config

TINY: dict[str, Any] = {
    "num_latents": 7,
    "d_latents": 24,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 1,
    "num_labels": 11,
    "image_size": 2,
    "num_frames": 3,
    "output_shape": [1, 3, 8, 8],
    "audio_samples_per_frame": 10,
    "samples_per_patch": 5,
    "output_num_channels": 13,
    "_label_trainable_num_channels": 17,
    "attention_probs_dropout_prob": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "label widest": {"num_labels": 600, "_label_trainable_num_channels": 500},
    "shape of queries": {"cross_attention_shape_for_attention": "q"},
    "two blocks, wide": {"num_blocks": 2, "self_attention_widening_factor": 3, "cross_attention_widening_factor": 2},
    "channels": {"qk_channels": 12, "v_channels": 24, "num_cross_attention_heads": 2},
}
OFFICIAL: dict[str, Any] = {
    "num_latents": 784,
    "d_latents": 512,
    "d_model": 704,
    "num_blocks": 1,
    "num_self_attends_per_block": 8,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 1,
    "num_labels": 700,
}


def source_model(folder: Path, scale: float, **kwargs: Any) -> PerceiverForMultimodalAutoencoding:
    """All parameters are random, biases and norms, too."""
    torch.manual_seed(0)
    model = PerceiverForMultimodalAutoencoding(PerceiverConfig(**kwargs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def outputs(
    model: PerceiverForMultimodalAutoencoding, video: Tensor, audio: Tensor, video_points: Tensor, audio_points: Tensor
) -> dict[str, Tensor]:
    """Theirs, under our names: video with channels last, a patch of audio per point."""
    inputs = {
        "image": video.movedim(-1, 2),
        "audio": audio[..., None],
        "label": torch.zeros(len(video), model.config.num_labels),
    }
    points = {"image": video_points, "audio": audio_points, "label": None}
    with torch.no_grad():
        logits = model(inputs, subsampled_output_points=points).logits
    audio = logits["audio"].unflatten(1, (len(audio_points), -1))
    return {"video": logits["image"], "audio": audio, "label": logits["label"]}


@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
def test_converted_model_is_equal(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    theirs = source_model(tmp_path / "source", 0.1, **TINY | kwargs)
    autoencoder.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModel.from_pretrained(tmp_path / "out")
    assert type(ours) is autoencoder.PerceiverMultimodalAutoencoder
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.config.id2label == theirs.config.id2label

    video, audio = torch.rand(2, 3, 8, 8, 3), torch.rand(2, 30) * 2 - 1
    expected = outputs(theirs, video, audio, torch.arange(3 * 8 * 8), torch.arange(6))
    assert min(value.std() for value in expected.values()) > 0.1
    with torch.no_grad():
        full = ours.eval()(video, audio)
        points = {"video_points": torch.tensor([100, 0, 191]), "audio_points": torch.tensor([5, 2])}
        chosen = ours(video, audio, **points)
    close = {"atol": 1e-4, "rtol": 0.0}
    torch.testing.assert_close(full.video, expected["video"].unflatten(1, (3, 8, 8)), **close)
    torch.testing.assert_close(full.audio, expected["audio"].flatten(1), **close)
    torch.testing.assert_close(full.logits, expected["label"], **close)
    torch.testing.assert_close(chosen.video, expected["video"][:, points["video_points"]], **close)
    torch.testing.assert_close(chosen.audio, expected["audio"][:, points["audio_points"]], **close)


def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    source_model(tmp_path / "other", 0.0, **TINY | {"output_shape": [1, 3, 8, 4]})
    with pytest.raises(ValueError, match=r"output_shape=\(1, 3, 8, 4\) can't be converted: .* videos of \(3, 8, 8\)"):
        autoencoder.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "other"))
    masked_language_model = Path(__file__).parent.parent / "golden" / "hf_mlm" / "hf_src"
    with pytest.raises(ValueError, match="is no PerceiverForMultimodalAutoencoding, it lacks"):
        autoencoder.convert_model(save_dir=tmp_path / "out", source_repo_id=str(masked_language_model))
    assert not (tmp_path / "out").exists()


def test_backend_config_of_the_official_geometry() -> None:
    config = official_backend_config(PerceiverConfig(**OFFICIAL, attention_probs_dropout_prob=0.0))
    expected = autoencoder.perceiver_io_multimodal()
    with torch.device("meta"):
        ours, named = autoencoder.MultimodalAutoencoder(config), autoencoder.MultimodalAutoencoder(expected)
    assert sum(p.numel() for p in ours.parameters()) == 19_858_855
    shapes = [{name: p.shape for name, p in model.state_dict().items()} for model in (ours, named)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_official_geometry(tmp_path: Path, scale: float) -> None:
    """With weights as transformers initialises them, and with bigger ones, which make attention less even."""
    theirs = source_model(tmp_path / "source", scale, **OFFICIAL)
    autoencoder.convert_model(save_dir=tmp_path / "out", source_repo_id=str(tmp_path / "source"))
    ours = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert sum(p.numel() for p in ours.parameters()) == 19_858_855
    video, audio = torch.rand(1, 16, 224, 224, 3), torch.rand(1, 30720) * 2 - 1
    points = {"video_points": torch.randint(802_816, (512,)), "audio_points": torch.arange(0, 1920, 15)}
    expected = outputs(theirs, video, audio, **points)
    with torch.no_grad():
        output = ours(video, audio, **points)
    for name, value in (("video", output.video), ("audio", output.audio), ("label", output.logits)):
        print(name, expected[name].std(), (value - expected[name]).abs().max())
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=0.0)
