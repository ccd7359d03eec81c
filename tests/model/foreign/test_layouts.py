"""Converted models compute what the original packages compute, over a sweep of their options; and what can't be."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver.model.foreign.layouts import LAYOUTS, recognised
from perceiver.model.foreign.layouts.lucidrains_perceiver import renamed_to_0_11
from tests.model.foreign import originals
from tests.model.foreign.originals import assert_equal, converted

# What the parameters do not tell.
UNTOLD = {
    *("cross_heads", "cross_dim_head", "latent_heads", "latent_dim_head"),
    *("num_freq_bands", "max_freq", "input_axis", "fourier_encode_data"),
    *("heads", "dim_head", "cross_attn_seq_len"),
}


def untold(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in UNTOLD}


def masks(*shape: int) -> Tensor:
    """True where there is an input. Every example has one."""
    mask = torch.rand(*shape) > 0.4
    mask.flatten(1)[:, 0] = True
    return mask


@torch.no_grad()
@pytest.mark.parametrize("tied, layers", [*product((False, True), (1, 2))])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_perceiver(tied: bool, layers: int, axis: int) -> None:
    for i, (fourier, head) in enumerate(product((False, True), (False, True))):
        depth = (1, 2, 4)[(i + axis) % 3]  # each of the three with each of the others, once
        original, arguments = originals.perceiver(
            weight_tie_layers=tied,
            self_per_cross_attn=layers,
            input_axis=axis,
            fourier_encode_data=fourier,
            final_classifier_head=head,
            depth=depth,
        )
        ours = converted(original.state_dict(), untold(arguments))
        x = torch.randn(2, *(6, 4, 5)[:axis], 3)
        mask = masks(*x.shape[:-1])
        assert_equal(ours(x), original(x))
        assert_equal(ours(x, ~mask), original(x, mask=mask))
        # parameters say no less than all arguments together
        assert ours.config == converted(original.state_dict(), arguments).config


@torch.no_grad()
@pytest.mark.parametrize("tied, mlp", [*product((False, True), (False, True))])
def test_perceiver_io(tied: bool, mlp: bool) -> None:
    for outputs, depth in product((None, 10), (1, 3)):
        original, arguments = originals.perceiver_io(
            weight_tie_layers=tied, decoder_ff=mlp, logits_dim=outputs, depth=depth
        )
        ours = converted(original.state_dict(), untold(arguments))
        x, queries, mask = torch.randn(2, 11, 9), torch.randn(2, 4, 8), masks(2, 11)
        assert_equal(ours(x, query=queries), original(x, queries=queries))
        assert_equal(ours(x, ~mask, query=queries[0]), original(x, mask=mask, queries=queries[0]))


@torch.no_grad()
@pytest.mark.parametrize("mlp", [False, True])
def test_perceiver_lm(mlp: bool) -> None:
    original, arguments = originals.perceiver_lm(decoder_ff=mlp)
    ours = converted(original.state_dict(), untold(arguments))
    x, mask = torch.randint(17, (2, 11)), masks(2, 11)
    assert_equal(ours(x, ~mask), original(x, mask=mask))


@torch.no_grad()
@pytest.mark.parametrize("head_channels", [32, 48, 64, 96])
def test_perceiver_ar(head_channels: int) -> None:
    """The original rotates half of a head's channels, and 32 at least."""
    for heads, widening_factor, depth in product((1, 3), (2, 4), (1, 2)):
        original, arguments = originals.perceiver_ar(
            dim_head=head_channels, heads=heads, ff_mult=widening_factor, depth=depth
        )
        ours = converted(original.state_dict(), untold(arguments))
        for seq_len in (11, 14, 16):
            x = torch.randint(11, (2, seq_len))
            assert_equal(ours(x, 10), original(x))


def test_gradients_are_those_of_the_original() -> None:
    original, arguments = originals.perceiver(depth=4, weight_tie_layers=True)
    ours = converted(original.state_dict(), untold(arguments))
    x = torch.randn(2, 6, 4, 3)
    original(x).square().sum().backward()
    ours(x).square().sum().backward()
    named = dict(original.named_parameters())
    assert_equal(ours.encoder.latent_provider._query.grad, named["latents"].grad)
    theirs = named["layers.1.self_attns.0.1.fn.net.0.weight"].grad  # of three tied layers
    assert_equal(ours.encoder.self_attention[1][0].mlp[1].weight.grad, theirs)


# --- former versions of perceiver-pytorch ---


def test_names_of_former_versions() -> None:
    """The layers of 0.10, where what has a name now had a number; and, up to 0.7, of layers before dropout."""
    original, arguments = originals.perceiver(self_per_cross_attn=2)
    parameters = original.state_dict()
    for old in (False, True):
        former = {former_name(name, old=old): value for name, value in parameters.items()}
        assert former.keys() != parameters.keys() and "layers.0.2.1.0.fn.to_q.weight" in former
        renamed = renamed_to_0_11(former)
        assert renamed.keys() == parameters.keys()
        assert all(renamed[name] is value for name, value in parameters.items())
        assert recognised(former) is recognised(parameters)
        x = torch.randn(2, 6, 4, 3)
        assert_equal(converted(former, untold(arguments))(x), original(x))


def former_name(name: str, *, old: bool) -> str:
    for new, number in (("cross_attn", "0"), ("cross_ff", "1"), ("self_attns", "2")):
        name = name.replace(f".{new}.", f".{number}.")
    return name.replace(".to_out.", ".to_out.0.").replace(".net.2.", ".net.3.") if old else name


def test_names_of_former_versions_of_perceiver_io() -> None:
    original, _ = originals.perceiver_io()
    parameters = original.state_dict()
    former = {
        name.replace("cross_attend_block.cross_attn.", "cross_attend_blocks.0.")
        .replace("cross_attend_block.cross_ff.", "cross_attend_blocks.1.")
        .replace(".self_attns.0.", "."): value
        for name, value in parameters.items()
    }
    assert "layers.1.0.fn.to_q.weight" in former
    assert renamed_to_0_11(former).keys() == parameters.keys()


# --- what can't be converted ---


def test_every_layout_is_recognised_by_its_names_alone() -> None:
    makers = (originals.perceiver, originals.perceiver_io, originals.perceiver_lm, originals.perceiver_ar)
    found = [recognised(make()[0].state_dict()) for make in makers]
    assert [layout and layout.original for layout in found] == [
        "Perceiver",
        "PerceiverIO",
        "PerceiverLM",
        "PerceiverAR",
    ]
    assert len({layout.model for layout in LAYOUTS}) == len(LAYOUTS) == 5
    assert recognised(nn.Linear(2, 3).state_dict()) is None


@pytest.mark.parametrize(
    ("make", "built", "given", "message"),
    [
        (originals.perceiver, {}, {"depth": 4}, "depth=4 was given, but the parameters say 3"),
        (
            originals.perceiver,
            {},
            {"cross_heads": 3},
            "cross_heads=3 with cross_dim_head=7 can't be: .* have 14 channels",
        ),
        (
            originals.perceiver,
            {},
            {"num_freq_bands": 4},
            "input_channels=3 and 18 channels of Fourier features can't be",
        ),
        (originals.perceiver, {}, {"max_freq": None}, "no parameter tells max_freq"),
        (originals.perceiver, {}, {"attn_residual": True}, "attn_residual=True can't be converted, only .*=False"),
        (originals.perceiver, {}, {"inverted_cross_attn": True}, "inverted_cross_attn=True can't be converted"),
        (originals.perceiver, {"attn_residual": True}, {}, "attn_residual=True can't be converted"),
        (originals.perceiver, {}, {"heads": 3}, "there is no argument heads; there are attn_dropout,"),
        (originals.perceiver_io, {}, {"queries_dim": 5}, "queries_dim=5 was given, but the parameters say 8"),
        (originals.perceiver_lm, {}, {"latent_heads": 5}, "latent_heads=5 with latent_dim_head=6 can't be"),
        (originals.perceiver_ar, {"perceive_depth": 2}, {}, "perceive_depth"),
        (originals.perceiver_ar, {}, {"cross_attn_seq_len": None}, "no parameter tells cross_attn_seq_len"),
        (originals.perceiver_ar, {}, {"cross_attn_seq_len": 16}, r"cross_attn_seq_len=16 must be in \[1, 15\]"),
    ],
)
def test_what_cannot_be_converted_says_why(make: Any, built: Any, given: Any, message: str) -> None:
    original, arguments = make(**built)
    with pytest.raises(ValueError, match=message):
        converted(original.state_dict(), untold(arguments) | given)


def test_missing_and_further_parameters() -> None:
    original, arguments = originals.perceiver_io()
    parameters = original.state_dict()
    with pytest.raises(ValueError, match=r"the parameter extra\.weight can't be converted: our model has none like it"):
        converted({**parameters, "extra.weight": torch.zeros(2)}, untold(arguments))
    del parameters["layers.1.self_attns.0.1.fn.net.2.bias"]
    with pytest.raises(ValueError, match=r"the parameter layers[.]1.* is missing"):
        converted(parameters, untold(arguments))
    with pytest.raises(ValueError, match="the parameter latents has the shape"):
        converted({**original.state_dict(), "latents": torch.zeros(2, 3, 4)}, untold(arguments))
