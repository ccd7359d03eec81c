"""Training of the causal language model: checkpoints old and new, what is logged, and samples of text."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset
from transformers import PerceiverTokenizer

from perceiver.data.text import Task
from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.core.sampling import sample
from perceiver.model.text.clm.huggingface import PerceiverCausalLanguageModel, convert_checkpoint
from perceiver.model.text.clm.lightning import LitCausalLanguageModel
from tests.model.clm_helpers import CLM_MODELS, clm_config, golden_clm
from tests.model.helpers import GOLDEN, assert_close, assert_same_parameters, golden_cases
from tests.model.trainers import trainer

CKPTS = sorted(file for name in CLM_MODELS for file in (GOLDEN / name).glob("*.ckpt"))
CONFIG = clm_config(vocab_size=262, max_seq_len=13, cross_attention_dropout=0.5)
BYTES = PerceiverTokenizer()


class LitCLM(LitCausalLanguageModel):
    """As the command line makes it: with an optimizer that has a state."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, eps=1e-3)  # rounding errors are not scaled up


class Examples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Fixed (labels, input_ids, pad_mask) of 11 bytes. The i-th example has 3 i pads on the left."""

    def __init__(self, size: int = 12):
        self.ids = torch.randint(6, 262, (size, 12), generator=torch.Generator().manual_seed(11))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        pad_mask = torch.arange(11) < 3 * (i % 4)
        return self.ids[i, 1:].where(~pad_mask, -100), self.ids[i, :-1].where(~pad_mask, 0), pad_mask


class Data(pl.LightningDataModule):
    def __init__(self, bytes_per_token: float | None = 1.0) -> None:
        super().__init__()
        self.tokenizer = BYTES
        self.bytes_per_token = bytes_per_token

    def validation_record(self, index: int) -> Tensor:
        if not -1 <= index < 4:
            raise ValueError(f"validation record {index} must be in [0, 4), or -1 for a random one")
        return Examples().ids[index]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Examples(), batch_size=3)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Examples(4), batch_size=3)

    test_dataloader = val_dataloader


def fitted(folder: Path, lit_model: LitCLM, datamodule: Data | None = None, **kwargs: Any) -> pl.Trainer:
    fitting = trainer(folder, **({"max_epochs": 2} | kwargs))
    fitting.fit(lit_model, datamodule=datamodule or Data())
    return fitting


# --- checkpoints ---


@pytest.mark.parametrize("file", CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_published_checkpoints_load(file: Path) -> None:
    lit_model = LitCausalLanguageModel.load_from_checkpoint(str(file), map_location="cpu")
    golden = golden_clm(file.parent.name)
    assert lit_model.backend_model.config == golden.config
    assert_same_parameters(lit_model.backend_model.state_dict(), golden.state_dict())
    assert lit_model.validation_sample_prompt is None and lit_model.validation_sample_record is None


@pytest.mark.parametrize("name", CLM_MODELS[:3])  # pads of the fourth reach into the latents, where ours change nothing
def test_recorded_step(name: str) -> None:
    (case,) = golden_cases(name, "lit_step")
    lit_model = LitCausalLanguageModel.load_from_checkpoint(GOLDEN / name / "lit.ckpt").eval()
    loss = lit_model.step((case.inputs["labels"], case.inputs["input_ids"], case.inputs["pad_mask"]))
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("source", ["hub", "lit.ckpt", "lit_080.ckpt", "lit_cli.ckpt"])
def test_create_with_parameters(source: str) -> None:
    golden = golden_clm("clm_1")
    lit_model = LitCausalLanguageModel.create(golden.config, params=str(GOLDEN / "clm_1" / source))
    assert_same_parameters(lit_model.backend_model.state_dict(), golden.state_dict())


def test_own_checkpoint_round_trip(tmp_path: Path) -> None:
    lit_model = LitCLM.create(CONFIG, validation_sample_prompt="a b", validation_sample_record=-1)
    fitted(tmp_path, lit_model, max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)  # without any allowed class
    assert type(content["hyper_parameters"]) is dict and "params" not in content["hyper_parameters"]
    loaded = LitCLM.load_from_checkpoint(tmp_path / "last.ckpt")
    assert (loaded.validation_sample_prompt, loaded.validation_sample_record) == ("a b", -1)
    assert loaded.backend_model.config == CONFIG
    assert_same_parameters(loaded.state_dict(), content["state_dict"])
    assert read_checkpoint(tmp_path / "last.ckpt").state_dict.keys() == lit_model.backend_model.state_dict().keys()
    replaced = LitCLM.load_from_checkpoint(tmp_path / "last.ckpt", validation_sample_prompt=None)
    assert replaced.validation_sample_prompt is None


def test_token_shift_is_trained_and_converted(tmp_path: Path) -> None:
    lit_model = LitCLM.create(clm_config(vocab_size=262, max_seq_len=13, token_shift=True))
    before = lit_model.backend_model.input_adapter.token_shift.weight.detach().clone()
    fitted(tmp_path, lit_model, max_steps=1).save_checkpoint(tmp_path / "last.ckpt")
    assert (lit_model.backend_model.input_adapter.token_shift.weight - before).abs().max() > 1e-4
    convert_checkpoint(tmp_path / "folder", tmp_path / "last.ckpt", str(GOLDEN / "clm_1" / "hub"))
    model, x = PerceiverCausalLanguageModel.from_pretrained(tmp_path / "folder"), Examples()[0][1][None]
    expected = lit_model.eval()(x, 8)
    torch.testing.assert_close(model(x, prefix_len=8).logits, expected, atol=1e-5, rtol=1e-5)


def test_forward_takes_ids_prefix_and_pad_mask() -> None:
    lit_model, (_, x, pad_mask) = LitCausalLanguageModel.create(CONFIG).eval(), Examples()[2]
    expected = lit_model.backend_model(x[None], 6, pad_mask[None])
    torch.testing.assert_close(lit_model(x[None], 6, pad_mask[None]), expected, atol=1e-4, rtol=1e-5)


# --- losses ---


@pytest.mark.parametrize("bytes_per_token", [None, 1.0, 3.5])
def test_losses_and_bits_per_byte(tmp_path: Path, bytes_per_token: float | None) -> None:
    """The last 5 of 11 tokens are targets; examples have 0, 3, 6 and 9 pads, so 5, 5, 5 and 2 of them are there."""
    lit_model, data = LitCLM.create(CONFIG), Data(bytes_per_token)
    fitting = fitted(tmp_path, lit_model, data)
    logged = dict(fitting.callback_metrics)
    fitting.test(lit_model, datamodule=data, verbose=False)
    logged |= fitting.callback_metrics

    labels, x, pad_mask = (torch.stack(parts) for parts in zip(*(Examples()[i] for i in range(4)), strict=True))
    expected = lit_model.backend_model.eval().loss(labels, x, pad_mask).detach()  # a mean over 17 targets
    for name in ("val_loss", "test_loss"):
        torch.testing.assert_close(logged[name], expected)
    bits = {name: value for name, value in logged.items() if name.endswith("_bits_per_byte")}
    if bytes_per_token is None:
        assert not bits
    else:
        assert bits.keys() == {"train_bits_per_byte", "val_bits_per_byte", "test_bits_per_byte"}
        for name, value in bits.items():
            loss = logged[name.replace("bits_per_byte", "loss")]
            torch.testing.assert_close(value, loss / math.log(2) / bytes_per_token)


def test_training_without_a_data_module(tmp_path: Path) -> None:
    fitting = trainer(tmp_path, max_steps=1)
    fitting.fit(LitCLM.create(CONFIG), Data().train_dataloader(), Data().val_dataloader())
    assert fitting.global_step == 1 and "train_bits_per_byte" not in fitting.callback_metrics


# --- samples ---


def expected_text(lit_model: LitCausalLanguageModel, prompt: Tensor) -> str:
    """A prompt of at most 11 tokens is continued by 2, with 3 latents to start with: 13 positions and 5 latents."""
    generator = torch.Generator().manual_seed(0)
    tokens = sample(lit_model.model, prompt[None, -11:], 2, num_latents=3, generator=generator)[0]
    return f"{BYTES.decode(tokens[:-2])}\n\n---\n\n{BYTES.decode(tokens[-2:])}"


def logged_texts(folder: str, tag: str) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, size_guidance={"tensors": 0})
    events.Reload()
    return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{tag}/text_summary")]


@pytest.mark.parametrize("prompt", ["x", "a [MASK]", "a prompt longer than what the model can see"])
def test_samples_are_logged_as_text(tmp_path: Path, prompt: str) -> None:
    logger = TensorBoardLogger(tmp_path, name="clm")
    lit_model = LitCLM.create(CONFIG, validation_sample_prompt=prompt, validation_sample_record=2)
    fitted(tmp_path, lit_model, logger=logger, log_every_n_steps=1)
    logger.finalize("success")
    ids = torch.tensor(BYTES(prompt, add_special_tokens=False)["input_ids"])
    for tag, tokens in (("prompt", ids), ("record", Examples().ids[2, :6])):
        texts = logged_texts(logger.log_dir, f"validation_sample_{tag}")
        assert len(texts) == 2  # one per validation, none from the sanity check
        assert texts[-1] == expected_text(lit_model, tokens)


def test_samples_are_printed_without_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lit_model = LitCLM.create(CONFIG, validation_sample_prompt="a prompt")
    with contextlib.redirect_stderr(None):
        fitted(tmp_path, lit_model, max_epochs=1)
    printed = capsys.readouterr().out
    assert printed.count("validation_sample_prompt") == 1 and "validation_sample_record" not in printed
    assert expected_text(lit_model, torch.tensor(BYTES("a prompt", add_special_tokens=False)["input_ids"])) in printed


def test_samples_change_nothing_else(tmp_path: Path) -> None:
    """Dropout of the prefix draws from the global generator."""
    parameters = []
    for arguments in ({}, {"validation_sample_prompt": "a", "validation_sample_record": -1}):
        pl.seed_everything(3, verbose=False)
        fitted(tmp_path, lit_model := LitCLM.create(CONFIG, **arguments), val_check_interval=1)
        parameters.append(lit_model.state_dict())
    assert_close(*parameters, atol=1e-4, rtol=0.0)  # a step is up to 1e-2


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (2, 2), (3, 2), (7, 7), (9, 4)])
def test_samples_of_models_of_any_size(tmp_path: Path, sizes: tuple[int, int]) -> None:
    config = clm_config(vocab_size=262, max_seq_len=sizes[0], max_latents=sizes[1])
    for prompt in ("x", "abc", "a prompt longer than what the model can see"):
        lit_model = LitCLM.create(config, validation_sample_prompt=prompt)
        lit_model.trainer = trainer(tmp_path)
        lit_model.trainer.datamodule = Data()  # type: ignore[attr-defined]
        (shown, _continuation), length = lit_model.samples(5)["validation_sample_prompt"], max(sizes[1] // 2, 1)
        assert prompt.endswith(shown) and len(shown) == min(len(prompt), sizes[0] - length or len(prompt))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"validation_sample_prompt": ""}, "the prompt is empty"),
        ({"validation_sample_record": 4}, r"validation record 4 must be in \[0, 4\)"),
    ],
)
@pytest.mark.parametrize("run", ["fit", "validate"])
def test_impossible_samples_are_an_error_before_training(
    tmp_path: Path, arguments: dict[str, Any], message: str, run: str
) -> None:
    lit_model = LitCLM.create(CONFIG, **arguments)
    with pytest.raises(ValueError, match=message):
        getattr(trainer(tmp_path, max_steps=1), run)(lit_model, datamodule=Data())
    assert trainer(tmp_path).test(lit_model, datamodule=Data(), verbose=False)  # samples none


def test_tokens_that_the_model_does_not_have_are_an_error_before_training(tmp_path: Path) -> None:
    lit_model = LitCLM.create(clm_config(), validation_sample_prompt="a")
    with pytest.raises(ValueError, match=r"span \[103, 103\], allowed is \[0, 36\]"):
        trainer(tmp_path, max_steps=1).fit(lit_model, datamodule=Data())


@pytest.mark.parametrize("name", ["validation_sample_prompt", "validation_sample_record"])
def test_samples_without_a_data_module(tmp_path: Path, name: str) -> None:
    lit_model = LitCLM.create(CONFIG, **{name: {"validation_sample_prompt": "a"}.get(name, 0)})
    with pytest.raises(ValueError, match=rf"{name} needs the \w+ of the data module: pass datamodule="):
        trainer(tmp_path, max_steps=1).fit(lit_model, Data().train_dataloader(), Data().val_dataloader())


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore")
def test_a_sharded_model_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process has all parts, but parameters are sharded all the same."""
    arguments = {"validation_sample_prompt": "a prompt", "validation_sample_record": 0}
    printed, parameters = [], []
    for strategy in ("auto", ModelParallelStrategy(1, 1, save_distributed_checkpoint=False)):
        pl.seed_everything(3, verbose=False)
        lit_model = LitCLM.create(CONFIG, **arguments)
        fitting = fitted(tmp_path, lit_model, strategy=strategy, devices=1, use_distributed_sampler=False)
        assert isinstance(lit_model.model, FSDPModule) == (strategy != "auto")
        printed.append(capsys.readouterr().out)
        if isinstance(lit_model.model, FSDPModule):
            lit_model.model.reshard()  # as after a training step
        fitting.validate(lit_model, datamodule=Data(), verbose=False)
        assert capsys.readouterr().out.count("validation_sample_") == 2
        labels, x, _ = Examples()[0]
        packed = lit_model.eval().step((labels[None], x[None], [4, 7]))  # gathers parameters as well
        state = {name: getattr(p, "full_tensor", lambda p=p: p)() for name, p in lit_model.state_dict().items()}
        parameters.append(state | {"packed": packed.detach()})
    torch.testing.assert_close(*parameters, atol=1e-4, rtol=0.0)  # a step is up to 1e-2
    assert printed[0].count("validation_sample_") == 4 and printed[1] == printed[0]


def test_batches_for_another_task_are_refused(tmp_path: Path) -> None:
    """Those of a masked language model have the same shapes: training would go on, to no good."""
    data = Data()
    data.task = Task.mlm
    with pytest.raises(ValueError, match="the data module has task=mlm, LitCLM needs clm"):
        trainer(tmp_path, max_steps=1).fit(LitCLM.create(CONFIG), datamodule=data)


def test_packed_documents_are_refused_by_compiled_steps() -> None:
    labels, x, _ = Examples()[0]
    packed = (labels[None], x[None], [4, 7])
    lit_model = LitCLM.create(CONFIG)
    assert lit_model.on_before_batch_transfer(packed, 0) == packed
    lit_model.compile_step(backend="eager")
    with pytest.raises(ValueError, match=r"packed documents \(packing=True\) can't be trained with compiled steps"):
        lit_model.on_before_batch_transfer(packed, 0)


def test_training_predicts_more_blocks_than_validation() -> None:
    """Of 2 blocks of 5 tokens in 11; with them, gradients of a step are those of the loss of all 10."""
    config = clm_config(vocab_size=262, max_seq_len=13, cross_attention_dropout=0.0)
    plain, lit_model = LitCLM.create(config), LitCLM.create(config, num_loss_blocks=2)
    assert lit_model.hparams["num_loss_blocks"] == 2
    lit_model.load_state_dict(plain.state_dict())  # no parameter of its own
    labels, x, pad_mask = torch.utils.data.default_collate([Examples()[i] for i in range(3)])
    batch = (labels, x, pad_mask)
    for is_training, num_targets in ((True, 30 - 2 - 5), (False, 15 - 0)):
        lit_model.train(is_training)
        assert lit_model.num_targets(batch) == num_targets
        loss = lit_model.model.loss(*batch, num_blocks=2 if is_training else 1)
        torch.testing.assert_close(lit_model.step(batch), loss)
    torch.testing.assert_close(lit_model.step(batch), plain.eval().step(batch))
    with pytest.raises(ValueError, match="num_loss_blocks=2 takes no packed documents"):
        lit_model.train().step((labels[:1], x[:1], [11]))


@pytest.mark.parametrize("num_loss_blocks", [0, 3])
def test_impossible_numbers_of_blocks(num_loss_blocks: int) -> None:
    message = rf"num_loss_blocks={num_loss_blocks} must be in \[1, 2\] for max_seq_len=13 and max_latents=5"
    with pytest.raises(ValueError, match=message):
        LitCLM.create(CONFIG, num_loss_blocks=num_loss_blocks)
