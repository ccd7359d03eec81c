"""What every layout needs: the arguments of the original, and the names of parameters, each of which is used once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from perceiver.model.core.config import Config

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A model of ours with the parameters of another library.

    Attributes:
        config: Configuration of the backend model.
        state_dict: Its parameters.
        arguments: What the original is built with, those included that its defaults or the shapes tell.
    """

    config: Config
    state_dict: Parameters
    arguments: dict[str, Any]


class Arguments:
    """Arguments that the original was built with.

    Args:
        given: Those that are given.
        defaults: The original's own.
        fixed: Those that our model knows one value of.

    Raises:
        ValueError: if there is no such argument, or one with another than its fixed value.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], fixed: Mapping[str, Any]):
        self.values = {**defaults, **fixed, **given}
        self.found: dict[str, Any] = {}
        self._given = given
        self._known = {*defaults, *fixed}
        for name, value in fixed.items():
            if self.values[name] != value:
                raise ValueError(f"{name}={self.values[name]!r} can't be converted, only {name}={value!r}")

    def __getitem__(self, name: str) -> Any:
        """The value of an argument that no parameter tells.

        Raises:
            ValueError: if it isn't given and has no default.
        """
        if self.values.get(name) is None:
            raise ValueError(f"no parameter tells {name}, with which the original was built: give it, {name}=...")
        self.found[name] = self.values[name]
        return self.values[name]

    def tell(self, **found: Any) -> None:
        """What the parameters tell.

        Raises:
            ValueError: if something else was given.
        """
        for name, value in found.items():
            self._known.add(name)
            if name in self._given and self._given[name] != value:
                raise ValueError(f"{name}={self._given[name]!r} was given, but the parameters say {value!r}")
            self.found[name] = value

    def heads(self, name: str, num_channels: int) -> int:
        """The number of heads, `{name}heads`, each of `{name}dim_head` channels: together `num_channels`."""
        names = f"{name}heads", f"{name}dim_head"
        num_heads, num_head_channels = (self[name] for name in names)
        if num_heads * num_head_channels != num_channels:
            raise ValueError(
                f"{names[0]}={num_heads} with {names[1]}={num_head_channels} can't be: the parameters have "
                f"{num_channels} channels. Give both as the original was built with"
            )
        return int(num_heads)

    def finished(self) -> dict[str, Any]:
        """All arguments.

        Raises:
            ValueError: if one was given that the original does not have.
        """
        if unknown := sorted(set(self._given) - self._known):
            raise ValueError(f"there is no argument {unknown[0]}; there are {', '.join(sorted(self._known))}")
        return {**self.values, **self.found}


class Names:
    """Parameters, taken out one by one under our names. What is left in the end can't be converted."""

    def __init__(self, parameters: Parameters):
        self.left = dict(parameters)
        self.state_dict: Parameters = {}

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise ValueError(f"the parameter {name} is missing")
        return self.left.pop(name)

    def shape(self, name: str) -> tuple[int, int]:
        """Shape of a matrix."""
        if name not in self.left:
            raise ValueError(f"the parameter {name} is missing")
        shape = tuple(self.left[name].shape)
        if len(shape) != 2:
            raise ValueError(f"the parameter {name} has the shape {shape}, expected two dimensions")
        return shape

    def count(self, pattern: str) -> int:
        """The highest number that stands for `{}` at the start of a name, and one more; 0 if there is none."""
        start, end = pattern.split("{}")
        regex = re.compile(f"{re.escape(start)}(\\d+){re.escape(end)}")
        return max((int(match[1]) + 1 for name in self.left if (match := regex.match(name))), default=0)

    def equal(self, a: str, b: str) -> bool:
        """Whether the parameters that begin with `a` equal those that begin with `b`."""
        parts = [
            {name.removeprefix(start): value for name, value in self.left.items() if name.startswith(start)}
            for start in (a, b)
        ]
        return parts[0].keys() == parts[1].keys() and all(torch.equal(parts[0][n], parts[1][n]) for n in parts[0])

    def move(self, ours: str, theirs: str, *, keep: bool = True) -> None:
        self.split([ours], theirs, keep=keep)

    def split(self, ours: list[str], theirs: str, *, keep: bool = True) -> None:
        """Takes a parameter whose parts, along the first dimension, are several of ours. `keep`: or drops it."""
        parts = self.take(theirs).chunk(len(ours))
        if keep:
            self.state_dict |= dict(zip(ours, parts, strict=True))

    def linear(self, ours: str, theirs: str, *, bias: bool = True, keep: bool = True) -> None:
        """Weight and bias of a linear layer or of a norm."""
        for parameter in ("weight", "bias") if bias else ("weight",):
            self.move(f"{ours}.{parameter}", f"{theirs}.{parameter}", keep=keep)

    def haiku_linear(self, ours: str, theirs: str) -> None:
        self.state_dict[f"{ours}.weight"] = rearrange(self.take(f"{theirs}/w"), "input output -> output input")
        self.move(f"{ours}.bias", f"{theirs}/b")

    def haiku_norm(self, ours: str, theirs: str) -> None:
        self.move(f"{ours}.weight", f"{theirs}/scale")
        self.move(f"{ours}.bias", f"{theirs}/offset")

    def finished(self) -> Parameters:
        if self.left:
            raise ValueError(f"the parameter {next(iter(self.left))} can't be converted: our model has none like it")
        return self.state_dict
