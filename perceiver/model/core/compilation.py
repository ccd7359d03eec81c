"""Compiled steps of generation: `torch.compile`, and a word to the user while it takes its time.

A step takes one token of each example, and a static cache. Its form does not depend on how much there is in the cache,
so one graph serves a whole generation and those after it; there is another one for several examples, and for a model of
another form. torch keeps on disk what it has compiled: the next process traces the model again, and that is all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perceiver.model.core.cache import StaticKeyValueCache

logger = logging.getLogger(__name__)

_MAX_GRAPHS = 200  # torch's own limit for one piece of code, of all sizes, is 256


@dataclass
class Statistics:
    """What compiling has cost in this process.

    Attributes:
        num_graphs: Number of graphs.
        seconds: How long the steps took in which they were compiled.
    """

    num_graphs: int = 0
    seconds: float = 0.0


statistics = Statistics()
_compiled: list[tuple[Callable[..., Any], Mapping[str, Any], Callable[..., Any]]] = []


def default_options(device: torch.device) -> dict[str, Any]:
    """Arguments of `torch.compile` for a step."""
    options = {"fullgraph": True}
    return options if device.type == "cpu" else {**options, "mode": "reduce-overhead"}  # the latter: CUDA graphs


def compiled(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """`torch.compile(function, **options)`, once for each function and options."""
    for known, known_options, result in _compiled:
        if known is function and known_options == options:
            return result
    result = torch.compile(function, **options)
    _compiled.append((function, dict(options), result))
    return result


def mark_dynamic(caches: Iterable[object], masks: Iterable[Tensor | None]) -> None:
    """Tells torch what grows from step to step, so that it does not compile for one size first.

    Args:
        caches: Static caches, whose buffers (B, H, slots, channels) grow.
        masks: Masks (B, 1, 1, slots), which grow with them.
    """
    import torch._dynamo  # takes a second, and only who compiles needs it

    for cache in caches:
        assert isinstance(cache, StaticKeyValueCache)
        for buffer in (cache.keys, cache.values):
            if not hasattr(buffer, "_dynamo_weak_dynamic_indices"):
                torch._dynamo.maybe_mark_dynamic(buffer, 2)
                # CUDA graphs write to it. The guard, which torch 2.8 has by default, is a new graph for each cache
                torch._dynamo.mark_static_address(buffer, guard=False)
    for mask in masks:
        torch._dynamo.maybe_mark_dynamic(mask, 3)


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Says when torch compiles inside, and how long it took. `what`: the object of "Compiling"."""
    import torch._dynamo.config
    from torch._dynamo.callback import callback_handler

    is_compiling = False

    def on_start(*arguments: Any) -> None:
        nonlocal is_compiling
        if not is_compiling and all(argument.callback_trigger.name == "DYNAMO" for argument in arguments):
            is_compiling = True
            logger.warning("Compiling %s. It may take minutes, once on this machine: torch keeps the result.", what)

    callback_handler.register_start_callback(on_start)
    start = time.perf_counter()
    try:
        # All models share the code that is compiled, and torch stops after 8 forms of it.
        with torch._dynamo.config.patch(recompile_limit=_MAX_GRAPHS):
            yield
    finally:
        callback_handler.remove_start_callback(on_start)
        if is_compiling:
            seconds = time.perf_counter() - start
            statistics.num_graphs += 1
            statistics.seconds += seconds
            logger.warning("Compiled in %.0f s.", seconds)
