"""What holds for every test: offline, no clock, one seed, one default dtype, no more threads than the machine has.

The environment is set before anything imports a Hugging Face library, because those read it at import.
"""

import gc
import os
import random
from collections.abc import Iterator
from typing import Any

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
    "MPLBACKEND": "Agg",  # no display
    "TOKENIZERS_PARALLELISM": "false",  # forked data loader workers would warn
}.items():
    os.environ.setdefault(name, value)
gc.disable()  # until all is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # subprocesses that a test starts obey it too

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# Hypothesis's own profile: the same examples in each run, and no limit of time that a busy machine could exceed
settings.load_profile("ci")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

if not torch.accelerator.is_available():
    # For accelerators that may still come, each call would write down the stack three times: 2 ms.
    torch.manual_seed = torch.default_generator.manual_seed


def seed() -> None:
    random.seed(0)
    torch.manual_seed(0)
    try:
        import numpy as np
    except ImportError:  # the backend tests run without it
        pass
    else:
        np.random.seed(0)


def pytest_collectstart() -> None:
    """Modules draw the same numbers while they are imported, whatever was imported before."""
    seed()


def pytest_collection_finish() -> None:
    """What was imported stays until the end. Looking through it for garbage, as trainers do, takes 0.2 s a time."""
    gc.freeze()
    gc.enable()


class SharedFixtures:
    """Fixtures that tests share draw the same numbers, whichever test is the first to ask for them."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if fixturedef.scope != "function":
            seed()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SharedFixtures())  # pytest calls no hook of this file for fixtures of the session
    config.option.randomly_reset_seed = False  # pytest-randomly only shuffles: its seeds are others in each run


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Every test starts from the same seeds, and leaves default dtype, environment and process group as they were."""
    dtype, environment = torch.get_default_dtype(), dict(os.environ)
    seed()
    yield
    torch.set_default_dtype(dtype)
    if os.environ != environment:  # Lightning sets the rank, which transformers' Trainer would read
        os.environ.clear()
        os.environ.update(environment)
    if torch.distributed.is_available() and torch.distributed.is_initialized():  # a trainer's, which would live on
        torch.distributed.destroy_process_group()
