"""Sizes of models by the papers' letters: the table in the docs, and models of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, QueryProvider
from perceiver.model.core.config import DecoderConfig, EncoderConfig
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverEncoder, PerceiverIO
from perceiver.model.core.resampler import PerceiverResampler
from perceiver.model.core.summary import summary
from perceiver.model.text import clm, mlm
from perceiver.model.vision import image_classifier, optical_flow
from tests.model.helpers import mlm_config
from tests.model.multimodal.autoencoder.helpers import H, T, W, clips, mm_model

PAGE = Path(__file__).parents[3] / "docs" / "model-construction.md"
TOKENS, IMAGES = torch.zeros(1, 2048, dtype=torch.long), torch.zeros(1, 224, 224, 3)
VARIANTS: list[tuple[Any, type[nn.Module], dict[str, Any]]] = [
    (mlm.perceiver_io_language_base, mlm.MaskedLanguageModel, {"x": TOKENS}),
    (clm.perceiver_ar_byte_base, clm.CausalLanguageModel, {"x": torch.cat([TOKENS, TOKENS], 1), "prefix_len": 3584}),
    (clm.perceiver_ar_xlnet_base, clm.CausalLanguageModel, {"x": TOKENS[:, :1024], "prefix_len": 512}),
    (image_classifier.perceiver_io_fourier, image_classifier.ImageClassifier, {"x": IMAGES}),
    (image_classifier.perceiver_io_learned, image_classifier.ImageClassifier, {"x": IMAGES}),
    (image_classifier.perceiver_io_conv, image_classifier.ImageClassifier, {"x": IMAGES}),
    (optical_flow.perceiver_io_optical_flow, optical_flow.OpticalFlow, {"x": torch.zeros(1, 2, 27, 368, 496)}),
]


@pytest.mark.parametrize("variant, model_class, inputs", VARIANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_named_variants_are_as_the_page_says(variant: Any, model_class: type[nn.Module], inputs: Any) -> None:
    with torch.device("meta"):
        model = model_class(variant())
    inputs = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
    sizes = vars(summary(model, **inputs))
    assert sizes.pop("trained") == sizes["parameters"]
    row = f"| `{variant.__name__}` | " + " | ".join(f"{value:,}" for value in sizes.values()) + " |"
    assert row in PAGE.read_text(encoding="utf-8")


def test_table_and_layers() -> None:
    config = mlm_config()
    config.encoder.freeze = True
    lit_model = mlm.LitMaskedLanguageModel.create(config)
    hf_model = mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(config))
    x = torch.zeros(3, 7, dtype=torch.long)
    result = summary(lit_model, x)
    assert result == summary(hf_model, x) == summary(lit_model.model, x)
    assert (result.M, result.O, result.N, result.D) == (7, 7, config.num_latents, config.num_latent_channels)
    assert result.trained == sum(p.numel() for p in lit_model.model.decoder.parameters())
    lines = str(result).splitlines()
    assert lines[0].split() == ["M", "inputs", "7"] and lines[-1].split() == ["trained", f"{result.trained:,}"]
    assert len({len(line) for line in lines}) == 1
    assert lit_model.training, "the mode stays"


class TwoViews(nn.Module):
    """A module of one's own: a model inside it, and an input that is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.model = point_model()
        self.scale = nn.Linear(5, 1)

    def forward(self, points: Tensor, query: Tensor) -> Tensor:
        return self.scale(self.model({"points": points}, query=query))


class Points(InputAdapter):
    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return x["points"]


def point_model() -> PerceiverIO:
    encoder = PerceiverEncoder(
        Points(6), EncoderConfig(num_cross_attention_heads=1), num_latents=3, num_latent_channels=8
    )
    decoder = PerceiverDecoder(
        nn.Linear(4, 5),
        DecoderConfig(num_cross_attention_heads=2),
        num_latent_channels=8,
        output_query_provider=QueryProvider(4),
    )
    return PerceiverIO(encoder, decoder)


def sizes_of(model: nn.Module, *args: Any, **kwargs: Any) -> list[int | None]:
    return list(vars(summary(model, *args, **kwargs)).values())[:7]


def test_models_of_ones_own_and_parts() -> None:
    points, query = torch.zeros(2, 7, 6), torch.zeros(2, 9, 4)
    model = point_model()
    assert sizes_of(TwoViews(), points, query) == [7, 6, 3, 8, 9, 4, 5]
    assert sizes_of(model, {"points": points}, query=query) == [7, 6, 3, 8, 9, 4, 5]
    assert sizes_of(model.encoder, {"points": points}) == [7, 6, 3, 8, None, None, None]
    assert "queries" not in str(summary(model.encoder, {"points": points}))
    assert sizes_of(PerceiverResampler(num_channels=8, num_latents=3, num_layers=1), torch.zeros(2, 7, 8))[:5] == [
        7,
        8,
        3,
        8,
        None,
    ]
    multimodal = sizes_of(mm_model(), **clips())
    assert multimodal == [T * 2 * 3 + 7 + 1, 29, 8, 20, T * H * W + 7 + 1, 16, 3]  # of video, audio and label


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no Perceiver encoder, Perceiver AR or resampler in it"):
        summary(nn.Linear(2, 3), torch.zeros(1, 2))
