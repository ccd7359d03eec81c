"""The Hugging Face model: loading and saving, losses, initial values, pipelines, Trainer and conversions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertTokenizerFast,
    PerceiverConfig,
    PerceiverTokenizer,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from perceiver.model.huggingface.saving import save_converted
from perceiver.model.text import mlm
from perceiver.model.text.mlm import huggingface
from tests.model.helpers import (
    GOLDEN,
    LIT_CKPTS,
    MODELS,
    TIED,
    assert_close,
    assert_same_parameters,
    golden_cases,
    golden_parameters,
    gradients,
    mlm_config,
    mlm_model,
    token_ids,
)

HUB = TIED / "hub"
every_model = pytest.mark.parametrize("name", MODELS)
every_ckpt = pytest.mark.parametrize("file", LIT_CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")


def hf_model(config: mlm.MaskedLanguageModelConfig | None = None) -> mlm.PerceiverMaskedLanguageModel:
    config = config or mlm_config()
    model = mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(config)).eval()
    model.backend_model.load_state_dict(mlm_model(config).state_dict())
    return model


# --- loading and saving ---


@every_model
def test_published_folder_gives_the_recorded_outputs(name: str) -> None:
    model = mlm.PerceiverMaskedLanguageModel.from_pretrained(GOLDEN / name / "hub")
    assert_same_parameters(model.backend_model.state_dict(), golden_parameters(name))
    assert not model.training
    for case in golden_cases(name, "forward"):
        logits = model(**case.inputs).logits
        torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=1e-4)


@every_model
def test_saved_and_loaded_again_is_the_same(tmp_path: Path, name: str) -> None:
    model = mlm.PerceiverMaskedLanguageModel.from_pretrained(GOLDEN / name / "hub")
    model.save_pretrained(tmp_path)
    again = mlm.PerceiverMaskedLanguageModel.from_pretrained(tmp_path)
    assert_same_parameters(again.state_dict(), model.state_dict())
    assert again.config.backend_config == model.config.backend_config
    published, saved = (json.loads((f / "config.json").read_text()) for f in (GOLDEN / name / "hub", tmp_path))
    for key in ("model_config", "model_type", "architectures"):
        assert saved[key] == published[key]
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert keys == torch.load(GOLDEN / name / "hub" / "pytorch_model.bin", weights_only=True).keys()
    assert not (tmp_path / "pytorch_model.bin").exists()


def test_computed_buffers_in_a_file_are_ignored(tmp_path: Path) -> None:
    hf_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    buffer = "backend_model.0.input_adapter.position_encoding.position_encoding"
    save_file(weights | {buffer: torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, report = mlm.PerceiverMaskedLanguageModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]


def test_loading_dtype() -> None:
    model = mlm.PerceiverMaskedLanguageModel.from_pretrained(HUB, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    (case, *_) = golden_cases("mlm_tied", "forward")
    logits = model(**case.inputs).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - case.outputs["logits"]).abs().mean() < 0.05 * case.outputs["logits"].abs().mean()


def without(folder: Path, parameter: str, config: mlm.MaskedLanguageModelConfig) -> mlm.PerceiverMaskedLanguageModel:
    """A model loaded from a file that lacks a parameter."""
    model = hf_model(config)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights[f"backend_model.{parameter}"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, report = mlm.PerceiverMaskedLanguageModel.from_pretrained(folder, output_loading_info=True)
    assert set(report["missing_keys"]) == {f"backend_model.{parameter}"}
    others = {name: value for name, value in model.backend_model.state_dict().items() if name != parameter}
    found = {name: value for name, value in loaded.backend_model.state_dict().items() if name != parameter}
    assert_same_parameters(found, others)
    return loaded


@pytest.mark.parametrize(
    "parameter, scale",
    [
        ("0.latent_provider._query", 2.0),
        ("0.input_adapter.txt_embedding.weight", 2.0),
        ("0.self_attn_1.1.0.module.attention.v_proj.weight", 2.0),
        ("1.output_query_provider._query", 0.1),
        ("1.cross_attn.0.module.attention.o_proj.weight", 0.1),
        ("1.output_adapter.linear.weight", 0.1),
    ],
)
def test_missing_weights_are_initialised_with_the_scale_of_their_part(
    tmp_path: Path, parameter: str, scale: float
) -> None:
    config = mlm_config({"init_scale": 2.0}, {"init_scale": 0.1, "num_output_query_channels": 14}, num_latents=29)
    value = without(tmp_path, parameter, config).backend_model.state_dict()[parameter]
    error = 5 * scale / value.numel() ** 0.5
    assert abs(value.std().item() - scale) < error and abs(value.mean().item()) < error


@pytest.mark.parametrize(
    "parameter, value",
    [
        ("0.cross_attn_1.0.module.q_norm.weight", 1),
        ("0.cross_attn_1.0.module.q_norm.bias", 0),
        ("1.cross_attn.1.module.1.bias", 0),
        ("1.output_adapter.bias", 0),
    ],
)
def test_missing_vectors_are_initialised(tmp_path: Path, parameter: str, value: int) -> None:
    model = without(tmp_path, parameter, mlm_config())
    assert (model.backend_model.state_dict()[parameter] == value).all()


def test_new_model_has_the_initial_values_of_the_backend() -> None:
    torch.manual_seed(0)
    model = mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(mlm_config()))
    for name, value in model.backend_model.state_dict().items():
        if value.ndim == 2:
            scale = 0.3 if name.startswith("0.") else 0.2
            assert abs(value.std().item() - scale) < 5 * scale / value.numel() ** 0.5, name


def test_frozen_encoder_stays_frozen(tmp_path: Path) -> None:
    hf_model(mlm_config({"freeze": True})).save_pretrained(tmp_path)
    model = mlm.PerceiverMaskedLanguageModel.from_pretrained(tmp_path)
    assert not any(p.requires_grad for p in model.backend_model.encoder.parameters())
    assert all(p.requires_grad for p in model.backend_model.decoder.parameters())


# --- forward ---


@pytest.mark.parametrize("training", [False, True])
def test_labels_give_the_loss(training: bool) -> None:
    model, x, labels = hf_model().train(training), token_ids(3, 13), token_ids(3, 13)
    attention_mask = (torch.arange(13) < torch.tensor([13, 4, 9])[:, None]).long()
    labels[attention_mask == 0] = -100
    labels[:, ::2] = -100
    output = model(x, attention_mask, labels=labels)
    full = model.backend_model(x, attention_mask == 0)
    expected = nn.functional.cross_entropy(full.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=1e-5)
    if training:  # only labelled positions are decoded
        assert output.logits is None
    else:
        torch.testing.assert_close(output.logits, full)
    output.loss.backward()
    found = gradients(model)
    expected.backward()
    assert_close(found, gradients(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_output_positions(training: bool) -> None:
    model, x, labels, positions = (
        hf_model().train(training),
        token_ids(2, 13),
        token_ids(2, 13),
        torch.tensor([[3, 1], [12, 0]]),
    )
    output = model(x, labels=labels, output_positions=positions)
    full = model.backend_model(x)
    expected = full.gather(1, positions[..., None].expand(-1, -1, 37))
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
    loss = nn.functional.cross_entropy(expected.flatten(0, 1), labels.gather(1, positions).flatten())
    torch.testing.assert_close(output.loss, loss, atol=1e-5, rtol=1e-5)


def test_output_positions_that_all_examples_share() -> None:
    model, x, labels = hf_model(), token_ids(3, 7), token_ids(3, 7)
    shared = torch.tensor([[5, 1]])
    each = model(x, labels=labels, output_positions=shared.expand(3, -1))
    output = model(x, labels=labels, output_positions=shared)
    torch.testing.assert_close((output.loss, output.logits), (each.loss, each.logits))


def test_tuples() -> None:
    model, x = hf_model(), token_ids(2, 5)
    output = model(x, labels=x)
    loss, logits = model(x, labels=x, return_dict=False)
    torch.testing.assert_close((loss, logits), (output.loss, output.logits))
    (logits,) = model(x, return_dict=False)
    torch.testing.assert_close(logits, output.logits)


@pytest.mark.parametrize("dtype", [torch.long, torch.float, torch.bool])
def test_attention_mask_of_any_type(dtype: torch.dtype) -> None:
    model, x = hf_model(), token_ids(2, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(model(x, mask.to(dtype)).logits, model(x, mask).logits)
    assert not torch.allclose(model(x, mask).logits[0], model(x).logits[0], atol=1e-3)


def test_input_embeddings() -> None:
    model = hf_model()
    assert model.get_input_embeddings().weight is model.backend_model.txt_embedding.weight


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "name",  # the second one came with transformers 5.23
    [
        name
        for name in ("gradient_checkpointing", "activation_checkpointing")
        if hasattr(PreTrainedModel, f"{name}_enable")
    ],
)
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    model, x = hf_model().train(), token_ids(3, 13)
    model(x, labels=x).loss.backward()
    expected = gradients(model)
    calls: list[int] = []
    model.backend_model.encoder.cross_attn_1.mlp.register_forward_pre_hook(lambda *args: calls.append(1))
    getattr(model, f"{name}_enable")()
    model(x, labels=x).loss.backward()
    assert_close(gradients(model), expected)
    assert len(calls) == 2  # forward, and again in the backward pass
    getattr(model, f"{name}_disable")()
    model(x, labels=x).loss.backward()
    assert_close(gradients(model), expected)
    assert len(calls) == 3


# --- Trainer ---


def test_trainer(tmp_path: Path) -> None:
    """Two small batches accumulated are one large one; evaluation gives the model's loss; what is saved loads."""
    x = token_ids(4, 13)
    labels = torch.where(torch.arange(13) % 4 == 1, x, -100)  # as many in each example: means of means are means
    data: Any = [{"input_ids": ids, "labels": label_ids} for ids, label_ids in zip(x, labels, strict=True)]

    def trained(batch_size: int, steps: int) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=3,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            optim="sgd",
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(hf_model(), arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        return trainer

    one, accumulated = trained(4, 1), trained(2, 2)
    initial = hf_model().state_dict()
    for name, value in one.model.state_dict().items():
        if not name.endswith("k_proj.bias"):  # a constant added to all scores changes no probability
            assert not torch.equal(value, initial[name]), name
        torch.testing.assert_close(accumulated.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        expected = one.model.eval()(x, labels=labels).loss.item()
    prediction = one.predict(data)
    assert one.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert prediction.predictions.shape == (4, 13, 37)
    one.save_model(str(tmp_path / "saved"))
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
    assert_same_parameters(again.state_dict(), one.model.state_dict())


# --- Auto classes and pipelines ---


def test_auto_classes() -> None:
    model = AutoModelForMaskedLM.from_pretrained(HUB)
    assert type(model) is mlm.PerceiverMaskedLanguageModel
    assert type(model.backend_model) is mlm.MaskedLanguageModel
    config = AutoConfig.from_pretrained(HUB)
    assert type(config) is mlm.PerceiverMaskedLanguageModelConfig
    assert config.backend_config == model.backend_model.config == model.config.backend_config
    tokenizer = AutoTokenizer.from_pretrained(HUB)
    assert type(tokenizer) is PerceiverTokenizer and len(tokenizer) == 262
    assert_same_parameters(model.backend_model.state_dict(), golden_parameters("mlm_tied"))
    assert AutoModelForMaskedLM.from_config(config).state_dict().keys() == model.state_dict().keys()


@every_model
def test_fill_mask_pipeline(name: str) -> None:
    (case,) = golden_cases(name, "pipeline")
    filler = pipeline("fill-mask", model=str(GOLDEN / name / "hub"))
    results = filler(case.data["text"], top_k=case.kwargs["top_k"])
    for result, expected in zip(results, case.data["result"], strict=True):
        for candidate, recorded in zip(result, expected, strict=True):
            assert candidate["token"] == recorded["token"] and candidate["sequence"] == recorded["sequence"]
            assert candidate["score"] == pytest.approx(recorded["score"], abs=1e-4)


# --- from_checkpoint and convert_checkpoint ---


@every_ckpt
def test_from_checkpoint(file: Path) -> None:
    model = mlm.PerceiverMaskedLanguageModel.from_checkpoint(file)
    assert_same_parameters(model.backend_model.state_dict(), golden_parameters(file.parent.name))
    assert not model.training


def test_from_checkpoint_that_is_missing() -> None:
    with pytest.raises(FileNotFoundError, match=r"/none\.ckpt"):
        mlm.PerceiverMaskedLanguageModel.from_checkpoint("/none.ckpt")


@every_ckpt
def test_convert_checkpoint(tmp_path: Path, file: Path) -> None:
    mlm.convert_checkpoint(save_dir=str(tmp_path / "out"), ckpt_url=str(file), tokenizer_name=str(HUB))
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert_same_parameters(model.backend_model.state_dict(), golden_parameters(file.parent.name))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == model.config.backend_config.encoder.max_seq_len
    encoding = tokenizer("ab[MASK]", return_tensors="pt")
    assert set(encoding) == {"input_ids", "attention_mask"}
    assert model(**encoding).logits.shape == (1, 5, 262)


def test_converted_folder_works_everywhere(tmp_path: Path) -> None:
    mlm.convert_checkpoint(tmp_path / "out", TIED / "lit_cli.ckpt", str(HUB))
    config = AutoConfig.from_pretrained(tmp_path / "out").backend_config
    lit_model = mlm.LitMaskedLanguageModel.create(config, params=str(tmp_path / "out"))
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters("mlm_tied"))
    assert len(pipeline("fill-mask", model=str(tmp_path / "out"))("ab[MASK]")) == 5


def test_tokenizer_with_token_types(tmp_path: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    model = hf_model()
    processor = model.processor(str(tmp_path / "tokenizer"))
    save_converted(model, processor, tmp_path / "out")
    assert set(AutoTokenizer.from_pretrained(tmp_path / "out")("a b")) == {"input_ids", "attention_mask"}
    assert len(pipeline("fill-mask", model=str(tmp_path / "out"))("a [MASK]", top_k=3)) == 3


def test_tokenizer_with_more_ids_than_the_model(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(HUB)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="has 263 ids, the model's vocabulary only 262"):
        mlm.convert_checkpoint(tmp_path / "out", TIED / "lit.ckpt", str(tmp_path / "tokenizer"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("function", ["convert_checkpoint", "convert_model"])
def test_failed_conversions_leave_things_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str, existing: bool
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    if existing:
        shutil.copytree(TIED / "hub", tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(PerceiverTokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        if function == "convert_checkpoint":
            mlm.convert_checkpoint(tmp_path / "out", TIED / "lit.ckpt", str(HUB))
        else:
            mlm.convert_model(tmp_path / "out", str(GOLDEN / "hf_mlm" / "hf_src"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if existing else [])


# --- convert_model; parity at many geometries is in tests/parity ---


def test_converted_model_gives_the_recorded_outputs(tmp_path: Path) -> None:
    (case,) = golden_cases("hf_mlm", "convert")
    mlm.convert_model(save_dir=str(tmp_path / "out"), source_repo_id=str(GOLDEN / "hf_mlm" / "hf_src"))
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    logits = model(**case.inputs).logits
    torch.testing.assert_close(logits, case.outputs["hf_logits"], atol=1e-4, rtol=1e-4)
    recorded = json.loads((GOLDEN / "hf_mlm" / "converted_config.json").read_text())
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    for key in ("architectures", "model_type", "model_config", "tokenizer_class"):
        assert saved[key] == recorded[key]
    assert sum(p.numel() for p in model.parameters()) == 27_366
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token == "[MASK]"


def test_conversion_of_another_kind_of_model(tmp_path: Path) -> None:
    BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="is a 'bert' model, expected 'perceiver'"):
        mlm.convert_model(tmp_path / "out", str(tmp_path / "bert"))


def test_conversion_of_our_own_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a 'perceiver-io-masked-language-model' model, expected 'perceiver'"):
        mlm.convert_model(tmp_path / "out", str(HUB))


def test_conversion_of_a_model_that_lacks_its_head(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "hf_mlm" / "hf_src", tmp_path / "source", copy_function=shutil.copyfile)
    weights = torch.load(tmp_path / "source" / "pytorch_model.bin", weights_only=True)
    kept = {name: value for name, value in weights.items() if "decoder" not in name}
    torch.save(kept, tmp_path / "source" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"is no PerceiverForMaskedLM, it lacks .*decoder"):
        mlm.convert_model(tmp_path / "out", str(tmp_path / "source"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("function", ["convert_checkpoint", "convert_model"])
def test_conversions_upload_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str) -> None:
    api = create_autospec(HfApi)
    api.return_value.create_repo.side_effect = lambda repo_id, **kwargs: SimpleNamespace(repo_id=f"me/{repo_id}")
    monkeypatch.setattr("perceiver.model.huggingface.saving.HfApi", api)
    kwargs: dict[str, Any] = {"push_to_hub": True, "commit_message": "why"}
    if function == "convert_checkpoint":
        mlm.convert_checkpoint(tmp_path / "out", TIED / "lit.ckpt", str(HUB), **kwargs)
    else:
        mlm.convert_model(tmp_path / "out", str(GOLDEN / "hf_mlm" / "hf_src"), **kwargs)
    ((arguments, keywords),) = api.return_value.create_commit.call_args_list
    assert arguments[0] == "me/out" and keywords["commit_message"] == "why"
    uploaded = {operation.path_in_repo for operation in arguments[1]} - {"README.md"}
    assert uploaded == {file.name for file in (tmp_path / "out").iterdir()}


def test_backend_config_of_is_the_official_variant() -> None:
    config = PerceiverConfig(qk_channels=256, v_channels=1280)  # as in deepmind/language-perceiver
    assert huggingface.official_backend_config(config) == mlm.perceiver_io_language_base()
