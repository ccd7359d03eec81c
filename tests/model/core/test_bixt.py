"""BiXT: layers by hand with one similarity matrix, values and gradients; padding, sizes, long inputs and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, TrainableQueryProvider
from perceiver.model.core.attention_maps import attention_names, record_attention
from perceiver.model.core.bixt import BidirectionalLayer, BiXTEncoder
from perceiver.model.core.config import DecoderConfig
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverIO
from perceiver.model.core.summary import summary
from tests.model.core.test_attention import LargestTensor
from tests.model.helpers import assert_close, gradients, randomise_vectors

B, M, C, N, D, H = 2, 7, 3, 5, 8, 4


class Identity(InputAdapter):
    """Inputs (B, M, C) as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def encoder(**kwargs: Any) -> BiXTEncoder:
    sizes = {"num_latents": N, "num_channels": D, "num_layers": 3, "num_heads": H, "init_scale": 0.4}
    model = BiXTEncoder(Identity(C), **sizes | kwargs)
    randomise_vectors(model)
    return model


def decoder() -> PerceiverDecoder:
    config, queries = DecoderConfig(num_cross_attention_heads=1), TrainableQueryProvider(1, 6)
    return PerceiverDecoder(nn.Linear(6, 2), config, num_latent_channels=D, output_query_provider=queries)


def exchanged(layer: BidirectionalLayer, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (N, D) and tokens (M, D) of one example after a layer, by the similarity of each head (N, M)"""
    attention = layer.attention
    r, latent_v = attention.latent_proj(attention.latent_norm(latents)).chunk(2, dim=1)
    s, token_v = attention.token_proj(attention.token_norm(tokens)).chunk(2, dim=1)
    to_latents, to_tokens = [], []
    for h in range(attention.num_heads):
        head = slice(h * (D // H), (h + 1) * (D // H))
        similarity = r[:, head] @ s[:, head].T / (D // H) ** 0.5
        to_latents.append(similarity.softmax(dim=1) @ token_v[:, head])
        to_tokens.append(similarity.softmax(dim=0).T @ latent_v[:, head])
    latents = latents + attention.latent_o_proj(torch.cat(to_latents, dim=1))
    tokens = tokens + attention.token_o_proj(torch.cat(to_tokens, dim=1))
    tokens = tokens if layer.token_mlp is None else tokens + layer.token_mlp(tokens)
    return latents + layer.latent_mlp(latents), tokens


def by_hand(model: BiXTEncoder, x: Tensor) -> Tensor:
    """Inputs (M, C) of one example -> (N, D)"""
    latents, tokens = model.latent_provider._query, model.projection(x)
    for layer, self_attention in zip(model.bidirectional, model.self_attention, strict=False):
        assert isinstance(layer, BidirectionalLayer)
        latents, tokens = exchanged(layer, latents, tokens)
        latents = self_attention(latents[None])[0]
    latents = model.cross_attention(latents[None], tokens[None])
    result: Tensor = model.self_attention[-1](latents)[0]
    return result


@pytest.mark.parametrize("kwargs", [{}, {"token_mlp": False, "widening_factor": 2}, {"num_layers": 1}], ids=str)
def test_layers_by_hand(kwargs: dict[str, Any]) -> None:
    model, x = encoder(**kwargs), torch.randn(B, M, C)
    result = model(x)
    assert result.shape == (B, N, D)
    result.square().sum().backward()
    ours = gradients(model)
    model.zero_grad()
    expected = torch.stack([by_hand(model, example) for example in x])
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    expected.square().sum().backward()
    theirs = gradients(model)
    assert ours.keys() == dict(model.named_parameters()).keys()
    assert_close(ours, theirs)


def test_later_layers_see_what_tokens_have_learnt() -> None:
    model, x = encoder(num_layers=2), torch.randn(B, M, C)
    result = model(x)
    nn.init.zeros_(model.bidirectional[0].attention.token_o_proj.weight)  # tokens that learn nothing of the latents
    assert (model(x) - result).abs().max() > 1e-2


def test_number_of_parameters() -> None:
    """Those of the paper's BiXT-Ti/16 (table 2), 15 million, without patches, positions and classes."""
    with torch.device("meta"):
        model = BiXTEncoder(Identity(192), num_latents=64, num_channels=192)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 14.8


def test_initial_values() -> None:
    model = BiXTEncoder(Identity(48), num_latents=50, num_channels=60, num_layers=2, init_scale=0.3)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            torch.testing.assert_close(parameter.std(), torch.tensor(0.3), atol=0.02, rtol=0)
        else:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all()


def test_inputs_have_no_order() -> None:
    model, x = encoder(), torch.randn(B, M, C)
    torch.testing.assert_close(model(x.flip(1)), model(x), atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing() -> None:
    model, x = encoder(), torch.randn(B, M, C, requires_grad=True)
    pad_mask = torch.arange(M) % 3 == torch.tensor([[0], [2]])
    result = model(x, pad_mask)
    for b in range(B):
        torch.testing.assert_close(result[b : b + 1], model(x[b : b + 1, ~pad_mask[b]]), atol=1e-5, rtol=1e-5)
    result.square().sum().backward()
    assert x.grad is not None
    assert (x.grad[pad_mask] == 0).all() and (x.grad[~pad_mask] != 0).any(dim=-1).all()


def test_an_example_of_padding_alone_disturbs_no_other() -> None:
    model, x = encoder(), torch.randn(B, M, C)
    result = model(x, torch.tensor([[True] * M, [False] * M]))
    assert result.isfinite().all()
    torch.testing.assert_close(result[1:], model(x[1:]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_maps() -> None:
    """Both ways have the weights of one similarity; padding has none, and its own are of no use to anybody."""
    model, x, pad_mask = encoder(num_layers=2), torch.randn(B, M, C), torch.arange(M) >= torch.tensor([[M], [4]])
    perceiver = PerceiverIO(model, decoder())
    with record_attention(perceiver) as maps:
        perceiver(x, pad_mask)
    assert {name: tuple(weights.shape) for name, weights in maps.items()} == {
        "encoder.cross_attention.0": (B, H, N, M),
        "encoder.token_attention.0": (B, H, M, N),
        "encoder.self_attention.0": (B, H, N, N),
        "encoder.cross_attention.1": (B, H, N, M),
        "encoder.self_attention.1": (B, H, N, N),
        "decoder.cross_attention": (B, 1, 1, N),
    }
    assert sorted(maps) == sorted(attention_names(perceiver))
    of_latents, of_tokens = maps["encoder.cross_attention.0"], maps["encoder.token_attention.0"]
    torch.testing.assert_close(of_latents.sum(dim=3), torch.ones(B, H, N))
    assert (of_latents[1, :, :, 4:] == 0).all() and (of_latents[0] > 0).all() and (of_tokens > 0).all()
    similarity = of_latents[0].log().transpose(1, 2)  # up to a constant for each latent
    shift = similarity - of_tokens[0].log()  # of which a constant for each token is what remains
    torch.testing.assert_close(
        shift - shift[:, :1] - shift[:, :, :1] + shift[:, :1, :1], torch.zeros(H, M, N), atol=1e-4, rtol=0
    )


def test_summary() -> None:
    sizes = summary(PerceiverIO(encoder(), decoder()), torch.randn(1, M, C))
    assert (sizes.M, sizes.C, sizes.N, sizes.D, sizes.O, sizes.F, sizes.E) == (M, C, N, D, 1, 6, 2)


def test_dropout_is_for_training() -> None:
    model, x = encoder(dropout=0.5), torch.randn(B, M, C)
    assert (model(x) - model(x)).abs().max() > 1e-2
    torch.testing.assert_close(model.eval()(x), model(x))


@pytest.mark.parametrize("masked", [False, True])
def test_long_inputs_have_no_score_matrix(masked: bool) -> None:
    length, num_latents = 2000, 100
    model = BiXTEncoder(Identity(C), num_latents=num_latents, num_channels=D, num_layers=2, num_heads=1)
    pad_mask = torch.arange(length)[None] >= length - 100 if masked else None
    with LargestTensor() as largest:
        model(torch.randn(1, length, C), pad_mask).sum().backward()
    assert 0 < largest.numel < num_latents * length / 2


def test_compiles_to_one_graph() -> None:
    model, x, pad_mask = encoder(num_layers=2), torch.randn(B, M, C), torch.rand(B, M) < 0.4
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, pad_mask), model(x, pad_mask), atol=1e-6, rtol=1e-6)


def test_computes_in_the_dtype_of_its_parameters() -> None:
    assert encoder().to(torch.bfloat16)(torch.randn(B, M, C)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"num_heads": 3}, "num_channels=8 must be a positive multiple of num_heads=3"),
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
    ],
)
def test_wrong_sizes(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**kwargs)


def test_inputs_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"inputs have shape \(2, 7, 4\), expected \(batch size, inputs, 3\)"):
        encoder()(torch.randn(B, M, C + 1))


@pytest.mark.parametrize("pad_mask", [torch.zeros(B, M), torch.zeros(B, M + 1, dtype=torch.bool)], ids=["type", "size"])
def test_wrong_pad_mask(pad_mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"pad_mask is torch\..* \(2, .\), expected torch.bool \(2, 7\)"):
        encoder()(torch.randn(B, M, C), pad_mask)
