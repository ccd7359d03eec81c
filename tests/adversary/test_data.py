"""A few rounds of the adversary of the data layer; the slow ones end processes at random times."""

import pytest

from tests.adversary import run_check
from tests.adversary.data import CHECKS


@pytest.mark.parametrize("name", ["damaged_files", "damaged_caches", "full_disk"])
def test_rounds(name):
    run_check(name, CHECKS[name], 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", CHECKS)
def test_more_rounds(name, seed):
    run_check(name, CHECKS[name], seed)
