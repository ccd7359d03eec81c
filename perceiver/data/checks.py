"""Arguments of data modules that are out of range."""


def check_least(minimum: int, **values: float) -> None:
    """Raises:
    ValueError: if one of the values is less.
    """
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name}={value} must be at least {minimum}")


def check_share(**values: float) -> None:
    """Raises:
    ValueError: if one of the values is not in (0, 1).
    """
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}={value} must be in (0, 1)")
