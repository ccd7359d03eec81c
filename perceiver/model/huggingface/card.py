"""Model cards: what a repository on the Hugging Face Hub says about a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perceiver.model.huggingface.model import PerceiverBackendModel

_CARD = """---
library_name: transformers
tags:
- perceiver
- perceiver-io{pipeline_tag}
---

# {repo_id}

{kind}, {num_parameters:,} parameters, in the format of perceiver-io.

## Use

`pip install perceiver-io` brings what transformers does not have.

```python
{usage}
```
{metrics}
## Configuration

```json
{config}
```
"""


def model_card(model: PerceiverBackendModel, repo_id: str, metrics: Mapping[str, float] | None = None) -> str:
    """What the model is, how to use it, its metrics and its configuration, as Markdown.

    Args:
        model: The model.
        repo_id: Where it will be found.
        metrics: Values that are worth a mention, by name.
    """
    package, name = type(model).__module__.removesuffix(".huggingface").rsplit(".", 1)
    task, class_name = model.pipeline_task, type(model).__name__
    imports = "from transformers import " + ("pipeline" if task else "AutoModel")
    call = f'pipeline("{task}", model="{repo_id}")' if task else f'AutoModel.from_pretrained("{repo_id}")'
    rows = "".join(f"| {metric} | {value:.5g} |\n" for metric, value in (metrics or {}).items())
    return _CARD.format(
        pipeline_tag=f"\npipeline_tag: {task}" if task in _HUB_TASKS else "",
        repo_id=repo_id,
        kind=f"`{class_name}`",
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        usage=f"{imports}\nfrom {package} import {name}  # registers the model\n\nmodel = {call}",
        metrics=f"\n## Metrics\n\n| metric | value |\n|---|---|\n{rows}" if rows else "",
        config=json.dumps(model.config.model_config, indent=2),
    )


# Tasks that the hub knows; it refuses others.
_HUB_TASKS = (
    "fill-mask",
    "image-classification",
    "text-classification",
    "text-generation",
    "token-classification",
)
