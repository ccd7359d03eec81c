"""Adapters and query providers: what they compute, and errors that name values and limits."""

from __future__ import annotations

import pytest
import torch

from perceiver.model.core.adapter import (
    CoordinateInputAdapter,
    FourierQueryProvider,
    QueryProvider,
    TiedTokenOutputAdapter,
    TokenInputAdapter,
    TokenOutputAdapter,
    TrainableQueryProvider,
)
from perceiver.model.core.position import FourierPositionEncoding

B, M, C, VOCAB, MAX_LEN = 2, 5, 3, 11, 7


@pytest.fixture
def token_adapter() -> TokenInputAdapter:
    return TokenInputAdapter(vocab_size=VOCAB, max_seq_len=MAX_LEN, num_input_channels=C)


def test_token_input_is_the_sum_of_token_and_position(token_adapter: TokenInputAdapter) -> None:
    ids = torch.randint(0, VOCAB, (B, M))
    result = token_adapter(ids)
    assert result.shape == (B, M, token_adapter.num_input_channels)
    for b in range(B):
        for m in range(M):
            expected = token_adapter.txt_embedding.weight[ids[b, m]] + token_adapter.pos_embedding.weight[m]
            assert torch.equal(result[b, m], expected)


def test_longest_input_is_allowed(token_adapter: TokenInputAdapter) -> None:
    assert token_adapter(torch.zeros(1, MAX_LEN, dtype=torch.long)).shape == (1, MAX_LEN, C)


def test_too_long_input(token_adapter: TokenInputAdapter) -> None:
    with pytest.raises(ValueError, match="sequence length 8 exceeds max_seq_len=7"):
        token_adapter(torch.zeros(1, MAX_LEN + 1, dtype=torch.long))


@pytest.mark.parametrize("ids, span", [([0, VOCAB], r"\[0, 11\]"), ([-1, 3], r"\[-1, 3\]")])
def test_ids_out_of_the_vocabulary(token_adapter: TokenInputAdapter, ids: list[int], span: str) -> None:
    with pytest.raises(ValueError, match=rf"token ids span {span}, allowed is \[0, 10\]"):
        token_adapter(torch.tensor([ids]))


def test_input_without_batch_dimension(token_adapter: TokenInputAdapter) -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(batch size, sequence length\)"):
        token_adapter(torch.zeros(M, dtype=torch.long))


def test_query_provider_gives_all_queries_or_those_at_positions() -> None:
    provider = TrainableQueryProvider(7, 5)
    torch.nn.init.normal_(provider._query)
    assert provider.num_query_channels == 5
    assert torch.equal(provider(), provider._query[None])
    positions = torch.tensor([[6, 0, 6], [2, 3, 1]])
    chosen = provider(positions)
    assert chosen.shape == (2, 3, 5)
    assert torch.equal(chosen[0, 2], provider._query[6]) and torch.equal(chosen[1, 0], provider._query[2])
    with pytest.raises(ValueError, match=r"positions span \[-1, 7\], allowed is \[0, 6\]"):
        provider(torch.tensor([[7, -1]]))


def test_a_query_provider_gives_the_first_queries_if_told_so() -> None:
    provider = TrainableQueryProvider(7, 5)
    torch.nn.init.normal_(provider._query)
    provider.num_queries = 3
    assert torch.equal(provider(), provider._query[None, :3])
    assert torch.equal(provider(torch.tensor([[6]]))[0, 0], provider._query[6])
    provider.num_queries = 7
    assert torch.equal(provider(), provider._query[None]) and list(provider.state_dict()) == ["_query"]
    for number in (0, 8):
        with pytest.raises(ValueError, match=rf"num_queries={number} must be in \[1, 7\]"):
            provider.num_queries = number
    assert provider.num_queries == 7


def test_a_query_provider_may_have_no_queries() -> None:
    provider = QueryProvider(5)
    assert provider.num_query_channels == 5 and list(provider.parameters()) == []
    with pytest.raises(ValueError, match=r"the decoder has no queries of its own: give it a query \(B, O, F\)"):
        provider()


@pytest.mark.parametrize("num_values", [0, 3])
def test_coordinate_input_is_values_and_codes_of_coordinates(num_values: int) -> None:
    encoding = FourierPositionEncoding((4, 9), num_frequency_bands=3)
    adapter, x = CoordinateInputAdapter(encoding, num_values), 3 * torch.rand(B, M, 2 + num_values) - 1.5
    result = adapter(x)
    assert result.shape == (B, M, adapter.num_input_channels)
    assert torch.equal(result[..., :num_values], x[..., 2:])
    assert torch.equal(result[..., num_values:], encoding.encode(x[..., :2]))
    assert adapter(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="positions have 1 coordinates, expected 2"):
        adapter(x[..., 1:])
    with pytest.raises(ValueError, match=r"points are torch\.int64, expected floating point"):
        adapter(x.long())


def test_fourier_queries_are_a_linear_layer_of_codes() -> None:
    encoding = FourierPositionEncoding((2, 5), num_frequency_bands=3)
    provider, positions = FourierQueryProvider(encoding, 11), 3 * torch.rand(B, M, 2) - 1.5
    assert provider.num_query_channels == 11
    weight, bias = provider.linear.weight, provider.linear.bias
    torch.testing.assert_close(provider(positions), encoding.encode(positions) @ weight.T + bias)
    torch.testing.assert_close(provider(), encoding() @ weight.T + bias)
    cells = torch.cartesian_prod(torch.linspace(-1, 1, 2), torch.linspace(-1, 1, 5))
    torch.testing.assert_close(provider(cells[None]), provider())
    assert provider.bfloat16()(positions).dtype == provider()[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="positions have 3 coordinates, expected 2"):
        provider(torch.zeros(1, 1, 3))


def test_tied_output_is_the_transposed_embedding_plus_bias() -> None:
    adapter, x, embedding = TiedTokenOutputAdapter(vocab_size=VOCAB), torch.randn(B, M, C), torch.randn(VOCAB, C)
    torch.nn.init.normal_(adapter.bias)
    torch.testing.assert_close(adapter(x, embedding), x @ embedding.T + adapter.bias)
    assert list(adapter.state_dict()) == ["bias"]


def test_untied_output_is_linear() -> None:
    adapter, x = TokenOutputAdapter(vocab_size=VOCAB, num_output_query_channels=C), torch.randn(B, M, C)
    torch.testing.assert_close(adapter(x), x @ adapter.linear.weight.T + adapter.linear.bias)
