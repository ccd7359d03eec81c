"""Arguments that are out of range, in the words that all rooms use."""

from collections.abc import Sequence
from numbers import Integral, Real
from operator import index
from typing import Any


def check_integer(**values: Any) -> None:
    """Raises:
    ValueError: if one of the values is no integer. Those of numpy are, and tensors of one.
    """
    for name, value in values.items():
        try:
            index(value)
        except TypeError as error:
            raise ValueError(f"{name}={value!r} must be an integer") from error


def check_least(minimum: int, **values: Any) -> None:
    """Raises:
    ValueError: if one of the values is less, or no integer.
    """
    check_integer(**values)
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name}={value} must be at least {minimum}")


def check_range(minimum: int, maximum: int, **values: Any) -> None:
    """Raises:
    ValueError: if one of the values is less, more, or no integer.
    """
    check_integer(**values)
    for name, value in values.items():
        if not minimum <= value <= maximum:
            raise ValueError(f"{name}={value} must be in [{minimum}, {maximum}]")


def check_share(**values: Any) -> None:
    """Raises:
    ValueError: if one of the values is not in (0, 1).
    """
    for name, value in values.items():
        if not isinstance(value, Real) or not 0 < float(value) < 1:
            raise ValueError(f"{name}={value!r} must be in (0, 1)")


def check_size(**values: Any) -> None:
    """Raises:
    ValueError: if one of the values is no height and width in pixels.
    """
    for name, value in values.items():
        is_pair = isinstance(value, Sequence) and len(value) == 2
        if not is_pair or not all(isinstance(n, Integral) and int(n) >= 1 for n in value):
            raise ValueError(f"{name}={value!r} must be a height and a width, both integers and at least 1")


def check_padding_side(padding_side: Any) -> None:
    """Raises:
    ValueError: if it is no side.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side={padding_side!r} must be 'left' or 'right'")
