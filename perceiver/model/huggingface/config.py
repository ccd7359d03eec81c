"""Base of the Hugging Face configs, which hold a backend config; the configs of the tasks.

Importing transformers' modeling code takes seconds, that of its configs does not: a task's package registers the config
when it is imported, and the model when the first config is made.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from perceiver.model.core.checkpoint import without_params
from perceiver.model.core.config import CausalSequenceModelConfig, Config
from perceiver.tasks import Task


class PerceiverBackendConfig(PreTrainedConfig):
    """Hugging Face config around a backend config.

    Args:
        backend_config: Backend config.
        model_config: The same as a dictionary, as in a `config.json`. Missing fields get their defaults.
        kwargs: Arguments of `PreTrainedConfig`. By default, classifiers have a label for each class, `LABEL_0` and so
            on.
    """

    task: ClassVar[Task]
    backend_config_class: ClassVar[type[Config]]

    # A declared field takes part in comparisons.
    model_config: dict[str, Any] | None = None

    # Generation looks these up.
    vocab_size: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __init__(
        self, backend_config: Config | None = None, *, model_config: dict[str, Any] | None = None, **kwargs: Any
    ):
        import_module(f"{self.task.package}.huggingface")  # registers the model with the Auto classes
        if model_config is not None:
            if backend_config is not None:
                raise ValueError("give either backend_config or model_config")
            backend_config = self.backend_config_class.from_dict(model_config)
        if isinstance(backend_config, CausalSequenceModelConfig):
            kwargs |= {"is_decoder": True, "vocab_size": backend_config.vocab_size}
        kwargs["model_config"] = None if backend_config is None else backend_config.to_dict()
        super().__init__(**kwargs)
        num_classes = getattr(getattr(backend_config, "decoder", None), "num_classes", None)
        if num_classes is not None:
            if kwargs.get("id2label") is None and kwargs.get("num_labels") is None:
                self.num_labels = num_classes  # transformers' own default is two, whatever the model
            if self.label2id is None and self.id2label is not None:
                self.label2id = {label: int(i) for i, label in self.id2label.items()}

    @property
    def backend_config(self) -> Config:
        """A new backend config, built from `model_config`. Changing it does not change this config.

        Published folders name a file that the encoder once started from, and that nobody has: it is left out.
        """
        if self.model_config is None:
            raise ValueError(f"{type(self).__name__} was made without a backend config")
        return self.backend_config_class.from_dict(without_params(self.model_config))

    def set_vocab_size(self, vocab_size: int) -> None:
        """Sets the number of token ids, of encoder and decoder where there are both."""
        assert self.model_config is not None
        parts = [self.model_config, *(part for part in self.model_config.values() if isinstance(part, dict))]
        for part in parts:
            if "vocab_size" in part:
                part["vocab_size"] = vocab_size
        if self.vocab_size is not None:
            self.vocab_size = vocab_size


_CLASSES: dict[str, type[PerceiverBackendConfig]] = {}


def config_class(task: Task) -> type[PerceiverBackendConfig]:
    """The config class of a task, `PerceiverMaskedLanguageModelConfig` for example."""
    if task.package not in _CLASSES:
        name = f"{task.huggingface}Config"
        backend = import_module(f"{task.package}.backend")
        attributes = {
            "__doc__": f"Config of `{task.huggingface}`.\n\n{PerceiverBackendConfig.__doc__}",
            "__module__": f"{task.package}.huggingface",
            "__init__": PerceiverBackendConfig.__init__,  # transformers would make one with keyword arguments only
            "model_type": task.model_type,
            "task": task,
            "backend_config_class": getattr(backend, f"{task.model}Config"),
        }
        _CLASSES[task.package] = type(name, (PerceiverBackendConfig,), attributes)
    return _CLASSES[task.package]


def register_config(task: Task) -> None:
    """Registers the config of a task with `AutoConfig`, and its image processor with `AutoImageProcessor`."""
    AutoConfig.register(task.model_type, config_class(task), exist_ok=True)
    if task.processor == "image_processor" and find_spec("PIL") is not None:
        from transformers import AutoImageProcessor

        from perceiver.processing.image import PerceiverImageClassifierInputProcessor

        # AutoImageProcessor asks no config: it looks for a class with the name in preprocessor_config.json
        classes: dict[str, type] = {"pil": PerceiverImageClassifierInputProcessor}
        AutoImageProcessor.register(config_class(task), image_processor_classes=classes, exist_ok=True)
