"""Perceiver IO encoder and decoder: repeated and shared layers, freezing, initial values, the generic model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.core.adapter import InputAdapter, TrainableQueryProvider
from perceiver.model.core.config import DecoderConfig, EncoderConfig
from perceiver.model.core.perceiver_io import PerceiverDecoder, PerceiverEncoder, PerceiverIO, init_parameters
from perceiver.model.text.mlm.backend import MaskedLanguageModel
from tests.model.helpers import GOLDEN, mlm_config, randomise_vectors

B, M, C, N, D, OUT, F, E = 2, 7, 5, 3, 6, 11, 4, 13


class Scaled(InputAdapter):
    """An input that is there already, times a learned number."""

    def __init__(self) -> None:
        super().__init__(num_input_channels=C)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def encoder(**kwargs: Any) -> PerceiverEncoder:
    values: dict[str, Any] = {
        "num_cross_attention_heads": 3,
        "num_self_attention_heads": 2,
        "num_self_attention_layers_per_block": 2,
        "init_scale": 0.3,
    }
    model = PerceiverEncoder(Scaled(), EncoderConfig(**(values | kwargs)), num_latents=N, num_latent_channels=D)
    randomise_vectors(model)
    return model.eval()


def decoder(**kwargs: Any) -> PerceiverDecoder:
    model = PerceiverDecoder(
        nn.Linear(F, E),
        DecoderConfig(num_cross_attention_heads=2, init_scale=0.3, **kwargs),
        num_latent_channels=D,
        output_query_provider=TrainableQueryProvider(OUT, F),
    )
    randomise_vectors(model)
    return model.eval()


# (cross layers, blocks, first cross shared, first block shared) -> parts beside cross_attn_1 and self_attn_1
VARIANTS = [
    (1, 1, False, True, set()),
    (1, 1, False, False, set()),
    (1, 1, True, True, set()),
    (1, 3, False, True, set()),
    (1, 3, False, False, {"self_attn_n"}),
    (2, 2, True, True, set()),
    (2, 2, False, True, {"cross_attn_n"}),
    (2, 2, True, False, {"self_attn_n"}),
    (2, 4, False, False, {"cross_attn_n", "self_attn_n"}),
    (3, 4, False, True, {"cross_attn_n"}),
    (4, 4, False, False, {"cross_attn_n", "self_attn_n"}),
]
every_variant = pytest.mark.parametrize("cross, blocks, cross_shared, block_shared, parts", VARIANTS)


def variant(cross: int, blocks: int, cross_shared: bool, block_shared: bool) -> PerceiverEncoder:
    return encoder(
        num_cross_attention_layers=cross,
        num_self_attention_blocks=blocks,
        first_cross_attention_layer_shared=cross_shared,
        first_self_attention_block_shared=block_shared,
    )


@every_variant
def test_weights_exist_only_where_they_are_used(
    cross: int, blocks: int, cross_shared: bool, block_shared: bool, parts: set[str]
) -> None:
    model = variant(cross, blocks, cross_shared, block_shared)
    found = {name.split(".")[0] for name in model.state_dict()}
    assert found == {"latent_provider", "input_adapter", "cross_attn_1", "self_attn_1"} | parts
    model(torch.randn(B, M, C)).square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for name, p in model.named_parameters()
        if "k_proj.bias" not in name
    )


@every_variant
def test_repeated_attention_by_hand(
    cross: int, blocks: int, cross_shared: bool, block_shared: bool, parts: set[str]
) -> None:
    model = variant(cross, blocks, cross_shared, block_shared)
    x, pad_mask = torch.randn(B, M, C), torch.zeros(B, M, dtype=torch.bool)
    pad_mask[1, 4:] = True
    adapted = model.input_adapter(x)
    latents = model.latent_provider().repeat(B, 1, 1)
    for i in range(blocks):
        if i < cross:
            layer = model.cross_attn_1 if i == 0 or cross_shared else model.cross_attn_n
            latents = layer(latents, adapted, pad_mask)
        layers = model.self_attn_1 if i == 0 or block_shared else model.self_attn_n
        for layer in layers:
            latents = layer(latents)
    torch.testing.assert_close(model(x, pad_mask), latents, atol=1e-5, rtol=1e-5)
    # what is repeated is not without effect
    if blocks > 1:
        assert not torch.allclose(model(x, pad_mask), variant_cut(model, x, pad_mask), atol=1e-3)


def variant_cut(model: PerceiverEncoder, x: Tensor, pad_mask: Tensor) -> Tensor:
    return model.self_attn_1(model.cross_attn_1(model.latent_provider(), model.input_adapter(x), pad_mask))


def test_padding_is_masked_in_every_cross_attention() -> None:
    model = variant(3, 3, False, True)
    x, pad_mask = torch.randn(B, M, C), torch.zeros(B, M, dtype=torch.bool)
    pad_mask[0, [0, 4]] = True
    other = x.clone()
    other[0, [0, 4]] = 100 * torch.randn(2, C)
    torch.testing.assert_close(model(x, pad_mask), model(other, pad_mask), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(x), model(other), atol=1e-3)


@pytest.mark.parametrize(
    "cross, shared, checkpointed, expected",
    [
        (1, True, False, (1, 0)),
        (3, True, False, (1, 0)),
        (3, True, True, (3, 0)),
        (2, False, False, (1, 1)),
        (3, False, False, (1, 1)),
    ],
)
def test_a_layer_that_reads_the_input_again_projects_it_once(
    cross: int, shared: bool, checkpointed: bool, expected: tuple[int, int]
) -> None:
    model, calls = variant(cross, 3, shared, True), list[nn.Module]()
    layers = [layer.attention.attention.k_proj for layer in (model.cross_attn_1, model.cross_attn_n) if layer]
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    model.train().cross_attn_1.gradient_checkpointing = checkpointed
    model(torch.randn(B, M, C))
    assert tuple(calls.count(layer) for layer in layers) == expected[: len(layers)]


def test_an_adapted_input_goes_through_no_adapter() -> None:
    model, x = variant(2, 2, False, False), torch.randn(B, M, C)
    pad_mask = torch.zeros(B, M, dtype=torch.bool)
    pad_mask[1, 4:] = True
    adapted, expected, calls = model.input_adapter(x), model(x, pad_mask), list[Any]()
    model.input_adapter.register_forward_hook(lambda *call: calls.append(call))
    torch.testing.assert_close(model(adapted, pad_mask, adapted=True), expected, atol=1e-5, rtol=1e-5)
    assert not calls
    with pytest.raises(ValueError, match=r"pad_mask is torch.bool \(2, 8\), expected torch.bool \(2, 7\)"):
        model(adapted, torch.zeros(B, M + 1, dtype=torch.bool), adapted=True)


def test_more_cross_attention_layers_than_blocks() -> None:
    with pytest.raises(ValueError, match=r"num_cross_attention_layers=2 must be in \[1, num_self_attention_blocks=1\]"):
        encoder(num_cross_attention_layers=2, num_self_attention_blocks=1)


@pytest.mark.parametrize("name", ["num_cross_attention_layers", "num_self_attention_blocks"])
def test_numbers_of_layers_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=0 of EncoderConfig must be an integer, at least 1"):
        encoder(**{name: 0})


def test_heads_that_do_not_divide_channels() -> None:
    with pytest.raises(ValueError, match="num_qk_channels=6 must be a positive multiple of num_heads=5"):
        encoder(num_self_attention_heads=5)


@pytest.mark.parametrize(
    "pad_mask, described",
    [
        (torch.zeros(B, M + 1, dtype=torch.bool), r"torch.bool \(2, 8\)"),
        (torch.zeros(M, dtype=torch.bool), r"torch.bool \(7,\)"),
        (torch.zeros(B, M, dtype=torch.long), r"torch.int64 \(2, 7\)"),
        (torch.zeros(1, M, dtype=torch.bool), r"torch.bool \(1, 7\)"),
    ],
)
def test_pad_mask_of_the_wrong_shape_or_type(pad_mask: Tensor, described: str) -> None:
    with pytest.raises(ValueError, match=rf"pad_mask is {described}, expected torch.bool \(2, 7\)"):
        encoder()(torch.randn(B, M, C), pad_mask)


def test_inputs_latents_and_queries_of_the_wrong_shape() -> None:
    """Which come from adapters and query providers of others, and from their models."""
    latents = torch.randn(B, N, D)
    for call, said in (
        (lambda: encoder()(torch.randn(B, M, C + 1), adapted=True), rf"inputs have shape \(2, 7, {C + 1}\)"),
        (lambda: encoder()(torch.randn(M, C), adapted=True), rf"inputs have shape \(7, {C}\), expected \(batch size"),
        (lambda: decoder()(latents[..., 1:]), rf"inputs have shape .*, expected \(batch size, inputs, {D}\)"),
        (lambda: decoder()(latents, torch.randn(3, F)), rf"queries have shape \(3, {F}\), expected .*queries, {F}\)"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


# --- decoder ---


def test_decoder_outputs_do_not_depend_on_each_other() -> None:
    model, latents = decoder(), torch.randn(B, N, D)
    every = model(latents)
    assert every.shape == (B, OUT, E)
    for positions in ([10, 0, 3], [5], list(range(OUT))):
        query = model.output_query_provider(torch.tensor([positions]))
        torch.testing.assert_close(model(latents, query), every[:, positions], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_decoder_by_hand(residual: bool) -> None:
    model, latents = decoder(cross_attention_residual=residual), torch.randn(B, N, D)
    query = model.output_query_provider().repeat(B, 1, 1)
    attention = model.cross_attn[0].module if residual else model.cross_attn[0]
    x = attention(query, latents) + (query if residual else 0)
    expected = model.output_adapter(x + model.cross_attn[1].module(x))
    torch.testing.assert_close(model(latents), expected, atol=1e-5, rtol=1e-5)


def test_decoder_residual_shows_in_the_key_names() -> None:
    with_residual, without = decoder().state_dict(), decoder(cross_attention_residual=False).state_dict()
    assert "cross_attn.0.module.q_norm.weight" in with_residual and "cross_attn.0.q_norm.weight" in without
    assert "cross_attn.0.q_norm.weight" not in with_residual
    assert "cross_attn.1.module.0.weight" in with_residual and "cross_attn.1.module.0.weight" in without


def test_perceiver_io_is_the_decoder_of_the_encoder() -> None:
    model = PerceiverIO(encoder(), decoder())
    x, pad_mask = torch.randn(B, M, C), torch.rand(B, M) < 0.4
    pad_mask[:, 0] = False
    torch.testing.assert_close(model(x, pad_mask), model.decoder(model.encoder(x, pad_mask)), atol=1e-5, rtol=1e-5)
    assert model(x).shape == (B, OUT, E)
    assert {name.split(".")[0] for name in model.state_dict()} == {"0", "1"}
    assert (model.encoder, model.decoder) == (model[0], model[1])


class TwoInputs(InputAdapter):
    """A dictionary of points and their values. It computes in float32, whatever the model does."""

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return torch.cat([x["points"].float(), x["values"].float()], dim=-1)


def test_queries_of_a_call_and_inputs_that_are_a_dictionary() -> None:
    model = PerceiverIO(encoder(), decoder())
    model.encoder.input_adapter = TwoInputs(C)
    x, query = torch.randn(B, M, C), torch.randn(B, 3, F)
    latents = model.encoder(x, adapted=True)
    output = model({"points": x[..., :2], "values": x[..., 2:]}, query=query)
    torch.testing.assert_close(output, model.decoder(latents, query))
    one = model({"points": x[..., :2], "values": x[..., 2:]}, query=query[:, 1:2])
    torch.testing.assert_close(one, output[:, 1:2])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_adapters_that_compute_in_float32(compiled: bool, autocast: bool) -> None:
    """In a bfloat16 model, whose layers take nothing else; under autocast, what they get is not touched.

    Outputs and gradients are those of float32, in one graph where it is compiled. Layers among latents are left out:
    they are not in question, and take as long to compile as the others.
    """
    model = PerceiverIO(encoder(), decoder())
    model.encoder.input_adapter, model.encoder.self_attn_1 = TwoInputs(C), nn.Identity()
    shapes = (B, M, 2), (B, M, C - 2), (B, 3, F)
    points, values, query = (torch.randn(shape, requires_grad=True) for shape in shapes)

    def run(forward: Callable[..., Tensor]) -> list[Tensor]:
        output = forward({"points": points, "values": values}, query=query)
        sources = points, values, query, *model.parameters()
        gradients = torch.autograd.grad(output.float().square().sum(), sources, materialize_grads=True)
        return [output, *gradients[:3], torch.cat([gradient.flatten() for gradient in gradients[3:]])]

    expected = run(model)
    if not autocast:
        model.to(torch.bfloat16)
    backend = "eager" if autocast else "aot_eager"  # the latter traces gradients as well, in twice the time
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = run(torch.compile(model, fullgraph=True, backend=backend) if compiled else model)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found[0].float(), expected[0], atol=0.05, rtol=0.05)
    for gradient, exact in zip(found[1:], expected[1:], strict=True):
        assert (gradient - exact).norm() < 0.05 * exact.norm()


# --- freezing and initial values ---


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_frozen_parts_keep_their_weights(part: str) -> None:
    model = MaskedLanguageModel(mlm_config(**{part: {"freeze": True}}))
    frozen, free = (model[0], model[1]) if part == "encoder" else (model[1], model[0])
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(torch.randint(0, 37, (B, M)), torch.randint(0, 37, (B, M))).backward()
    optimizer.step()
    prefix = "0." if part == "encoder" else "1."
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(prefix) for name in changed)


def test_initial_values() -> None:
    """Weights, embeddings and queries normal with the part's own scale, biases 0, norms 1 and 0."""
    config = mlm_config(
        {"init_scale": 0.5, "vocab_size": 700, "max_seq_len": 300, "num_input_channels": 101},
        {"init_scale": 0.05, "vocab_size": 700, "max_seq_len": 300},
        num_latents=89,
    )
    for name, value in MaskedLanguageModel(config).state_dict().items():
        scale = 0.5 if name.startswith("0.") else 0.05
        if name.endswith(("norm.weight", ".1.module.0.weight")):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            bound = 5 * scale / value.numel() ** 0.5  # five standard errors
            assert value.mean().abs() < bound, name
            assert (value.std() - scale).abs() < bound, name


def test_recorded_initial_values() -> None:
    recorded = json.loads((GOLDEN / "pieces" / "init_statistics.json").read_text())["mlm_tied"]
    shape = {name: recorded[name]["shape"] for name in recorded}
    (num_latents, num_channels), (vocab_size, num_input_channels) = (
        shape["0.latent_provider._query"],
        shape["0.input_adapter.txt_embedding.weight"],
    )
    assert (num_channels, num_input_channels) == (64, 64)
    max_seq_len = shape["0.input_adapter.pos_embedding.weight"][0]
    num_layers = len({name.split(".")[2] for name in recorded if name.startswith("0.self_attn_1.")})
    residual = "1.cross_attn.0.module.q_norm.weight" in recorded
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "max_seq_len": max_seq_len, "init_scale": 0.02}
    heads = {"num_cross_attention_heads": 8, "num_cross_attention_qk_channels": None}
    heads |= {"num_cross_attention_v_channels": None}
    layers = {"num_self_attention_heads": 8, "num_self_attention_qk_channels": None, "num_input_channels": 64}
    layers |= {"num_self_attention_v_channels": None, "num_self_attention_layers_per_block": num_layers}
    config = mlm_config(
        sizes | heads | layers,
        sizes | heads | {"cross_attention_residual": residual},
        num_latents=num_latents,
        num_latent_channels=num_channels,
    )
    state_dict = MaskedLanguageModel(config).state_dict()
    assert {name: list(value.shape) for name, value in state_dict.items()} == shape
    for name, value in state_dict.items():
        expected = recorded[name]
        assert bool((value == 0).all()) == expected["all_zero"], name
        assert bool((value == 1).all()) == expected["all_one"], name
        # both are samples of one distribution: five standard errors of each
        assert abs(value.std().item() - expected["std"]) <= 10 * 0.02 / value.numel() ** 0.5, name


def test_init_parameters_resets_everything() -> None:
    model = nn.Sequential(decoder(), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Embedding(2, 3))
    values = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
    assert len(values) > 20
    with torch.no_grad():
        for value in values:
            value.fill_(7.0)
    init_parameters(model, 0.1)
    assert not any((value == 7.0).any() for value in values)
