"""Attention maps equal a loop over queries, for every task; names, shared weights, masks, and that nothing stays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.attention import MultiHeadAttention
from perceiver.model.core.attention_maps import AttentionMaps, attention_names, record_attention
from perceiver.model.core.cache import SharedKeysValues
from perceiver.model.core.resampler import PerceiverResampler
from perceiver.model.text import clm, mlm
from tests.huggingface.tasks import PERCEIVER_AR, SEQ_LEN, TASKS, Task
from tests.model.helpers import mlm_config, mlm_model, token_ids

MAX_LATENTS = PERCEIVER_AR["max_latents"]
CAUSAL = ("causal language model", "symbolic audio model")
PERCEIVER_IO_NAMES = ["encoder.cross_attention.0", "encoder.self_attention.0.0", "decoder.cross_attention"]
PERCEIVER_AR_NAMES = ["cross_attention", "self_attention.0"]
all_tasks = pytest.mark.parametrize("task", TASKS, ids=str)


def plain_weights(
    module: MultiHeadAttention,
    x_q: Tensor,
    x_kv: Tensor,
    pad_mask: Any = None,
    rotary: Any = None,
    cache: Any = None,
    mask: Any = None,
) -> Tensor:
    """One query of one head of one example at a time."""
    q, k = (
        proj(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for proj, x in ((module.q_proj, x_q.expand(len(x_kv), -1, -1)), (module.k_proj, x_kv))
    )
    if rotary is not None:
        q, k = rotary.rotate(q), rotary.rotate(k)
    weights = torch.zeros(*q.shape[:3], k.shape[2])
    if mask is not None and mask.allowed is not None:  # said once for all layers
        pad_mask = ~mask.allowed[:, 0, 0]
    pad_mask = None if pad_mask is None else pad_mask[:, -k.shape[2] :]
    for b, h, n in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        last = k.shape[2] - q.shape[2] + n if module.causal else k.shape[2] - 1
        keys = [m for m in range(last + 1) if pad_mask is None or not pad_mask[b, m]]
        exps = [math.exp(float(q[b, h, n] @ k[b, h, m]) / math.sqrt(q.shape[-1])) for m in keys]
        for m, exp in zip(keys, exps, strict=True):
            weights[b, h, n, m] = exp / sum(exps)
    return weights


@contextmanager
def watched(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Of every call of an attention: plain weights, what they make of the values, and what the attention returned."""
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    shared: dict[Any, Tensor] = {}  # inputs of the first of several calls, whose keys and values the others have

    def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        x_q, x_kv, pad_mask, rotary, cache, mask = args
        if isinstance(cache, SharedKeysValues):
            x_kv = shared.setdefault(module, x_kv)
        weights = plain_weights(module, x_q, x_kv, pad_mask, rotary, cache, mask)
        v = module.v_proj(x_kv).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        calls.append((weights, module.o_proj((weights @ v).transpose(1, 2).flatten(2)), output))

    hooks = [
        m.register_forward_hook(hook, with_kwargs=True) for m in model.modules() if isinstance(m, MultiHeadAttention)
    ]
    yield calls
    for handle in hooks:
        handle.remove()


def batch_of(task: Task) -> dict[str, Any]:
    batch: dict[str, Any] = task.batch(labels=False)
    if task.has_tokens:
        left = task.name in CAUSAL
        columns = torch.arange(SEQ_LEN).flip(0) if left else torch.arange(SEQ_LEN)
        batch["attention_mask"] = (columns < torch.tensor([[SEQ_LEN], [8], [10]])).long()
        if left:
            batch["prefix_len"] = SEQ_LEN - MAX_LATENTS
    return batch


@all_tasks
@torch.no_grad()
def test_maps_equal_a_loop(task: Task) -> None:
    model, batch = task.model(), batch_of(task)
    expected_output = getattr(model(**batch), task.output)
    with record_attention(model) as maps, watched(model) as calls:
        output = getattr(model(**batch), task.output)
    torch.testing.assert_close(output, expected_output)
    recorded = [weights for name in maps for weights in maps.calls[name]]
    assert list(maps) == attention_names(model) == (PERCEIVER_AR_NAMES if task.name in CAUSAL else PERCEIVER_IO_NAMES)
    assert len(recorded) == len(calls) >= len(maps)
    for weights, (plain, attended, returned) in zip(recorded, calls, strict=True):
        torch.testing.assert_close(weights, plain, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(attended, returned, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_shapes_masks_and_future() -> None:
    model = mlm_model()
    pad_mask = torch.arange(19) >= torch.tensor([[19], [4]])
    with record_attention(model) as maps:
        model(token_ids(2, 19), pad_mask)
    assert {name: tuple(weights.shape) for name, weights in maps.items()} == {
        "encoder.cross_attention.0": (2, 2, 3, 19),
        "encoder.self_attention.0.0": (2, 3, 3, 3),
        "encoder.self_attention.0.1": (2, 3, 3, 3),
        "decoder.cross_attention": (2, 1, 19, 3),
    }
    of_padding = maps["encoder.cross_attention.0"][1, :, :, 4:]
    assert torch.equal(of_padding, torch.zeros_like(of_padding))
    causal = clm.CausalLanguageModel(clm.CausalLanguageModelConfig(**PERCEIVER_AR)).eval()
    with record_attention(causal) as maps:
        causal(token_ids(2, SEQ_LEN), prefix_len=5)
    assert maps["cross_attention"].shape == (2, 2, 7, SEQ_LEN)
    future = torch.ones(7, SEQ_LEN, dtype=torch.bool).triu(6)
    assert torch.equal(maps["cross_attention"][:, :, future], torch.zeros(2, 2, 21))
    assert (maps["cross_attention"][:, :, ~future] > 0.0).all()


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_blocks_have_maps_of_their_own(shared: bool) -> None:
    """A model whose later layers share weights has the same maps as one with copies of them."""
    numbers = {"num_cross_attention_layers": 2, "num_self_attention_blocks": 3}
    kinds = {"first_cross_attention_layer_shared": shared, "first_self_attention_block_shared": shared}
    model = mlm_model(mlm_config({**numbers, **kinds}))
    with record_attention(model) as maps:
        for _ in range(2):
            model(token_ids(2, 6))
    blocks = [["encoder.cross_attention.0"], ["encoder.cross_attention.1"], []]
    names = [*blocks[0], "encoder.self_attention.0.0", "encoder.self_attention.0.1"]
    names += [*blocks[1], "encoder.self_attention.1.0", "encoder.self_attention.1.1"]
    names += ["encoder.self_attention.2.0", "encoder.self_attention.2.1", "decoder.cross_attention"]
    assert list(maps) == names and set(attention_names(model)) == set(names)
    assert {len(calls) for calls in maps.calls.values()} == {2}
    x = token_ids(2, 6)
    with record_attention(model) as maps, watched(model) as calls:
        model(x)
    for name, (plain, *_) in zip(names, calls, strict=True):
        torch.testing.assert_close(maps[name], plain, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_layers_can_be_chosen() -> None:
    model = mlm_model(mlm_config({"num_self_attention_blocks": 2}))
    with record_attention(model, "encoder.self_attention.1.*", "decoder.cross_attention") as maps:
        model(token_ids(2, 6))
    chosen = ["encoder.self_attention.1.0", "encoder.self_attention.1.1", "decoder.cross_attention"]
    assert list(maps) == chosen and len(maps) == 3
    with pytest.raises(ValueError, match=r"'decoder' fits no attention layer of MaskedLanguageModel: encoder.cross_at"):
        with record_attention(model, "decoder"):
            pass
    with pytest.raises(KeyError, match=r"there is no map 'encoder.cross_attention.0', only encoder.self_attention.1.0"):
        maps["encoder.cross_attention.0"]
    with pytest.raises(KeyError, match="none at all: nothing ran"):
        AttentionMaps()["decoder.cross_attention"]


def test_nothing_stays() -> None:
    model = mlm_model()
    modules = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    assert all(module.recorders == () for module in modules)
    with pytest.raises(ZeroDivisionError), record_attention(model) as outer:
        model(token_ids(2, 6))
        with record_attention(model, "decoder.*") as inner:
            model(token_ids(2, 6))
        model(token_ids(2, 6))
        raise ZeroDivisionError
    assert all(module.recorders == () for module in modules)
    assert {len(calls) for calls in outer.calls.values()} == {3}
    assert {name: len(calls) for name, calls in inner.calls.items()} == {"decoder.cross_attention": 1}
    assert not any(weights.requires_grad for calls in outer.calls.values() for weights in calls)
    with pytest.raises(ValueError, match=r"encoder.cross_attention.0 was computed 3 times: calls\["):
        outer["encoder.cross_attention.0"]


@torch.no_grad()
def test_parts_of_a_decoder_are_joined() -> None:
    model = mlm_model()
    x = token_ids(2, 6)
    with record_attention(model) as maps:
        model(x)
    with record_attention(model) as in_parts:
        latents = model.encoder(x)
        for positions in torch.arange(6)[None].split([4, 2], dim=1):
            model.decoder(latents, model.decoder.output_query_provider(positions), embedding=model.txt_embedding.weight)
    torch.testing.assert_close(in_parts["decoder.cross_attention"], maps["decoder.cross_attention"])
    assert len(in_parts.calls["decoder.cross_attention"]) == 2


@torch.no_grad()
def test_a_step_of_generation_is_a_call() -> None:
    (task,) = [task for task in TASKS if task.name == "causal language model"]
    model: Any = task.model()
    with record_attention(model, "cross_attention") as maps:
        model.generate(token_ids(2, 5), max_new_tokens=3, do_sample=False, num_latents=2)
    assert [weights.shape for weights in maps.calls["cross_attention"]] == [(2, 2, 2, 5), (2, 2, 1, 6), (2, 2, 1, 7)]
    x = token_ids(2, 7)
    cache: Any = model.backend_model.new_cache()
    with record_attention(model, "cross_attention") as maps:
        model.backend_model(x, 3)
        model.backend_model(x[:, :5], 3, cache=cache)
        model.backend_model(x[:, 5:], 0, cache=cache)
    whole, first, second = maps.calls["cross_attention"]
    torch.testing.assert_close(whole[:, :, :2, :5], first, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole[:, :, 2:], second, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_any_model_with_our_attention() -> None:
    lit = mlm.LitMaskedLanguageModel.create(mlm_config()).eval()
    assert attention_names(lit)[0] == "encoder.cross_attention.0"
    with record_attention(lit, "decoder.*") as maps:
        lit.backend_model(token_ids(2, 6))
    assert list(maps) == ["decoder.cross_attention"]
    model = nn.ModuleDict(
        {"first": mlm_model(), "resampler": PerceiverResampler(12, num_latents=3, num_layers=2, num_heads=4)}
    )
    assert attention_names(model) == [
        "first.encoder.cross_attention.0",
        "first.encoder.self_attention.0.0",
        "first.encoder.self_attention.0.1",
        "first.decoder.cross_attention",
        "resampler.layers.0",
        "resampler.layers.1",
    ]
    with record_attention(model, "resampler.*") as maps:
        model["resampler"](torch.randn(2, 5, 12))
    assert [weights.shape for weights in maps.values()] == [(2, 4, 3, 8)] * 2
    assert attention_names(mlm_model().encoder)[0] == "encoder.cross_attention.0"


def test_training_with_checkpointing_is_an_error() -> None:
    model = mlm_model(mlm_config(activation_checkpointing=True))
    with record_attention(model):  # in evaluation there is none
        pass
    with pytest.raises(ValueError, match=r"activation checkpointing: call model.eval\(\)"):
        with record_attention(model.train()):
            pass
