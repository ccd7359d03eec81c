"""Files of other libraries become folders that compute the same, by function and by command; or they are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PerceiverConfig

from perceiver.model.foreign import convert_foreign
from perceiver.model.foreign.huggingface import convert, deepmind
from perceiver.model.foreign.huggingface.deepmind_kinds import KINDS, Kind
from perceiver.model.foreign.huggingface.models import LucidrainsPerceiverModel
from perceiver.model.huggingface.names import perceiver_names
from perceiver.scripts.main import main
from tests.model.foreign import originals
from tests.model.foreign.originals import assert_equal
from tests.model.foreign.test_layouts import untold
from tests.model.helpers import GOLDEN, assert_same_parameters, randomise_vectors

FOREIGN = GOLDEN / "foreign"


def recorded(name: str) -> Tensor:
    """Inputs and outputs of the original JAX code, with random parameters."""
    return load_file(FOREIGN / "io.safetensors")[name]


# --- lucidrains ---


@pytest.mark.parametrize("name", ["perceiver", "perceiver_io", "perceiver_lm", "perceiver_ar"])
def test_folders_of_originals(name: str, tmp_path: Path) -> None:
    original, arguments = getattr(originals, name)()
    torch.save(original.state_dict(), tmp_path / "model.pt")
    compared = convert_foreign(tmp_path / "out", tmp_path / "model.pt", arguments=untold(arguments))
    assert compared.original == f"perceiver{'_ar' if name.endswith('ar') else ''}_pytorch.{type(original).__name__}"
    assert compared.difference is not None and compared.difference < 1e-5 < 0.1 < compared.largest
    assert f"by {compared.difference:.1e}" in str(compared)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, arguments = originals.perceiver()
    torch.save({"state_dict": {f"net.{n}": p for n, p in original.state_dict().items()}}, tmp_path / "model.ckpt")
    flags = [f"--set={name}={value}" for name, value in untold(arguments).items()]
    assert main(["convert", "foreign", str(tmp_path / "model.ckpt"), str(tmp_path / "out"), *flags]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"wrote {tmp_path / 'out'}; outputs differ from those of perceiver_pytorch.Perceiver by ")
    x = torch.randn(2, 6, 4, 3)
    with torch.no_grad():
        assert_equal(LucidrainsPerceiverModel.from_pretrained(tmp_path / "out")(x).logits, original(x))


def test_wrong_arguments_are_seen_in_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No parameter tells the frequencies; another value than the original's computes something else."""
    original, arguments = originals.perceiver()
    torch.save(original.state_dict(), tmp_path / "model.pt")
    given = untold(arguments) | {"freq_base": 2}  # as in versions before 0.7.2, which had other frequencies
    with pytest.raises(ValueError, match=r"by .*\. Are the arguments those that the original was built with"):
        convert_foreign(tmp_path / "out", tmp_path / "model.pt", arguments=given)
    assert not (tmp_path / "out").exists()
    command = ["convert", "foreign", str(tmp_path / "model.pt"), str(tmp_path / "out"), "--set=num_freq_bands=3"]
    assert main(command) == 1
    assert "perceiver: error: cross_heads=1 with cross_dim_head=64 can't be" in capsys.readouterr().err


def test_without_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, arguments = originals.perceiver_io()
    torch.save(original.state_dict(), tmp_path / "model.pt")
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    compared = convert_foreign(tmp_path / "out", tmp_path / "model.pt", arguments=untold(arguments))
    assert str(compared) == "not compared: perceiver-pytorch is not installed"


def test_files_of_no_layout(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"no layout that can be converted: weight, bias, \.\.\. There are layouts of"):
        convert_foreign(tmp_path / "out", tmp_path / "model.pt")


def test_tokenizer_of_a_model_without_tokens(tmp_path: Path) -> None:
    original, arguments = originals.perceiver_io()
    torch.save(original.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="takes no tokenizer or image processor, got bytes"):
        convert_foreign(tmp_path / "out", tmp_path / "model.pt", "bytes", untold(arguments))


@pytest.mark.parametrize("flag", ["--set=a", "--to=transformers"])
def test_wrong_flags(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["convert", "foreign", "a", "b", flag])
    assert stop.value.code == 2
    assert "--set a must be NAME=VALUE" in (error := capsys.readouterr().err) or "unrecognized arguments" in error


# --- google-research/perceiver-ar ---


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_recorded_outputs_of_google_perceiver_ar(positions: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"z_index_dim": 6, "num_transformer_heads": 3, "num_cross_attend_heads": 2}
    if positions == "rotary":
        arguments |= {"num_cross_attend_heads": 3, "max_context_length": 32, "max_wavelength": 32}
    compared = convert_foreign(tmp_path, FOREIGN / f"google_{positions}.dill", arguments=arguments)
    assert "is no package that could be installed" in str(compared)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    x, expected = recorded(f"google_{positions}.input"), recorded(f"google_{positions}.logits")
    with torch.no_grad():
        assert_equal(model.backend_model(x, x.shape[1] - 6), expected)


@pytest.mark.parametrize(
    ("positions", "arguments", "message"),
    [
        ("rotary", {}, "no parameter tells max_context_length"),
        ("rotary", {"max_context_length": 32, "num_cross_attend_heads": 2}, "with rotary positions can't be converted"),
        ("absolute", {"activation_name": "gelu"}, "activation_name='gelu' can't be converted, only .*='sq_relu'"),
        ("absolute", {"num_latents_per_position": 2}, "num_latents_per_position=2 can't be converted"),
        ("absolute", {"num_classes": 20}, "num_classes=20 was given, but the parameters say 19"),
    ],
)
def test_google_perceiver_ar_that_cannot_be_converted(
    positions: str, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        convert_foreign(tmp_path, FOREIGN / f"google_{positions}.dill", arguments=arguments)


# --- DeepMind ---


def test_recorded_outputs_of_deepminds_language_model(tmp_path: Path) -> None:
    """Their GELU is approximate by default, ours exact, as transformers': this was recorded with the exact one."""
    compared = convert_foreign(tmp_path, FOREIGN / "deepmind_language.pickle")
    assert compared.original == "transformers.PerceiverForMaskedLM" and (compared.difference or 0.0) < 1e-5
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    mask = recorded("deepmind_language.mask")
    with torch.no_grad():
        logits = model(recorded("deepmind_language.input"), attention_mask=mask).logits
    torch.testing.assert_close(logits[mask == 1], recorded("deepmind_language.logits")[mask == 1], atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 9 and tokenizer("ab").input_ids == [4, 103, 104, 5]


TINY: dict[str, Any] = {
    "num_latents": 5,
    "d_latents": 16,
    "num_self_attends_per_block": 2,
    "num_blocks": 1,
    "num_labels": 7,
    "d_model": 24,
    "v_channels": None,
}
GIVEN: dict[str, dict[str, Any]] = {
    "masked language model": {},
    "optical flow": {"train_size": [6, 8]},
    "multimodal autoencoder": {
        "num_frames": 2,
        "audio_samples_per_frame": 32,
        "image_size": 8,
        "output_shape": [1, 2, 32, 32],
    },
    "image classifier with learned positions": {"num_blocks": 2},
    "image classifier with convolution": {"num_blocks": 1},
    "image classifier with Fourier features": {"num_blocks": 3},
}
OWN: dict[str, dict[str, Any]] = {
    "masked language model": {"vocab_size": 31, "max_position_embeddings": 9, "qk_channels": 8, "v_channels": 16},
    "multimodal autoencoder": {"samples_per_patch": 4, "output_num_channels": 20, "_label_trainable_num_channels": 12},
    "image classifier with learned positions": {"image_size": 6},
}


# The others' outputs are not those of transformers, or take minutes to compute.
COMPARED = {kind.mark for kind in KINDS if kind.name.split()[-2:] in (["language", "model"], ["Fourier", "features"])}


def to_haiku(backend: nn.Module, kind: Kind) -> dict[str, Tensor]:
    """The inverse of `from_haiku`: our parameters under the names `scope/parameter` of Haiku, in its shapes."""
    result = {}
    for ours, theirs in perceiver_names(backend.state_dict(), kind.weights.modules).items():
        name, value = deepmind.haiku_name(theirs, kind), backend.state_dict()[ours]
        if name.endswith("/w"):
            value = rearrange(value, "o i -> i o" if value.ndim == 2 else "o i h w -> h w i o")
            if name == "image_preprocessor/~/conv2_d/w":
                value = rearrange(value, "i o -> 1 1 i o")
        if "batchnorm" in name and value.ndim == 1:
            value = rearrange(value, "c -> 1 1 1 c")
        result[name] = value
    return result


def haiku_pickle(model: Any, kind: Kind, file: Path) -> None:
    content: dict[str, dict[str, Any]] = {"params": {}, "state": {}}
    for name, value in to_haiku(model.backend_model, kind).items():
        scope, parameter = name.rsplit("/", 1)
        part = content["state" if parameter in ("average", "counter") else "params"]
        part.setdefault(scope, {})[parameter] = value.numpy()
    if content["state"]:  # what Haiku keeps beside an average
        for scope in list(content["state"]):
            content["state"][scope] |= {"hidden": np.zeros(3, np.float32), "counter": np.array(5)}
    file.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_ours_to_haiku_and_back(kind: Kind, tmp_path: Path) -> None:
    given = GIVEN[kind.name]
    torch.manual_seed(0)
    config = kind.adapted(
        kind.weights.config(PerceiverConfig(**{**kind.values, **TINY, **given, **OWN.get(kind.name, {})}))
    )
    model = kind.model_class(kind.model_class.config_class(config))
    randomise_vectors(model)
    for name, value in model.backend_model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(5)
    haiku_pickle(model, kind, tmp_path / "model.pystate")
    read, comparison = convert.read_model(tmp_path / "model.pystate", given)
    assert type(read) is kind.model_class
    assert_same_parameters(read.backend_model.state_dict(), model.backend_model.state_dict())
    compared = comparison()
    if kind.mark in COMPARED:
        assert compared.difference is not None and compared.difference < 1e-5 < compared.largest
    else:
        assert compared.difference is None
    # heads are told by no parameter, dropout and initialisation are of no matter
    assert read.backend_model.config == config


def test_deepmind_files_that_lack_parameters(tmp_path: Path) -> None:
    with (FOREIGN / "deepmind_language.pickle").open("rb") as file:
        content = pickle.load(file)
    for change, message in (
        (lambda p: p["perceiver_encoder/~/self_attention_1/mlp/linear"].pop("b"), "linear/b is missing"),
        (lambda p: p.setdefault("x", {}).update(w=np.zeros(2)), "x/w can't be converted"),
        (lambda p: p["embed"].update(embeddings=np.zeros((262, 15), np.float32)), "has the shape|embeddings"),
    ):
        params = {scope: dict(values) for scope, values in content["params"].items()}
        change(params)
        (tmp_path / "x.pickle").write_bytes(pickle.dumps(params))
        with pytest.raises(ValueError, match=message):
            convert_foreign(tmp_path / "out", tmp_path / "x.pickle")
    for given, message in (({"vocab_size": 3}, "the parameters say 262"), ({"z": 3}, "there is no argument z")):
        with pytest.raises(ValueError, match=message):
            convert_foreign(tmp_path / "out", FOREIGN / "deepmind_language.pickle", arguments=given)
