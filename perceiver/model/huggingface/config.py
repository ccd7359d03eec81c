"""Base of the Hugging Face configs, which hold a backend config.

Configs stand apart from models (`huggingface.py`) because transformers' modeling code takes seconds to import: a leaf
registers its config when its package is imported, and its model when a config is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from perceiver.model.core.config import Config


class PerceiverBackendConfig(PreTrainedConfig):
    """Hugging Face config around a backend config. Every leaf needs an `__init__` of its own, with these arguments.

    Args:
        backend_config: Backend config.
        model_config: The same as a dictionary, as in a `config.json`. Missing fields get their defaults.
        kwargs: Arguments of `PreTrainedConfig`.

    Raises:
        ValueError: if `model_config` has a field that the backend config has not.
    """

    backend_config_class: ClassVar[type[Config]]
    model_module: ClassVar[str]

    # A declared field takes part in comparisons.
    model_config: dict[str, Any] | None = None

    def __init__(
        self, backend_config: Config | None = None, *, model_config: dict[str, Any] | None = None, **kwargs: Any
    ):
        import_module(self.model_module)  # registers the model class with the Auto classes
        if model_config is not None and backend_config is not None:
            raise ValueError("give either backend_config or model_config")
        if model_config is not None:
            backend_config = self.backend_config_class.from_dict(model_config)
        kwargs["model_config"] = None if backend_config is None else asdict(backend_config)
        super().__init__(**kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        import_module(self.model_module)  # a config that comes from another process is not made by __init__
        self.__dict__.update(state)

    @property
    def backend_config(self) -> Config:
        """A new backend config, built from `model_config`. Changing it does not change this config."""
        if self.model_config is None:
            raise ValueError(f"{type(self).__name__} was made without a backend config")
        return self.backend_config_class.from_dict(self.model_config)

    def set_vocab_size(self, vocab_size: int) -> None:
        """Sets the number of token ids, of encoder and decoder where there are both."""
        assert self.model_config is not None
        parts = [self.model_config, *(part for part in self.model_config.values() if isinstance(part, dict))]
        for part in parts:
            if "vocab_size" in part:
                part["vocab_size"] = vocab_size


class CausalSequenceHuggingFaceConfig(PerceiverBackendConfig):
    """Base of the configs of Perceiver AR models. Generation looks up what it declares."""

    is_decoder: bool = True
    vocab_size: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Always that of the backend: what a file says besides can't differ.
        self.vocab_size = None if self.model_config is None else self.model_config["vocab_size"]

    def set_vocab_size(self, vocab_size: int) -> None:
        super().set_vocab_size(vocab_size)
        self.vocab_size = vocab_size


def complete_labels(config: PerceiverBackendConfig, given: Mapping[str, Any]) -> None:
    """Sets what the arguments `given` to a classifier's config don't say: as many labels as classes, and their ids.

    transformers' own default is two labels, whatever the model.
    """
    if config.model_config is not None and given.get("id2label") is None and given.get("num_labels") is None:
        config.num_labels = config.model_config["decoder"]["num_classes"]
    if config.label2id is None and config.id2label is not None:
        config.label2id = {label: int(i) for i, label in config.id2label.items()}
