"""A tiny Hugging Face model of every task, with examples to train it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perceiver.model.audio import symbolic
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.multimodal import autoencoder
from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.model.vision import image_classifier, optical_flow

VOCAB_SIZE, SEQ_LEN = 37, 12
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "max_seq_len": SEQ_LEN,
    "num_input_channels": 10,
    "num_cross_attention_heads": 2,
    "num_self_attention_heads": 2,
    "num_self_attention_layers_per_block": 1,
    "init_scale": 0.2,
}
LATENTS: dict[str, Any] = {"num_latents": 5, "num_latent_channels": 14}


@dataclass(frozen=True)
class Task:
    """A task of the table in docs/huggingface.md.

    Attributes:
        name: Its row.
        model: Makes a model, in evaluation mode.
        example: Makes an example of a random generator: arguments of `forward` without the batch dimension.
        has_tokens: Whether the model has a vocabulary.
        output: The output of the model that tests compare.
    """

    name: str
    model: Callable[[], PerceiverBackendModel]
    example: Callable[[torch.Generator], dict[str, Tensor]]
    has_tokens: bool = True
    output: str = "logits"

    def __str__(self) -> str:
        return self.name

    def examples(self, n: int, seed: int = 0) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        return [self.example(generator) for _ in range(n)]

    def batch(self, n: int = 3, *, labels: bool = True) -> dict[str, Tensor]:
        examples = self.examples(n)
        return {name: torch.stack([e[name] for e in examples]) for name in examples[0] if labels or name != "labels"}


def seeded(make: Callable[[], PerceiverBackendModel]) -> Callable[[], PerceiverBackendModel]:
    def model() -> PerceiverBackendModel:
        torch.manual_seed(0)
        return make().eval()

    return model


def tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(6, VOCAB_SIZE, (SEQ_LEN,), generator=generator)


def mlm_model() -> PerceiverBackendModel:
    decoder = mlm.TextDecoderConfig(vocab_size=VOCAB_SIZE, max_seq_len=SEQ_LEN, num_cross_attention_heads=2)
    config = mlm.MaskedLanguageModelConfig(mlm.TextEncoderConfig(**TEXT_ENCODER), decoder, **LATENTS)
    return mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(config))


def mlm_example(generator: torch.Generator) -> dict[str, Tensor]:
    x = tokens(generator)
    return {"input_ids": x, "labels": torch.where(torch.arange(SEQ_LEN) % 4 == 1, x, -100)}


PERCEIVER_AR: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "max_seq_len": SEQ_LEN,
    "max_latents": 7,
    "num_channels": 12,
    "num_heads": 2,
    "num_self_attention_layers": 1,
    "cross_attention_dropout": 0.0,
    "init_scale": 0.2,
}


def clm_model() -> PerceiverBackendModel:
    config = clm.CausalLanguageModelConfig(**PERCEIVER_AR)
    return clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config))


def symbolic_audio_model() -> PerceiverBackendModel:
    config = symbolic.SymbolicAudioModelConfig(**PERCEIVER_AR)
    return symbolic.PerceiverSymbolicAudioModel(symbolic.PerceiverSymbolicAudioModelConfig(config))


def clm_example(generator: torch.Generator) -> dict[str, Tensor]:
    x = tokens(generator)
    return {"input_ids": x, "labels": x}


def text_classifier_model() -> PerceiverBackendModel:
    decoder = ClassificationDecoderConfig(num_classes=3, num_output_query_channels=6, num_cross_attention_heads=2)
    config = classifier.TextClassifierConfig(mlm.TextEncoderConfig(**TEXT_ENCODER), decoder, **LATENTS)
    return classifier.PerceiverTextClassifier(classifier.PerceiverTextClassifierConfig(config))


def text_classifier_example(generator: torch.Generator) -> dict[str, Tensor]:
    return {"input_ids": tokens(generator), "labels": torch.randint(3, (), generator=generator)}


def token_classifier_model() -> PerceiverBackendModel:
    decoder = token_classifier.TokenClassificationDecoderConfig(
        num_classes=3, max_seq_len=SEQ_LEN, num_output_query_channels=6, num_cross_attention_heads=2
    )
    config = token_classifier.TokenClassifierConfig(mlm.TextEncoderConfig(**TEXT_ENCODER), decoder, **LATENTS)
    return token_classifier.PerceiverTokenClassifier(token_classifier.PerceiverTokenClassifierConfig(config))


def token_classifier_example(generator: torch.Generator) -> dict[str, Tensor]:
    x = tokens(generator)
    return {"input_ids": x, "labels": torch.where(torch.arange(SEQ_LEN) % 3 == 0, -100, x % 3)}


def image_classifier_model() -> PerceiverBackendModel:
    encoder = image_classifier.ImageEncoderConfig(
        image_shape=(6, 7, 3),
        num_frequency_bands=3,
        num_cross_attention_heads=1,
        num_self_attention_heads=2,
        num_self_attention_layers_per_block=1,
        init_scale=0.2,
    )
    decoder = ClassificationDecoderConfig(num_classes=3, num_output_query_channels=6, num_cross_attention_heads=2)
    config = image_classifier.ImageClassifierConfig(encoder, decoder, **LATENTS)
    return image_classifier.PerceiverImageClassifier(image_classifier.PerceiverImageClassifierConfig(config))


def image_classifier_example(generator: torch.Generator) -> dict[str, Tensor]:
    pixels = torch.randn(6, 7, 3, generator=generator)
    return {"pixel_values": pixels, "labels": torch.randint(3, (), generator=generator)}


def optical_flow_model() -> PerceiverBackendModel:
    encoder = optical_flow.OpticalFlowEncoderConfig(
        image_shape=(5, 6),
        num_patch_hidden_channels=4,
        num_frequency_bands=2,
        num_cross_attention_heads=1,
        num_self_attention_heads=2,
        num_self_attention_layers_per_block=1,
        init_scale=0.2,
    )
    decoder = optical_flow.OpticalFlowDecoderConfig(
        image_shape=(5, 6), num_cross_attention_heads=1, cross_attention_residual=False, rescale_factor=1.0
    )
    config = optical_flow.OpticalFlowConfig(encoder, decoder, **LATENTS)
    return optical_flow.OpticalFlowPerceiver(optical_flow.OpticalFlowPerceiverConfig(config))


def optical_flow_example(generator: torch.Generator) -> dict[str, Tensor]:
    features = torch.randn(2, 27, 5, 6, generator=generator)
    return {"inputs": features, "labels": torch.randn(5, 6, 2, generator=generator)}


def autoencoder_model() -> PerceiverBackendModel:
    common = {"num_cross_attention_heads": 1, "init_scale": 0.2}
    config = autoencoder.MultimodalAutoencoderConfig(
        encoder=autoencoder.MultimodalEncoderConfig(
            num_self_attention_heads=2, num_self_attention_layers_per_block=1, **common
        ),
        decoder=autoencoder.MultimodalDecoderConfig(
            num_classes=3, num_label_query_channels=6, num_output_channels=5, cross_attention_residual=False, **common
        ),
        video_shape=(2, 4, 6, 3),
        video_patch_size=2,
        num_video_frequency_bands=2,
        num_audio_samples=12,
        audio_patch_size=4,
        num_audio_frequency_bands=3,
        **LATENTS,
    )
    return autoencoder.PerceiverMultimodalAutoencoder(autoencoder.PerceiverMultimodalAutoencoderConfig(config))


def autoencoder_example(generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "video": torch.rand(2, 4, 6, 3, generator=generator),
        "audio": torch.rand(12, generator=generator),
        "labels": torch.randint(3, (), generator=generator),
    }


TASKS = [
    Task("masked language model", seeded(mlm_model), mlm_example),
    Task("causal language model", seeded(clm_model), clm_example),
    Task("text classifier", seeded(text_classifier_model), text_classifier_example),
    Task("token classifier", seeded(token_classifier_model), token_classifier_example),
    Task("image classifier", seeded(image_classifier_model), image_classifier_example, has_tokens=False),
    Task("optical flow", seeded(optical_flow_model), optical_flow_example, has_tokens=False),
    Task("symbolic audio model", seeded(symbolic_audio_model), clm_example),
    Task("multimodal autoencoder", seeded(autoencoder_model), autoencoder_example, has_tokens=False, output="video"),
]
