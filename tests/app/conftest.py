"""A tiny model for each playground, and a server with all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from perceiver.app.playground import PLAYGROUNDS, open_playground
from perceiver.app.server import AppServer
from perceiver.model.audio import symbolic
from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.huggingface.saving import text_tokenizer
from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.model.vision import image_classifier, optical_flow
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from tests.huggingface.tasks import LATENTS, autoencoder_model, optical_flow_model
from tests.tokenizers import byte_tokenizer

LAYERS: dict[str, Any] = {
    "num_cross_attention_heads": 2,
    "num_self_attention_heads": 2,
    "num_self_attention_layers_per_block": 1,
    "init_scale": 0.2,
}
TEXT: dict[str, Any] = {"vocab_size": 262, "max_seq_len": 48, "num_input_channels": 10, **LAYERS}
CAUSAL: dict[str, Any] = {
    "max_seq_len": 96,
    "max_latents": 32,
    "num_channels": 24,
    "num_heads": 2,
    "num_self_attention_layers": 1,
    "init_scale": 0.2,
}


def model_of(task: str) -> Any:
    torch.manual_seed(3)
    classes: dict[str, Any] = {"num_classes": 3, "num_output_query_channels": 6, "num_cross_attention_heads": 2}
    match task:
        case "mlm":
            decoder = mlm.TextDecoderConfig(vocab_size=262, max_seq_len=48, num_cross_attention_heads=2)
            config = mlm.MaskedLanguageModelConfig(mlm.TextEncoderConfig(**TEXT), decoder, **LATENTS)
            return mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(config))
        case "text-classifier":
            clf = classifier.TextClassifierConfig(
                mlm.TextEncoderConfig(**TEXT), ClassificationDecoderConfig(**classes), **LATENTS
            )
            return classifier.PerceiverTextClassifier(classifier.PerceiverTextClassifierConfig(clf))
        case "token-classifier":
            tokens = token_classifier.TokenClassifierConfig(
                mlm.TextEncoderConfig(**TEXT),
                token_classifier.TokenClassificationDecoderConfig(max_seq_len=48, **classes),
                **LATENTS,
            )
            return token_classifier.PerceiverTokenClassifier(token_classifier.PerceiverTokenClassifierConfig(tokens))
        case "clm":
            causal = clm.CausalLanguageModelConfig(vocab_size=262, **CAUSAL)
            return clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(causal))
        case "symbolic-audio":
            audio = symbolic.SymbolicAudioModelConfig(**CAUSAL)
            return symbolic.PerceiverSymbolicAudioModel(symbolic.PerceiverSymbolicAudioModelConfig(audio))
        case "image-classifier":
            encoder = image_classifier.ImageEncoderConfig(
                image_shape=(8, 8, 3), num_frequency_bands=3, **LAYERS | {"num_cross_attention_heads": 1}
            )
            images = image_classifier.ImageClassifierConfig(encoder, ClassificationDecoderConfig(**classes), **LATENTS)
            return image_classifier.PerceiverImageClassifier(image_classifier.PerceiverImageClassifierConfig(images))
        case "multimodal-autoencoder":
            model: Any = autoencoder_model()
            with torch.no_grad():  # pixels that are no black
                model.backend_model.decoder.output_adapter.heads["video"].bias += 0.5
            return model
    return optical_flow_model()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of converted models, by task."""
    root = tmp_path_factory.mktemp("models")
    for task in PLAYGROUNDS:
        model = model_of(task)
        model.save_pretrained(root / task)
        if model.config.task.processor == "tokenizer":
            byte_tokenizer(root / "bytes")
            limits = getattr(model.backend_model.config, "encoder", None)
            text_tokenizer(root / "bytes", limits).save_pretrained(root / task)
        elif model.config.task.processor == "image_processor":
            PerceiverImageClassifierInputProcessor(
                size={"height": 8, "width": 8}, do_center_crop=False, image_mean=0.5, image_std=0.5
            ).save_pretrained(root / task)
    assert optical_flow.OpticalFlowPerceiverConfig  # registers it
    return {task: str(root / task) for task in PLAYGROUNDS}


@pytest.fixture(scope="session")
def server(folders: dict[str, str]) -> Iterator[AppServer]:
    playgrounds = [open_playground(folder) for folder in folders.values()]
    with AppServer(("127.0.0.1", 0), playgrounds, 2**20) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
