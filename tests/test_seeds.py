"""What tests/conftest.py promises: equal random numbers in whatever order modules, fixtures and tests come."""

import random

import numpy as np
import pytest
import torch


def numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


AT_IMPORT = numbers()


@pytest.fixture(scope="module")
def shared() -> tuple[float, float, float]:
    return numbers()


@pytest.fixture(scope="session")
def shared_by_more() -> tuple[float, float, float]:
    return numbers()


@pytest.mark.parametrize("repeated", [1, 2])
def test_a_test_has_its_own_numbers(repeated: int) -> None:
    assert numbers() == AT_IMPORT
    assert numbers() != AT_IMPORT


def test_shared_fixtures_have_theirs(
    shared_by_more: tuple[float, float, float], shared: tuple[float, float, float]
) -> None:
    assert shared == shared_by_more == numbers() == AT_IMPORT
