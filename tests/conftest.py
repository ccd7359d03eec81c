"""What holds for every test: offline, no clock, one seed, one default dtype, no more threads than the machine has.

The environment is set before anything imports a Hugging Face library, because those read it at import.
"""

import os
import random
from collections.abc import Iterator

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
    "MPLBACKEND": "Agg",  # no display
    "TOKENIZERS_PARALLELISM": "false",  # forked data loader workers would warn
}.items():
    os.environ.setdefault(name, value)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # subprocesses that a test starts obey it too

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# Hypothesis's own profile: the same examples in each run, and no limit of time that a busy machine could exceed
settings.load_profile("ci")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Every test starts from the same seeds and leaves default dtype and no process group, whatever ran before it."""
    dtype = torch.get_default_dtype()
    random.seed(0)
    torch.manual_seed(0)
    try:
        import numpy as np
    except ImportError:  # the backend tests run without it
        pass
    else:
        np.random.seed(0)
    yield
    torch.set_default_dtype(dtype)
    if torch.distributed.is_available() and torch.distributed.is_initialized():  # a trainer's, which would live on
        torch.distributed.destroy_process_group()
