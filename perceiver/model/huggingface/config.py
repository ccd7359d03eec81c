"""Base of the Hugging Face configs, which hold a backend config; the configs of the tasks.

Importing transformers' modeling code takes seconds, that of its configs does not: a task's package registers the config
when it is imported, and the model when the first config is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from perceiver.model.core.checkpoint import without_params
from perceiver.model.core.config import CausalSequenceModelConfig, Config
from perceiver.tasks import Model


class DerivedAttribute:
    """An attribute that other libraries look for, read from and written to `model_config`, so that it can't be stale.

    Args:
        names: Fields of backend configs: those of the first model that has them, encoder and decoder included. More
            fields of one model are multiplied.
        excepted: Backend config whose models have no such attribute.
    """

    def __init__(self, *names: tuple[str, ...], excepted: type[Config] | None = None):
        self.names = names
        self.excepted = excepted

    def __set_name__(self, owner: type[PerceiverBackendConfig], name: str) -> None:
        self.name = name

    def __get__(self, config: PerceiverBackendConfig | None, owner: type[PerceiverBackendConfig]) -> Any:
        if config is None:
            return self
        part, names = self._first(config)
        return prod(part[name] for name in names)

    def __set__(self, config: PerceiverBackendConfig, value: int) -> None:
        part, (first, *others) = self._first(config)
        factor = prod(part[name] for name in others)
        if not isinstance(value, int):
            raise ValueError(f"{self.name}={value!r} must be an integer")
        if value % factor:
            raise ValueError(f"{self.name}={value} must be a multiple of {' * '.join(others)}={factor}")
        for part in config.parts():
            if first in part:
                part[first] = value // factor

    def _first(self, config: PerceiverBackendConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
        if self.excepted is None or not issubclass(config.backend_config_class, self.excepted):
            for names in self.names:
                for part in config.parts():
                    if set(names) <= part.keys():
                        return part, names
        raise AttributeError(f"{type(config).__name__} has no attribute {self.name!r}")


class PerceiverBackendConfig(PreTrainedConfig):
    """Hugging Face config around a backend config.

    Attributes of other models that libraries look for are read from the backend config: `hidden_size` (channels of
    latents), `num_hidden_layers` (self-attention layers, as often as they are applied) and `num_attention_heads` (of
    these), and those of text models `vocab_size` and `max_position_embeddings`. Set, they change it. Causal models have
    no `max_position_embeddings`: their texts can be longer than the `max_seq_len` tokens that they see.

    Args:
        backend_config: Backend config. Default: that of the variant from which the task's command line starts.
        model_config: The same as a dictionary, as in a `config.json`. Missing fields get their defaults.
        kwargs: Arguments of `PreTrainedConfig`, and the attributes above. By default, classifiers have a label for each
            class, `LABEL_0` and so on; `num_labels` sets the number of classes.
    """

    task: ClassVar[Model]
    backend_config_class: ClassVar[type[Config]]
    keys_to_ignore_at_inference = ["past_key_values"]

    # A declared field takes part in comparisons.
    model_config: dict[str, Any] | None = None

    # Generation looks these up.
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = False  # true for causal models

    # Of the training of causal models, see `CausalSequenceGenerationModel`. No field: files that don't set it lack it.
    num_loss_blocks: ClassVar[int] = 1

    hidden_size = DerivedAttribute(("num_latent_channels",), ("num_channels",))
    num_hidden_layers = DerivedAttribute(
        ("num_self_attention_layers_per_block", "num_self_attention_blocks"), ("num_self_attention_layers",)
    )
    num_attention_heads = DerivedAttribute(("num_self_attention_heads",), ("num_heads",))
    vocab_size = DerivedAttribute(("vocab_size",))
    max_position_embeddings = DerivedAttribute(("max_seq_len",), excepted=CausalSequenceModelConfig)

    def __init__(
        self, backend_config: Config | None = None, *, model_config: dict[str, Any] | None = None, **kwargs: Any
    ):
        for task in (self.task, *self.task.relatives()):
            import_module(f"{task.package}.huggingface")  # registers the models with the Auto classes
        if model_config is not None:
            if backend_config is not None:
                raise ValueError("give either backend_config or model_config")
            backend_config = self.backend_config_class.from_dict(model_config)
        if backend_config is None:
            backend = import_module(f"{self.task.package}.backend")
            backend_config = getattr(backend, self.task.variant or f"{self.task.model}Config")()
        if not isinstance(backend_config, self.backend_config_class):
            raise ValueError(
                f"backend_config of {type(self).__name__} must be a {self.backend_config_class.__name__}, not a "
                f"{type(backend_config).__name__}; model_config takes a dictionary"
            )
        if isinstance(backend_config, CausalSequenceModelConfig):
            kwargs = {"is_decoder": True} | kwargs
        derived = [name for name in kwargs if isinstance(getattr(type(self), name, None), DerivedAttribute)]
        values = {name: value for name in derived if (value := kwargs.pop(name)) is not None}
        use_cache = kwargs.pop("use_cache", None)  # not one of transformers' own
        kwargs["model_config"] = backend_config.to_dict()
        super().__init__(**kwargs)
        self.use_cache = isinstance(backend_config, CausalSequenceModelConfig) if use_cache is None else use_cache
        for name, value in values.items():
            setattr(self, name, value)
        assert self.model_config is not None
        decoder = self.model_config.get("decoder") or {}  # models of others may have none
        if "num_classes" in decoder:
            if kwargs.get("num_labels") is not None:
                decoder["num_classes"] = kwargs["num_labels"]
            elif kwargs.get("id2label") is None:
                self.num_labels = decoder["num_classes"]  # transformers' own default is two, whatever the model
            if self.label2id is None and self.id2label is not None:
                self.label2id = {label: int(i) for i, label in self.id2label.items()}

    @property
    def output_attentions(self) -> bool:
        return bool(self._output_attentions)

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        self._output_attentions = value  # transformers wants eager attention for it, ours is recorded beside any kernel

    @property
    def backend_config(self) -> Config:
        """A new backend config, built from `model_config`. Changing it does not change this config.

        Published folders name a file that the encoder once started from, and that nobody has: it is left out.
        """
        assert self.model_config is not None
        return self.backend_config_class.from_dict(without_params(self.model_config))

    def parts(self) -> Iterator[dict[str, Any]]:
        """`model_config` and what is nested in it, encoder and decoder for example."""
        assert self.model_config is not None
        yield self.model_config
        yield from (part for part in self.model_config.values() if isinstance(part, dict))

    def to_diff_dict(self) -> dict[str, Any]:
        # A folder says all that its model is, also where that is the default of today.
        return {**super().to_diff_dict(), "model_config": self.to_dict()["model_config"]}


_CLASSES: dict[str, type[PerceiverBackendConfig]] = {}


def config_class(task: Model) -> type[PerceiverBackendConfig]:
    """The config class of a task, `PerceiverMaskedLanguageModelConfig` for example."""
    backend = import_module(f"{task.package}.backend")  # imports the package, too, which asks for the class itself
    if task.model_type not in _CLASSES:
        name = f"{task.huggingface}Config"
        attributes = {
            "__doc__": f"Config of `{task.huggingface}`.\n\n{PerceiverBackendConfig.__doc__}",
            "__module__": f"{task.package}.huggingface",
            "__init__": PerceiverBackendConfig.__init__,  # transformers would make one with keyword arguments only
            "model_type": task.model_type,
            "task": task,
            "backend_config_class": getattr(backend, f"{task.model}Config"),
        }
        _CLASSES[task.model_type] = type(name, (PerceiverBackendConfig,), attributes)
    return _CLASSES[task.model_type]


def register_config(task: Model) -> None:
    """Registers the config of a task with `AutoConfig`, and its image processor with `AutoImageProcessor`."""
    AutoConfig.register(task.model_type, config_class(task), exist_ok=True)
    if task.processor == "image_processor" and find_spec("PIL") is not None:
        from transformers import AutoImageProcessor

        from perceiver.processing.image import PerceiverImageClassifierInputProcessor

        # AutoImageProcessor asks no config: it looks for a class with the name in preprocessor_config.json
        classes: dict[str, type] = {"pil": PerceiverImageClassifierInputProcessor}
        AutoImageProcessor.register(config_class(task), image_processor_classes=classes, exist_ok=True)
