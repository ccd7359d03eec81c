"""Base of the Hugging Face models, which hold a backend model.

A model of a task names its classes and defines `forward`; `perceiver.tasks` says what it is registered as.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from perceiver.model.core.checkpoint import COMPUTED_BUFFERS, Checkpoint, load_parameters, read_checkpoint
from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.huggingface.saving import save_converted

if TYPE_CHECKING:
    from typing_extensions import Self


class PerceiverBackendModel(PreTrainedModel):
    """Hugging Face model around a backend model, which has `init_parameters()`. Subclasses define `forward`."""

    config_class: type[PerceiverBackendConfig]
    backend_class: ClassVar[type[nn.Module]]
    backend_model: Any  # a backend_class

    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over a batch: Trainer must scale them itself when it accumulates
    _keys_to_ignore_on_load_unexpected = [rf"{name.replace('.', '[.]')}$" for name in COMPUTED_BUFFERS]

    def __init__(self, config: PerceiverBackendConfig):
        super().__init__(config)
        self.backend_model = self.backend_class(config.backend_config)
        self.post_init()

    @classmethod
    def from_checkpoint(cls, ckpt_path: str | Path) -> Self:
        """Builds the model from a Lightning checkpoint, path or URL, of perceiver-io 0.8 or later."""
        checkpoint = read_checkpoint(ckpt_path)
        config_class = cls.config_class.backend_config_class
        names = config_class.__dataclass_fields__.keys()
        # Lightning files hold further arguments of the Lightning module, which are none of the model.
        values = {name: value for name, value in checkpoint.hyper_parameters.items() if name in names}
        model = cls(cls.config_class(config_class.from_dict(values), **cls.checkpoint_config(checkpoint)))
        load_parameters(model.backend_model, checkpoint.state_dict, ckpt_path)
        return model.eval()

    def processor(self, source: Any) -> Any:
        """What is saved beside a converted model: its tokenizer or image processor, if it has one.

        Args:
            source: The processor, or folder or hub id of one.
        """
        match self.config.task.processor:
            case "tokenizer":
                return text_tokenizer(source, self.backend_model.config.encoder)
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

    @torch.no_grad()
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
        """
        embedding = self.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        size = embedding.num_embeddings if new_num_tokens is None else new_num_tokens
        size = -(-size // pad_to_multiple_of) * pad_to_multiple_of if pad_to_multiple_of else size
        if size < 1:
            raise ValueError(f"new_num_tokens={new_num_tokens} must be at least 1")
        if size == embedding.num_embeddings:
            return embedding
        self.config.set_vocab_size(size)
        config = self.backend_model.config
        for part in (config, *(getattr(config, field.name) for field in fields(config))):
            if hasattr(part, "vocab_size"):
                part.vocab_size = size
        with torch.device("meta" if mean_resizing else embedding.weight.device):
            fresh = dict(self.backend_class(config).named_parameters())
        for name, old in list(self.backend_model.named_parameters()):
            if old.shape != fresh[name].shape:  # those with a row per token id
                new = old.mean(dim=0).expand(fresh[name].shape).clone() if mean_resizing else fresh[name].to(old.dtype)
                new[: len(old)] = old[: len(new)]
                path, _, parameter = name.rpartition(".")
                module = self.backend_model.get_submodule(path)
                setattr(module, parameter, nn.Parameter(new, requires_grad=old.requires_grad))
                setattr(module, "num_embeddings" if isinstance(module, nn.Embedding) else "out_features", size)
        return embedding

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


def register_model(model_class: type[PerceiverBackendModel]) -> None:
    """Registers a model with the Auto class of its task."""
    auto_class = getattr(transformers, model_class.config_class.task.auto_class)
    auto_class.register(model_class.config_class, model_class, exist_ok=True)


def pad_mask_of(attention_mask: Tensor | None) -> Tensor | None:
    """attention_mask (B, M), 0 = padding -> pad_mask (B, M), True = padding"""
    return None if attention_mask is None else attention_mask == 0


def text_tokenizer(source: str | Path, config: Any = None, **kwargs: Any) -> Any:
    """A tokenizer as a converted model is saved with.

    Args:
        source: Folder or hub id.
        config: Config of an encoder, whose `vocab_size` and `max_seq_len` limit ids and texts. None: they do not.
        kwargs: Arguments of the tokenizer, `padding_side` for example.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
    # What forward takes, no token_type_ids. Only what is in init_kwargs is saved.
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    if config is not None:
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"tokenizer {source} has {len(tokenizer)} ids, the model's vocabulary only {config.vocab_size}"
            )
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_seq_len)
    return tokenizer
