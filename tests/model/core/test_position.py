"""Position encodings: by hand, by the recorded ones, independent of checkpoints and of the default dtype."""

from __future__ import annotations

import math
import re

import pytest
import torch

from perceiver.model.core.position import (
    FourierPositionEncoding,
    FrequencyPositionEncoding,
    RotaryPositionEmbedding,
    positions,
)
from tests.model.helpers import Case, golden_cases


@pytest.mark.parametrize("case", golden_cases("pieces", "fourier_position_encoding"), ids=lambda case: case.name)
def test_recorded_encodings(case: Case) -> None:
    encoding = FourierPositionEncoding(tuple(case.kwargs["input_shape"]), case.kwargs["num_frequency_bands"])
    assert encoding.num_position_encoding_channels() == case.kwargs["num_channels"]
    torch.testing.assert_close(encoding()[0], case.outputs["encoding"], atol=1e-5, rtol=0)


def test_one_dimension_by_hand() -> None:
    # four cells at -1, -1/3, 1/3, 1; frequencies 1 and 4 / 2
    expected = [
        [x, math.sin(math.pi * x), math.sin(2 * math.pi * x), math.cos(math.pi * x), math.cos(2 * math.pi * x)]
        for x in (-1, -1 / 3, 1 / 3, 1)
    ]
    code = FourierPositionEncoding((4,), num_frequency_bands=2)()
    torch.testing.assert_close(code, torch.tensor([expected]), atol=1e-6, rtol=0)


def test_cells_are_in_row_major_order_and_coordinates_come_first() -> None:
    code = FourierPositionEncoding((2, 3), num_frequency_bands=5)()
    assert code.shape == (1, 6, 2 * (2 * 5 + 1))
    assert code[0, :, :2].tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]


def codes_of_cells(shape: tuple[int, ...], resolution: tuple[int, ...], bands: int) -> torch.Tensor:
    """Written out: every coordinate of every cell, times every frequency."""
    axes = [torch.linspace(-1.0, 1.0, n) for n in shape]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    frequencies = torch.stack([torch.linspace(1.0, n / 2, bands) for n in resolution])
    angles = (math.pi * x[:, :, None] * frequencies).flatten(1)
    return torch.cat([x, angles.sin(), angles.cos()], dim=-1)


@pytest.mark.parametrize("shape", [(5,), (1,), (3, 7), (7, 1), (2, 5, 3)])
@pytest.mark.parametrize("bands", [1, 4])
def test_codes_of_the_own_shape(shape: tuple[int, ...], bands: int) -> None:
    expected = codes_of_cells(shape, shape, bands)
    torch.testing.assert_close(FourierPositionEncoding(shape, bands)()[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "own, other", [((5,), (11,)), ((3, 7), (7, 3)), ((3, 7), (1, 13)), ((8, 6), (5, 6)), ((2, 5, 3), (3, 2, 7))]
)
def test_codes_of_another_shape_have_the_own_frequencies(own: tuple[int, ...], other: tuple[int, ...]) -> None:
    code = FourierPositionEncoding(own, num_frequency_bands=4)(3, shape=other)
    assert code.shape == (3, math.prod(other), len(own) * 9)
    expected = codes_of_cells(other, own, 4).expand(3, -1, -1)
    torch.testing.assert_close(code, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_codes_of_a_shape_of_other_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"shape={re.escape(str(shape))} must have 2 dimensions"):
        FourierPositionEncoding((3, 7), num_frequency_bands=4)(shape=shape)


def test_cells_at_equal_coordinates_have_equal_codes() -> None:
    """Every second cell of a grid of twice the density is a cell of the own grid."""
    encoding = FourierPositionEncoding((4, 5), num_frequency_bands=3)
    dense = encoding(shape=(7, 9))[0].unflatten(0, (7, 9))[::2, ::2].flatten(0, 1)
    torch.testing.assert_close(dense, encoding()[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 5, 3)])
def test_codes_of_positions_are_those_of_the_cells_there(shape: tuple[int, ...]) -> None:
    encoding = FourierPositionEncoding(shape, num_frequency_bands=4)
    cells = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij"), dim=-1)
    torch.testing.assert_close(encoding.encode(cells).flatten(0, -2), encoding()[0], atol=1e-6, rtol=0)


def test_positions_need_not_be_cells() -> None:
    encoding = FourierPositionEncoding((4,), num_frequency_bands=2)  # frequencies 1 and 2
    expected = [
        [x, math.sin(math.pi * x), math.sin(2 * math.pi * x), math.cos(math.pi * x), math.cos(2 * math.pi * x)]
        for x in (-0.8, 0.125, 1.7)
    ]
    code = encoding.encode(torch.tensor([[-0.8], [0.125], [1.7]], dtype=torch.float64))
    torch.testing.assert_close(code, torch.tensor(expected), atol=1e-6, rtol=0)
    assert encoding.encode(torch.zeros(2, 3, 1, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(ValueError, match="positions have 2 coordinates, expected 1"):
        encoding.encode(torch.zeros(3, 2))


def test_encoding_compiles_to_one_graph() -> None:
    encoding = FourierPositionEncoding((4, 5), num_frequency_bands=3)
    torch.compiler.reset()
    compiled = torch.compile(encoding, fullgraph=True, backend="eager")
    assert torch.equal(compiled(2, shape=(3, 7)), encoding(2, shape=(3, 7)))


def test_batch_is_repeated() -> None:
    encoding = FourierPositionEncoding((2, 3), num_frequency_bands=5)
    assert torch.equal(encoding(7), encoding(1).expand(7, -1, -1))


def test_nothing_is_stored_in_checkpoints() -> None:
    encoding = FourierPositionEncoding((2, 3), num_frequency_bands=5)
    assert not encoding.state_dict() and not list(encoding.buffers())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_codes_are_float32_whatever_the_default_dtype(dtype: torch.dtype) -> None:
    encoding = FourierPositionEncoding((224,), num_frequency_bands=64)
    expected = encoding()
    torch.set_default_dtype(dtype)
    code = encoding()
    assert code.dtype == torch.float32
    assert torch.equal(code, expected)


@pytest.mark.parametrize("shape, bands", [((), 3), ((0, 2), 3), ((2,), 0)])
def test_bad_sizes_are_errors_that_name_them(shape: tuple[int, ...], bands: int) -> None:
    with pytest.raises(ValueError, match=r"input_shape=\(.*num_frequency_bands=\d"):
        FourierPositionEncoding(shape, bands)


# --- positions ---


def test_recorded_positions() -> None:
    (case,) = golden_cases("pieces", "positions")
    b, n = case.kwargs["b"], case.kwargs["n"]
    assert torch.equal(positions(n).expand(b, -1), case.outputs["no_shift"])
    pad_mask = torch.arange(n) < case.inputs["shift"]  # padding on the left is what the published code shifts by
    assert torch.equal(positions(n, pad_mask), case.outputs["shifted"])


def test_padding_takes_no_position() -> None:
    pads = [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 1]]
    expected = [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [0, 1, 1, 2, 2], [0, 0, 0, 0, 0]]
    mask = torch.tensor(pads).bool()
    assert positions(5, mask).tolist() == expected
    assert positions(2, mask, start=3).tolist() == [row[3:] for row in expected]
    assert positions(5).tolist() == expected[:1] and positions(2, start=3).tolist() == [[3, 4]]


# --- rotary position embeddings ---


@pytest.mark.parametrize("case", golden_cases("pieces", "frequency_position_encoding"), ids=lambda case: case.name)
def test_recorded_frequencies(case: Case) -> None:
    angles = FrequencyPositionEncoding(case.kwargs["dim"])(case.inputs["abs_pos"])
    # the published encoding has every angle twice, for the two channels of a pair
    expected = case.outputs["encoding"]
    torch.testing.assert_close(angles.repeat_interleave(2, dim=-1), expected, atol=1e-5, rtol=1e-5)
    ones = FrequencyPositionEncoding(case.kwargs["dim"])(torch.ones(1, 1))[0, 0]
    torch.testing.assert_close(ones, case.outputs["inv_freq"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", golden_cases("pieces", "rotary"), ids=lambda case: case.name)
def test_recorded_rotations(case: Case) -> None:
    angles, x = case.inputs["frq_pos_enc"][..., ::2], case.inputs["t"]
    if not case.kwargs["right_align"]:  # here it is always the last positions that count
        angles = angles[:, : x.shape[-2]]
    rotated = RotaryPositionEmbedding.from_angles(angles).rotate(x)
    torch.testing.assert_close(rotated, case.outputs["rotated"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_channels, num_rotated", [(6, 6), (5, 6), (1, 2), (11, 12)])
def test_rotation_is_a_product_of_complex_numbers(num_channels: int, num_rotated: int) -> None:
    """An odd number of channels d rotates d + 1, with exponents over d."""
    pos, x = torch.tensor([[0, 3, 700], [1, 5, 4000]]), torch.randn(2, 3, 3, 13)
    angles = FrequencyPositionEncoding(num_channels)(pos)
    assert angles.shape == (2, 3, num_rotated // 2)
    rotated = RotaryPositionEmbedding.from_angles(angles).rotate(x)
    exact = torch.tensor([10000.0 ** (-2 * i / num_channels) for i in range(num_rotated // 2)], dtype=torch.float64)
    phases = torch.exp(1j * pos.double()[:, None, :, None] * exact)
    pairs = torch.view_as_complex(x[..., :num_rotated].double().unflatten(-1, (-1, 2)).contiguous())
    expected = torch.view_as_real(pairs * phases).flatten(-2).float()
    torch.testing.assert_close(
        rotated[..., :num_rotated], expected, atol=2e-3, rtol=0
    )  # angles of thousands in float32
    torch.testing.assert_close(rotated[:, :, 0, :num_rotated], expected[:, :, 0], atol=1e-6, rtol=1e-6)
    assert torch.equal(rotated[..., num_rotated:], x[..., num_rotated:])


def test_scores_depend_on_distances_only() -> None:
    q, k, encoding = torch.randn(1, 2, 1, 7), torch.randn(1, 2, 1, 7), FrequencyPositionEncoding(6)

    def score(i: int, j: int) -> torch.Tensor:
        rotary = [RotaryPositionEmbedding.from_angles(encoding(torch.tensor([[p]]))) for p in (i, j)]
        return (rotary[0].rotate(q) * rotary[1].rotate(k)).sum(-1)

    torch.testing.assert_close(score(5, 3), score(105, 103), atol=1e-4, rtol=0)
    assert (score(5, 3) - score(5, 4)).abs().max() > 1e-2


def test_embeddings_are_those_of_the_last_positions() -> None:
    rotary, x = RotaryPositionEmbedding.from_angles(torch.randn(2, 5, 3)), torch.randn(2, 7, 5, 11)
    whole = rotary.rotate(x)
    torch.testing.assert_close(rotary.rotate(x[:, :, 3:]), whole[:, :, 3:])
    torch.testing.assert_close(rotary.last(4).rotate(x[:, :, 3:]), whole[:, :, 3:])
    shared = RotaryPositionEmbedding.from_angles(torch.randn(1, 5, 3))  # one for all examples
    torch.testing.assert_close(shared.rotate(x)[1], shared.rotate(x[1:])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_angles_are_float32_and_rotations_keep_the_dtype(dtype: torch.dtype) -> None:
    pos = torch.arange(4096)[None]
    expected = FrequencyPositionEncoding(5)(pos)
    torch.set_default_dtype(dtype)
    angles = FrequencyPositionEncoding(5)(pos)
    assert angles.dtype == torch.float32 and torch.equal(angles, expected)
    x = torch.randn(1, 2, 4096, 7, dtype=dtype)
    rotated = RotaryPositionEmbedding.from_angles(angles).rotate(x)
    assert rotated.dtype == dtype
    exact = RotaryPositionEmbedding.from_angles(angles).rotate(x.float())
    torch.testing.assert_close(rotated.float(), exact, atol=1e-6, rtol=2**-7)


def test_no_channels() -> None:
    with pytest.raises(ValueError, match="num_channels=0 of a rotary position embedding must be positive"):
        FrequencyPositionEncoding(0)
    assert not list(FrequencyPositionEncoding(3).buffers())
