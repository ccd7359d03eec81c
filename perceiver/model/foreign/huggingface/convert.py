"""A file of another library -> a folder in the published format, and whether it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers import PerceiverTokenizer

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.foreign.backend import LucidrainsPerceiver, LucidrainsPerceiverAR, LucidrainsPerceiverLM
from perceiver.model.foreign.files import ForeignFile, read_foreign
from perceiver.model.foreign.huggingface import deepmind, models
from perceiver.model.foreign.huggingface.deepmind_kinds import Kind, recognised_kind
from perceiver.model.foreign.huggingface.export import as_transformers
from perceiver.model.foreign.layouts import LAYOUTS, Layout, recognised
from perceiver.model.foreign.layouts.parts import Converted
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.saving import save_converted
from perceiver.model.text.mlm.huggingface import PerceiverMaskedLanguageModel
from perceiver.model.vision.image_classifier.huggingface import PerceiverImageClassifier
from perceiver.processing.image import PerceiverImageClassifierInputProcessor
from perceiver.tasks import FOREIGN

MAX_DIFFERENCE = 1e-4  # of the largest output: rounding errors of another order of sums


@dataclass(frozen=True)
class Comparison:
    """What came of comparing outputs for random inputs with those of the original.

    Attributes:
        original: What the outputs were compared with, or why they were not.
        difference: Largest difference of outputs. None: they were not compared.
        largest: Largest output, in absolute value.
    """

    original: str
    difference: float | None = None
    largest: float = 0.0

    def __str__(self) -> str:
        if self.difference is None:
            return f"not compared: {self.original}"
        return (
            f"outputs differ from those of {self.original} by {self.difference:.1e}, the largest is {self.largest:.1e}"
        )


def convert_foreign(
    save_dir: str | Path,
    source: str | Path,
    processor: Any = None,
    arguments: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Comparison:
    """Converts a file of another library to a Hugging Face folder.

    Args:
        save_dir: Folder to write. A failed conversion leaves it as it was.
        source: Path or URL of the file, or a folder with `model.safetensors`, `pytorch_model.bin` or `checkpoint.dill`.
        processor: Tokenizer of a text model or image processor of an image classifier, or folder or hub id of one.
            Default: none, but for DeepMind's models the one that they were trained with.
        arguments: Arguments of the original's constructor, as far as its parameters don't tell them and they aren't its
            defaults: `{"cross_heads": 4}`. For DeepMind's models they are those of `transformers.PerceiverConfig`.
        kwargs: See `save_converted`, `push_to_hub=True` for example.

    Returns:
        Whether the outputs are those of the original, if that is installed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it can't be read or converted, or computes something else than the original. The message says
            the first thing that can't be expressed.
    """
    model, comparison = read_model(source, arguments or {})
    if processor is not None:
        if model.config.task.processor is None:
            raise ValueError(f"a {model.config.task.title} takes no tokenizer or image processor, got {processor}")
        processor = model.processor(processor)
    elif isinstance(model, PerceiverMaskedLanguageModel):
        processor = PerceiverTokenizer(model_max_length=model.backend_model.config.encoder.max_seq_len)
    elif isinstance(model, PerceiverImageClassifier):
        processor = PerceiverImageClassifierInputProcessor()
    compared = comparison()
    if compared.difference is not None and not compared.difference <= MAX_DIFFERENCE * max(1.0, compared.largest):
        raise ValueError(
            f"{source} can't be converted: {compared}. Are the arguments those that the original was built with?"
        )
    save_converted(model, processor, save_dir, **kwargs)
    return compared


def read_model(
    source: str | Path, arguments: Mapping[str, Any]
) -> tuple[PerceiverBackendModel, Callable[[], Comparison]]:
    """Reads a file of another library. Arguments and errors are those of `convert_foreign`.

    Returns:
        Our model in evaluation mode, and a function that compares it with the original.
    """
    file = read_foreign(source)
    if file.is_haiku and (kind := recognised_kind(file.parameters)) is not None:
        model, config = deepmind.converted(file.parameters, kind, arguments, str(source))
        return model, lambda: _compared_with_transformers(model, kind, config)
    layout = recognised(file.parameters)
    if layout is None:
        known = ", ".join(dict.fromkeys([layout.package for layout in LAYOUTS] + ["DeepMind's Perceiver IO"]))
        raise ValueError(
            f"{source} has parameters of no layout that can be converted: {', '.join(list(file.parameters)[:3])}, ... "
            f"There are layouts of {known}"
        )
    converted = layout.convert(file.parameters, arguments)
    model_class = getattr(models, FOREIGN[layout.model].huggingface)
    model = model_class(model_class.config_class(converted.config))
    load_parameters(model.backend_model, converted.state_dict, source)
    model.eval()
    return model, lambda: _compared(model, layout, converted, file)


def _compared(model: PerceiverBackendModel, layout: Layout, converted: Converted, file: ForeignFile) -> Comparison:
    module = layout.package.replace("-", "_")
    if file.is_haiku:
        return Comparison(f"{layout.package} is no package that could be installed")
    if find_spec(module) is None:
        return Comparison(f"{layout.package} is not installed")
    original_class = getattr(import_module(module), layout.original)
    parameters = signature(original_class).parameters.values()
    known = {parameter.name for parameter in parameters}
    takes_all = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    try:
        original = original_class(
            **{name: value for name, value in converted.arguments.items() if takes_all or name in known}
        )
        original.load_state_dict(file.parameters)
    except (RuntimeError, TypeError):
        return Comparison(f"the file is of another version of {layout.package} than is installed")
    with torch.no_grad():
        expected, actual = _outputs(original.eval(), model.backend_model, converted.arguments)
    return _difference(f"{module}.{layout.original}", expected, actual)


def _outputs(theirs: Any, ours: Any, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Outputs of both for the same random inputs, with padding where there is any."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(ours, LucidrainsPerceiverAR):
        prefix_len = arguments["cross_attn_seq_len"]
        seq_len = prefix_len + min(64, ours.config.max_latents)
        x = torch.randint(ours.config.vocab_size, (2, seq_len), generator=generator)
        return theirs(x), ours(x, prefix_len)
    if isinstance(ours, LucidrainsPerceiver):
        shape = (2, *range(4, 4 + ours.config.num_dimensions))
        x = torch.randn(*shape, ours.config.num_value_channels, generator=generator)
    elif isinstance(ours, LucidrainsPerceiverLM):
        shape = (2, min(64, ours.config.max_seq_len))
        x = torch.randint(ours.config.vocab_size, shape, generator=generator)
    else:
        shape = (2, 11)
        x = torch.randn(*shape, ours.config.encoder.num_input_channels, generator=generator)
    pad_mask = torch.zeros(shape, dtype=torch.bool)
    pad_mask[1, ..., -1] = True
    if isinstance(ours, LucidrainsPerceiver | LucidrainsPerceiverLM):
        return theirs(x, mask=~pad_mask), ours(x, pad_mask)
    queries = torch.randn(2, 5, ours.config.decoder.num_query_channels, generator=generator)
    return theirs(x, mask=~pad_mask, queries=queries), ours(x, pad_mask, query=queries)


def _compared_with_transformers(model: PerceiverBackendModel, kind: Kind, config: Any) -> Comparison:
    if not kind.is_transformers:
        return Comparison(f"transformers' {kind.weights.model_class.__name__} computes something else than DeepMind's")
    backend, generator = model.backend_model, torch.Generator().manual_seed(0)
    if isinstance(model, PerceiverMaskedLanguageModel):
        encoder = backend.config.encoder
        x = theirs_x = torch.randint(encoder.vocab_size, (1, encoder.max_seq_len), generator=generator)
    elif isinstance(model, PerceiverImageClassifier):
        x = torch.randn(1, *backend.config.encoder.image_shape, generator=generator)
        theirs_x = rearrange(x, "b h w c -> b c h w")
    else:
        return Comparison(f"outputs of a {kind.name} would take minutes")
    theirs = as_transformers(kind.weights, backend, config)
    with torch.no_grad():
        return _difference(f"transformers.{type(theirs).__name__}", theirs(theirs_x).logits, model(x).logits)


def _difference(original: str, expected: Tensor, actual: Tensor) -> Comparison:
    return Comparison(original, (actual - expected).abs().max().item(), expected.abs().max().item())
