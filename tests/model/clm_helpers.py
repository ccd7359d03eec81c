"""What the tests of Perceiver AR share: a tiny model with pairwise different sizes, and an independent reference.

The reference works on one example without padding, head by head, with rotations as products of complex numbers. A
query at position i of what a layer sees attends to the positions (i - window, i]. That rule alone is the whole model,
with a cache and without one.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.text.clm.backend import CausalLanguageModel, CausalLanguageModelConfig
from tests.model.helpers import GOLDEN, golden_parameters, randomise_vectors

CLM_MODELS = ("clm_1", "clm_2", "clm_3", "clm_4")
VOCAB, MAX_SEQ_LEN, MAX_LATENTS = 37, 17, 5


def clm_config(**kwargs: Any) -> CausalLanguageModelConfig:
    """A tiny model: sizes that stand for different things differ. 11 channels per head, of which 6 are rotated."""
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "max_seq_len": MAX_SEQ_LEN,
        "max_latents": MAX_LATENTS,
        "num_channels": 22,
        "num_heads": 2,
        "num_self_attention_layers": 2,
        "num_self_attention_rotary_layers": 1,
        "self_attention_widening_factor": 3,
        "cross_attention_widening_factor": 4,
        "init_scale": 0.3,
    }
    return CausalLanguageModelConfig(**(values | kwargs))


ONE_LAYER: dict[str, Any] = {"num_self_attention_layers": 1, "num_self_attention_rotary_layers": 1}
CONFIGS = {
    "absolute": clm_config(),
    "rotary": clm_config(abs_pos_emb=False, num_channels=20, num_self_attention_rotary_layers=-1, output_norm=True),
    "not rotary": clm_config(num_self_attention_rotary_layers=0, output_bias=False, num_channels=21, num_heads=3),
    "token shift": clm_config(token_shift=True),
    "one latent": clm_config(max_latents=1),
    "no prefix": clm_config(max_seq_len=7, max_latents=7, **ONE_LAYER),
}


def clm_model(config: CausalLanguageModelConfig | None = None, seed: int = 0) -> CausalLanguageModel:
    """A model in evaluation mode whose biases and norms, too, have random values, so that none can be forgotten."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CausalLanguageModel(config or clm_config())
        randomise_vectors(model)
    return model.eval()


def golden_clm(name: str) -> CausalLanguageModel:
    values = json.loads((GOLDEN / name / "hub" / "config.json").read_text())["model_config"]
    model = CausalLanguageModel(CausalLanguageModelConfig.from_dict(values)).eval()
    # a published buffer, which is computed here
    parameters = {key: value for key, value in golden_parameters(name).items() if not key.endswith("inv_freq")}
    model.load_state_dict(parameters)
    return model


def reference_logits(model: CausalSequenceModel, x: Tensor, prefix_len: int, first_position: int = 0) -> Tensor:
    """Logits (N, vocabulary) of one example's tokens (M + N,), of which M = `prefix_len` are the prefix."""
    config, p = model.config, {name: value.detach() for name, value in model.state_dict().items()}
    num_heads, num_channels = config.num_heads, config.num_channels
    num_rotated = num_channels // num_heads // (2 if config.abs_pos_emb else 1)
    pos = torch.arange(first_position, first_position + len(x))

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def rotated(x: Tensor, pos: Tensor) -> Tensor:
        """One head (M, K)"""
        frequencies = torch.tensor([10000.0 ** (-2 * i / num_rotated) for i in range(math.ceil(num_rotated / 2))])
        pairs = torch.complex(x[:, 0 : 2 * len(frequencies) : 2], x[:, 1 : 2 * len(frequencies) : 2])
        angles = pos[:, None] * frequencies
        pairs = pairs * torch.complex(angles.cos(), angles.sin())
        return torch.cat([torch.view_as_real(pairs).flatten(1), x[:, 2 * len(frequencies) :]], dim=1)

    def layer(x: Tensor, x_q: Tensor, x_kv: Tensor, name: str, window: int, rotary: bool) -> Tensor:
        attention, mlp = f"{name}.0.module.attention", f"{name}.1.module"
        i, j = torch.arange(len(x_kv))[-len(x_q) :, None], torch.arange(len(x_kv))
        unseen = (j > i) | (j <= i - window)
        heads = []
        for h in range(num_heads):
            rows = slice(h * num_channels // num_heads, (h + 1) * num_channels // num_heads)
            q = x_q @ p[f"{attention}.q_proj.weight"][rows].T
            k = x_kv @ p[f"{attention}.k_proj.weight"][rows].T
            v = x_kv @ p[f"{attention}.v_proj.weight"][rows].T
            if rotary:
                q, k = rotated(q, pos[-len(q) :]), rotated(k, pos[-len(k) :])
            scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(unseen, -torch.inf)
            heads.append(scores.softmax(1) @ v)
        x = x + torch.cat(heads, dim=1) @ p[f"{attention}.o_proj.weight"].T + p.get(f"{attention}.o_proj.bias", 0)
        hidden = norm(x, f"{mlp}.0") @ p[f"{mlp}.1.weight"].T
        return x + (hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))) @ p[f"{mlp}.3.weight"].T

    x = p["input_adapter.txt_embedding.weight"][x]
    if config.token_shift:
        previous = x[:-1] @ p["input_adapter.token_shift.weight"].T
        x = torch.cat([x[:1], x[1:] + previous])
    if config.abs_pos_emb:
        x = x + p["input_adapter.pos_embedding.weight"][pos.clamp(max=config.max_seq_len - 1)]
    prefix, x = x[:prefix_len], x[prefix_len:]
    x_q = norm(x, "cross_attention.0.module.q_norm")
    x_kv = torch.cat([norm(prefix, "cross_attention.0.module.kv_norm"), x_q])
    x = layer(x, x_q, x_kv, "cross_attention", config.max_seq_len, rotary=True)
    for i in range(config.num_self_attention_layers):
        normed = norm(x, f"self_attention.{i}.0.module.norm")
        rotary = config.num_self_attention_rotary_layers == -1 or i < config.num_self_attention_rotary_layers
        x = layer(x, normed, normed, f"self_attention.{i}", config.max_latents, rotary)
    x = norm(x, "out_norm") if config.output_norm else x
    return x @ p["input_adapter.txt_embedding.weight"].T + p.get("output_adapter.bias", 0)
