"""Libraries around transformers: PEFT with every task type, TRL, lm-evaluation-harness. docs/huggingface.md says it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from perceiver.model.core.config import ClassificationDecoderConfig
from perceiver.model.core.evaluation import score_tokens
from perceiver.model.text import classifier, clm, mlm
from tests.huggingface.tasks import TASKS, Task
from tests.tokenizers import byte_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "huggingface.md"
HAS_TRL, HAS_LM_EVAL = (importlib.util.find_spec(name) is not None for name in ("trl", "lm_eval"))
needs_trl = pytest.mark.skipif(not HAS_TRL, reason="needs trl")
needs_lm_eval = pytest.mark.skipif(not HAS_LM_EVAL, reason="needs lm-eval")
# theirs, not ours
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

SIZES: dict[str, Any] = {
    "vocab_size": 262,
    "max_seq_len": 48,
    "max_latents": 16,
    "num_channels": 32,
    "num_heads": 2,
    "num_self_attention_layers": 2,
    "cross_attention_dropout": 0.0,
    "init_scale": 0.1,
}


def byte_model() -> Any:
    torch.manual_seed(0)
    config = clm.CausalLanguageModelConfig(**SIZES)
    return clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).eval()


# --- PEFT ---

TYPES = {
    "masked language model": "FEATURE_EXTRACTION",
    "causal language model": "CAUSAL_LM",
    "text classifier": "SEQ_CLS",
    "token classifier": "TOKEN_CLS",
    "symbolic audio model": "CAUSAL_LM",
}


@pytest.mark.parametrize("task", [task for task in TASKS if task.name in TYPES], ids=str)
def test_lora_with_a_task_type_trains_the_new_head_and_its_queries(task: Task, tmp_path: Path) -> None:
    model, kind = task.model(), TYPES[task.name]
    heads = ["output_adapter", "output_query_provider"] if kind.endswith("CLS") else None
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type=kind, modules_to_save=heads)
    peft_model = get_peft_model(model, config)
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, learning_rate=0.1, report_to="none",
        save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, label_names=["labels"],
    )  # fmt: skip
    data: Any = task.examples(8)
    Trainer(peft_model, arguments, train_dataset=data).train()
    batch = task.batch(labels=False)
    expected = peft_model.eval()(**batch).logits
    peft_model.save_pretrained(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(task.model(), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(again(**batch).logits, expected)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name in before if re.search(r"[qv]_proj\.weight$", name)}
    if heads:
        trained |= {name for name in before if "1.output_adapter" in name or "1.output_query_provider" in name}
    assert changed == trained


def test_lora_of_a_model_that_starts_from_a_language_model(tmp_path: Path) -> None:
    """The usual way: encoder from a folder, adapters there, a new decoder that is trained as a whole."""
    TASKS[0].model().save_pretrained(tmp_path / "mlm")
    model = classifier.PerceiverTextClassifier.from_pretrained(tmp_path / "mlm", num_labels=3)
    heads = ["backend_model.1"]
    peft_model = get_peft_model(
        model, LoraConfig(r=2, target_modules=r".*\.0\..*\.(q|v)_proj", task_type="SEQ_CLS", modules_to_save=heads)
    )
    peft_model(**TASKS[2].batch()).loss.backward()
    trained = {name for name, p in peft_model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "backend_model.1.modules_to_save" in name for name in trained)
    assert {name for name, p in peft_model.named_parameters() if p.grad is not None} == trained


# --- TRL ---

TEXTS = ["the quick brown fox jumps over the lazy dog and so on and on", "short one"] * 8
PREFERENCES = {
    "prompt": ["what is it? what is it? ", "hello "] * 8,
    "chosen": ["an answer that is longer than the latents are", "yes"] * 8,
    "rejected": ["bad", "no no"] * 8,
}


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def trl_arguments(folder: Path, **kwargs: Any) -> dict[str, Any]:
    defaults = {"output_dir": str(folder), "report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 3}
    defaults |= {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_strategy": "no", "logging_steps": 1}
    return defaults | {"disable_tqdm": True, "dataloader_pin_memory": False} | kwargs


def lora(**kwargs: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **kwargs)


@pytest.mark.slow
@needs_trl
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"max_length": 16}, {"packing": True, "packing_strategy": "wrapped", "max_length": 48}],
    ids=["longer than the latents", "short", "packed"],
)
@pytest.mark.parametrize("with_lora", [False, True], ids=["all", "LoRA"])
def test_trl_fine_tunes(kwargs: dict[str, Any], with_lora: bool, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        byte_model(),
        SFTConfig(**trl_arguments(tmp_path, **kwargs)),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=byte_tokenizer(tmp_path / "tokenizer"),
        peft_config=lora() if with_lora else None,
    )
    found = losses(trainer)
    assert found[-1] < found[0]


@pytest.mark.slow
@needs_trl
def test_trl_losses_are_those_of_all_tokens(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = byte_tokenizer(tmp_path / "tokenizer"), byte_model()
    trainer = SFTTrainer(
        byte_model(),
        SFTConfig(**trl_arguments(tmp_path, max_steps=1, per_device_train_batch_size=1)),
        train_dataset=Dataset.from_dict({"text": TEXTS[:1]}),
        processing_class=tokenizer,
    )
    (ids,) = trainer.train_dataset["input_ids"]
    assert len(ids) > 2 * SIZES["max_latents"]
    expected = torch.cat(list(score_tokens(model.backend_model, [torch.tensor(ids)]))).mean().item()
    assert losses(trainer) == [pytest.approx(expected, rel=1e-3)]


@pytest.mark.slow
@needs_trl
def test_trl_packing_without_borders_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        byte_model(),
        SFTConfig(**trl_arguments(tmp_path, packing=True, max_length=48)),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=byte_tokenizer(tmp_path / "tokenizer"),
    )
    with pytest.raises(TypeError, match="does not support cu_seq_lens"):
        trainer.train()


@pytest.mark.slow
@needs_trl
def test_trl_prefers_and_rewards(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

    data, tokenizer = Dataset.from_dict(PREFERENCES), byte_tokenizer(tmp_path / "tokenizer")
    dpo = DPOTrainer(
        byte_model(),
        byte_model(),
        DPOConfig(**trl_arguments(tmp_path)),
        train_dataset=data,
        processing_class=tokenizer,
    )
    found = losses(dpo)
    assert found[0] == pytest.approx(0.6931, abs=1e-3) and found[-1] < found[0]  # log 2 before anything is learned
    grpo = GRPOTrainer(
        byte_model(),
        reward_funcs=lambda completions, **kwargs: [float(len(set(text))) for text in completions],
        args=GRPOConfig(
            **trl_arguments(tmp_path, per_device_train_batch_size=4, num_generations=4, max_completion_length=8)
        ),
        train_dataset=data.select_columns(["prompt"]),
        processing_class=tokenizer,
    )
    before = {name: p.clone() for name, p in grpo.model.named_parameters()}
    assert len(losses(grpo)) == 3
    assert any(not torch.equal(p.cpu(), before[name]) for name, p in grpo.model.named_parameters())

    torch.manual_seed(0)
    encoder = mlm.TextEncoderConfig(
        vocab_size=262, max_seq_len=128, num_input_channels=16, num_self_attention_layers_per_block=1, init_scale=0.1
    )
    decoder = ClassificationDecoderConfig(num_classes=1, num_output_query_channels=16)
    config = classifier.TextClassifierConfig(encoder, decoder, num_latents=5, num_latent_channels=16)
    reward = RewardTrainer(
        classifier.PerceiverTextClassifier(classifier.PerceiverTextClassifierConfig(config)),
        args=RewardConfig(**trl_arguments(tmp_path, max_steps=12)),
        train_dataset=data,
        processing_class=tokenizer,
    )
    found = losses(reward)
    assert found[-1] < found[0]


# --- lm-evaluation-harness ---


@needs_lm_eval
@pytest.mark.parametrize("batch_size", [1, 3])
def test_lm_eval_has_the_log_likelihoods_of_our_evaluation(batch_size: int, tmp_path: Path) -> None:
    """Prompts and continuations of any length up to what the model sees, in batches that are padded on the right."""
    from lm_eval.api.instance import Instance

    from examples.huggingface.lm_eval_clm import PerceiverLM

    model, tokenizer = byte_model(), byte_tokenizer(tmp_path)
    lm = PerceiverLM(model, tokenizer=tokenizer, batch_size=batch_size, device="cpu")
    pairs = [("a" * 30, "continued here"), ("x", "y"), ("what follows is", " the rest of it"), ("b" * 9, "cd")]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    assert lm.max_length == SIZES["max_seq_len"]
    for (prompt, continuation), (found, _) in zip(pairs, lm.loglikelihood(requests, disable_tqdm=True), strict=True):
        ids = torch.tensor(tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"])
        scores = torch.cat(list(score_tokens(model.backend_model, [ids])))
        assert found == pytest.approx(-scores[-len(continuation) :].sum().item(), rel=1e-5)


@pytest.mark.slow
@needs_lm_eval
def test_lm_eval_from_its_command_line(tmp_path: Path) -> None:
    """With a task of one's own, from files: nothing is downloaded."""
    byte_model().save_pretrained(tmp_path / "model")
    byte_tokenizer(tmp_path / "model")
    rows = [{"question": "one and one is", "answer": " two"}, {"question": "the sky is", "answer": " blue"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "ours.yaml").write_text(
        f"""task: ours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: perplexity}}]
"""
    )
    arguments = {"model": "perceiver", "model_args": f"pretrained={tmp_path / 'model'}", "tasks": "ours"}
    arguments |= {"include_path": str(tmp_path), "device": "cpu", "output_path": str(tmp_path / "out")}
    command = [sys.executable, str(ROOT / "examples/huggingface/lm_eval_clm.py"), "run", "--batch_size=2"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr[-4000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["ours"]["perplexity,none"] > 1
