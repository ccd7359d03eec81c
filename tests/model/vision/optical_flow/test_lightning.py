"""Training of optical flow: losses in pixels, unknown flow, checkpoints, what is logged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.vision.optical_flow import (
    LitOpticalFlow,
    OpticalFlowConfig,
    OpticalFlowPerceiver,
)
from perceiver.model.vision.optical_flow.backend import flow_loss, outlier_rate
from tests.model.helpers import assert_close, assert_same_parameters, golden_parameters, gradients
from tests.model.trainers import trainer
from tests.model.vision.helpers import DictData
from tests.model.vision.optical_flow.helpers import HUB, H, W, flow_config, frames


class LitFlow(LitOpticalFlow):
    """As the command line makes it: with an optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def columns(size: int = 5, *, valid: bool = True) -> dict[str, Tensor]:
    """Each example has another share of known pixels; the flow of the others is garbage, or NaN."""
    torch.manual_seed(1)
    flow, known = 5 * torch.randn(size, H, W, 2), torch.rand(size, H, W) < torch.linspace(0.1, 1.0, size)[:, None, None]
    result = {"x": frames(size), "flow": flow}
    if valid:
        flow[~known] = 1e6
        return result | {"valid": known}
    flow[~known] = float("nan")
    return result


# --- checkpoints ---


def test_starts_from_a_published_folder() -> None:
    config = OpticalFlowConfig.from_dict(read_checkpoint(HUB).hyper_parameters)
    found = LitOpticalFlow.create(config, params=str(HUB)).backend_model.state_dict()
    published = golden_parameters("optical_flow")
    assert_same_parameters(found, {name: value for name, value in published.items() if "position_encoding" not in name})


def test_own_checkpoint_round_trip(tmp_path: Path) -> None:
    lit_model = LitFlow.create(flow_config())
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(lit_model, datamodule=DictData(columns()))
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    hyper_parameters = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert hyper_parameters == asdict(flow_config())
    assert json.loads(json.dumps(hyper_parameters))["decoder"]["image_shape"] == [H, W]
    loaded = LitOpticalFlow.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.model.config == flow_config()
    hf_model = OpticalFlowPerceiver.from_checkpoint(tmp_path / "a.ckpt")
    started = LitOpticalFlow.create(flow_config(), params=str(tmp_path / "a.ckpt"))
    for model in (loaded.model, hf_model.backend_model, started.model):
        assert_same_parameters(model.state_dict(), lit_model.model.state_dict())


# --- steps ---


@pytest.mark.parametrize("valid", [True, False], ids=["valid", "NaN"])
def test_loss_is_the_mean_error_of_known_pixels(valid: bool) -> None:
    lit_model, batch = LitOpticalFlow.create(flow_config()).eval(), columns(valid=valid)
    flow: Tensor = lit_model(batch["x"])
    torch.testing.assert_close(flow, lit_model.backend_model(batch["x"]), atol=3e-5, rtol=1e-5)
    known = batch["valid"] if valid else batch["flow"].isfinite().all(dim=-1)
    errors = torch.linalg.vector_norm(20 * flow - batch["flow"], dim=-1)[known]
    torch.testing.assert_close(lit_model.step(batch), errors.mean())
    assert lit_model.num_targets(batch) == known.sum() < 5 * H * W


def test_valid_and_nan_are_the_same() -> None:
    both = [columns(valid=valid) for valid in (True, False)]
    results = []
    for batch in both:
        torch.manual_seed(0)
        lit_model = LitOpticalFlow.create(flow_config())
        loss = lit_model.step(batch)
        loss.backward()
        results.append({"loss": loss.detach()} | gradients(lit_model))
    assert results[0].keys() == results[1].keys() and len(results[0]) > 50
    for name, value in results[0].items():
        assert value.isfinite().all(), name
    assert_close(results[1], results[0])


def test_valid_pixels_may_be_unknown_all_the_same() -> None:
    lit_model, batch = LitOpticalFlow.create(flow_config()).eval(), columns(valid=False)
    loss = lit_model.step(batch)
    valid = {"valid": torch.ones(5, H, W, dtype=torch.bool)}
    torch.testing.assert_close(lit_model.step(batch | valid), loss)


def test_a_batch_without_known_flow() -> None:
    lit_model, batch = LitOpticalFlow.create(flow_config()), columns()
    loss = lit_model.step(batch | {"valid": torch.zeros(5, H, W, dtype=torch.bool)})
    loss.backward()
    assert loss == 0 and not any(value.any() for value in gradients(lit_model).values())


# --- training ---


def test_what_is_logged(tmp_path: Path) -> None:
    lit_model, module = LitFlow.create(flow_config()), DictData(columns(), batch_size=2)
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(lit_model, datamodule=module)
    assert fitting.callback_metrics.keys() == {"train_loss", "val_loss", "val_outliers"}
    fitting.test(lit_model, datamodule=module, verbose=False)
    target = module.columns["flow"].where(module.columns["valid"][..., None], float("nan"))
    with torch.no_grad():  # batches have 2, 2 and 1 examples, with another number of known pixels each
        flow = lit_model.eval()(module.columns["x"])
    torch.testing.assert_close(fitting.callback_metrics["test_loss"], flow_loss(flow, target))
    torch.testing.assert_close(fitting.callback_metrics["test_outliers"], outlier_rate(flow, target))


def test_it_learns(tmp_path: Path) -> None:
    """Flow of 4 pixels to the right or to the left, which a feature of each pixel says."""
    torch.manual_seed(0)
    direction = torch.randint(0, 2, (4, H, W)) * 2.0 - 1.0
    x = 0.1 * frames(4)
    x[:, 1, 3] += direction
    flow = torch.stack([4 * direction, torch.zeros_like(direction)], dim=-1)
    module = DictData({"x": x, "flow": flow})
    fitting = trainer(tmp_path, max_epochs=40, check_val_every_n_epoch=40)
    fitting.fit(LitFlow.create(flow_config()), datamodule=module)
    metrics: dict[str, Any] = fitting.callback_metrics
    assert metrics["val_loss"] < 1.0 and metrics["val_outliers"] == 0
