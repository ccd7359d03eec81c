"""The text encoder is assembled from both configurations."""

from __future__ import annotations

import torch

from perceiver.model.core.adapter import TokenInputAdapter
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm.backend import MaskedLanguageModel
from tests.model.helpers import mlm_config, token_ids


def test_sizes_come_from_both_configs() -> None:
    config = mlm_config(num_latents=5, num_latent_channels=17)
    encoder = MaskedLanguageModel(config).encoder
    assert encoder.config is config.encoder
    assert isinstance(encoder.input_adapter, TokenInputAdapter)
    assert encoder.input_adapter.txt_embedding.weight.shape == (37, 11)
    assert encoder.input_adapter.pos_embedding.weight.shape == (19, 11)
    assert encoder.latent_provider().shape == (1, 5, 17)
    assert encoder(token_ids(2, 7)).shape == (2, 5, 17)


def test_checkpointing_comes_from_the_model_config() -> None:
    layers = [
        module
        for on in (False, True)
        for module in MaskedLanguageModel(mlm_config(activation_checkpointing=on)).encoder.modules()
        if hasattr(module, "gradient_checkpointing")
    ]
    assert [layer.gradient_checkpointing for layer in layers] == [False] * 3 + [True] * 3


def test_published_defaults() -> None:
    config = TextEncoderConfig()
    assert (config.vocab_size, config.max_seq_len, config.num_input_channels, config.params) == (10003, 256, 64, None)
    assert (config.num_cross_attention_heads, config.num_self_attention_heads) == (8, 8)
    assert (config.num_self_attention_layers_per_block, config.num_self_attention_blocks) == (8, 1)
    assert (config.first_cross_attention_layer_shared, config.first_self_attention_block_shared) == (False, True)


def test_params_are_not_read_by_the_backend() -> None:
    config = mlm_config({"params": "/no/such/file.ckpt"})
    assert torch.isfinite(MaskedLanguageModel(config).encoder(token_ids(2, 7))).all()
