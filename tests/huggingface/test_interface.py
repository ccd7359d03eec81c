"""What libraries find in every model of transformers: arguments of `forward`, config attributes, embeddings, bodies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from perceiver.model.audio import symbolic
from perceiver.model.core.attention_maps import record_attention
from perceiver.model.core.evaluation import score_tokens
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.text import classifier, clm, mlm, token_classifier
from tests.huggingface.tasks import LATENTS, PERCEIVER_AR, SEQ_LEN, TASKS, VOCAB_SIZE, Task
from tests.model.helpers import assert_same_parameters

ROOT = Path(__file__).parents[2]
all_tasks = pytest.mark.parametrize("task", TASKS, ids=str)
CAUSAL = [task for task in TASKS if task.name in ("causal language model", "symbolic audio model")]
causal_tasks = pytest.mark.parametrize("task", CAUSAL, ids=str)
TEXT = [task for task in TASKS if task.has_tokens and task not in CAUSAL]
MAX_LATENTS = PERCEIVER_AR["max_latents"]


def hidden_shape(task: Task, batch_size: int = 3) -> tuple[int, int, int]:
    if task in CAUSAL:
        return batch_size, SEQ_LEN, PERCEIVER_AR["num_channels"]
    return batch_size, LATENTS["num_latents"], LATENTS["num_latent_channels"]


# --- arguments of forward ---


@all_tasks
def test_what_is_not_asked_for_may_be_passed(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    names = ("inputs_embeds", "position_ids", "output_attentions", "cache_position", "head_mask", "token_type_ids")
    expected = getattr(model(**batch), task.output)
    result = model(**batch, **dict.fromkeys(names), use_cache=False, output_hidden_states=False, return_dict=True)
    torch.testing.assert_close(getattr(result, task.output), expected)
    assert isinstance(model(**batch, return_dict=False), tuple)


@all_tasks
def test_what_a_model_does_not_have_is_an_error(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    with pytest.raises(ValueError, match=f"{type(model).__name__} does not support head_mask"):
        model(**batch, head_mask=torch.ones(2))
    with pytest.raises(TypeError, match="does not support atention_mask"):
        model(**batch, atention_mask=torch.ones(3, SEQ_LEN))
    if task not in CAUSAL:
        with pytest.raises(ValueError, match="does not support use_cache"):
            model(**batch, use_cache=True)


@all_tasks
def test_attentions(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    if task in CAUSAL:
        batch["prefix_len"] = SEQ_LEN - MAX_LATENTS  # type: ignore[assignment]
    outputs = model(**batch, output_attentions=True, output_hidden_states=True)
    with record_attention(model.backend_model) as maps:
        plain = model(**batch)
    assert plain.attentions is plain.cross_attentions is None
    torch.testing.assert_close(getattr(outputs, task.output), getattr(plain, task.output))
    num_latents = MAX_LATENTS if task in CAUSAL else LATENTS["num_latents"]
    assert [weights.shape for weights in outputs.attentions] == [(3, 2, num_latents, num_latents)]
    given = [*outputs.attentions, *outputs.cross_attentions]
    expected = sorted(maps, key=lambda name: "self_attention" not in name)
    assert len(given) == len(expected) == (2 if task in CAUSAL else 3)
    for weights, name in zip(given, expected, strict=True):
        torch.testing.assert_close(weights, maps[name])
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    body = model.base_model(**batch, output_attentions=True)
    for weights, of_model in zip(body.cross_attentions, outputs.cross_attentions, strict=False):
        torch.testing.assert_close(weights, of_model)
    assert len(body.cross_attentions) == 1 and len(body.attentions) == 1
    model.config.output_attentions = True
    assert model(**batch).attentions is not None and model(**batch, output_attentions=False).attentions is None
    in_order = model(**batch, return_dict=False)
    torch.testing.assert_close(in_order[-1][-1], outputs.cross_attentions[-1])


@causal_tasks
def test_attentions_of_windows_are_an_error(task: Task) -> None:
    with pytest.raises(ValueError, match="windows: give prefix_len"):
        task.model()(**task.batch(labels=False), output_attentions=True)


@causal_tasks
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_generation_gives_the_attentions_of_each_token(task: Task, use_cache: bool) -> None:
    model: Any = task.model()
    prompt = task.batch(labels=False)["input_ids"][:, :5]
    kwargs = {"max_new_tokens": 4, "do_sample": False, "num_latents": 3, "use_cache": use_cache}
    output = model.generate(prompt, **kwargs, output_attentions=True, return_dict_in_generate=True)
    torch.testing.assert_close(output.sequences, model.generate(prompt, **kwargs))
    assert [len(of_layers) for of_layers in output.attentions] == [1] * 4
    (whole,) = model(output.sequences[:, :-1], prefix_len=2, output_attentions=True).attentions  # (3, 2, 6, 6)
    for num_latents, (weights,) in enumerate(output.attentions, start=3):
        rows = 1 if use_cache and num_latents > 3 else num_latents
        expected = whole[:, :, num_latents - rows : num_latents, :num_latents]
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "kwargs, what",
    [
        ({"penalty_alpha": 0.5, "top_k": 3}, "contrastive_search"),
        ({"prompt_lookup_num_tokens": 2}, "assisted_generation"),
        ({"cache_implementation": "static"}, "a static cache"),
    ],
)
def test_attentions_where_generation_has_none_are_an_error(kwargs: dict[str, Any], what: str) -> None:
    model: Any = CAUSAL[0].model()
    with pytest.raises(ValueError, match=f"output_attentions is not supported by {what}"):
        model.generate(torch.tensor([[7, 8]]), max_new_tokens=2, output_attentions=True, **kwargs)


@all_tasks
def test_hidden_states(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    outputs = model(**batch, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert {state.shape for state in outputs.hidden_states} == {hidden_shape(task)}
    assert not torch.equal(outputs.hidden_states[0], outputs.hidden_states[-1])
    body = model.base_model(**batch)
    torch.testing.assert_close(outputs.hidden_states[-1], body.last_hidden_state)
    torch.testing.assert_close(
        model.base_model(**batch, output_hidden_states=True).hidden_states, outputs.hidden_states
    )
    assert model(**batch).hidden_states is None
    model.config.output_hidden_states = True
    torch.testing.assert_close(model(**batch).hidden_states, outputs.hidden_states)


@pytest.mark.parametrize("task", [task for task in TASKS if task.has_tokens], ids=str)
def test_embeddings_in_place_of_tokens(task: Task) -> None:
    model, batch = task.model(), task.batch()
    expected = model(**batch)
    ids = batch.pop("input_ids")
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    result = model(**batch, inputs_embeds=embedded)
    torch.testing.assert_close((result.loss, result.logits), (expected.loss, expected.logits))
    result.loss.backward()
    assert embedded.grad is not None and embedded.grad.abs().sum() > 0
    for kwargs in ({}, {"input_ids": ids, "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
            model(**kwargs)
    with pytest.raises(ValueError, match=r"token embeddings have shape \(3, (12|7), 5\), expected"):
        model(inputs_embeds=embedded[..., :5])


@pytest.mark.parametrize("task", [task for task in TASKS if task.has_tokens], ids=str)
def test_positions_are_those_of_the_tokens(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    positions = torch.arange(SEQ_LEN)[None]
    torch.testing.assert_close(model(**batch, position_ids=positions).logits, model(**batch).logits)
    with pytest.raises(ValueError, match="position_ids must"):
        model(**batch, position_ids=positions % 5)


@causal_tasks
def test_positions_do_not_count_padding_or_what_left_a_cache(task: Task) -> None:
    model, ids = task.model(), task.batch(labels=False)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    first = model(ids, attention_mask=mask, position_ids=positions, prefix_len=5, use_cache=True)
    more = torch.ones(3, 1, dtype=torch.int64)
    kwargs = {"attention_mask": torch.cat([mask, more], 1), "past_key_values": first.past_key_values}
    with pytest.raises(ValueError, match="position_ids must"):
        model(ids[:, :1], position_ids=positions[:, -1:], **kwargs)
    with pytest.raises(ValueError, match="cache_position must be 12"):
        model(ids[:, :1], cache_position=torch.tensor([11]), **kwargs)
    model(ids[:, :1], position_ids=positions[:, -1:] + 1, cache_position=torch.tensor([12]), **kwargs)


# --- causal models: sequences longer than max_latents ---


@causal_tasks
@pytest.mark.parametrize("length", [2, MAX_LATENTS, MAX_LATENTS + 1, SEQ_LEN, 2 * SEQ_LEN + 5])
def test_all_positions_have_logits_that_evaluation_scores(task: Task, length: int) -> None:
    """Alone, and in a batch that is padded on either side, with a mask or on the right without."""
    model = task.model()
    texts = [torch.randint(6, VOCAB_SIZE, (n,)) for n in (length, 31)]
    expected = torch.cat(list(score_tokens(model.backend_model, [texts[0]])))
    for side in ("alone", "left", "right", "right without a mask"):
        ids = texts[0][None]
        mask = torch.ones_like(ids)
        if side != "alone":
            pad = (31 - length, 0) if side == "left" else (0, 31 - length)
            ids, mask = (
                torch.stack([nn.functional.pad(x, pad), y]) for x, y in ((ids[0], texts[1]), (mask[0], texts[1]))
            )
            mask[1] = 1
        logits = model(ids, attention_mask=None if "without" in side else mask).logits
        assert logits.shape == (*ids.shape, VOCAB_SIZE)
        found = -logits[0, mask[0].bool()][:-1].log_softmax(-1).gather(1, texts[0][1:, None])[:, 0]
        torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)


@causal_tasks
def test_logits_to_keep_are_the_last_of_all_or_those_of_positions(task: Task) -> None:
    model, ids = task.model(), task.batch(labels=False)["input_ids"]
    whole = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
    places = torch.tensor([0, 9, 4])
    torch.testing.assert_close(model(ids, logits_to_keep=places).logits, whole[:, places])
    with_cache = model(ids, logits_to_keep=3, use_cache=True)
    assert with_cache.past_key_values.num_seen == SEQ_LEN
    torch.testing.assert_close(with_cache.logits, model(ids, prefix_len=SEQ_LEN - MAX_LATENTS).logits[:, -3:])


@causal_tasks
def test_a_cache_of_a_long_sequence_needs_a_word(task: Task) -> None:
    model, ids = task.model(), task.batch(labels=False)["input_ids"]
    assert model(ids).past_key_values is None and model(ids[:, :MAX_LATENTS]).past_key_values.num_seen == MAX_LATENTS
    with pytest.raises(
        ValueError, match=r"12 tokens are more than max_latents=7, and a cache is asked for: give prefix"
    ):
        model(ids, use_cache=True)
    assert model(ids, use_cache=True, prefix_len=5).logits.shape[1] == MAX_LATENTS


@causal_tasks
def test_cache_by_default_is_the_config(task: Task) -> None:
    model, ids = task.model(), task.batch(labels=False)["input_ids"][:, :5]
    assert model.config.use_cache and model(ids).past_key_values is not None
    assert model(ids, use_cache=False).past_key_values is None
    assert model.train()(ids).past_key_values is None
    model.eval().config.use_cache = False
    assert model(ids).past_key_values is None


@causal_tasks
def test_labels_that_have_no_effect_are_not_dropped_in_silence(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    model, batch = task.model(), task.batch()
    ids, labels = batch["input_ids"], batch["labels"]
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        logging.get_logger().warning_once.cache_clear()  # type: ignore[attr-defined]
        masked = labels.clone()
        masked[:, : SEQ_LEN - MAX_LATENTS + 1] = -100
        expected = model(ids, labels=masked).loss
        torch.testing.assert_close(model(ids, labels=labels, prefix_len=SEQ_LEN - MAX_LATENTS).loss, expected)
        assert caplog.messages == []
        torch.testing.assert_close(model(ids, labels=labels).loss, expected)
        model(ids, labels=labels)
        (message,) = caplog.messages
        assert message.startswith("The loss is that of the last max_latents=7 positions") and "5 labels" in message
    finally:
        logging.disable_propagation()


@causal_tasks
def test_too_long_for_a_loss_names_the_length(task: Task) -> None:
    ids = torch.full((1, SEQ_LEN + 1), 7)
    with pytest.raises(ValueError, match="sequence length 13 exceeds max_seq_len=12 of the model"):
        task.model()(ids, labels=ids)


@causal_tasks
def test_generation_begins_with_a_configured_token(task: Task) -> None:
    model = task.model()
    with pytest.raises(ValueError, match="the prompt is empty"):
        model.generate(max_new_tokens=3)  # type: ignore[operator]
    kwargs: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    expected = model.generate(torch.tensor([[9]]), **kwargs)  # type: ignore[operator]
    assert model.generate(bos_token_id=9, **kwargs).tolist() == expected.tolist()  # type: ignore[operator]


# --- gradients: what DistributedDataParallel asks for ---


def shorter(task: Task, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Three tokens of each text, which leaves no prefix."""
    cut = {"input_ids", "labels"} if batch["labels"].ndim > 1 else {"input_ids"}
    return {name: x[:, :3] if name in cut and task.has_tokens else x for name, x in batch.items()}


def without_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    nothing = float("inf") if batch["labels"].is_floating_point() else -100
    return {**batch, "labels": torch.full_like(batch["labels"], nothing)}


@all_tasks
@pytest.mark.parametrize("kind", ["usual", "short", "without labels"])
def test_every_parameter_has_a_gradient_in_every_batch(task: Task, kind: str) -> None:
    model, batch = task.model().train(), task.batch()
    batch = shorter(task, batch) if kind == "short" else without_labels(batch) if kind == "without labels" else batch
    model(**batch).loss.backward()
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert lacking == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    some = any(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert some == (kind != "without labels")


@causal_tasks
@pytest.mark.parametrize("prefix_len", [0, 4])
def test_every_parameter_has_a_gradient_without_labels(task: Task, prefix_len: int) -> None:
    model, ids = task.model().train(), task.batch()["input_ids"][:, :6]
    model(ids, prefix_len=prefix_len).logits.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


# --- configs ---


@all_tasks
def test_attributes_of_configs_are_those_of_the_model(task: Task) -> None:
    config = task.model().config
    assert config.hidden_size == hidden_shape(task)[2]
    assert (config.num_hidden_layers, config.num_attention_heads) == (1, 2)
    config.hidden_size, config.num_hidden_layers, config.num_attention_heads = 24, 3, 4
    backend = config.backend_config
    if task in CAUSAL:
        assert (backend.num_channels, backend.num_self_attention_layers, backend.num_heads) == (24, 3, 4)
    else:
        assert backend.num_latent_channels == 24
        assert (backend.encoder.num_self_attention_layers_per_block, backend.encoder.num_self_attention_heads) == (3, 4)
    assert type(config)(model_config=config.model_config, hidden_size=8).hidden_size == 8
    assert hasattr(config, "vocab_size") == task.has_tokens
    assert hasattr(config, "max_position_embeddings") == (task in TEXT)


def test_layers_count_as_often_as_they_are_applied() -> None:
    config = TASKS[0].model().config
    config.model_config["encoder"]["num_self_attention_blocks"] = 4
    assert config.num_hidden_layers == 4
    config.num_hidden_layers = 12
    assert config.backend_config.encoder.num_self_attention_layers_per_block == 3
    with pytest.raises(ValueError, match="num_hidden_layers=6 must be a multiple of num_self_attention_blocks=4"):
        config.num_hidden_layers = 6


@all_tasks
def test_default_of_a_model_type_is_the_variant_of_the_task(task: Task) -> None:
    config = AutoConfig.for_model(task.model().config.model_type)
    with torch.device("meta"):
        model = type(task.model())._from_config(config)
    assert model.backend_model.config == config.backend_config


def test_number_of_labels_is_the_number_of_classes(tmp_path: Path) -> None:
    task = TASKS[2]
    assert AutoConfig.for_model("perceiver-io-text-classifier", num_labels=5).backend_config.decoder.num_classes == 5
    task.model().save_pretrained(tmp_path)
    model = type(task.model()).from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True)
    assert model(**task.batch(labels=False)).logits.shape == (3, 4)


# --- embeddings and bodies ---


@all_tasks
def test_embeddings_of_input_and_output(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    output = model.get_output_embeddings()
    assert (output is not None) == (task in CAUSAL or task.name == "masked language model")
    if output is not None:
        outputs = model(**batch, output_hidden_states=True)
        assert output.weight is model.get_input_embeddings().weight
        if task in CAUSAL:
            torch.testing.assert_close(output(outputs.hidden_states[-1]), outputs.logits)
    before = getattr(model(**batch), task.output)
    module = (
        nn.Embedding(VOCAB_SIZE, model.get_input_embeddings().weight.shape[1]) if task.has_tokens else nn.Identity()
    )
    model.set_input_embeddings(module)
    assert model.get_input_embeddings() is module
    if task.has_tokens:
        assert not torch.allclose(getattr(model(**batch), task.output), before)


@all_tasks
def test_bodies_share_parameters_and_load_alone(task: Task, tmp_path: Path) -> None:
    model, batch = task.model(), task.batch(labels=False)
    body = model.base_model
    assert body.base_model is body and not body.training and model.train().base_model.training
    own = dict(model.named_parameters())
    assert all(parameter is own[name] for name, parameter in body.named_parameters()) and len(list(body.parameters()))
    expected = model.eval().base_model(**batch).last_hidden_state
    model.save_pretrained(tmp_path)
    loaded = type(body).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).last_hidden_state, expected)
    loaded(**batch).last_hidden_state.sum().backward()
    auto = AutoModel.from_pretrained(tmp_path)
    assert type(auto) is (type(model) if model.config.task.auto_class == "AutoModel" else type(body))


@causal_tasks
def test_body_of_a_causal_model_continues_from_a_cache(task: Task) -> None:
    model, ids = task.model(), task.batch()["input_ids"]
    whole = model(ids, prefix_len=5, output_hidden_states=True)
    first = model.base_model(ids[:, :9], prefix_len=5)
    second = model.base_model(ids[:, 9:], past_key_values=first.past_key_values, use_cache=True)
    found = torch.cat([first.last_hidden_state, second.last_hidden_state], dim=1)
    torch.testing.assert_close(found, whole.hidden_states[-1], atol=1e-5, rtol=1e-5)


# --- starting from another task ---

STARTS = [
    (AutoModelForSequenceClassification, classifier.PerceiverTextClassifier, (3, 4)),
    (AutoModelForTokenClassification, token_classifier.PerceiverTokenClassifier, (3, SEQ_LEN, 4)),
    (AutoModelForMaskedLM, mlm.PerceiverMaskedLanguageModel, (3, SEQ_LEN, VOCAB_SIZE)),
]


@pytest.mark.parametrize("source", TEXT, ids=str)
@pytest.mark.parametrize("auto_class, model_class, shape", STARTS, ids=lambda x: getattr(x, "__name__", ""))
def test_text_models_start_from_the_encoder_of_each_other(
    source: Task, auto_class: Any, model_class: type[PerceiverBackendModel], shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = source.model()
    if type(model) is model_class:
        return
    model.save_pretrained(tmp_path)
    for loader in (auto_class, model_class):
        started, report = loader.from_pretrained(tmp_path, num_labels=4, output_loading_info=True)
        assert type(started) is model_class
        assert_same_parameters(started.backend_model[0].state_dict(), model.backend_model[0].state_dict())
        decoder = {name for name in started.state_dict() if name.startswith("backend_model.1.")}
        assert set(report["missing_keys"]) == decoder and not report["mismatched_keys"]
        assert not report["unexpected_keys"]
        assert started(input_ids=source.batch()["input_ids"]).logits.shape == shape
        assert started.config.vocab_size == VOCAB_SIZE and started.config.max_position_embeddings == SEQ_LEN
    started.save_pretrained(tmp_path / "again")
    again, report = model_class.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_same_parameters(again.state_dict(), started.state_dict())


def test_models_that_have_nothing_in_common_say_so(tmp_path: Path) -> None:
    TASKS[1].model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only from that of a text classifier or masked language model or token class"):
        classifier.PerceiverTextClassifier.from_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="'perceiver-ar-causal-language-model', only from that of a symbolic audio model"
    ):
        symbolic.PerceiverSymbolicAudioModel.from_pretrained(tmp_path)
    assert clm.PerceiverCausalLanguageModel.from_pretrained(tmp_path).config.model_type.endswith(
        "causal-language-model"
    )
