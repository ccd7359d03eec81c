"""What the tests of this folder share: each runs on CPU, at sizes that cost nothing, and marked `gpu` on CUDA.

`make gpu` runs the latter. The code is the same, so that what a first run on a GPU finds is about the GPU.
"""

from collections.abc import Iterator

import pytest
import torch

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def there(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


device = pytest.fixture(there, params=["cpu", CUDA], name="device")
# the same for what takes seconds on CPU
slow_device = pytest.fixture(there, params=[pytest.param("cpu", marks=pytest.mark.slow), CUDA], name="slow_device")


@pytest.fixture(autouse=True)
def empty_gpu() -> Iterator[None]:
    """What a test left in memory is not in the way of the next."""
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
