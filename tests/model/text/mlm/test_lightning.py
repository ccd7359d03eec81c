"""Training of the masked language model: creation, checkpoints old and new, resuming, and what is logged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PerceiverTokenizer

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.text.mlm.backend import MaskedLanguageModelConfig
from perceiver.model.text.mlm.lightning import LitMaskedLanguageModel
from perceiver.model.text.mlm.mask_filler import fill_masks
from tests.model.helpers import (
    GOLDEN,
    LIT_CKPTS,
    MODELS,
    TIED,
    assert_close,
    assert_same_parameters,
    golden_cases,
    golden_parameters,
    mlm_config,
    text_config,
)
from tests.model.trainers import trainer

CLOSE = {"atol": 2e-5, "rtol": 0.0}  # of weights after a few training steps of up to 1e-2 each
every_ckpt = pytest.mark.parametrize("file", LIT_CKPTS, ids=lambda file: f"{file.parent.name}/{file.name}")


class LitMLM(LitMaskedLanguageModel):
    """As the command line makes it: with an optimizer that has a state."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, eps=1e-3)  # rounding errors are not scaled up


class Examples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Fixed (labels, input_ids, pad_mask) of 7 tokens over UTF-8 bytes."""

    def __init__(self, size: int = 12):
        generator = torch.Generator().manual_seed(11)
        self.ids = torch.randint(6, 262, (size, 7), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        labels = torch.full((7,), -100)
        labels[[i % 7, (i + 3) % 7]] = self.ids[i][[i % 7, (i + 3) % 7]]
        return labels, torch.where(labels == -100, self.ids[i], 3), torch.arange(7) > 6 - i % 2


class ResumableLoader(DataLoader[Any]):
    """Lightning saves and restores the position of a loader that has one. A plain one starts its epoch again."""

    start = done = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start, self.start = self.start, 0
        for i, batch in enumerate(super().__iter__()):
            if i >= start:
                self.done = i + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["done"]


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = PerceiverTokenizer()

    def train_dataloader(self) -> DataLoader[Any]:
        return ResumableLoader(Examples(), batch_size=3)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Examples(4), batch_size=2)

    test_dataloader = val_dataloader


def trained(folder: Path, steps: int = 2, **kwargs: Any) -> Path:
    """A checkpoint of a short run."""
    lit_model = LitMLM.create(text_config(), **kwargs)
    fitting = trainer(folder, max_steps=steps)
    fitting.fit(lit_model, datamodule=Data())
    fitting.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


# --- creation ---


def test_create_from_a_config() -> None:
    config = mlm_config()
    lit_model = LitMaskedLanguageModel.create(config, num_predictions=5, masked_samples=["a<mask>"])
    assert lit_model.backend_model.config == config and lit_model.backend_model is lit_model.model
    assert (lit_model.num_predictions, lit_model.masked_samples) == (5, ["a<mask>"])


@pytest.mark.parametrize("source", [TIED / "hub", TIED / "lit.ckpt", TIED / "lit_080.ckpt"], ids=lambda s: s.name)
def test_create_with_parameters(source: Path) -> None:
    config = MaskedLanguageModelConfig.from_dict(read_checkpoint(TIED / "hub").hyper_parameters)
    lit_model = LitMaskedLanguageModel.create(config, params=str(source))
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters("mlm_tied"))


def test_create_with_parameters_that_do_not_fit() -> None:
    source = str(TIED / "lit.ckpt")
    with pytest.raises(ValueError, match=rf"parameters of {source} don't fit MaskedLanguageModel; .*of another shape"):
        LitMaskedLanguageModel.create(mlm_config(), params=source)


@pytest.mark.parametrize("source", ["lit.ckpt", "hub"])
def test_encoder_params_load_the_encoder_only(source: str) -> None:
    config = MaskedLanguageModelConfig.from_dict(read_checkpoint(TIED / "hub").hyper_parameters)
    config.encoder.params = str(TIED / source)
    lit_model = LitMaskedLanguageModel.create(config)
    golden = golden_parameters("mlm_tied")
    state_dict = lit_model.backend_model.state_dict()
    decoder = {name for name in golden if name.startswith("1.")}
    assert_same_parameters(*({k: v for k, v in s.items() if k not in decoder} for s in (state_dict, golden)))
    # vectors start at 0 or 1 and may be equal by chance
    assert not any(torch.equal(state_dict[name], golden[name]) for name in decoder if golden[name].ndim > 1)


def test_missing_encoder_params() -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        LitMaskedLanguageModel.create(mlm_config({"params": "/none.ckpt"}))


def test_full_parameters_make_encoder_params_unnecessary() -> None:
    """Published folders name the file that their encoder once started from. Nobody has it."""
    values = read_checkpoint(TIED / "hub").hyper_parameters
    values["encoder"]["params"] = "epoch=012-val_loss=1.165.ckpt"
    config = MaskedLanguageModelConfig.from_dict(values)
    lit_model = LitMaskedLanguageModel.create(config, params=str(TIED / "hub"))
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters("mlm_tied"))


def test_forward_takes_ids_and_pad_mask() -> None:
    lit_model, ids = LitMaskedLanguageModel.create(mlm_config()).eval(), torch.randint(0, 37, (2, 5))
    pad_mask = torch.tensor([[False] * 5, [False, False, True, True, True]])
    torch.testing.assert_close(lit_model(ids, pad_mask), lit_model.backend_model(ids, pad_mask))


# --- checkpoints ---


@every_ckpt
def test_published_checkpoints_load(file: Path) -> None:
    lit_model = LitMaskedLanguageModel.load_from_checkpoint(str(file), map_location="cpu")
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters(file.parent.name))
    recorded = read_checkpoint(file).hyper_parameters
    assert lit_model.num_predictions == recorded["num_predictions"]
    assert lit_model.masked_samples == recorded["masked_samples"]


@pytest.mark.parametrize("name", MODELS)
def test_recorded_step(name: str) -> None:
    (case,) = golden_cases(name, "lit_step")
    lit_model = LitMaskedLanguageModel.load_from_checkpoint(GOLDEN / name / "lit.ckpt").eval()
    loss = lit_model.step((case.inputs["labels"], case.inputs["input_ids"], case.inputs["pad_mask"]))
    torch.testing.assert_close(loss, case.outputs["loss"], atol=1e-4, rtol=1e-4)


def test_keywords_replace_what_the_checkpoint_says() -> None:
    lit_model = LitMaskedLanguageModel.load_from_checkpoint(
        TIED / "lit.ckpt", num_predictions=7, masked_samples=["x<mask>"], activation_checkpointing=True
    )
    assert (lit_model.num_predictions, lit_model.masked_samples) == (7, ["x<mask>"])
    assert lit_model.backend_model.config.activation_checkpointing


def test_own_checkpoint_round_trip(tmp_path: Path) -> None:
    file = trained(tmp_path, num_predictions=4)
    lit_model = LitMLM.load_from_checkpoint(file)
    assert lit_model.backend_model.config == text_config() and lit_model.num_predictions == 4
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert_same_parameters(lit_model.state_dict(), saved)
    assert {name.split(".")[0] for name in saved} == {"model"}
    initial = LitMLM.create(text_config()).state_dict()
    assert not torch.equal(initial["model.0.latent_provider._query"], saved["model.0.latent_provider._query"])


def test_saved_hyper_parameters_are_plain_and_complete(tmp_path: Path) -> None:
    file = trained(tmp_path, num_predictions=4, params=None)
    content = torch.load(file, weights_only=True)  # without any allowed class
    hyper_parameters = content["hyper_parameters"]
    assert type(hyper_parameters) is dict and type(hyper_parameters["encoder"]) is dict
    assert json.loads(json.dumps(hyper_parameters)) == hyper_parameters
    expected = asdict(text_config()) | {"num_predictions": 4, "masked_samples": None}
    assert hyper_parameters == expected


def test_saved_checkpoint_needs_no_file_that_it_started_from(tmp_path: Path) -> None:
    source = trained(tmp_path)
    encoder_source = tmp_path / "encoder.ckpt"
    encoder_source.write_bytes(source.read_bytes())
    config = text_config()
    config.encoder.params = str(encoder_source)
    lit_model = LitMLM.create(config, params=str(source))
    assert_same_parameters(lit_model.state_dict(), LitMLM.load_from_checkpoint(source).state_dict())
    fitting = trainer(tmp_path, max_steps=1)
    fitting.fit(lit_model, datamodule=Data())
    fitting.save_checkpoint(tmp_path / "second.ckpt")
    source.unlink()
    encoder_source.unlink()
    hyper_parameters = torch.load(tmp_path / "second.ckpt", weights_only=True)["hyper_parameters"]
    assert "params" not in hyper_parameters and hyper_parameters["encoder"]["params"] is None
    loaded = LitMLM.load_from_checkpoint(tmp_path / "second.ckpt")
    assert_same_parameters(loaded.state_dict(), lit_model.state_dict())


def test_published_checkpoint_whose_encoder_names_a_file(tmp_path: Path) -> None:
    content = {
        "state_dict": {f"model.{name}": value for name, value in golden_parameters("mlm_tied").items()},
        "hyper_parameters": read_checkpoint(TIED / "lit.ckpt").hyper_parameters,
    }
    content["hyper_parameters"]["encoder"]["params"] = "/gone/mlm.ckpt"
    content["hyper_parameters"]["params"] = "/gone/other.ckpt"
    torch.save(content, tmp_path / "a.ckpt")
    lit_model = LitMaskedLanguageModel.load_from_checkpoint(tmp_path / "a.ckpt")
    assert_same_parameters(lit_model.backend_model.state_dict(), golden_parameters("mlm_tied"))


def test_missing_checkpoint() -> None:
    with pytest.raises(FileNotFoundError, match=r"/none\.ckpt"):
        LitMaskedLanguageModel.load_from_checkpoint("/none.ckpt")


# --- training ---


def final_weights(
    folder: Path, steps: int, ckpt_path: Path | None = None, dropout: float = 0.0, **kwargs: Any
) -> dict[str, Tensor]:
    pl.seed_everything(3, verbose=False)
    callback = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fitting = trainer(folder, max_steps=steps, enable_checkpointing=True, callbacks=[callback])
    config = text_config(**kwargs)
    config.encoder.dropout = config.decoder.dropout = dropout
    lit_model = LitMLM.create(config)
    # as the documentation shows it: no weights_only, no allowed classes
    fitting.fit(lit_model, datamodule=Data(), ckpt_path=None if ckpt_path is None else str(ckpt_path))
    assert fitting.global_step == steps
    return {name: value.clone() for name, value in lit_model.state_dict().items()}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("stop", [2, 4, 5])
def test_resumed_run_reaches_the_same_weights(tmp_path: Path, stop: int, dropout: float) -> None:
    """An epoch has 4 steps: stopped within, at the end of, and after the first."""
    straight = final_weights(tmp_path / "straight", 7, dropout=dropout)
    final_weights(tmp_path / "stopped", stop, dropout=dropout)
    resumed = final_weights(tmp_path / "resumed", 7, tmp_path / "stopped" / f"step={stop}.ckpt", dropout=dropout)
    assert_close(resumed, straight, **CLOSE)
    fresh = final_weights(tmp_path / "fresh", 7 - stop, dropout=dropout)
    assert max((value - straight[name]).abs().max() for name, value in fresh.items()) > 1e-3


def test_activation_checkpointing_trains_to_the_same_weights(tmp_path: Path) -> None:
    plain = final_weights(tmp_path / "a", 3)
    checkpointing = final_weights(tmp_path / "b", 3, activation_checkpointing=True, activation_offloading=True)
    assert_close(checkpointing, plain, **CLOSE)


def test_losses_are_logged_under_the_names_of_their_splits(tmp_path: Path) -> None:
    fitting, lit_model = trainer(tmp_path, max_epochs=1), LitMLM.create(text_config())
    fitting.fit(lit_model, datamodule=Data())
    assert {"train_loss", "val_loss"} <= fitting.callback_metrics.keys()
    fitting.test(lit_model, datamodule=Data(), verbose=False)
    lit_model.eval()
    with torch.no_grad():
        losses = [lit_model.step(batch) for batch in Data().test_dataloader()]
    torch.testing.assert_close(fitting.callback_metrics["test_loss"], torch.stack(losses).mean())


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_loss_of_a_data_set_is_a_mean_over_its_labels(tmp_path: Path, batch_size: int) -> None:
    class Unequal(Examples):
        def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
            labels, x, pad_mask = super().__getitem__(i)
            return torch.where(torch.arange(7) < 2 * i, self.ids[i], labels if i else torch.tensor(-100)), x, pad_mask

    lit_model, data = LitMLM.create(text_config()), Unequal(4)
    fitting = trainer(tmp_path)
    fitting.test(lit_model, DataLoader(data, batch_size=batch_size), verbose=False)
    labels, x, pad_mask = (torch.stack(parts) for parts in zip(*(data[i] for i in range(4)), strict=True))
    assert sorted((labels != -100).sum(1).tolist()) == [0, 3, 5, 7]
    expected = lit_model.model.eval().loss(labels, x, pad_mask).detach()
    torch.testing.assert_close(fitting.callback_metrics["test_loss"], expected)


# --- samples ---


@pytest.mark.parametrize(
    "arguments, message",
    [({"num_predictions": 0}, "num_predictions=0"), ({"masked_samples": ["<mask>" * 99]}, "sequence length 99")],
)
def test_samples_that_can_not_be_filled_are_an_error_before_training(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    lit_model = LitMLM.create(text_config(), **{"masked_samples": ["<mask>"], **arguments})
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, max_steps=1).fit(lit_model, datamodule=Data())
    assert trainer(tmp_path).test(lit_model, Data().test_dataloader(), verbose=False)  # fills none


SAMPLES = ["a <mask> b", "<mask><mask>"]


def logged_texts(folder: str, tag: str) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, size_guidance={"tensors": 0})
    events.Reload()
    return [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{tag}/text_summary")]


def expected_texts(lit_model: LitMaskedLanguageModel) -> list[str]:
    filled = fill_masks(lit_model.model.eval(), PerceiverTokenizer(), SAMPLES, 2)
    return [text for texts in filled for text in texts]


def test_masked_samples_are_logged_as_text(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="mlm")
    lit_model = LitMLM.create(text_config(), masked_samples=SAMPLES, num_predictions=2)
    trainer(tmp_path, max_epochs=2, logger=logger, log_every_n_steps=1).fit(lit_model, datamodule=Data())
    logger.finalize("success")
    texts = logged_texts(logger.log_dir, "masked_samples")
    assert len(texts) == 2  # one per validation, none from the sanity check
    for text in [*SAMPLES, *expected_texts(lit_model)]:
        assert text in texts[-1]


@pytest.mark.parametrize("with_csv_logger", [False, True])
def test_masked_samples_are_printed_without_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], with_csv_logger: bool
) -> None:
    lit_model = LitMLM.create(text_config(), masked_samples=SAMPLES, num_predictions=2)
    logger = CSVLogger(tmp_path) if with_csv_logger else False
    with contextlib.redirect_stderr(None):
        trainer(tmp_path, max_steps=4, logger=logger, log_every_n_steps=1).fit(lit_model, datamodule=Data())
    printed = capsys.readouterr().out
    assert printed.count("masked_samples") == 1
    for text in [*SAMPLES, *expected_texts(lit_model)]:
        assert text in printed


def test_no_samples_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, steps=4, masked_samples=[])
    assert "masked_samples" not in capsys.readouterr().out


def test_samples_without_a_tokenizer(tmp_path: Path) -> None:
    lit_model = LitMLM.create(text_config(), masked_samples=SAMPLES)
    with pytest.raises(ValueError, match="masked_samples are filled with the tokenizer of the data module"):
        trainer(tmp_path, max_steps=1).fit(lit_model, Data().train_dataloader(), Data().val_dataloader())


def test_training_without_samples_needs_no_data_module(tmp_path: Path) -> None:
    lit_model = LitMLM.create(text_config())
    fitting = trainer(tmp_path, max_steps=1)
    fitting.fit(lit_model, Data().train_dataloader(), Data().val_dataloader())
    assert fitting.global_step == 1
