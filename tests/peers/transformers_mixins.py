"""transformers' own common tests of models, generation, pipelines and image processors, for the models of every task.

    python tests/peers/transformers_mixins.py [CHECKOUT] [pytest's arguments]

They are from transformers' source distribution, and what that lacks from a checkout, see `transformers_source.py`.
None of it is part of this repository. What does not apply is in `EXCLUDED_...`, each test with its reason. The other
files that are run are `transformers_pipelines.py` and `transformers_perceiver.py`.
"""

from __future__ import annotations

import sys
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.huggingface.tasks import LATENTS, PERCEIVER_AR, TASKS, Task  # noqa: E402
from tests.peers import transformers_source  # noqa: E402

# Tests that do not apply, with the reason.
EXCLUDED_WITHOUT_TOKENS = {"test_model_get_set_embeddings": "no token embedding: the input embedding is an adapter"}
EXCLUDED_CAUSAL = {
    "test_inherits_generation_mixin": "looks at the direct base classes: ours inherits it from our base class",
    "test_dola_decoding_sample": "not supported: an error says so",
    "test_past_key_values_format": "the cache is PerceiverARCache, with windows",
    "test_generate_continue_from_past_key_values": "takes the cache for a tuple of tensors, see test_generation.py",
    # of checkouts before transformers 5, which has none of these
    "test_group_beam_search_generate": "not supported: an error says so",
    "test_group_beam_search_generate_dict_output": "not supported: an error says so",
    "test_constrained_beam_search_generate": "not supported: an error says so",
    "test_constrained_beam_search_generate_dict_output": "not supported: an error says so",
}
# Tests of the loss, which bodies do not have. (transformers knows its own bodies by name.)
WITH_LOSS = ("test_training", "test_training_gradient_checkpointing")


class ModelTester:
    """What the mixins want to know of a model, and its inputs."""

    is_training = True

    def __init__(self, parent: Any, task: Task):
        self.parent, self.task = parent, task
        self.is_causal = "max_latents" in (task.model().config.model_config or {})
        self.batch_size = 3
        self.num_hidden_layers, self.num_attention_heads = 1, 2
        self.seq_length = PERCEIVER_AR["max_latents"] if self.is_causal else LATENTS["num_latents"]
        self.hidden_size = PERCEIVER_AR["num_channels"] if self.is_causal else LATENTS["num_latent_channels"]

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        inputs = self.task.batch(self.batch_size, labels=False)
        if self.is_causal:  # as many tokens as latents: then hidden states have their length
            inputs = {name: x[:, : self.seq_length] for name, x in inputs.items()}
        if "input_ids" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return self.task.model().config, inputs


def mixin_tests(task: Task) -> type:
    common = transformers_source.test_module("test_modeling_common")
    generation = transformers_source.test_module("generation.test_utils")  # empty without a checkout
    model_class = type(task.model())
    bases = [generation.GenerationTesterMixin] if model_class.can_generate() else []
    bodies = (model_class.body_class,) if model_class.config_class.task.auto_class != "AutoModel" else ()

    class ModelTest(common.ModelTesterMixin, *bases, unittest.TestCase):  # type: ignore[misc, name-defined]
        all_model_classes = (*bodies, model_class)
        test_resize_embeddings = task.has_tokens

        def setUp(self) -> None:
            self.model_tester = ModelTester(self, task)
            if self._testMethodName.startswith(WITH_LOSS):
                self.all_model_classes = (model_class,)
            # other tests want gradients of them, or one of each token of a prompt, which has latents for the last alone
            self.has_attentions = self._testMethodName == "test_attention_outputs"

        def _check_hidden_states_for_generate(self, *args: Any, **kwargs: Any) -> None:
            """A prompt has hidden states where it has latents, not one for each token."""

        def _check_past_key_values_for_generate(self, *args: Any, **kwargs: Any) -> None:
            """The cache is a PerceiverARCache, with windows."""

        def assertRaisesRegex(self, exception: type[Exception], regex: str, *args: Any, **kwargs: Any) -> Any:
            return self.assertRaises(exception, *args, **kwargs)  # messages are ours

        def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
            inputs = dict(inputs_dict)
            if return_labels and model_class.body_class is not None:
                inputs["labels"] = task.batch(self.model_tester.batch_size)["labels"]
                if self.model_tester.is_causal:
                    inputs["labels"] = inputs["labels"][:, : self.model_tester.seq_length]
            return inputs

    return ModelTest


def main(arguments: list[str]) -> int:
    if arguments and Path(arguments[0]).is_dir():
        transformers_source.CHECKOUT = str(Path(arguments.pop(0)).resolve())
    ours = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:randomly", "-W", "default"]  # their marks
    files = [str(Path(__file__).with_name(f"transformers_{part}.py")) for part in ("mixins", "pipelines", "perceiver")]
    return int(pytest.main([*files, "--rootdir", str(ROOT), *ours, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# pytest imports the file once more
transformers_source.load()
for _task in TASKS:
    _tests = mixin_tests(_task)
    for _name, _reason in (EXCLUDED_CAUSAL if _task.has_tokens else EXCLUDED_WITHOUT_TOKENS).items():
        if hasattr(_tests, _name):
            setattr(_tests, _name, unittest.skip(_reason)(getattr(_tests, _name)))
    _tests.__name__ = _tests.__qualname__ = f"Test{_task.name.title().replace(' ', '')}"
    globals()[_tests.__name__] = _tests
del _tests  # pytest would run it once more
