"""Generation with a static cache: the same tokens as with the dynamic one, compiled or not, in every mode.

torch's compiler is slow. Fast tests compile to torch's own operators (`backend="eager"`), which takes the same steps as
far as the model is concerned: a graph without breaks, and how often there is a new one.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig, GenerationConfig

from perceiver.model.core import compilation
from perceiver.model.huggingface import generation
from perceiver.model.huggingface.cache import PerceiverARCache
from perceiver.model.text import clm
from tests.model.clm_helpers import CLM_MODELS, CONFIGS, ONE_LAYER, VOCAB, clm_config, clm_model
from tests.model.helpers import GOLDEN, golden_cases, token_ids

# torch's own compiler uses it
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")

STATIC: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
every_golden = pytest.mark.parametrize("name", CLM_MODELS)


def hf_model(config: clm.CausalLanguageModelConfig | None = None) -> Any:  # not as transformers types it
    config = config or clm_config()
    model: Any = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).eval()
    model.backend_model.load_state_dict(clm_model(config).state_dict())
    return model


def generate(model: Any, x: Tensor, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return model.generate(x, **{"do_sample": False, "max_new_tokens": 24, **kwargs})


def compiled_by(backend: str) -> dict[str, Any]:
    return {"cache_implementation": "static", "compile_config": CompileConfig(backend=backend, mode=None)}


def left_padded(length: int) -> dict[str, Tensor]:
    """An attention mask of two prompts, one of them with padding."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, : length // 2] = 0
    return {"attention_mask": mask}


MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "reset": {"reset_latents": True},
    "sampling": {"do_sample": True, "temperature": 0.7},
    "beams": {"num_beams": 3},
    "beam sampling": {"num_beams": 2, "num_return_sequences": 2, "do_sample": True},
}


@pytest.mark.parametrize(
    "config, mode",
    [(config, mode) for config in ("absolute", "token shift") for mode in MODES]
    + [(config, "greedy") for config in CONFIGS if config not in ("absolute", "token shift")],
)
def test_equals_the_dynamic_cache(config: str, mode: str) -> None:
    """Of a short prompt and of one longer than the window, with padding, until everything slides."""
    model = hf_model(CONFIGS[config])
    for length in (4, 23):
        kwargs = {**left_padded(length), **MODES[mode]}
        x = token_ids(2, length)
        expected = generate(model, x, **kwargs)
        assert torch.equal(generate(model, x, **kwargs, **STATIC), expected), length


def check_recorded(name: str, static: dict[str, Any]) -> int:
    model, num_cases = AutoModelForCausalLM.from_pretrained(GOLDEN / name / "hub"), 0
    for case in golden_cases(name, "generate"):
        kwargs = {**case.inputs, **case.kwargs, "do_sample": False}
        mask, expected = case.inputs.get("attention_mask"), case.outputs.get("use_cache_true")
        if expected is None or (mask is not None and not mask[:, -case.kwargs["num_latents"] :].all()):
            expected = model.generate(**kwargs)  # not met on purpose: tests/contract/test_recorded_cases.py
        assert torch.equal(model.generate(**kwargs, **static), expected), case.name
        num_cases += 1
    return num_cases


@every_golden
def test_recorded_generations(name: str) -> None:
    assert check_recorded(name, STATIC) >= 10


@pytest.mark.slow
@every_golden
def test_recorded_generations_compiled(name: str) -> None:
    before = compilation.statistics.num_graphs
    assert check_recorded(name, {"cache_implementation": "static"}) >= 10
    assert 1 <= compilation.statistics.num_graphs - before <= 3  # for one example, for several of them


@pytest.mark.parametrize("token_shift", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "backend, batch_size", [("eager", 1), *(pytest.param("inductor", n, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
def test_one_graph_serves_everything(
    backend: str, batch_size: int, token_shift: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Growing buffers, sliding windows, prompts of any length, with and without padding, continuing from a cache."""
    torch.compiler.reset()  # a graph of several examples that another test has made serves these, too
    model = hf_model(clm_config(max_seq_len=150, max_latents=137, token_shift=token_shift, **ONE_LAYER))
    before, static = copy.copy(compilation.statistics), compiled_by(backend)
    for length in (4, 60):
        x = token_ids(batch_size, length)
        for kwargs in ({}, {"attention_mask": torch.ones(batch_size, length, dtype=torch.long)}, {"do_sample": True}):
            if "attention_mask" in kwargs and batch_size > 1:
                kwargs["attention_mask"][0, :3] = 0
            kwargs["max_new_tokens"] = 12 if kwargs or length > 4 else 160
            expected = generate(model, x, **kwargs)
            assert torch.equal(generate(model, x, **kwargs, **static), expected)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True, **static)
    result = generate(model, first.sequences, max_new_tokens=51, past_key_values=first.past_key_values)
    assert torch.equal(result, generate(model, x, max_new_tokens=60))
    assert compilation.statistics.num_graphs == before.num_graphs + 1
    assert compilation.statistics.seconds > before.seconds
    messages = [record.getMessage() for record in caplog.records if record.name == compilation.__name__]
    assert len(messages) == 2 and messages[1].startswith("Compiled in ")
    assert messages[0].startswith(f"Compiling a step of {batch_size} token{'s' if batch_size > 1 else ''}.")


def test_not_compiled_where_nothing_is_to_be_gained() -> None:
    """With `disable_compile`, for a prompt alone, and for several new tokens at once."""
    model, x, before = hf_model(), token_ids(1, 6), compilation.statistics.num_graphs
    generate(model, x, **STATIC)
    cache = generate(model, x, max_new_tokens=1, return_dict_in_generate=True, **compiled_by("inductor"))
    cache = cache.past_key_values
    assert isinstance(cache, PerceiverARCache) and cache.is_compileable and cache.compile_options is not None
    with torch.no_grad():
        model(token_ids(1, 3), past_key_values=cache)
    assert compilation.statistics.num_graphs == before


def test_hidden_states_of_all_layers_are_not_compiled() -> None:
    """They are those of the default: compiled code does not see who listens to its layers."""
    model, x, before = hf_model(), token_ids(2, 6), compilation.statistics.num_graphs
    kwargs = {"max_new_tokens": 4, "output_hidden_states": True, "return_dict_in_generate": True}
    results = [generate(model, x, **kwargs, **given) for given in ({}, compiled_by("inductor"))]
    for states, static in zip(*(result.hidden_states for result in results), strict=True):
        assert len(static) == len(model.backend_model.windows)
        for expected, state in zip(states, static, strict=True):
            torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-5)
    assert compilation.statistics.num_graphs == before


@pytest.mark.parametrize("config", ["absolute", "token shift"])
@torch.no_grad()
def test_a_step_of_embeddings(config: str) -> None:
    model, x = hf_model(CONFIGS[config]), token_ids(2, 5)
    expected, embedded = model(x).logits, model.get_input_embeddings()(x)
    cache = model.new_static_cache()
    parts = [model(inputs_embeds=embedded[:, :3], past_key_values=cache)]
    parts += [model(inputs_embeds=embedded[:, i : i + 1], past_key_values=cache) for i in (3, 4)]
    torch.testing.assert_close(torch.cat([part.logits for part in parts], dim=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [6, 23])
def test_continuing(length: int) -> None:
    model, x = hf_model(), token_ids(2, length)
    expected = generate(model, x)
    first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True, **STATIC)
    for cache in (copy.deepcopy(first.past_key_values), first.past_key_values):
        assert torch.equal(generate(model, first.sequences, past_key_values=cache, max_new_tokens=15), expected)
        assert cache.get_seq_length() == length + 23


def test_continuing_with_more_new_tokens() -> None:
    model, x, more = hf_model(), token_ids(2, 6), token_ids(2, 8)
    results = []
    for kwargs in ({}, STATIC):
        first = generate(model, x, max_new_tokens=9, return_dict_in_generate=True, **kwargs)
        ids = torch.cat([first.sequences, more], dim=1)
        results.append(generate(model, ids, past_key_values=first.past_key_values))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "kwargs", [{"penalty_alpha": 0.6, "top_k": 4}, {"prompt_lookup_num_tokens": 2}], ids=["contrastive", "lookup"]
)
@pytest.mark.parametrize("given", ["arguments", "config"])
def test_what_has_no_static_form_runs_as_without(
    kwargs: dict[str, Any], given: str, caplog: pytest.LogCaptureFixture
) -> None:
    type(generation.logger).warning_once.cache_clear()  # type: ignore[attr-defined]  # transformers' addition
    model, x = hf_model(), token_ids(1, 6)
    expected = generate(model, x, **kwargs)
    if given == "arguments":
        result = generate(model, x, **kwargs, **STATIC)
    else:
        config = GenerationConfig(do_sample=False, max_new_tokens=24, **kwargs, **STATIC)
        result = model.generate(x, config)
        assert config.cache_implementation == "static"  # it is the user's
    assert torch.equal(result, expected)
    assert "has no static form" in caplog.text
    cache = generate(model, x, max_new_tokens=3, return_dict_in_generate=True, **STATIC).past_key_values
    with pytest.raises(ValueError, match="needs a dynamic cache, past_key_values is a static one"):
        generate(model, token_ids(1, 9), past_key_values=cache, **kwargs)


def test_a_compile_config_without_static_cache_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    type(generation.logger).warning_once.cache_clear()  # type: ignore[attr-defined]
    model, x = hf_model(), token_ids(1, 6)
    with caplog.at_level(logging.WARNING):
        generate(model, x, compile_config=CompileConfig())
    assert "compile_config has no effect without cache_implementation='static'" in caplog.text


def test_a_dynamic_cache_is_not_a_static_one() -> None:
    model, x = hf_model(), token_ids(1, 6)
    with pytest.raises(ValueError, match="past_key_values is a dynamic cache"):
        generate(model, x, past_key_values=model.new_cache(), **STATIC)
    cache = model.new_static_cache()
    assert torch.equal(generate(model, x, past_key_values=cache), generate(model, x))
    cache.reset()
    assert cache.get_seq_length() == cache.num_latents == 0
    assert torch.equal(generate(model, x, past_key_values=cache), generate(model, x))


@pytest.mark.slow
def test_more_models_than_torch_takes_by_default() -> None:
    """All share the code that is compiled. torch gives up after eight forms of it."""
    x, before = token_ids(1, 3), compilation.statistics.num_graphs
    for i in range(10):
        model = hf_model(clm_config(vocab_size=VOCAB + 1 + i, **ONE_LAYER))
        generate(model, x, max_new_tokens=3, **compiled_by("eager"))
    assert compilation.statistics.num_graphs == before + 10
