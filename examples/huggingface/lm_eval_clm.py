"""lm-evaluation-harness with a causal language model of ours: its command line, which knows the model `perceiver`.

    python examples/huggingface/lm_eval_clm.py run --model perceiver --model_args pretrained=FOLDER --tasks wikitext

It is lm-eval's model `hf`, which reads as many tokens as ours sees, `max_seq_len`, and texts as they are, without the
tokenizer's special tokens. `--include_path FOLDER` adds tasks of one's own. Log-likelihoods are those of
`score_tokens`, at any batch size. Needs `pip install lm-eval`.
"""

from __future__ import annotations

from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from perceiver.model.text import clm


@register_model("perceiver")
class PerceiverLM(HFLM):
    """A folder or hub id, or a `clm.PerceiverCausalLanguageModel`. All arguments are those of `hf`."""

    def __init__(self, pretrained: Any, **kwargs: Any):
        clm.PerceiverCausalLanguageModelConfig()  # registers the model with the Auto classes
        super().__init__(pretrained, **{"add_bos_token": False, **kwargs})

    @property
    def max_length(self) -> int:
        return self._max_length or self.model.config.backend_config.max_seq_len


if __name__ == "__main__":
    cli_evaluate()
