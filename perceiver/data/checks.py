"""Arguments of data modules that are out of range."""

from numbers import Integral, Real
from typing import Any


def check_least(minimum: int, **values: Any) -> None:
    """Raises:
    ValueError: if one of the values is less, or no integer.
    """
    for name, value in values.items():
        if not isinstance(value, Integral):
            raise ValueError(f"{name}={value!r} must be an integer")
        if value < minimum:
            raise ValueError(f"{name}={value} must be at least {minimum}")


def check_share(**values: Any) -> None:
    """Raises:
    ValueError: if one of the values is not in (0, 1).
    """
    for name, value in values.items():
        if not isinstance(value, Real) or not 0 < float(value) < 1:
            raise ValueError(f"{name}={value!r} must be in (0, 1)")
