"""Base of the Hugging Face models, which hold a backend model.

A model of a task names its classes and defines `forward`; `perceiver.tasks` says what it is registered as. Its body,
whose `last_hidden_state` outputs are made of, is what `AutoModel` and `base_model` give.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import transformers
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.initialization import guard_torch_init_functions, no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from perceiver.model.core.checkpoint import COMPUTED_BUFFERS, Checkpoint, load_parameters, read_checkpoint
from perceiver.model.core.config import Config
from perceiver.model.core.layers import AttentionLayer
from perceiver.model.huggingface.config import PerceiverBackendConfig, config_class
from perceiver.model.huggingface.embeddings import resize_token_embeddings
from perceiver.model.huggingface.saving import save_converted, text_tokenizer
from perceiver.tasks import TASKS

if TYPE_CHECKING:
    from typing_extensions import Self


logger = logging.get_logger(__name__)


class CheckpointingAttentionLayer(AttentionLayer, GradientCheckpointingLayer):
    """An `AttentionLayer` that transformers knows as a layer that it can checkpoint, which it does by itself."""

    __call__ = nn.Module.__call__

    def __init_subclass__(cls) -> None:  # FSDP makes subclasses
        """transformers' own would wrap `forward` in a checkpoint of its own."""


# The hook above is for subclasses. For this class transformers' own was called, if it has one, and wrapped `forward`.
CheckpointingAttentionLayer.forward = AttentionLayer.forward  # type: ignore[method-assign]


class PerceiverBackendModel(PreTrainedModel):
    """Hugging Face model around a backend model, which has `init_parameters()`. Subclasses define `forward`.

    Args:
        config: Its config, or that of a related task: then the model has the encoder of that one, and a decoder of its
            own with the default geometry.
        backend_model: A backend model whose parameters this one shares. Default: a new one.
    """

    config_class: type[PerceiverBackendConfig]
    backend_class: ClassVar[type[nn.Module]]
    body_class: ClassVar[type[PreTrainedModel] | None] = None  # None: this is a body
    backend_model: Any  # a backend_class

    supports_gradient_checkpointing = True
    _supports_sdpa = True  # it uses no other attention but torch's, and its own where that is faster
    accepts_loss_kwargs = True  # forward takes `num_items_in_batch`, see `model_forward`
    _keys_to_ignore_on_load_unexpected = [rf"{name.replace('.', '[.]')}$" for name in COMPUTED_BUFFERS]

    def __init__(self, config: PerceiverBackendConfig, backend_model: nn.Module | None = None):
        config = self.own_config(config)
        super().__init__(config)
        if backend_model is None:
            self.backend_model = self.backend(self.backend_class(config.backend_config))
            for module in self.modules():
                if type(module) is AttentionLayer:
                    module.__class__ = CheckpointingAttentionLayer
            self.post_init()
        else:
            self.backend_model = self.backend(backend_model)
            with no_init_weights():
                self.post_init()

    @classmethod
    def backend(cls, model: nn.Module) -> nn.Module:
        """What of a backend model is the model's."""
        return model

    @property
    def base_model(self) -> nn.Module:
        """The body, a model of its own that shares parameters with this one."""
        if self.body_class is None:
            return self
        body = self.body_class(self.config, self.backend_model)
        body.training = self.training
        return body

    @classmethod
    def own_config(cls, config: Any) -> PerceiverBackendConfig:
        """The config of the class for another one's.

        Raises:
            ValueError: if models of the class can't be made from that.
        """
        if isinstance(config, cls.config_class):
            return config
        if isinstance(config, Config):
            wrapper = cls.config_class.__name__
            raise ValueError(f"{cls.__name__} is made from a {wrapper}, which takes the {type(config).__name__}")
        if not isinstance(config, PerceiverBackendConfig) or config.task not in cls.config_class.task.relatives():
            titles = [task.title for task in (cls.config_class.task, *cls.config_class.task.relatives())]
            raise ValueError(
                f"{cls.__name__} can't be made from a config of the type {config.model_type!r}, only from that of a "
                f"{' or '.join(titles)}"
            )
        return cls.adapted_config(config)

    @classmethod
    def adapted_config(cls, config: PerceiverBackendConfig) -> PerceiverBackendConfig:
        """The config of the class for one of a related task."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Self:
        """As in transformers. A folder of a related task gives the encoder alone: the decoder is new.

        Raises:
            ValueError: if the folder is of another task that is not related.
        """
        if config is None:
            values, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
            model_type = values.get("model_type")
            if model_type in {task.model_type for task in TASKS.values()} - {cls.config_class.model_type}:
                config, kwargs = AutoConfig.from_pretrained(
                    pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
                )
        if not isinstance(config, PerceiverBackendConfig) or isinstance(config, cls.config_class):
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        return cls._from_relative(pretrained_model_name_or_path, cls.own_config(config), **kwargs)

    @classmethod
    def _from_relative(cls, folder: Any, config: PerceiverBackendConfig, **kwargs: Any) -> Any:
        """A new model with the encoder of a folder. The decoder there may have the same names, and isn't looked at."""
        assert cls.body_class is not None
        wants_info = kwargs.pop("output_loading_info", False)
        loaded: Any = cls.body_class.from_pretrained(folder, config=config, output_loading_info=True, **kwargs)
        body, info = loaded
        model = cls._from_config(config, dtype=body.dtype).to(body.device).eval()
        model.backend_model[0] = body.backend_model[0]
        new = [name for name, _ in model.named_parameters() if name.startswith("backend_model.1.")]
        logger.warning(f"New parameters of {cls.__name__}, which {folder} does not have: {', '.join(new)}. Train them.")
        return (model, {**info, "missing_keys": {*info["missing_keys"], *new}}) if wants_info else model

    def hidden_modules(self) -> list[nn.Module]:
        """The modules whose outputs are `hidden_states`: of a Perceiver IO model the latents, after the first
        cross-attention layer and after each self-attention layer."""
        encoder = self.backend_model.encoder
        return [encoder.cross_attn_1, *encoder.self_attn_1, *(encoder.self_attn_n or ())]

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, or of models without tokens the input adapter."""
        adapter = self.backend_model.encoder.input_adapter
        return getattr(adapter, "txt_embedding", adapter)

    def set_input_embeddings(self, value: nn.Module) -> None:
        encoder = self.backend_model.encoder
        if hasattr(encoder.input_adapter, "txt_embedding"):
            encoder.input_adapter.txt_embedding = value
        else:
            encoder.input_adapter = value

    def get_output_embeddings(self) -> nn.Module | None:
        """The linear layer of a language model that makes logits. None: the model is none."""
        return None

    @property
    def vocab_size(self) -> int:
        """Number of token ids. Models without tokens have none."""
        return self.config.vocab_size

    @classmethod
    def from_checkpoint(cls, ckpt_path: str | Path) -> Self:
        """Builds the model from a Lightning checkpoint, path or URL, of perceiver-io 0.8 or later."""
        checkpoint = read_checkpoint(ckpt_path)
        config_class = cls.config_class.backend_config_class
        try:
            backend_config = config_class.of_hyper_parameters(checkpoint.hyper_parameters)
            model = cls(cls.config_class(backend_config, **cls.checkpoint_config(checkpoint)))
        except ValueError as error:
            raise ValueError(f"{ckpt_path} is no {config_class.__name__.removesuffix('Config')}: {error}") from error
        load_parameters(model.backend_model, checkpoint.state_dict, ckpt_path)
        return model.eval()

    def processor(self, source: Any) -> Any:
        """What is saved beside a converted model: its tokenizer or image processor, if it has one.

        Args:
            source: The processor, or folder or hub id of one.
        """
        match self.config.task.processor:
            case "tokenizer":
                # positions are those of columns
                tokenizer = text_tokenizer(source, self.backend_model.config.encoder, padding_side="right")
                if self.config.pad_token_id is None:  # tells padding on the left from a mask that hides something
                    self.config.pad_token_id = tokenizer.pad_token_id
                return tokenizer
            case "image_processor" if isinstance(source, str | Path):
                return AutoImageProcessor.from_pretrained(source)
        return source

    def official_processor(self, source: str | Path) -> Any:
        """The same, of official weights."""
        return self.processor(source)

    @classmethod
    def checkpoint_config(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """What a Lightning checkpoint says about the Hugging Face config, besides the backend config."""
        return {}

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Changes the number of token ids: of the embedding, the output, and both configs.

        Args:
            new_num_tokens: Number of token ids. Default: no change.
            pad_to_multiple_of: Rounds the number up to a multiple.
            mean_resizing: Whether parameters of new ids are the mean of the old ones, or those of a new model.

        Returns:
            The embedding, the same module. Optimizers have to be made after it: parameters are new.

        Raises:
            NotImplementedError: if the model has no tokens.
        """
        return resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of, mean_resizing)

    def push_to_hub(  # type: ignore[override]  # one commit, of the model and its processor
        self, repo_id: str, *, processor: Any = None, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Uploads the model to the hub, with a model card, unless the repository has one.

        Args:
            repo_id: Repository, which is made if it does not exist.
            processor: Tokenizer or processor to upload beside it.
            metrics: Values that the model card names.
            kwargs: `token`, `private`, `revision` and `commit_message`. Others go to `save_pretrained`.
        """
        with tempfile.TemporaryDirectory() as folder:
            save_converted(
                self, processor, Path(folder) / "model", push_to_hub=True, repo_id=repo_id, metrics=metrics, **kwargs
            )

    @guard_torch_init_functions()
    def initialize_weights(self) -> None:
        # Called for a new model, and after loading, when the guard leaves parameters alone that came from a file.
        self.backend_model.init_parameters()
        for parameter in self.parameters():
            parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' mark, for the guard


def register_model(model_class: type[PerceiverBackendModel]) -> None:
    """Registers a model with the Auto class of its task, also for folders of related tasks, and its body."""
    auto_class = getattr(transformers, model_class.config_class.task.auto_class)
    auto_class.register(model_class.config_class, model_class, exist_ok=True)
    if auto_class is not AutoModel and model_class.body_class is not None:
        AutoModel.register(model_class.config_class, model_class.body_class, exist_ok=True)
    for task in model_class.config_class.task.relatives():
        # `register` wants the model's own config
        auto_class._model_mapping.register(config_class(task), model_class, exist_ok=True)
