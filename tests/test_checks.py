"""Checks of arguments: what passes, and what is said of what does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from perceiver.checks import check_integer, check_least, check_padding_side, check_range, check_share, check_size


def test_what_is_allowed_passes() -> None:
    check_integer(a=-3, b=np.int64(2), c=np.uint8(7), d=torch.tensor(5))
    check_least(2, a=2, b=np.int64(9))
    check_range(1, 5, a=1, b=5)
    check_share(a=0.1, b=np.float32(0.9))
    check_size(a=(1, 2), b=[3, np.int64(4)], c=torch.Size([5, 6]))
    for side in ("left", "right"):
        check_padding_side(side)


@pytest.mark.parametrize(
    "check, message",
    [
        (lambda: check_integer(a=1, b=2.0), "b=2.0 must be an integer"),
        (lambda: check_integer(a="2"), "a='2' must be an integer"),
        (lambda: check_integer(a=None), "a=None must be an integer"),
        (lambda: check_integer(a=torch.tensor(2.0)), r"a=tensor\(2.\) must be an integer"),
        (lambda: check_least(2, a=3, b=1), "b=1 must be at least 2"),
        (lambda: check_least(2, a=2.5), "a=2.5 must be an integer"),
        (lambda: check_range(1, 5, a=0), r"a=0 must be in \[1, 5\]"),
        (lambda: check_range(1, 5, a=6), r"a=6 must be in \[1, 5\]"),
        (lambda: check_range(1, 5, a=2.5), "a=2.5 must be an integer"),
        (lambda: check_share(a=1), r"a=1 must be in \(0, 1\)"),
        (lambda: check_share(a="x"), r"a='x' must be in \(0, 1\)"),
        (lambda: check_padding_side("top"), "padding_side='top' must be 'left' or 'right'"),
        (lambda: check_padding_side(None), "padding_side=None must be 'left' or 'right'"),
        *(
            (lambda size=size: check_size(a=size), "a=.* must be a height and a width, both integers and at least 1")
            for size in (3, (3,), (3, 4, 5), (3, 0), (3, 4.0), "ab", None)
        ),
    ],
)
def test_what_is_not_allowed_is_an_error_with_its_name(check: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check()
