"""Training of the multimodal autoencoder: random points and masks, losses, checkpoints, what is logged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.model.multimodal.autoencoder import LitMultimodalAutoencoder, PerceiverMultimodalAutoencoder
from perceiver.model.multimodal.autoencoder.backend import autoencoder_loss, psnr
from tests.model.helpers import assert_close, assert_same_parameters, gradients
from tests.model.multimodal.autoencoder.helpers import CLASSES, clips, mm_config
from tests.model.trainers import trainer
from tests.model.vision.helpers import DictData

NAMES = [f"class {i}" for i in range(CLASSES)]
POINTS = {"num_video_points": 9, "num_audio_points": 4}


class LitAutoencoder(LitMultimodalAutoencoder):
    """As the command line makes it: with an optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, eps=1e-3)  # rounding errors are not scaled up


def columns(size: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    x = clips(size)
    return {"video": x["video"], "audio": x["audio"], "label": x["label"].argmax(dim=-1)}


def make(**kwargs: Any) -> LitAutoencoder:
    torch.manual_seed(2)
    return LitAutoencoder.create(mm_config(), **(POINTS | kwargs))


# --- checkpoints ---


def test_own_checkpoint_round_trip(tmp_path: Path) -> None:
    lit_model = make(label_mask_prob=0.25, video_weight=0.5)
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(lit_model, datamodule=DictData(columns(), label_names=NAMES))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    hyper_parameters = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    own = {"label_mask_prob": 0.25, "video_weight": 0.5, "audio_weight": 1.0, "label_weight": 1e-4}
    assert hyper_parameters == asdict(mm_config()) | POINTS | own | {"label_names": NAMES}
    json.dumps(hyper_parameters)
    loaded = LitMultimodalAutoencoder.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.model.config == mm_config() and loaded.hparams["video_weight"] == 0.5
    hf_model = PerceiverMultimodalAutoencoder.from_checkpoint(tmp_path / "a.ckpt")
    assert hf_model.config.id2label == dict(enumerate(NAMES))
    started = make(params=str(tmp_path / "a.ckpt"))
    for model in (loaded.model, hf_model.backend_model, started.model):
        assert_same_parameters(model.state_dict(), lit_model.model.state_dict())


def test_names_of_too_few_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"2 names, a, b, for num_classes={CLASSES}"):
        trainer(tmp_path, max_steps=1).fit(make(label_names=["a", "b"]), datamodule=DictData(columns()))


# --- steps ---


def test_training_step_by_hand() -> None:
    lit_model, batch = make(), columns()
    torch.manual_seed(4)
    loss = lit_model.step(batch)
    torch.manual_seed(4)
    masked = torch.rand(5) < 0.5
    video_points, audio_points = torch.randint(120, (5, 9)), torch.randint(7, (5, 4))
    label = torch.eye(CLASSES)[batch["label"]]
    outputs = [  # one example after the other
        lit_model.model(
            batch["video"][[i]],
            batch["audio"][[i]],
            None if masked[i] else label[[i]],
            video_points=video_points[i],
            audio_points=audio_points[i],
        )
        for i in range(5)
    ]
    assert 0 < masked.sum() < 5
    losses = []
    for i, output in enumerate(outputs):
        video = batch["video"][i].flatten(0, 2)[video_points[i]]
        audio = batch["audio"][i].unflatten(0, (7, 3))[audio_points[i]]
        losses.append(autoencoder_loss(output, video[None], audio[None], batch["label"][[i]]))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-6, rtol=1e-6)


def test_all_points_are_decoded_where_there_are_not_more() -> None:
    points = make(num_video_points=120, num_audio_points=512).random_points(5)
    assert points == {"video_points": None, "audio_points": None}
    points = make(num_video_points=119).random_points(5)
    assert points["video_points"] is not None and points["video_points"].shape == (5, 119)
    assert len(points["video_points"].unique()) > 110  # of 120


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_share_of_masked_labels(probability: float) -> None:
    lit_model, masks = make(label_mask_prob=probability), list[Tensor]()
    lit_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["label_mask"]), with_kwargs=True
    )
    batch = {name: value[:1].expand(200, *value.shape[1:]) for name, value in columns().items()}
    lit_model.step(batch)
    (mask,) = masks
    assert abs(mask.float().mean() - probability) < 0.1 and mask.all() == (probability == 1)


def test_weights_of_the_loss() -> None:
    batch, losses = columns(), []
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.03, 1.0, 1e-4), (2.0, 3.0, 5.0)):
        names = ("video_weight", "audio_weight", "label_weight")
        lit_model = make(**dict(zip(names, weights, strict=True)))
        torch.manual_seed(3)
        losses.append(lit_model.step(batch))
    video, audio, label, default, other = losses
    torch.testing.assert_close(default, 0.03 * video + audio + 1e-4 * label)
    torch.testing.assert_close(other, 2 * video + 3 * audio + 5 * label)
    lit_model = make()
    torch.manual_seed(3)
    torch.testing.assert_close(lit_model.step(batch), default)


def test_every_trained_parameter_gets_a_gradient() -> None:
    """Otherwise distributed training stops. Mask tokens of video and audio are not trained."""
    lit_model = make()
    lit_model.step(columns()).backward()
    trained = {name for name, parameter in lit_model.named_parameters() if parameter.requires_grad}
    assert gradients(lit_model).keys() == trained
    frozen = {name for name, _ in lit_model.named_parameters()} - trained
    assert frozen == {f"model.0.input_adapter.mask.{modality}._query" for modality in ("video", "audio")}


def test_repeated_examples_do_not_count() -> None:
    lit_model, batch = make().eval(), columns()
    repeated = batch | {"label": torch.tensor([0, -100, 6, 9, -100])}
    kept = {name: value[[0, 2, 3]] for name, value in batch.items()}
    everything: dict[str, Tensor | None] = {}
    losses = [
        lit_model.loss(lit_model.model(x["video"], x["audio"]), x, everything)
        for x in (repeated, kept | {"label": torch.tensor([0, 6, 9])})
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert lit_model.num_targets(repeated) == 3
    lit_model.step(repeated).backward()  # -100 is no class of an input, either


# --- training ---


def test_what_is_logged(tmp_path: Path) -> None:
    lit_model, module = make(), DictData(columns(), batch_size=2)
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(lit_model, datamodule=module)
    names = ("loss", "video_psnr", "audio_psnr", "acc")
    assert fitting.callback_metrics.keys() == {"train_loss", *(f"val_{name}" for name in names)}
    metrics = {"val": dict(fitting.callback_metrics)}
    fitting.test(lit_model, datamodule=module, verbose=False)
    metrics["test"] = dict(fitting.callback_metrics)
    batch, generator = module.columns, torch.Generator().manual_seed(0)
    points = {
        "video_points": torch.randint(120, (9,), generator=generator),
        "audio_points": torch.randint(7, (4,), generator=generator),
    }
    for split, chosen in (("val", points), ("test", {})):
        with torch.no_grad():  # batches have 2, 2 and 1 examples
            output = lit_model.eval().model(batch["video"], batch["audio"], **chosen)
        video, audio = lit_model.model.targets(batch["video"], batch["audio"], **chosen)
        expected = {
            "loss": autoencoder_loss(output, video, audio, batch["label"]),
            "video_psnr": psnr(output.video, video).mean(),
            "audio_psnr": psnr(output.audio, audio).mean(),
            "acc": (output.label.argmax(dim=-1) == batch["label"]).float().mean(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(metrics[split][f"{split}_{name}"], value, atol=1e-4, rtol=1e-5)


def test_a_resumed_run_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    batches = columns(8)
    whole = make()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=DictData(batches))
    first = trainer(tmp_path, max_epochs=1)
    first.fit(make(), datamodule=DictData(batches))
    first.save_checkpoint(tmp_path / "a.ckpt")
    resumed = make()
    fitting = trainer(tmp_path, max_epochs=3)
    fitting.fit(resumed, datamodule=DictData(batches), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert_close(resumed.state_dict(), whole.state_dict(), atol=2e-5, rtol=0.0)  # a step is up to 1e-2


def test_it_learns(tmp_path: Path) -> None:
    """Plain videos and sounds, and a class that the brightness says."""
    level = torch.arange(11) / 10
    x = columns(11)
    batch = {
        "video": level.view(-1, 1, 1, 1, 1).expand_as(x["video"]),
        "audio": (1 - 2 * level)[:, None].expand_as(x["audio"]),
        "label": torch.arange(11),
    }
    fitting = trainer(tmp_path, max_epochs=120, check_val_every_n_epoch=120)
    fitting.fit(make(label_weight=1.0, video_weight=1.0), datamodule=DictData(batch, batch_size=11))
    metrics = fitting.callback_metrics
    # without learning: 10 dB for a mean video, 4 dB for silence, 9 % by chance
    assert metrics["val_video_psnr"] > 13 and metrics["val_audio_psnr"] > 9 and metrics["val_acc"] > 0.4


# --- bad arguments ---


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_video_points": 0}, "num_video_points=0 and num_audio_points=4 must be at least 1"),
        ({"num_audio_points": -1}, "num_audio_points=-1 must be at least 1"),
        ({"label_mask_prob": 1.5}, r"label_mask_prob=1.5 must be in \[0, 1\]"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
