"""Random numbers by address: functions of what they are for, seed, epoch and index of the example.

Philox counts, so a stream starts anywhere at no cost. Nothing depends on the number of workers, on what was loaded
before, or on the other examples of a batch; a resumed run needs no state.
"""

import numpy as np

# What the numbers are for: streams of two purposes are independent.
MASKS, WINDOWS, RECORDS, DOCUMENTS, ROWS = range(5)
SPLITS = {"train": 0, "valid": 1, "test": 2}  # where whole examples are made up


def stream(purpose: int, seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one example; none of the arguments is negative."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, index, purpose]))
