"""NestedLatents: each training step has the first k latents, all processes the same k, and all else has all latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from perceiver.model.lightning.latents import NestedLatents
from perceiver.model.text import clm
from perceiver.model.vision import image_classifier as images
from tests.model.vision.helpers import DictData

CONFIG = images.ImageClassifierConfig(
    images.ImageEncoderConfig(
        image_shape=(4, 5, 1),
        num_frequency_bands=2,
        num_cross_attention_heads=1,
        num_self_attention_heads=2,
        num_self_attention_layers_per_block=1,
    ),
    images.ClassificationDecoderConfig(num_classes=3, num_output_query_channels=6, num_cross_attention_heads=1),
    num_latents=9,
    num_latent_channels=8,
)


class Classifier(images.LitImageClassifier):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.used: dict[bool, list[int]] = {True: [], False: []}
        self.model.encoder.register_forward_hook(lambda part, x, y: self.used[part.training].append(y.shape[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fitted(callback: NestedLatents, max_epochs: int = 2) -> Classifier:
    torch.manual_seed(0)
    model = Classifier.create(CONFIG)
    fit(callback, model, max_epochs)
    return model


def fit(callback: NestedLatents, model: Classifier, max_epochs: int = 1) -> None:
    data = DictData({"image": torch.randn(24, 4, 5, 1), "label": torch.arange(24) % 3}, batch_size=2)
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=max_epochs, callbacks=[callback], **quiet)
    trainer.fit(model, datamodule=data)


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return fitted(NestedLatents())


def test_steps_have_numbers_of_latents_and_validation_has_all(trained: Classifier) -> None:
    assert set(trained.used[True]) == {9, 4, 2, 1} and len(trained.used[True]) == 24
    assert set(trained.used[False]) == {9}
    assert trained.used[True][:12] != trained.used[True][12:], "each epoch has numbers of its own"
    assert trained.model.encoder.latent_provider.num_queries == 9


def test_another_process_draws_the_same(trained: Classifier) -> None:
    assert fitted(NestedLatents(), max_epochs=1).used[True] == trained.used[True][:12]
    assert set(fitted(NestedLatents([3, 5]), max_epochs=1).used[True]) == {3, 5}


def test_another_model_has_numbers_of_its_own() -> None:
    callback, trainer = NestedLatents(), pl.Trainer(accelerator="cpu", logger=False)
    for num_latents, numbers in ((9, {9, 4, 2, 1}), (17, {17, 8, 4, 2}), (5, {5, 2, 1})):
        model = Classifier.create(replace(CONFIG, num_latents=num_latents))
        callback.setup(trainer, model, "fit")
        drawn = set()
        for i in range(50):
            callback.on_train_batch_start(trainer, model, None, i)
            drawn.add(model.model.encoder.latent_provider.num_queries)
            callback.on_train_batch_end()
        assert drawn == numbers and model.model.encoder.latent_provider.num_queries == num_latents


def test_a_model_with_fewer_latents_is_that_of_the_first_ones() -> None:
    torch.manual_seed(0)
    model = images.ImageClassifier(CONFIG).eval()
    state = model.state_dict()
    state["0.latent_provider._query"] = state["0.latent_provider._query"][:4]
    other = images.ImageClassifier(images.ImageClassifierConfig(CONFIG.encoder, CONFIG.decoder, 4, 8)).eval()
    other.load_state_dict(state)
    x = torch.randn(2, 4, 5, 1)
    all_latents = model(x)
    model.encoder.latent_provider.num_queries = 4
    torch.testing.assert_close(model(x), other(x))
    assert (model(x) - all_latents).abs().max() > 1e-6


def test_a_training_that_fails_leaves_a_model_with_all_latents() -> None:
    class Failing(Classifier):
        def training_step(self, *_: Any) -> torch.Tensor:
            assert self.model.encoder.latent_provider.num_queries == 4
            raise RuntimeError("in the midst of a step")

    callback, model = NestedLatents([4]), Failing.create(CONFIG)
    with pytest.raises(RuntimeError, match="in the midst"):
        fit(callback, model)
    assert model.model.encoder.latent_provider.num_queries == 9


@pytest.mark.parametrize("numbers", [[9, 10], [0, 3]])
def test_numbers_that_the_model_does_not_have_are_an_error(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must be in \[1, 9\]"):
        fitted(NestedLatents(numbers), max_epochs=1)


def test_a_model_without_latents_is_an_error() -> None:
    config = clm.CausalLanguageModelConfig(
        vocab_size=9, max_seq_len=8, max_latents=4, num_channels=8, num_heads=2, num_self_attention_layers=1
    )
    model = clm.LitCausalLanguageModel.create(config)
    with pytest.raises(ValueError, match="CausalLanguageModel has none"):
        NestedLatents().setup(pl.Trainer(logger=False), model, "fit")
