"""Folders that came from transformers' layout go back to it, and compute the same there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PerceiverConfig, PerceiverTokenizer

from perceiver.model.foreign import export_transformers
from perceiver.model.foreign.huggingface.export import _OFFICIAL, official_weights, transformers_config
from perceiver.model.huggingface.official import OfficialWeights
from perceiver.model.text.mlm import PerceiverMaskedLanguageModel, huggingface as mlm
from perceiver.model.vision.image_classifier import (
    PerceiverImageClassifier,
    PerceiverImageClassifierInputProcessor,
    huggingface as image_classifier,
)
from perceiver.scripts.main import main
from tests.model.helpers import randomise_vectors

TINY: dict[str, Any] = {
    "num_latents": 5,
    "d_latents": 24,
    "d_model": 16,
    "num_blocks": 2,
    "num_self_attends_per_block": 3,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 2,
    "num_labels": 7,
    "image_size": 8,
    "train_size": [6, 9],
    "vocab_size": 262,
    "max_position_embeddings": 11,
    "num_frames": 2,
    "audio_samples_per_frame": 32,
    "output_shape": [1, 2, 32, 32],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"num_cross_attention_heads": 1},
    "shape of q": {"cross_attention_shape_for_attention": "q"},
    "channels given": {"qk_channels": 12, "v_channels": 24},
    "wide": {"self_attention_widening_factor": 3, "cross_attention_widening_factor": 2, "num_cross_attention_heads": 1},
    "no query residual": {"use_query_residual": False, "num_cross_attention_heads": 1},
    "training": {"attention_probs_dropout_prob": 0.3, "initializer_range": 0.3, "num_cross_attention_heads": 1},
}
KINDS = [(model_class, weights) for model_class, weights in _OFFICIAL.items()] + [
    (PerceiverImageClassifier, weights) for weights in image_classifier.OFFICIAL
]


def model_of(model_class: Any, weights: OfficialWeights, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    config = weights.config(PerceiverConfig(**{**TINY, **kwargs}))
    model = model_class(model_class.config_class(config))
    randomise_vectors(model)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_class, weights", KINDS, ids=[weights.model_class.__name__ for _, weights in KINDS])
def test_configurations_go_back(model_class: Any, weights: OfficialWeights, variant: str) -> None:
    config = weights.config(PerceiverConfig(**{**TINY, **VARIANTS[variant]}))
    with torch.device("meta"):
        model = model_class(model_class.config_class(config))
    assert official_weights(model) is weights
    assert weights.config(transformers_config(weights, model)) == config


@pytest.mark.parametrize(
    "model_class, weights",
    [kind for kind in KINDS if kind[1].model_class.__name__ != "PerceiverForMultimodalAutoencoding"],
    ids=lambda value: getattr(getattr(value, "model_class", None), "__name__", ""),
)
def test_outputs_are_equal(model_class: Any, weights: OfficialWeights, tmp_path: Path) -> None:
    model = model_of(model_class, weights, num_cross_attention_heads=1, initializer_range=0.1)
    model.save_pretrained(tmp_path / "ours")
    export_transformers(tmp_path / "theirs", tmp_path / "ours")
    theirs = weights.model_class.from_pretrained(tmp_path / "theirs").eval()
    shape = getattr(model.backend_model.config.encoder, "image_shape", ())
    if len(shape) == 3:
        x = torch.randn(1, 3, *shape[:2])
    elif shape:
        x = torch.randn(2, 2, 27, *shape)
    else:
        x = torch.randint(262, (2, 11))
    with torch.no_grad():
        ours = model(x.movedim(1, -1) if len(shape) == 3 else x).logits
        expected = theirs(x).logits
    expected = expected.reshape(ours.shape)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-6 * max(1.0, expected.abs().max().item()), rtol=1e-6)


def test_there_and_back_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(PerceiverMaskedLanguageModel, mlm.OFFICIAL)
    model.save_pretrained(tmp_path / "ours")
    PerceiverTokenizer(model_max_length=11).save_pretrained(tmp_path / "ours")
    source, out, back = (str(tmp_path / name) for name in ("ours", "out", "back"))
    assert main(["convert", "export", "--to", "transformers", source, out]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert main(["convert", "model", "--task", "mlm", out, back]) == 0
    again = PerceiverMaskedLanguageModel.from_pretrained(back)
    assert again.backend_model.config == model.backend_model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_labels_and_image_processor_come_along(tmp_path: Path) -> None:
    _, weights = KINDS[-2]
    model = model_of(PerceiverImageClassifier, weights)
    model.set_labels({i: f"class {i}" for i in range(7)})
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path / "ours")
    PerceiverImageClassifierInputProcessor(image_mean=0.25).save_pretrained(tmp_path / "ours")
    export_transformers(tmp_path / "theirs", tmp_path / "ours")
    theirs = weights.model_class.from_pretrained(tmp_path / "theirs")
    assert theirs.config.id2label[3] == "class 3" and theirs.config.problem_type == "multi_label_classification"
    saved = (tmp_path / "theirs" / "preprocessor_config.json").read_text()
    assert "0.25" in saved and "PerceiverImageClassifierInputProcessor" not in saved


def changed(model: Any, part: str, **values: Any) -> Any:
    config = model.backend_model.config
    other = replace(config, **{part: replace(getattr(config, part), **values)})
    with torch.device("meta"):
        return type(model)(type(model).config_class(other))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (
            "decoder",
            {"num_cross_attention_heads": 4},
            r"decoder.num_cross_attention_heads=4 .* PerceiverForMaskedLM has 8",
        ),
        ("decoder", {"cross_attention_residual": True}, "decoder.cross_attention_residual=True can't be exported"),
        ("encoder", {"num_cross_attention_layers": 2}, "encoder.num_cross_attention_layers=2 can't be exported"),
        ("encoder", {"num_self_attention_v_channels": 12}, "encoder.num_self_attention_v_channels=12"),
    ],
)
def test_what_transformers_cannot_express(part: str, values: dict[str, Any], message: str) -> None:
    model = changed(model_of(PerceiverMaskedLanguageModel, mlm.OFFICIAL), part, **values)
    with pytest.raises(ValueError, match=message):
        transformers_config(mlm.OFFICIAL, model)


def test_models_that_transformers_has_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "of-a-package-that-is-not-imported"}')
    with pytest.raises(ValueError, match="is a 'of-a-package-that-is-not-imported' model, transformers has only"):
        export_transformers(tmp_path / "out", tmp_path)
    model = changed(model_of(PerceiverImageClassifier, KINDS[-1][1]), "encoder", adapter="conv_same")
    with pytest.raises(ValueError, match=r"encoder\.adapter='conv_same' can't be exported"):
        official_weights(model)
