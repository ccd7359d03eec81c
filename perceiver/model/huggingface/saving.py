"""Saving converted models and their tokenizers, all files or none, and uploading them with a model card.

Folders have the published format: `config.json` with `model_type` and a nested `model_config`, parameters under the
names `backend_model.*`. A folder is replaced as a whole, see `replaced`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from transformers import PreTrainedModel

from perceiver.model.huggingface.config import PerceiverBackendConfig
from perceiver.model.huggingface.folder import replaced
from perceiver.processing.text import load_tokenizer

# All files in which transformers looks for weights, shards included, and the others that describe a model: those of an
# old model might win over the new ones, or be read beside them.
_MODEL_FILES = [
    "config.json",
    "generation_config.json",
    *(
        pattern
        for name, suffix in (("model", "safetensors"), ("pytorch_model", "bin"))
        for pattern in (f"{name}.{suffix}", f"{name}.{suffix}.index.json", f"{name}-[0-9]*-of-[0-9]*.{suffix}")
    ),
]


def text_tokenizer(source: str | Path, config: Any = None, **kwargs: Any) -> Any:
    """A tokenizer as a converted model is saved with.

    Args:
        source: See `load_tokenizer`.
        config: Config of an encoder, whose `vocab_size` and `max_seq_len` limit ids and texts. None: they do not.
        kwargs: Arguments of the tokenizer, `padding_side` for example.
    """
    tokenizer = load_tokenizer(source, **kwargs)
    # What forward takes, no token_type_ids. Only what is in init_kwargs is saved.
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    if config is not None:
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"tokenizer {source} has {len(tokenizer)} ids, the model's vocabulary only {config.vocab_size}"
            )
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_seq_len)
    return tokenizer


def save_converted(model: PreTrainedModel, processor: Any, save_dir: str | Path, **kwargs: Any) -> None:
    """Saves a model and its tokenizer or processor so that `save_dir` either gets all files or stays as it is.

    That holds whenever the process is killed, and for any number of processes with the same `save_dir`: what is there
    afterwards is the model of one of them.

    Args:
        model: Model to save.
        processor: Tokenizer or processor, with a `save_pretrained` method. None: the model needs none.
        save_dir: Folder. In an existing one, the model and files of the same name are replaced, others stay.
        kwargs: `push_to_hub=True` uploads the folder too, as one commit to the repository `repo_id` (default: the
            folder's name), with the optional arguments `token`, `private`, `revision` and `commit_message`, and, if
            the repository has none, a model card, which names `metrics`. Others go to `model.save_pretrained`. An
            upload that fails leaves `save_dir` as it was, too.
    """
    save_dir = Path(save_dir)
    if save_dir.exists() and not save_dir.is_dir():
        raise ValueError(f"save_dir={save_dir} is a file, it must be a folder")
    push_to_hub = kwargs.pop("push_to_hub", False)
    upload = {name: kwargs.pop(name, None) for name in ("repo_id", "token", "private", "revision", "commit_message")}
    metrics = kwargs.pop("metrics", None)
    with replaced(save_dir, _MODEL_FILES) as folder:
        model.save_pretrained(folder, **kwargs)
        if processor is not None:
            processor.save_pretrained(folder)
        if push_to_hub:  # from here: in save_dir may soon be the model of another process
            _upload(model, sorted(folder.iterdir()), upload.pop("repo_id") or save_dir.name, metrics, **upload)


def _upload(
    model: PreTrainedModel,
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
        card = str(model_card(model, repo_id, metrics)).encode()
        operations.append(CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card))
    api.create_commit(repo_id, operations, revision=revision, commit_message=commit_message or "Upload model")


_CARD = """---
{{ card_data }}
---

# {{ repo_id }}

`{{ name }}`, {{ num_parameters }} parameters, in the format of perceiver-io.

## Use

`pip install perceiver-io` brings what transformers does not have.

```python
{{ usage }}
```
{% if metrics %}
## Metrics

| metric | value |
|---|---|
{% for metric, value in metrics.items() %}| {{ metric }} | {{ "%.5g" % value }} |
{% endfor %}{% endif %}
## Configuration

```json
{{ config }}
```
"""


def model_card(model: PreTrainedModel, repo_id: str, metrics: Mapping[str, float] | None = None) -> ModelCard:
    """What the model is, how to use it, its metrics and its configuration.

    Args:
        model: The model.
        repo_id: Where it will be found.
        metrics: Values that are worth a mention, by name.
    """
    assert isinstance(model.config, PerceiverBackendConfig)
    task = model.config.task
    package, name = task.package.rsplit(".", 1)
    imports = "from transformers import " + ("pipeline" if task.pipeline else "AutoModel")
    loader = f'pipeline("{task.pipeline}", model=' if task.pipeline else "AutoModel.from_pretrained("
    return ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            tags=["perceiver", "perceiver-io"],
            pipeline_tag=task.pipeline if task.auto_class != "AutoModel" and task.processor else None,
        ),
        template_str=_CARD,
        repo_id=repo_id,
        name=type(model).__name__,
        num_parameters=f"{model.num_parameters():,}",
        usage=f'{imports}\nfrom {package} import {name}  # registers the model\n\nmodel = {loader}"{repo_id}")',
        metrics=metrics or {},
        config=json.dumps(model.config.model_config, indent=2),
    )
