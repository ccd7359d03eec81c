"""Fourier position encodings: by hand, by the recorded ones, independent of checkpoints and of the default dtype."""

from __future__ import annotations

import math

import pytest
import torch

from perceiver.model.core.position import FourierPositionEncoding
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
