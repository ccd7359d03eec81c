"""The functions `convert_checkpoint` and `convert_model` of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PerceiverConfig

from perceiver.model.core.checkpoint import load_parameters
from perceiver.model.huggingface.classification import PerceiverClassifier
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.huggingface.official import OfficialWeights, official_config
from perceiver.model.huggingface.saving import save_converted
from perceiver.tasks import PROCESSOR_ARGUMENTS


def checkpoint_converter(model_class: type[PerceiverBackendModel]) -> Callable[..., None]:
    """Makes the `convert_checkpoint` of a task."""
    task = model_class.config_class.task
    argument = PROCESSOR_ARGUMENTS.get(task.processor or "")

    def convert_checkpoint(
        save_dir: str | Path,
        ckpt_url: str | Path,
        processor: Any = None,
        id2label: Mapping[int, Any] | None = None,
        label2id: Mapping[Any, int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Converts a Lightning checkpoint to a Hugging Face folder.

        Args:
            save_dir: Folder to write. A failed conversion leaves it as it was.
            ckpt_url: Path or URL of a checkpoint of perceiver-io 0.8 or later.
            processor: What the model was trained with: folder or hub id of the tokenizer of a text model, which may be
                called `tokenizer_name`, or the image processor of an image classifier, or folder or hub id of one,
                which may be called `image_processor`. Other models have none.
            id2label: Names of a classifier's classes. Default: those in the checkpoint, or else `LABEL_0` and so on.
            label2id: The inverse of `id2label`, which is its default.
            kwargs: See `save_converted`, `push_to_hub=True` for example.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            ValueError: if the checkpoint can't be read or does not fit, if the tokenizer has more ids than the model,
                or if there are more or fewer names than classes.
        """
        if argument is not None and processor is None:
            processor = kwargs.pop(argument, None)
        if (argument is None) != (processor is None):
            raise TypeError(
                f"convert_checkpoint() of a {task.title} takes {'no processor' if argument is None else argument}"
            )
        model = model_class.from_checkpoint(ckpt_url)
        if id2label is not None:
            if not isinstance(model, PerceiverClassifier):
                raise TypeError(f"convert_checkpoint() of a {task.title} takes no id2label")
            model.set_labels(id2label, label2id)
        save_converted(model, model.processor(processor), save_dir, **kwargs)

    return convert_checkpoint


def model_converter(model_class: type[PerceiverBackendModel], *official: OfficialWeights) -> Callable[..., None]:
    """Makes the `convert_model` of a task whose official weights are of these kinds."""
    task = model_class.config_class.task
    default_id = task.official[0] if task.official and len(task.official) == 1 else None

    def convert_model(save_dir: str | Path, source_repo_id: str | Path | None = default_id, **kwargs: Any) -> None:
        """Converts official weights, in transformers' format, to a Hugging Face folder. Outputs are equal.

        Args:
            save_dir: Folder to write. A failed conversion leaves it as it was.
            source_repo_id: Folder or hub id of the transformers model, and of its tokenizer or image processor.
            kwargs: See `save_converted`, `push_to_hub=True` for example.

        Raises:
            ValueError: if the source is another kind of model, lacks parameters, or has a configuration that this
                library's model can't express. The message says which.
        """
        if source_repo_id is None:
            raise TypeError("convert_model() needs source_repo_id")
        config = official_config(source_repo_id)
        weights = _kind(config, official, source_repo_id)
        source = weights.read(source_repo_id)
        names: dict[str, Any] = {"tokenizer_class": "PerceiverTokenizer"} if task.processor == "tokenizer" else {}
        if issubclass(model_class, PerceiverClassifier):
            names |= {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}
        model = model_class(model_class.config_class(weights.config(config), **names))
        load_parameters(model.backend_model, weights.state_dict(source, model.backend_model), source_repo_id)
        processor = model.official_processor(source_repo_id) if task.processor else None
        save_converted(model, processor, save_dir, **kwargs)

    return convert_model


def _kind(config: PerceiverConfig, official: tuple[OfficialWeights, ...], source: str | Path) -> OfficialWeights:
    if len(official) == 1:
        return official[0]
    architecture = (config.architectures or ["unknown"])[0]
    for weights in official:
        if weights.model_class.__name__ == architecture:
            return weights
    names = ", ".join(weights.model_class.__name__ for weights in official)
    raise ValueError(f"{source} has the architecture {architecture!r}, expected one of {names}")
