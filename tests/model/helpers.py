"""What the model tests share: a tiny model with pairwise different sizes, and the recorded checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm.backend import MaskedLanguageModel, MaskedLanguageModelConfig, TextDecoderConfig

GOLDEN = Path(__file__).parent.parent / "golden"
TIED, UNTIED = GOLDEN / "mlm_tied", GOLDEN / "mlm_untied"
MODELS = ("mlm_tied", "mlm_untied")
LIT_CKPTS = (
    TIED / "lit.ckpt",  # 0.9 to 0.11
    TIED / "lit_080.ckpt",  # 0.8
    TIED / "lit_cli.ckpt",  # a command line run: holds the data module's arguments, too
    UNTIED / "lit.ckpt",
    UNTIED / "lit_080.ckpt",
)


@dataclass
class Case:
    """A recorded call. `inputs` and `outputs` are tensors, `data` is what is no tensor."""

    name: str
    kind: str
    kwargs: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    data: dict[str, Any]


def golden_cases(name: str, kind: str) -> list[Case]:
    tensors = load_file(GOLDEN / name / "io.safetensors") if (GOLDEN / name / "io.safetensors").exists() else {}
    cases = json.loads((GOLDEN / name / "cases.json").read_text())
    found = [
        Case(
            case["name"],
            case["kind"],
            case.get("kwargs", {}),
            {key: tensors[value] for key, value in case.get("inputs", {}).items()},
            {key: tensors[value] for key, value in case.get("outputs", {}).items()},
            case.get("data", {}),
        )
        for case in cases
        if case["kind"] == kind
    ]
    assert found, f"{name} has no case of kind {kind}"
    return found


def golden_parameters(name: str) -> dict[str, Tensor]:
    """Parameters of a recorded model, under their names in the backend model."""
    state_dict = torch.load(GOLDEN / name / "hub" / "pytorch_model.bin", weights_only=True)
    return {key.removeprefix("backend_model."): value for key, value in state_dict.items()}


def mlm_config(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **kwargs: Any
) -> MaskedLanguageModelConfig:
    """A tiny model: sizes that stand for different things differ. K != V in all three kinds of attention."""
    encoder_config = {
        "vocab_size": 37,
        "max_seq_len": 19,
        "num_input_channels": 11,
        "num_cross_attention_heads": 2,
        "num_cross_attention_qk_channels": 6,
        "num_cross_attention_v_channels": 10,
        "num_self_attention_heads": 3,
        "num_self_attention_qk_channels": 15,
        "num_self_attention_v_channels": 21,
        "num_self_attention_layers_per_block": 2,
        "init_scale": 0.3,
    }
    decoder_config = {
        "vocab_size": 37,
        "max_seq_len": 19,
        "num_cross_attention_heads": 1,
        "num_cross_attention_qk_channels": 7,
        "num_cross_attention_v_channels": 5,
        "init_scale": 0.2,
    }
    return MaskedLanguageModelConfig(
        TextEncoderConfig(**(encoder_config | (encoder or {}))),
        TextDecoderConfig(**(decoder_config | (decoder or {}))),
        **({"num_latents": 3, "num_latent_channels": 13} | kwargs),
    )


def text_config(**kwargs: Any) -> MaskedLanguageModelConfig:
    """The same over UTF-8 bytes, for what needs a tokenizer."""
    return mlm_config({"vocab_size": 262, "max_seq_len": 64}, {"vocab_size": 262, "max_seq_len": 64}, **kwargs)


def mlm_model(config: MaskedLanguageModelConfig | None = None, seed: int = 0) -> MaskedLanguageModel:
    """A model in evaluation mode whose biases and norms, too, have random values, so that none can be forgotten."""
    torch.manual_seed(seed)
    model = MaskedLanguageModel(config or mlm_config())
    randomise_vectors(model)
    return model.eval()


def randomise_vectors(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))


def token_ids(*shape: int, vocab_size: int = 37) -> Tensor:
    return torch.randint(0, vocab_size, shape)


def json_copy(config: Any) -> dict[str, Any]:
    """What a config becomes in a file."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def assert_same_parameters(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients of all parameters that have one; they are cleared."""
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    """Without a tolerance: up to 5e-5 of a tensor's largest value, or 5e-6 of the largest of all. A tensor may hold
    nothing but rounding errors of others, as the gradient of the keys' biases does."""
    assert actual.keys() == expected.keys()
    size = {name: value.abs().max().item() if value.numel() else 0.0 for name, value in expected.items()}
    for name, value in expected.items():
        rounding = {"atol": max(5e-5 * size[name], 5e-6 * max(size.values())), "rtol": 0.0}
        torch.testing.assert_close(
            actual[name], value, **(tolerance or rounding), msg=lambda m, name=name: f"{name}: {m}"
        )


def alike(a: Any, b: Any) -> bool:
    """Whether numbers in nested lists and tuples are equal, floats up to rounding errors."""
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-3) if isinstance(a, float) else a == b
