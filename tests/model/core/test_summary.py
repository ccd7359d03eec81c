"""Sizes of models by the papers' letters: the table in the docs, and models of every layer."""

from __future__ import annotations

import importlib
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
from perceiver.model.text import mlm
from perceiver.tasks import TASKS, Task
from tests.model.helpers import mlm_config
from tests.model.multimodal.autoencoder.helpers import H, T, W, clips, mm_model

PAGE = Path(__file__).parents[3] / "docs" / "model-construction.md"
TOKENS, IMAGES = torch.zeros(1, 2048, dtype=torch.long), torch.zeros(1, 224, 224, 3)
CLIPS = {"video": torch.zeros(1, 16, 224, 224, 3), "audio": torch.zeros(1, 30720)}


def tokens(num_inputs: int, num_latents: int) -> dict[str, Any]:
    return {"x": torch.zeros(1, num_inputs, dtype=torch.long), "prefix_len": num_inputs - num_latents}


INPUTS: dict[str, dict[str, Any]] = {
    "perceiver_io_language_base": {"x": TOKENS},
    "perceiver_io_text_classifier": {"x": TOKENS},
    "perceiver_io_token_classifier": {"x": TOKENS},
    "perceiver_ar_byte_base": tokens(4096, 512),
    "perceiver_ar_xlnet_base": tokens(1024, 512),
    "perceiver_ar_maestro": tokens(4096, 2048),
    "perceiver_ar_giantmidi": tokens(6144, 2048),
    "perceiver_io_fourier": {"x": IMAGES},
    "perceiver_io_learned": {"x": IMAGES},
    "perceiver_io_conv": {"x": IMAGES},
    "perceiver_io_mnist": {"x": torch.zeros(1, 28, 28, 1)},
    "perceiver_io_optical_flow": {"x": torch.zeros(1, 2, 27, 368, 496)},
    "perceiver_io_multimodal": CLIPS,
}
VARIANTS = [
    pytest.param(task, name, id=name)
    for task in TASKS.values()
    for name in importlib.import_module(task.package).__all__
    if name.startswith(("perceiver_io_", "perceiver_ar_"))
]


@pytest.mark.parametrize("task, name", VARIANTS)
def test_named_variants_are_as_the_page_says(task: Task, name: str) -> None:
    package = importlib.import_module(task.package)
    with torch.device("meta"):
        model = getattr(package, task.model)(getattr(package, name)())
    inputs = {key: x.to("meta") if isinstance(x, Tensor) else x for key, x in INPUTS[name].items()}
    sizes = vars(summary(model, **inputs))
    assert sizes.pop("trained") == sizes["parameters"]
    row = f"| `{name}` | " + " | ".join(f"{value:,}" for value in sizes.values()) + " |"
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
