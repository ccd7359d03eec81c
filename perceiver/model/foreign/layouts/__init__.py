"""From the parameters of another library to one of our models: recognising a layout, its configuration, its names.

A layout is recognised by its parameter names. Shapes tell most of a configuration; what they can't tell (numbers of
heads, frequencies, ...) comes from the arguments that the original was built with, for which its defaults stand in.
Whatever a model can't express is refused by name.

    lucidrains/perceiver-pytorch         Perceiver, PerceiverIO, PerceiverLM, as 0.5 to 0.11 name their parameters
    lucidrains/perceiver-ar-pytorch      PerceiverAR
    google-research/perceiver-ar         PerceiverAR, with one latent per position (arXiv 2202.07765)

One module for each library; `parts.py` has what they share. DeepMind's pickles of Perceiver IO are read in
`perceiver.model.foreign.huggingface.deepmind`: our own models take them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perceiver.model.foreign.layouts.google import google_perceiver_ar
from perceiver.model.foreign.layouts.lucidrains_ar import lucidrains_perceiver_ar
from perceiver.model.foreign.layouts.lucidrains_perceiver import perceiver, perceiver_io, perceiver_lm
from perceiver.model.foreign.layouts.parts import Converted, Parameters


@dataclass(frozen=True)
class Layout:
    """How a class of another library names its parameters.

    Attributes:
        package: Of the class.
        original: Name of the class.
        marks: Patterns of parameter names, all of which such a file has.
        model: Name of our model in `perceiver.tasks.FOREIGN`.
        convert: Parameters and arguments of the original -> our model.
    """

    package: str
    original: str
    marks: tuple[str, ...]
    model: str
    convert: Callable[[Parameters, Mapping[str, Any]], Converted]


def recognised(names: Iterable[str]) -> Layout | None:
    """The layout whose marks are all among these parameter names."""
    names = list(names)

    def has(mark: str) -> bool:
        return any(re.match(mark, name) for name in names)

    return next((layout for layout in LAYOUTS if all(has(mark) for mark in layout.marks)), None)


LAYOUTS = (
    Layout(
        "google-research/perceiver-ar",
        "PerceiverAR",
        (r"perceiver_ar/~/cross_attention/attention/linear/w", r"perceiver_ar/~/embed/embeddings"),
        "google-perceiver-ar",
        google_perceiver_ar,
    ),
    Layout(
        "perceiver-ar-pytorch",
        "PerceiverAR",
        (r"token_emb\.weight", r"perceive_layers\.0\.0\.to_q\.weight"),
        "lucidrains-perceiver-ar",
        lucidrains_perceiver_ar,
    ),
    Layout(
        "perceiver-pytorch",
        "PerceiverLM",
        (r"token_emb\.weight", r"perceiver_io\.latents", r"perceiver_io\.decoder_cross_attn\.fn\.to_q\.weight"),
        "lucidrains-perceiver-lm",
        perceiver_lm,
    ),
    Layout(
        "perceiver-pytorch",
        "PerceiverIO",
        (r"latents", r"decoder_cross_attn\.fn\.to_q\.weight"),
        "lucidrains-perceiver-io",
        perceiver_io,
    ),
    Layout(
        "perceiver-pytorch",
        "Perceiver",
        (r"latents", r"layers\.0\.(0|cross_attn)\.fn\.to_q\.weight"),
        "lucidrains-perceiver",
        perceiver,
    ),
)
