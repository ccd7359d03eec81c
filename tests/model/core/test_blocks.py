"""Blocks of latents of one sequence: what the model makes of each is what it makes of it alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perceiver.model.core.attention import attention
from perceiver.model.core.blocks import LatentBlocks, count_dropped
from perceiver.model.core.mask import AttentionMask
from perceiver.model.text.clm.backend import CausalLanguageModel
from tests.model.clm_helpers import CONFIGS, MAX_LATENTS, clm_config, clm_model
from tests.model.core.test_attention import LargestTensor
from tests.model.helpers import assert_close, gradients, token_ids

BATCH = 3
# prefix_len, size of a block, number of blocks: the longest, without a prefix and with fewer latents, single tokens
SHAPES = [(2, 5, 3), (0, 4, 2), (6, 1, 3)]


def alone(model: CausalLanguageModel, x: Tensor, prefix_len: int, size: int, pad_mask: Tensor | None = None) -> Tensor:
    """Logits of blocks, each a sequence that ends with it."""
    ends = range(prefix_len + size, x.shape[1] + 1, size)
    masks = [None if pad_mask is None else pad_mask[:, :end] for end in ends]
    return torch.cat([model(x[:, :end], end - size, mask) for end, mask in zip(ends, masks, strict=True)], dim=1)


def paddings(batch_size: int, seq_len: int) -> Tensor:
    """On the left, of a whole block and more, anywhere, and none."""
    pad_mask = torch.rand(batch_size, seq_len) < 0.4
    pad_mask[0] = torch.arange(seq_len) < seq_len // 2
    pad_mask[-1] = False
    return pad_mask


@pytest.mark.parametrize(
    "config, is_padded, checkpointing",
    [
        *((config, False, False) for config in CONFIGS.values()),
        (CONFIGS["token shift"], True, False),
        (CONFIGS["rotary"], True, True),
    ],
    ids=[*CONFIGS, "padded", "padded, checkpointing"],
)
def test_logits_and_gradients_are_those_of_each_block_alone(config, is_padded: bool, checkpointing: bool) -> None:
    model = clm_model(replace(config, cross_attention_dropout=0.0, activation_checkpointing=checkpointing)).train()
    for prefix_len, size, num_blocks in SHAPES:
        prefix_len = min(prefix_len, config.max_seq_len - config.max_latents)
        size = min(size, config.max_latents)
        longest = config.max_seq_len - config.max_latents + size
        x = token_ids(BATCH, prefix_len + size * min(num_blocks, (longest - prefix_len) // size))
        pad_mask = paddings(*x.shape) if is_padded else None
        found = model(x, prefix_len, pad_mask, num_blocks=(x.shape[1] - prefix_len) // size)
        expected = alone(model, x, prefix_len, size, pad_mask)
        assert_close({"logits": found}, {"logits": expected}, atol=1e-6 * expected.abs().max().item(), rtol=1e-5)
        weights = torch.randn_like(found)
        (found * weights).sum().backward()
        found_gradients = gradients(model)
        (expected * weights).sum().backward()
        assert_close(found_gradients, gradients(model))


def test_the_loss_is_the_mean_over_the_labels_of_all_blocks() -> None:
    model = clm_model()
    x, labels = token_ids(BATCH, 16), token_ids(BATCH, 16)
    labels[:, 7] = -100
    pad_mask = paddings(*x.shape)
    expected = torch.nn.functional.cross_entropy(
        alone(model, x, 6, MAX_LATENTS, pad_mask).flatten(0, 1), labels.masked_fill(pad_mask, -100)[:, 6:].flatten()
    )
    torch.testing.assert_close(model.loss(labels, x, pad_mask, num_blocks=2), expected, atol=1e-5, rtol=1e-5)
    # as many as there are
    for num_blocks, length in ((3, 16), (2, 11), (1, 9)):
        every, found = (model.loss(labels[:, :length], x[:, :length], num_blocks=n) for n in (7, num_blocks))
        torch.testing.assert_close(every, found)
    torch.testing.assert_close(model.loss(labels, x, num_blocks=1), model.loss(labels, x))


def test_blocks_are_causal() -> None:
    """No gradient comes from tokens after a latent's own, and from all before it."""
    model = clm_model()
    x = model.txt_embedding(token_ids(1, 17)).detach().requires_grad_()
    for i in (0, 4, 5, 9, 14):
        (gradient,) = torch.autograd.grad(model.latents(x, 2, num_blocks=3)[0, i].square().sum(), x)
        reached = gradient[0].abs().sum(dim=1)
        assert (reached[: 3 + i] > 0).all() and (reached[3 + i :] == 0).all()


def test_each_form_of_a_token_is_projected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = clm_model()
    attention_module, lengths = model.cross_attention.attention.attention, {}
    for name in ("q_proj", "k_proj", "v_proj"):
        projection = getattr(attention_module, name)
        projection.register_forward_hook(
            lambda _, args, __, name=name: lengths.setdefault(name, []).append(args[0].shape)
        )
    model(token_ids(BATCH, 17), 2, num_blocks=3)
    assert lengths == {"q_proj": [(BATCH, 15, 22)], "k_proj": [(BATCH, 12 + 15, 22)], "v_proj": [(BATCH, 12 + 15, 22)]}


@pytest.mark.parametrize("v_channels", [8, 5], ids=["in parts", "one by one"])
@pytest.mark.parametrize("is_padded", [False, True], ids=["", "padded"])
def test_attention_is_that_with_the_mask_of_other_devices(
    monkeypatch: pytest.MonkeyPatch, v_channels: int, is_padded: bool
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    for blocks in (LatentBlocks.of(3, 8, 4), LatentBlocks.of(0, 15, 3), LatentBlocks.of(2, 780, 1)):
        num_latents = blocks.size * len(blocks)
        num_keys = blocks.prefix_len + num_latents
        q, k = torch.randn(BATCH, 2, num_latents, 8), torch.randn(BATCH, 2, num_keys, 8)
        inputs = [x.requires_grad_() for x in (q, k, torch.randn(BATCH, 2, num_keys, v_channels))]
        padding = paddings(BATCH, num_keys) if is_padded else None
        mask = AttentionMask.of_padding(padding, causal=True, latent_blocks=blocks)
        dense = mask.dense(num_latents, num_keys, q.device)
        assert dense is not None and not mask.is_only_causal(num_latents, num_keys)
        found, expected = attention(*inputs, mask=mask), attention(*inputs, mask=dense)
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(found)
        for one, other in zip(
            torch.autograd.grad(found, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_in_half_precision_parts_are_merged_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of one rounding, however many parts there are."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    blocks = LatentBlocks.of(5, 64, 32)
    q, k, v = (torch.randn(1, 2, n, 8).bfloat16() for n in (64, blocks.prefix_len + 64, blocks.prefix_len + 64))
    mask = AttentionMask(causal=True, latent_blocks=blocks)
    expected = attention(q.float(), k.float(), v.float(), mask=mask)
    found = attention(q, k, v, mask=mask)
    assert found.dtype == torch.bfloat16 and (found - expected).abs().max() < 0.005


def test_the_mask_of_other_devices_says_who_reads_what() -> None:
    blocks = LatentBlocks.of(3, 8, 4)
    order = blocks.order()[0]
    seen = AttentionMask(causal=True, latent_blocks=blocks).dense(8, blocks.prefix_len + 8, torch.device("cpu"))
    assert seen is not None
    for i, row in enumerate(seen):
        assert order[row].tolist() == list(range(3 + i + 1))  # its own form included: all up to it
        assert row[blocks.prefix_len :].nonzero()[:, 0].tolist() == list(range(i // 2 * 2, i + 1))


def test_nothing_has_the_size_of_all_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a mask of all keys and queries is made, nor a copy of the prefix kept for any block."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    batch, heads, size, num_blocks, channels = 1, 2, 8, 16, 4
    blocks = LatentBlocks.of(2000, size * num_blocks, num_blocks)
    num_keys = blocks.prefix_len + size * num_blocks
    q = torch.randn(batch, heads, size * num_blocks, channels, requires_grad=True)
    k, v = (torch.randn(batch, heads, num_keys, channels, requires_grad=True) for _ in range(2))
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.itemsize
        return x

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = attention(q, k, v, mask=AttentionMask(causal=True, latent_blocks=blocks))
        result.sum().backward()
    assert 0 < largest.numel <= heads * num_keys * channels < num_keys * size * num_blocks
    assert 2 * k.numel() < sum(kept.values()) < 2.2 * k.numel()  # keys and values themselves


def test_what_is_kept_goes_through_hooks() -> None:
    """`save_on_cpu` is two such hooks. torch warns where it has to guess whether they get the kernel's results."""
    blocks = LatentBlocks.of(7, 6, 2)
    q, k, v = (torch.randn(1, 2, n, 4, requires_grad=True) for n in (6, 16, 16))
    packed: list[list[Tensor]] = []

    def pack(x: Tensor) -> list[Tensor]:
        packed.append([x.detach().clone()])
        return packed[-1]

    expected = attention(q, k, v, mask=AttentionMask(causal=True, latent_blocks=blocks))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x[0]):
        found = attention(q, k, v, mask=AttentionMask(causal=True, latent_blocks=blocks))
        found_gradients = torch.autograd.grad(found.square().sum(), (q, k, v))
    assert packed
    torch.testing.assert_close(found_gradients, torch.autograd.grad(expected.square().sum(), (q, k, v)))


def test_dropout_leaves_out_the_same_share_of_each_prefix() -> None:
    blocks = LatentBlocks.of(7, 15, 3)
    kept = set()
    for _ in range(20):
        left, order = blocks.dropped(blocks.order().expand(2, -1), 0.5)
        assert left.stretches == [4, 3, 3] and left.size == 5
        for row in order.tolist():
            prefix = row[:10]
            assert prefix == sorted(set(prefix)) and row[10:] == list(range(7, 22))
            assert [sum(token < end for token in prefix) for end in (7, 12, 17)] == [4, 7, 10]
            kept.update(prefix)
    assert kept == set(range(17))
    assert (order[0] != order[1]).any()


def test_with_dropout_a_block_is_what_it_is_alone_without_the_dropped_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model without position codes, so that a shorter sequence has the same positions where it counts."""
    model = clm_model(clm_config(cross_attention_dropout=0.5)).train()
    x, dropped = token_ids(1, 17), LatentBlocks.dropped
    orders: list[Tensor] = []

    def recorded(self: LatentBlocks, order: Tensor, fraction: float) -> tuple[LatentBlocks, Tensor]:
        blocks, order = dropped(self, order, fraction)
        orders.append(order)
        return blocks, order

    monkeypatch.setattr(LatentBlocks, "dropped", recorded)
    found = model(x, 2, num_blocks=3)
    prefix = orders[0][0, :7]
    model.eval()
    for i, start in enumerate((2, 7, 12)):
        kept = prefix[prefix < start]
        pad_mask = torch.ones(1, start + 5, dtype=torch.bool)
        pad_mask[0, kept] = pad_mask[0, start:] = False
        inputs = model.prepare(x[:, : start + 5], start, None, None)
        inputs.mask.allowed = ~pad_mask[:, None, None]  # hidden, with the positions of all
        expected = model.logits(model.out_norm(model.attend(inputs)))
        torch.testing.assert_close(found[:, 5 * i : 5 * i + 5], expected, atol=1e-5, rtol=1e-5)
    assert found.shape == (1, 15, 37)
    first, second = (model.train()(x, 2, num_blocks=3) for _ in range(2))
    assert not torch.allclose(first, second)


def test_attention_probabilities_of_blocks_are_dropped() -> None:
    model = clm_model(clm_config(post_attention_dropout=0.9, cross_attention_dropout=0.0)).train()
    x = token_ids(1, 17)
    loss = model.loss(x, x, num_blocks=3)
    loss.backward()
    assert not torch.allclose(loss, model.eval().loss(x, x, num_blocks=3))


@pytest.mark.parametrize(
    "seq_len, prefix_len, num_blocks, message",
    [
        (17, 3, 3, "14 latents after prefix_len=3 tokens can't be divided into num_blocks=3 blocks of equal size"),
        (17, 2, 0, "num_blocks=0 blocks"),
        (17, 2, -1, "num_blocks=-1 blocks"),
        (12, -3, 3, "prefix_len=-3"),
        (17, 17, 2, "0 latents after prefix_len=17"),
        (18, 3, 3, "sequence length 18 exceeds max_seq_len=17"),
        (15, 3, 2, "15 tokens with prefix_len=9 make 6 latents, max_latents=5"),
        (17, 13, 2, r"prefix_len=15 must be in \[0, 12\]"),
    ],
)
def test_what_is_wrong_with_blocks(seq_len: int, prefix_len: int, num_blocks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clm_model()(token_ids(1, seq_len), prefix_len, num_blocks=num_blocks)


def test_blocks_take_no_cache() -> None:
    model = clm_model()
    with pytest.raises(ValueError, match="num_blocks=2 can't be given with a cache"):
        model(token_ids(1, 10), 0, cache=model.new_cache(), num_blocks=2)
    with pytest.raises(ValueError, match="a loss of 0 blocks"):
        model.loss(token_ids(1, 10), token_ids(1, 10), num_blocks=0)


def test_checkpointed_code_compiles_again_with_another_fraction_and_serves_all_lengths() -> None:
    """As the model does: a float that changes is a variable to torch, of which checkpointed code makes no size."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    def left(x: Tensor, fraction: float) -> Tensor:
        return checkpoint(torch.sin, x[count_dropped(x.shape[0], fraction) :], use_reentrant=False)

    torch.compiler.reset()
    compiled = torch.compile(left, fullgraph=True, backend=backend)
    for fraction in (0.0, 0.3, 0.29):
        for length in (10, 40, 100):  # 0.29 * 100 is 28.999...
            assert len(compiled(torch.ones(length), fraction)) == length - int(length * fraction)
    assert len(graphs) == 4  # the first, that of any length, and one for each further fraction
