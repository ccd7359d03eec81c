"""Base of the Hugging Face models, which hold a backend model; saving and uploading of converted models.

Folders have the published format: `config.json` with `model_type` and a nested `model_config`, parameters under the
names `backend_model.*`. A leaf names its classes, defines `forward` and registers itself with the Auto classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub import CommitOperationAdd, HfApi
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from perceiver.model.core.checkpoint import COMPUTED_BUFFERS, Checkpoint, load_parameters, read_checkpoint
from perceiver.model.huggingface.card import model_card
from perceiver.model.huggingface.config import PerceiverBackendConfig

if TYPE_CHECKING:
    from typing_extensions import Self


# All files in which transformers looks for weights, shards included.
_WEIGHT_FILES = [
    pattern
    for name, suffix in (("model", "safetensors"), ("pytorch_model", "bin"))
    for pattern in (f"{name}.{suffix}", f"{name}.{suffix}.index.json", f"{name}-[0-9]*-of-[0-9]*.{suffix}")
]


class PerceiverBackendModel(PreTrainedModel):
    """Hugging Face model around a backend model, which has `init_parameters()`. Leaves define `forward`."""

    config_class: type[PerceiverBackendConfig]
    backend_class: ClassVar[type[nn.Module]]
    backend_model: Any  # a backend_class
    pipeline_task: ClassVar[str | None] = None  # of the pipeline that uses the model

    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over a batch: Trainer must scale them itself when it accumulates
    _keys_to_ignore_on_load_unexpected = [rf"{name.replace('.', '[.]')}$" for name in COMPUTED_BUFFERS]

    def __init__(self, config: PerceiverBackendConfig):
        super().__init__(config)
        self.backend_model = self.backend_class(config.backend_config)
        self.post_init()

    @classmethod
    def from_checkpoint(cls, ckpt_path: str | Path) -> Self:
        """Builds the model from a Lightning checkpoint, path or URL, of perceiver-io 0.8 or later.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file can't be read or does not fit the model.
        """
        checkpoint = read_checkpoint(ckpt_path)
        config_class = cls.config_class.backend_config_class
        names = config_class.__dataclass_fields__.keys()
        # Lightning files hold further arguments of the Lightning module, which are none of the model.
        values = {name: value for name, value in checkpoint.hyper_parameters.items() if name in names}
        model = cls(cls.config_class(config_class.from_dict(values), **cls.checkpoint_config(checkpoint)))
        load_parameters(model.backend_model, checkpoint.state_dict, ckpt_path)
        return model.eval()

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
            The embedding. Optimizers have to be made after it: parameters are new.

        Raises:
            NotImplementedError: if the model has no token embedding.
            ValueError: if there are fewer than one token ids.
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
        old_model, state_dict = self.backend_model, self.backend_model.state_dict()
        model = self.backend_class(self.config.backend_config).to(embedding.weight).train(self.training)
        for name, parameter in model.state_dict().items():  # all that differ have a row per token id
            old = state_dict[name]
            if mean_resizing and len(old) < len(parameter):
                parameter[:] = old.mean(dim=0)
            parameter[: len(old)] = old[: len(parameter)]
        for parameter, old in zip(model.parameters(), old_model.parameters(), strict=True):
            parameter.requires_grad_(old.requires_grad)
        self.backend_model = model
        return self.get_input_embeddings()  # type: ignore[return-value]

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


def save_converted(model: PerceiverBackendModel, processor: Any, save_dir: str | Path, **kwargs: Any) -> None:
    """Saves a model and its tokenizer or processor so that `save_dir` either gets all files or stays as it is.

    Args:
        model: Model to save.
        processor: Tokenizer or processor, with a `save_pretrained` method. None: the model needs none.
        save_dir: Folder. In an existing one, weights and files of the same name are replaced, others stay.
        kwargs: `push_to_hub=True` uploads the folder too, as one commit to the repository `repo_id` (default: the
            folder's name), with the optional arguments `token`, `private`, `revision` and `commit_message`, and, if
            the repository has none, a model card, which names `metrics`. Others go to `model.save_pretrained`.

    Raises:
        ValueError: if `save_dir` is a file.
    """
    save_dir = Path(save_dir)
    if save_dir.exists() and not save_dir.is_dir():
        raise ValueError(f"save_dir={save_dir} is a file, it must be a folder")
    push_to_hub = kwargs.pop("push_to_hub", False)
    upload = {name: kwargs.pop(name, None) for name in ("repo_id", "token", "private", "revision", "commit_message")}
    metrics = kwargs.pop("metrics", None)
    save_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=save_dir.parent, prefix=f".{save_dir.name}.") as temporary:
        folder = Path(temporary) / "model"
        model.save_pretrained(folder, **kwargs)
        if processor is not None:
            processor.save_pretrained(folder)
        names = [file.name for file in folder.iterdir()]
        if not save_dir.exists():
            folder.rename(save_dir)
        else:  # no model as long as it has no config.json
            for pattern in ("config.json", *_WEIGHT_FILES):  # old weights might win over the new ones
                for old_file in save_dir.glob(pattern):
                    old_file.unlink()
            for file in sorted(folder.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(save_dir / file.name)
    if push_to_hub:
        _upload(model, [save_dir / name for name in names], upload.pop("repo_id") or save_dir.name, metrics, **upload)


def _upload(
    model: PerceiverBackendModel,
    files: list[Path],
    repo_id: str,
    metrics: Mapping[str, float] | None,
    *,
    token: str | None,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
) -> None:
    """Uploads files to the hub as one commit, with a model card if there is none. A missing repository is made."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    operations = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
    if not api.file_exists(repo_id, "README.md", revision=revision):
        card = model_card(model, repo_id, metrics).encode()
        operations.append(CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card))
    api.create_commit(repo_id, operations, revision=revision, commit_message=commit_message or "Upload model")


def pad_mask_of(attention_mask: Tensor | None) -> Tensor | None:
    """attention_mask (B, M), 0 = padding -> pad_mask (B, M), True = padding"""
    return None if attention_mask is None else attention_mask == 0
