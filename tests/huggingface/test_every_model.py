"""What works with Hugging Face's tools, for the models of every task: the proof of the table in docs/huggingface.md.

A test below is a column of the table, the tasks it is run for are its rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import PreTrainedModel, TorchAoConfig, Trainer, TrainingArguments

from tests.huggingface.tasks import TASKS, Task
from tests.model.helpers import assert_close, assert_same_parameters, gradients

PAGE = Path(__file__).parents[2] / "docs" / "huggingface.md"
COLUMNS: dict[str, list[str]] = {}  # name: tasks

pytestmark = [
    # a deprecated name, which PEFT asks for
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing. is deprecated:FutureWarning"),
    # the exporter's own
    pytest.mark.filterwarnings("ignore:.*The axis name.*will not be used:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript.*"),
]


def column(name: str, tasks: list[Task] = TASKS) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test for each of `tasks`, and makes it a column of the table."""
    COLUMNS[name] = [task.name for task in tasks]
    return pytest.mark.parametrize("task", tasks, ids=str)


def trainer(task: Task, folder: Path, model: PreTrainedModel | None = None, **arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-4,  # rounding errors are not scaled up
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "max_steps": 2,
    }
    data: Any = task.examples(8)
    model = task.model() if model is None else model
    return Trainer(model, TrainingArguments(**(defaults | arguments)), train_dataset=data, eval_dataset=data)


def output_of(task: Task, model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = getattr(model(**batch), task.output)
    return result


@column("`labels`")
def test_labels_give_the_loss(task: Task) -> None:
    model, batch = task.model(), task.batch()
    loss = model(**batch).loss
    assert loss.ndim == 0 and loss.item() > 0
    torch.testing.assert_close(model(**batch, return_dict=False)[0], loss)
    assert model(**task.batch(labels=False)).loss is None
    loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # of the autoencoder's modalities, those that are masked need no padding, and the others no mask
    assert all(re.search(r"[.](padding|mask)[.]", name) for name in without)


@column("`Trainer`")
def test_trainer_trains_evaluates_saves_and_resumes(task: Task, tmp_path: Path) -> None:
    whole = trainer(task, tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
    before = whole.evaluate()["eval_loss"]
    whole.train()
    assert whole.evaluate()["eval_loss"] < before
    resumed = trainer(task, tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4 and [log["step"] for log in resumed.state.log_history][-1] == 4
    assert_close(resumed.model.state_dict(), whole.model.state_dict(), atol=2e-5, rtol=0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Trainer]:
    """What two steps of SGD make of the model of a task."""

    @cache
    def run(task: Task) -> Trainer:
        full = trainer(task, tmp_path_factory.mktemp("trained"), optim="sgd")
        full.train()
        return full

    return run


@column("gradient accumulation")
def test_accumulated_batches_are_one_big_batch(task: Task, trained: Callable[[Task], Trainer], tmp_path: Path) -> None:
    accumulated = trainer(task, tmp_path, optim="sgd", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    accumulated.train()
    assert_close(accumulated.model.state_dict(), trained(task).model.state_dict(), atol=1e-6, rtol=1e-5)


@column("bf16 training")
def test_trains_in_bfloat16(task: Task, trained: Callable[[Task], Trainer], tmp_path: Path) -> None:
    full, mixed = trained(task), trainer(task, tmp_path, optim="sgd", bf16=True)
    mixed.train()
    assert mixed.model.dtype == torch.float32
    losses = [run.evaluate()["eval_loss"] for run in (full, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    pairs = zip(full.model.parameters(), mixed.model.parameters(), strict=True)
    assert max((p - q).abs().max() for p, q in pairs) > 1e-6  # rounding in float32 makes 1e-9


@column("gradient checkpointing")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able.* is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(task: Task) -> None:
    model, batch = task.model().train(), task.batch()
    model(**batch).loss.backward()
    expected = gradients(model)
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    assert_close(gradients(model), expected)


@column("LoRA")
def test_lora_trains_merges_and_reloads(task: Task, tmp_path: Path) -> None:
    model, batch = task.model(), task.batch(labels=False)
    original, parameters = output_of(task, model, batch), {name: p.clone() for name, p in model.named_parameters()}
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trainer(task, tmp_path, peft_model, learning_rate=0.1).train()
    peft_model.eval()
    trained = output_of(task, peft_model, batch)
    assert (trained - original).abs().max() > 1e-3 * original.abs().max()
    peft_model.save_pretrained(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(task.model(), str(tmp_path / "adapter"))
    torch.testing.assert_close(output_of(task, again.eval(), batch), trained)
    merged = again.merge_and_unload()
    torch.testing.assert_close(output_of(task, merged, batch), trained, atol=1e-5, rtol=1e-4)
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, parameters[name])}
    assert changed and all(re.search(r"[qv]_proj\.weight$", name) for name in changed)


@column("`resize_token_embeddings`", [task for task in TASKS if task.has_tokens])
def test_vocabulary_can_grow(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    expected = output_of(task, model, batch)
    embedding = model.resize_token_embeddings(41)
    assert embedding is model.get_input_embeddings() and embedding.num_embeddings == 41
    torch.testing.assert_close(output_of(task, model, batch)[..., : expected.shape[-1]], expected)


@pytest.mark.parametrize("task", [task for task in TASKS if not task.has_tokens], ids=str)
def test_models_without_tokens_say_so(task: Task) -> None:
    with pytest.raises(NotImplementedError, match="has no token embeddings"):
        task.model().resize_token_embeddings(41)


@column("shards, `dtype`, `device_map`")
def test_saves_shards_and_loads_them_as_asked(task: Task, tmp_path: Path) -> None:
    model, batch = task.model(), task.batch(labels=False)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = type(model).from_pretrained(tmp_path, device_map="cpu")
    assert_same_parameters(again.state_dict(), model.state_dict())
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    batch_half = {name: x.bfloat16() if x.is_floating_point() else x for name, x in batch.items()}
    difference = output_of(task, half, batch_half).float() - (expected := output_of(task, model, batch))
    assert difference.abs().mean() < 0.05 * expected.abs().mean()


@column("int8 (torchao)")
@pytest.mark.parametrize("kind", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig], ids=["w", "w+a"])
@pytest.mark.filterwarnings("ignore:Deprecation. PlainLayout is deprecated")  # a default of torchao 0.17
@pytest.mark.filterwarnings("ignore:Stored version is not the same as current default version")  # the same
def test_loads_in_8_bits_saves_and_loads_again(task: Task, kind: Callable[..., AOBaseConfig], tmp_path: Path) -> None:
    """All linear layers. With weights of 8 bits alone, the model is the one that has these weights in float32."""
    model, batch, config = task.model(), task.batch(labels=False), kind(version=2)  # from 0.18 on the only version
    model.save_pretrained(tmp_path / "float32")
    small = type(model).from_pretrained(tmp_path / "float32", quantization_config=TorchAoConfig(config))
    layers = {name: layer for name, layer in small.named_modules() if isinstance(layer, nn.Linear)}
    assert len(layers) > 5 and all(layer.weight.qdata.dtype == torch.int8 for layer in layers.values())
    output, expected = output_of(task, small, batch), output_of(task, model, batch)
    assert (output - expected).abs().mean() < 0.1 * expected.abs().mean()
    if isinstance(config, Int8WeightOnlyConfig):
        for name, layer in layers.items():
            model.get_submodule(name).weight.data = layer.weight.dequantize()
        torch.testing.assert_close(output, output_of(task, model, batch), atol=1e-4, rtol=1e-4)
    small.save_pretrained(tmp_path / "int8")
    again = type(model).from_pretrained(tmp_path / "int8")
    assert all(torch.equal(again.get_submodule(name).weight.qdata, x.weight.qdata) for name, x in layers.items())
    torch.testing.assert_close(output_of(task, again, batch), output)


@column("`torch.compile`")
@pytest.mark.slow
def test_compiles_without_graph_breaks(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(output_of(task, compiled, batch), output_of(task, model, batch))


@column("`torch.export`")
def test_exports(task: Task) -> None:
    model, batch = task.model(), task.batch(labels=False)
    dynamic = {name: {0: torch.export.Dim("batch", min=2, max=16)} for name in batch}
    program = torch.export.export(model, (), batch, dynamic_shapes=dynamic, strict=False)
    larger = task.batch(5, labels=False)
    torch.testing.assert_close(
        output_of(task, program.module(), larger), output_of(task, model, larger), atol=1e-5, rtol=1e-4
    )


@pytest.mark.slow
@column("ONNX")
def test_exports_to_onnx(task: Task, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, batch = task.model(), task.batch(labels=False)
    dynamic = {name: {0: torch.export.Dim("batch", min=2, max=16)} for name in batch}
    torch.onnx.export(
        model, (), tmp_path / "model.onnx", kwargs=batch, dynamic_shapes=dynamic, dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    larger = task.batch(5, labels=False)
    result, *_ = session.run(None, {name: x.numpy() for name, x in larger.items()})
    torch.testing.assert_close(torch.from_numpy(result), output_of(task, model, larger), atol=1e-4, rtol=1e-4)


def test_the_page_has_this_table() -> None:
    rows = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for task in TASKS:
        cells = ["yes" if task.name in tasks else "-" for tasks in COLUMNS.values()]
        rows.append(f"| {task} | {' | '.join(cells)} |")
    assert "\n".join(rows) in PAGE.read_text(encoding="utf-8"), "\n" + "\n".join(rows)
