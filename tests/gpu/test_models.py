"""Models on a device: what they give on the CPU, whatever is padded, cached, compiled or computed again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.evaluation import score_tokens
from perceiver.model.core.sampling import sample
from perceiver.model.text import clm, mlm
from tests.model.helpers import mlm_config, randomise_vectors
from tests.model.vision.image_classifier.helpers import images, img_model
from tests.model.vision.optical_flow.helpers import flow_model, frames

AR_SIZES = {"vocab_size": 262, "num_channels": 64, "num_heads": 4, "num_self_attention_layers": 3, "init_scale": 0.2}


def ar_config(**kwargs: Any) -> clm.CausalLanguageModelConfig:
    values = AR_SIZES | {"max_seq_len": 61, "max_latents": 17, "cross_attention_dropout": 0.0} | kwargs
    return clm.CausalLanguageModelConfig(**values)


def tokens(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randint(6, 262, shape).to(device)


def padding(lengths: list[int], size: int) -> Tensor:
    """On the left."""
    return torch.arange(size) < size - torch.tensor(lengths)[:, None]


def ar_model(**kwargs: Any) -> clm.CausalLanguageModel:
    model = clm.CausalLanguageModel(ar_config(**kwargs))
    randomise_vectors(model)
    return model


def close(result: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(result.cpu(), expected.cpu(), atol=tolerance, rtol=tolerance)


# name: model and inputs
MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "mlm": lambda: (mlm.MaskedLanguageModel(mlm_config()), (torch.randint(0, 37, (3, 19)),)),
    "clm": lambda: (ar_model(), (tokens(3, 61), 44)),
    "image classifier": lambda: (img_model(), (images(),)),
    "optical flow": lambda: (flow_model(), (frames(),)),
}
each_model = pytest.mark.parametrize("name", MODELS)


def on(device: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.to(device) if isinstance(x, Tensor) else x for x in args)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


@each_model
def test_values_and_gradients_are_those_of_the_cpu(device: str, name: str) -> None:
    model, args = MODELS[name]()
    other = copy.deepcopy(model).to(device)
    expected, result = model(*args), other(*on(device, args))
    close(result, expected)
    wanted = gradients(model, expected.square().mean())
    for key, gradient in gradients(other, result.square().mean()).items():
        close(gradient, wanted[key], 1e-3)


@each_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_float32(device: str, name: str, dtype: torch.dtype) -> None:
    model, args = MODELS[name]()
    model.to(device)
    args = on(device, args)
    expected = model(*args)
    with torch.autocast(device, dtype):
        result = model(*args)
    assert (result.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_padding_changes_nothing(device: str, dtype: torch.dtype) -> None:
    """An example of a padded batch, on the left in Perceiver AR, on the right elsewhere, gives what it gives alone."""
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    sizes = (61, 17) if device == "cpu" else (2061, 517)  # on CUDA, masks of this size are made of blocks
    model = ar_model(max_seq_len=sizes[0], max_latents=sizes[1]).to(device, dtype).eval()
    lengths = [sizes[0], sizes[0] - 13]
    x, pad_mask = tokens(2, sizes[0], device=device), padding(lengths, sizes[0]).to(device)
    prefix_len = sizes[0] - sizes[1]
    result = model(x, prefix_len, pad_mask)
    for i, length in enumerate(lengths):
        alone = model(x[i : i + 1, -length:], prefix_len - (sizes[0] - length))
        close(result[i].float(), alone[0].float(), tolerance)
    masked = mlm.MaskedLanguageModel(mlm_config()).to(device, dtype).eval()
    x = torch.randint(0, 37, (2, 19), device=device)
    pad_mask = padding([19, 12], 19).flip(1).to(device)
    close(masked(x, pad_mask)[1, :12].float(), masked(x[1:, :12])[0].float(), tolerance)


# Prompts of two lengths, one of them padded, and tokens beyond both windows
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "uncached": {"use_cache": False},
    "reset latents": {"reset_latents": True},
    "beams": {"num_beams": 3},
    "static": {"cache_implementation": "static", "disable_compile": True},
}


def generate(hub: Any, prompt: Tensor, pad_mask: Tensor | None, **kwargs: Any) -> Tensor:
    attention_mask = None if pad_mask is None else (~pad_mask).long()
    sizes: dict[str, Any] = {"max_new_tokens": 23, "min_new_tokens": 23, "do_sample": False, "pad_token_id": 0}
    return hub.generate(prompt, attention_mask=attention_mask, num_latents=7, **(sizes | kwargs)).cpu()


@pytest.fixture
def hub() -> Any:
    config = clm.PerceiverCausalLanguageModelConfig(ar_config(cross_attention_dropout=0.5))
    result = clm.PerceiverCausalLanguageModel(config).eval()
    randomise_vectors(result.backend_model)
    return result


@pytest.mark.parametrize("mode", MODES)
def test_generation_gives_the_tokens_of_the_cpu(device: str, hub: Any, mode: str) -> None:
    prompt, pad_mask = tokens(2, 50), padding([50, 41], 50)
    expected = generate(hub, prompt, pad_mask, **MODES[mode])
    hub.to(device)
    assert torch.equal(generate(hub, prompt.to(device), pad_mask.to(device), **MODES[mode]), expected)
    assert expected.shape == (2, 73)


def test_sampling_from_the_backend(device: str) -> None:
    model = ar_model().to(device)
    result = sample(model, tokens(2, 50, device=device), 19, temperature=0.0)
    assert result.device.type == device and result.shape == (2, 69)
    assert torch.equal(sample(model.cpu(), result[:, :50].cpu(), 19, temperature=0.0), result.cpu())


def test_scores_of_a_text(device: str) -> None:
    model, text = ar_model().eval(), tokens(153)
    expected = torch.cat(list(score_tokens(model, [text])))
    model.to(device)
    for given in (text, text.to(device)):
        result = torch.cat(list(score_tokens(model, [given])))
        assert result.device.type == "cpu" and result.shape == (152,)
        close(result, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"mode": "default"}], ids=["CUDA graphs", "no graphs"])
def test_static_cache_compiled(hub: Any, options: dict[str, Any]) -> None:
    """A compiled step, replayed as CUDA graph, over several sizes of the cache, and in a second generation."""
    hub.cuda()
    kwargs: dict[str, Any] = {"cache_implementation": "static"}
    if options:
        kwargs["compile_config"] = CompileConfig(fullgraph=True, **options)
    for length in (50, 31):
        prompt = tokens(2, length, device="cuda")
        assert torch.equal(generate(hub, prompt, None, **kwargs), generate(hub, prompt, None))


@pytest.mark.gpu
@each_model
def test_compiles_to_one_graph(name: str) -> None:
    """Forward and backward. (Tests of the models themselves do the same on CPU.)"""
    model, args = MODELS[name]()
    model.cuda().eval()
    args = on("cuda", args)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    result, expected = compiled(*args), model(*args)
    close(result, expected, 1e-3)
    eager = gradients(model, expected.square().mean())
    for key, gradient in gradients(model, result.square().mean()).items():
        close(gradient, eager[key], 1e-2)


def checkpointed(device: str, num_channels: int, seq_len: int, **kwargs: Any) -> tuple[CausalSequenceModel, Tensor]:
    sizes = {"num_channels": num_channels, "max_seq_len": seq_len, "max_latents": seq_len // 2}
    torch.manual_seed(0)
    return ar_model(**sizes, **kwargs).to(device).train(), tokens(2, seq_len + 1).to(device)


@pytest.mark.parametrize("offloading", [False, True], ids=["checkpointing", "offloading"])
def test_activations_computed_again(
    device: str, offloading: bool, record_property: Callable[[str, object], None]
) -> None:
    """The same gradients, for less memory on the GPU."""
    num_channels, seq_len = (64, 60) if device == "cpu" else (512, 4096)
    sizes: dict[str, Any] = {"num_self_attention_layers": 6}
    results, peaks = [], []
    for kwargs in ({}, {"activation_checkpointing": True, "activation_offloading": offloading}):
        model, x = checkpointed(device, num_channels, seq_len, **sizes, **kwargs)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        loss = model.loss(x[:, 1:], x[:, :-1])
        results.append(gradients(model, loss))
        peaks.append((torch.cuda.max_memory_allocated() - before if device == "cuda" else 0) / 2**20)
    for key, gradient in results[0].items():
        close(results[1][key], gradient, 1e-3)
    if device == "cuda":
        record_property("peak MB", f"{peaks[1]:,.0f}, of {peaks[0]:,.0f} without")
        assert peaks[1] < 0.6 * peaks[0]


def test_packed_documents_are_those_one_by_one(device: str) -> None:
    """Loss and gradients. On CUDA with so many documents that attention goes through blocks of the mask."""
    lengths = [61, 3, 40, 17, 55] * (12 if device == "cuda" else 1)
    model = ar_model().to(device)
    documents = [tokens(1, length + 1, device=device) for length in lengths]
    labels, x = (
        torch.cat([ids[:, 1:] for ids in documents], dim=1),
        torch.cat([ids[:, :-1] for ids in documents], dim=1),
    )
    packed = model.loss_packed(labels, x, lengths)
    counts = [min(length, 17) for length in lengths]
    alone = [model.loss_packed(ids[:, 1:], ids[:, :-1], [ids.shape[1] - 1]) for ids in documents]
    expected = (torch.stack(alone) * torch.tensor(counts, device=device)).sum() / sum(counts)
    close(packed, expected)
    parameters = list(model.parameters())
    for result, other in zip(*(torch.autograd.grad(x, parameters) for x in (packed, expected)), strict=True):
        close(result, other)
