"""An adversary of models, checkpoints and conversions: random configurations, damaged files, killed processes.

    python -m tests.adversary.models --minutes 20 [--seed 7] [--only damaged_files] [--rounds 3]

A round runs every check with random numbers of its own, whose seed is printed where one fails: `--seed` repeats it. The
fast suite runs a few rounds (`test_models.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PerceiverTokenizer

from perceiver.model.audio import symbolic
from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.core.config import ClassificationDecoderConfig, Config
from perceiver.model.huggingface.model import PerceiverBackendModel
from perceiver.model.multimodal import autoencoder
from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.model.vision import image_classifier, optical_flow

ROOT = Path(__file__).parents[2]
TIGHT = {"atol": 1e-4, "rtol": 1e-3}
VOCAB_SIZE = 31
Random = random.Random


# --- random configurations ---


def attention(rng: Random, prefix: str, channels: int) -> dict[str, Any]:
    """Heads and channels of an attention layer, some of them defaults. `channels`: what the defaults are."""
    heads = rng.choice([n for n in (1, 2, 3, 4) if channels % n == 0])
    values = {f"{prefix}_heads": heads}
    if rng.random() < 0.6:
        values[f"{prefix}_qk_channels"] = heads * rng.randint(1, 5)
        values[f"{prefix}_v_channels"] = heads * rng.randint(1, 5)
    return values


def encoder_values(rng: Random, channels: int, num_latent_channels: int) -> dict[str, Any]:
    blocks = rng.randint(1, 3)
    values = {
        **attention(rng, "num_cross_attention", channels),
        **attention(rng, "num_self_attention", num_latent_channels),
        "num_self_attention_layers_per_block": rng.randint(1, 2),
        "num_self_attention_blocks": blocks,
        "num_cross_attention_layers": rng.randint(1, blocks),
        "first_cross_attention_layer_shared": rng.random() < 0.5,
        "first_self_attention_block_shared": rng.random() < 0.5,
        "cross_attention_widening_factor": rng.randint(1, 3),
        "self_attention_widening_factor": rng.randint(1, 3),
        "init_scale": 0.2,
    }
    return values


def decoder_values(rng: Random, query_channels: int) -> dict[str, Any]:
    return {
        **attention(rng, "num_cross_attention", query_channels),
        "cross_attention_widening_factor": rng.randint(1, 3),
        "cross_attention_residual": rng.random() < 0.5,
        "init_scale": 0.2,
    }


def text_encoder(rng: Random, length: int, num_latent_channels: int) -> mlm.TextEncoderConfig:
    channels = rng.choice([4, 6, 12])
    # the default of query and key channels are those of the latents
    values = encoder_values(rng, num_latent_channels, num_latent_channels)
    return mlm.TextEncoderConfig(vocab_size=VOCAB_SIZE, max_seq_len=length, num_input_channels=channels, **values)


def latents(rng: Random) -> dict[str, Any]:
    return {"num_latents": rng.randint(1, 5), "num_latent_channels": rng.choice([4, 6, 12])}


def mlm_config(rng: Random) -> Config:
    size, length = latents(rng), rng.randint(2, 13)
    encoder = text_encoder(rng, length, size["num_latent_channels"])
    query_channels = rng.choice([None, 6])
    decoder = mlm.TextDecoderConfig(
        vocab_size=VOCAB_SIZE if query_channels is None else rng.choice([VOCAB_SIZE, 17]),
        max_seq_len=length,
        num_output_query_channels=query_channels,
        **decoder_values(rng, query_channels or encoder.num_input_channels),
    )
    return mlm.MaskedLanguageModelConfig(encoder, decoder, **size)


def text_classifier_config(rng: Random) -> Config:
    size = latents(rng)
    encoder = text_encoder(rng, rng.randint(2, 13), size["num_latent_channels"])
    return classifier.TextClassifierConfig(encoder, classification_decoder(rng), **size)


def classification_decoder(rng: Random) -> ClassificationDecoderConfig:
    return ClassificationDecoderConfig(
        num_classes=rng.randint(2, 5),
        num_output_queries=rng.choice([1, 1, 3]),
        num_output_query_channels=6,
        **decoder_values(rng, 6),
    )


def token_classifier_config(rng: Random) -> Config:
    size, length = latents(rng), rng.randint(2, 13)
    decoder = token_classifier.TokenClassificationDecoderConfig(
        num_classes=3, max_seq_len=length, num_output_query_channels=6, **decoder_values(rng, 6)
    )
    return token_classifier.TokenClassifierConfig(
        text_encoder(rng, length, size["num_latent_channels"]), decoder, **size
    )


def image_classifier_config(rng: Random) -> Config:
    size = latents(rng)
    encoder = image_classifier.ImageEncoderConfig(
        image_shape=(rng.randint(2, 6), rng.randint(2, 7), rng.randint(1, 3)),
        num_frequency_bands=rng.randint(1, 4),
        **encoder_values(rng, 1, size["num_latent_channels"]),
    )
    return image_classifier.ImageClassifierConfig(encoder, classification_decoder(rng), **size)


def optical_flow_config(rng: Random) -> Config:
    size, shape = latents(rng), (rng.randint(2, 6), rng.randint(2, 7))
    encoder = optical_flow.OpticalFlowEncoderConfig(
        image_shape=shape,
        num_patch_hidden_channels=rng.randint(1, 5),
        num_frequency_bands=rng.randint(1, 4),
        **encoder_values(rng, 1, size["num_latent_channels"]),
    )
    decoder = optical_flow.OpticalFlowDecoderConfig(image_shape=shape, rescale_factor=2.0, **decoder_values(rng, 1))
    return optical_flow.OpticalFlowConfig(encoder, decoder, **size)


def autoencoder_config(rng: Random) -> Config:
    size, patch = latents(rng), rng.choice([1, 2])
    common = encoder_values(rng, 1, size["num_latent_channels"])
    return autoencoder.MultimodalAutoencoderConfig(
        encoder=autoencoder.MultimodalEncoderConfig(**common),
        decoder=autoencoder.MultimodalDecoderConfig(
            num_classes=3, num_label_query_channels=6, num_output_channels=5, **decoder_values(rng, 1)
        ),
        video_shape=(rng.randint(1, 2), 2 * patch, 4, rng.randint(1, 3)),
        video_patch_size=patch,
        num_video_frequency_bands=rng.randint(1, 3),
        num_audio_samples=12,
        audio_patch_size=rng.choice([2, 3]),
        num_audio_frequency_bands=rng.randint(1, 3),
        **size,
    )


def perceiver_ar_values(rng: Random) -> dict[str, Any]:
    length, heads, layers = rng.randint(2, 13), rng.choice([1, 2, 3]), rng.randint(1, 3)
    return {
        "vocab_size": VOCAB_SIZE,
        "max_seq_len": length,
        "max_latents": rng.randint(1, length),
        "num_channels": heads * rng.choice([4, 5, 6, 8]),
        "num_heads": heads,
        "num_self_attention_layers": layers,
        "num_self_attention_rotary_layers": rng.randint(-1, layers),
        "self_attention_widening_factor": rng.randint(1, 3),
        "cross_attention_widening_factor": rng.randint(1, 3),
        "output_norm": rng.random() < 0.5,
        "output_bias": rng.random() < 0.5,
        "abs_pos_emb": rng.random() < 0.5,
        "token_shift": length % 2 == 0,
        "init_scale": 0.2,
    }


def clm_config(rng: Random) -> Config:
    return clm.CausalLanguageModelConfig(**perceiver_ar_values(rng))


def symbolic_config(rng: Random) -> Config:
    return symbolic.SymbolicAudioModelConfig(**perceiver_ar_values(rng))


MODELS: dict[str, tuple[Callable[[Random], Config], type[PerceiverBackendModel]]] = {
    "mlm": (mlm_config, mlm.PerceiverMaskedLanguageModel),
    "text classifier": (text_classifier_config, classifier.PerceiverTextClassifier),
    "token classifier": (token_classifier_config, token_classifier.PerceiverTokenClassifier),
    "image classifier": (image_classifier_config, image_classifier.PerceiverImageClassifier),
    "optical flow": (optical_flow_config, optical_flow.OpticalFlowPerceiver),
    "autoencoder": (autoencoder_config, autoencoder.PerceiverMultimodalAutoencoder),
    "clm": (clm_config, clm.PerceiverCausalLanguageModel),
    "symbolic": (symbolic_config, symbolic.PerceiverSymbolicAudioModel),
}
COLUMN_MODELS = ("mlm", "text classifier", "token classifier")
PERCEIVER_AR = ("clm", "symbolic")


def random_model(rng: Random, name: str) -> PerceiverBackendModel:
    """A model of a random configuration that its channels allow, with random biases and norms."""
    make, model_class = MODELS[name]
    torch.manual_seed(rng.randrange(2**31))
    for _ in range(200):  # heads and default channels must fit together, which only the model knows of some
        try:
            model = model_class(model_class.config_class(make(rng), pad_token_id=0))
        except ValueError:
            continue
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model.eval()
    raise AssertionError(f"200 random configurations of a {name} were refused")


def random_input(rng: Random, name: str, config: Any, batch_size: int) -> dict[str, Tensor]:
    if name == "image classifier":
        return {"pixel_values": torch.randn(batch_size, *config.encoder.image_shape)}
    if name == "optical flow":
        return {"inputs": torch.randn(batch_size, 2, 27, *config.encoder.image_shape)}
    if name == "autoencoder":
        return {
            "video": torch.rand(batch_size, *config.video_shape),
            "audio": torch.rand(batch_size, config.num_audio_samples),
        }
    length = rng.randint(1, config.max_seq_len if name in PERCEIVER_AR else config.encoder.max_seq_len)
    ids = torch.randint(1, VOCAB_SIZE, (batch_size, length))
    if name in PERCEIVER_AR:
        return {"input_ids": ids, "prefix_len": torch.tensor(prefix_len(rng, config, length))}
    return {"input_ids": ids}


def prefix_len(rng: Random, config: Any, length: int) -> int:
    least = max(0, length - config.max_latents)
    return rng.randint(least, max(least, min(config.max_seq_len - config.max_latents, length - 1)))


def outputs(model: PerceiverBackendModel, inputs: dict[str, Any]) -> list[Tensor]:
    values = {name: int(value) if name == "prefix_len" else value for name, value in inputs.items()}
    with torch.no_grad():
        return [value for value in model(**values).values() if isinstance(value, Tensor)]


def assert_close(actual: list[Tensor], expected: list[Tensor], what: str) -> None:
    assert len(actual) == len(expected) > 0
    for x, y in zip(actual, expected, strict=True):
        assert x.isfinite().all(), what
        torch.testing.assert_close(x, y, **TIGHT, msg=lambda text: f"{what}: {text}")


# --- invariants ---


def invariants(rng: Random, folder: Path) -> None:
    """A random model of each kind: batches, padding, causality, caches, saving and loading."""
    for name in MODELS:
        model = random_model(rng, name)
        config = model.config.backend_config
        try:
            check_batches(rng, name, model)
            check_saving(rng, name, model, folder)
            if name in COLUMN_MODELS:
                check_padding(rng, name, model)
            if name in PERCEIVER_AR:
                check_causality(rng, name, model)
                check_causal_padding(rng, name, model)
                check_cache(rng, name, model)
        except Exception as error:
            raise AssertionError(f"{name}: {config}") from error


def check_batches(rng: Random, name: str, model: PerceiverBackendModel) -> None:
    """An example of a batch is what it is alone, wherever it stands."""
    inputs = random_input(rng, name, model.config.backend_config, 3)
    full = outputs(model, inputs)
    order = torch.tensor(rng.sample(range(3), 3))
    rows = {n: value[order] if value.ndim else value for n, value in inputs.items()}
    assert_close(outputs(model, rows), [x[order] for x in full], "order of examples")
    alone = {n: value[1:2] if value.ndim else value for n, value in inputs.items()}
    assert_close(outputs(model, alone), [x[1:2] for x in full], "an example alone")


def check_saving(rng: Random, name: str, model: PerceiverBackendModel, folder: Path) -> None:
    inputs = random_input(rng, name, model.config.backend_config, 2)
    model.save_pretrained(folder / "saved", max_shard_size=rng.choice(["2KB", "1MB"]))
    again = type(model).from_pretrained(folder / "saved").eval()
    assert again.config.backend_config == model.config.backend_config
    assert_close(outputs(again, inputs), outputs(model, inputs), "saved and loaded")
    read = read_checkpoint(folder / "saved").state_dict
    own = model.backend_model.state_dict()
    assert read.keys() <= own.keys() and all(torch.equal(read[n], own[n]) for n in read)
    shutil.rmtree(folder / "saved")


def check_padding(rng: Random, name: str, model: PerceiverBackendModel) -> None:
    """A text is what it is without padding, whichever side that is on."""
    config: Any = model.config.backend_config
    width = rng.randint(1, config.encoder.max_seq_len)
    lengths = [rng.randint(1, width) for _ in range(3)]
    texts = [torch.randint(1, VOCAB_SIZE, (1, length)) for length in lengths]
    for side in ("left", "right"):
        pads = [torch.zeros(1, width - length, dtype=torch.long) for length in lengths]
        pairs = list(zip(pads, texts, strict=True)) if side == "left" else list(zip(texts, pads, strict=True))
        ids = torch.cat([torch.cat(pair, dim=1) for pair in pairs])
        (padded,) = outputs(model, {"input_ids": ids, "attention_mask": (ids != 0).long()})
        for i, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            found = padded[i : i + 1]
            if name != "text classifier":
                found = found[:, width - length :] if side == "left" else found[:, :length]
            assert_close([found], outputs(model, {"input_ids": text}), f"padding on the {side}")


def check_causality(rng: Random, name: str, model: PerceiverBackendModel) -> None:
    """The gradient of an output with respect to a later token's embedding is exactly zero."""
    backend, inputs = model.backend_model, random_input(rng, name, model.config.backend_config, 1)
    ids, prefix = inputs["input_ids"], int(inputs["prefix_len"])
    embedded: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    handle = backend.txt_embedding.register_forward_hook(keep)
    logits = backend(ids, prefix)
    handle.remove()
    position = rng.randrange(logits.shape[1])
    (gradient,) = torch.autograd.grad(logits[0, position].sum(), embedded[0])
    assert not gradient[0, prefix + position + 1 :].any(), "a later token changes an output"
    assert gradient[0, : prefix + position + 1].isfinite().all()


def check_causal_padding(rng: Random, name: str, model: PerceiverBackendModel) -> None:
    backend, config = model.backend_model, model.config.backend_config
    inputs = random_input(rng, name, config, 2)
    ids, prefix = inputs["input_ids"], int(inputs["prefix_len"])
    length = ids.shape[1]
    pads = rng.randint(0, length - 1)
    mask = torch.zeros(2, length, dtype=torch.bool)
    mask[1, :pads] = True
    padded = backend(torch.where(mask, 0, ids), prefix, mask)[1:, max(0, pads - prefix) :]
    alone = backend(ids[1:, pads:], max(0, prefix - pads))
    assert_close([padded.detach()], [alone.detach()], f"{pads} pads on the left")


def check_cache(rng: Random, name: str, model: PerceiverBackendModel) -> None:
    """Token by token with a cache gives what all at once gives, while neither window is full."""
    backend, config = model.backend_model, model.config.backend_config
    inputs = random_input(rng, name, config, 2)
    ids, prefix = inputs["input_ids"], int(inputs["prefix_len"])
    expected, cache = backend(ids, prefix).detach(), backend.new_cache()
    first = rng.randint(prefix + 1, ids.shape[1])
    found = [backend(ids[:, :first], prefix, cache=cache)]
    found += [backend(ids[:, i : i + 1], 0, cache=cache) for i in range(first, ids.shape[1])]
    assert_close([torch.cat(found, dim=1).detach()], [expected], "with a cache")


# --- damaged files ---


def damaged_files(rng: Random, folder: Path) -> None:
    """Files of models, changed at random: what can't be read is an error that names the file."""
    model = random_model(rng, rng.choice(list(MODELS)))
    weights = model.state_dict()
    kinds = ["lit.ckpt", "old.ckpt", "pytorch_model.bin", "model.safetensors", "config.json", "index"]
    for kind in kinds:
        place = folder / "model"
        place.mkdir()
        model.config.save_pretrained(place)
        source: Path = place
        if kind.endswith(".ckpt"):
            own = {f"model.{n.removeprefix('backend_model.')}": value for n, value in weights.items()}
            content = {"state_dict": own, "hyper_parameters": model.config.model_config, "epoch": 3}
            torch.save(content, place / kind, _use_new_zipfile_serialization=kind == "lit.ckpt")
            source = target = place / kind
        elif kind == "pytorch_model.bin":
            target = place / kind
            torch.save(weights, target)
        else:
            save_file(weights, place / "model.safetensors")
            target = place / "config.json" if kind == "config.json" else place / "model.safetensors"
            if kind == "index":
                target = place / "model.safetensors.index.json"
                (place / "model.safetensors").rename(place / "model-00001-of-00001.safetensors")
                names = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
                target.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        for _ in range(6):
            whole = target.read_bytes()
            damage = damaged(rng, target)
            try:
                with warnings.catch_warnings():
                    # torch says so where the number is another, and reads or refuses the rest all the same
                    warnings.filterwarnings("ignore", "Detected pickle protocol")
                    type(model).from_checkpoint(source)
            except (ValueError, FileNotFoundError) as error:
                assert str(place) in str(error), f"{kind}, {damage}: {error}"
            except Exception as error:
                raise AssertionError(f"{kind}, {damage}") from error
            target.write_bytes(whole)
        shutil.rmtree(place)


def damaged(rng: Random, file: Path) -> str:
    """Changes a file, and says how."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(len(content), 400))
    kind = rng.choice(["flip", "flips", "cut", "zeros", "ones", "insert", "remove", "empty", "head", "digits"])
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(rng.randint(2, 40)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == "cut":
        del content[at:]
    elif kind in ("zeros", "ones"):
        end = min(len(content), at + rng.randint(1, 300))
        content[at:end] = bytes([0 if kind == "zeros" else 255]) * (end - at)
    elif kind == "insert":
        content[at:at] = rng.randbytes(rng.randint(1, 50))
    elif kind == "remove":
        del content[at : at + rng.randint(1, 50)]
    elif kind == "empty":
        content = bytearray()
    elif kind == "head":
        content[: rng.randint(1, 40)] = rng.randbytes(rng.randint(1, 40))
    else:  # other numbers in a text
        content = bytearray(bytes(rng.choice(b"0123456789") if b in b"0123456789" else b for b in content))
    file.write_bytes(bytes(content))
    return f"{kind} at {at}"


ATTENTION_FIELDS = {f"{part}_*: num_" for part in ("num_cross_attention", "num_self_attention")}
WRONG: list[Any] = [
    0,
    -1,
    -7,
    3.0,
    2.5,
    "8",
    "",
    True,
    None,
    [],
    [3],
    {},
    {"a": 1},
    float("nan"),
    -(10**30),
    [0, 0],
    -0.5,
]


def damaged_configs(rng: Random, folder: Path) -> None:
    """Fields of a configuration that hold something else: the error names the field, or the model is one."""
    for name, (_, model_class) in MODELS.items():
        values = json.loads(json.dumps(random_model(rng, name).config.model_config))
        for _ in range(8):
            changed = json.loads(json.dumps(values))
            part = rng.choice([changed, *(v for v in changed.values() if isinstance(v, dict))])
            field = rng.choice(list(part))
            part[field] = wrong = rng.choice(WRONG)
            try:
                with torch.device("meta"):
                    model_class(model_class.config_class(model_config=changed))
            except ValueError as error:
                known = named_fields(model_class.config_class.backend_config_class) | ATTENTION_FIELDS
                assert any(n in str(error) for n in known), f"{name}: {field}={wrong!r}: {error}"
            except Exception as error:
                raise AssertionError(f"{name}: {field}={wrong!r} of {changed}") from error


def named_fields(config_class: Any) -> set[str]:
    """The names of all fields, those of parts included."""
    hints = get_type_hints(config_class)
    names = {field.name for field in fields(config_class)}
    for hint in hints.values():
        for part in (hint, *get_args(hint)):
            names |= named_fields(part) if is_dataclass(part) else set()
    return names


# --- conversions ---


CONVERT = """
import sys
from pathlib import Path
import torch
from transformers import PerceiverTokenizer
from perceiver.model.huggingface.saving import save_converted
from perceiver.model.text import mlm

def model(number):
    encoder = mlm.TextEncoderConfig(vocab_size=262, max_seq_len=8, num_input_channels=4, num_cross_attention_heads=1,
                                    num_self_attention_heads=1, num_self_attention_layers_per_block=1)
    decoder = mlm.TextDecoderConfig(vocab_size=262, max_seq_len=8, num_cross_attention_heads=1)
    config = mlm.MaskedLanguageModelConfig(encoder, decoder, num_latents=number, num_latent_channels=4)
    model = mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(config))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, number)
    return model
"""
CONVERT_LOOP = (
    CONVERT
    + """
target, number, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
converted, tokenizer = model(number), PerceiverTokenizer()
for i in range(rounds):
    save_converted(converted, tokenizer, target)
    print(i, flush=True)
"""
)


def convert_loop(target: Path, number: int, rounds: int) -> subprocess.Popen[str]:
    """Converts the model `number`, whose latents and parameters are as many and as large, again and again."""
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT_LOOP, str(target), str(number), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def number_of(target: Path) -> int:
    """Which model is in a folder. It is one, weights and config together."""
    checkpoint = read_checkpoint(target)
    (number,) = {value for parameter in checkpoint.state_dict.values() for value in parameter.flatten().tolist()}
    assert checkpoint.hyper_parameters["num_latents"] == number, "the weights of one with the config of another"
    assert PerceiverTokenizer.from_pretrained(target).mask_token_id == 3
    return int(number)


def conversions(rng: Random, folder: Path) -> None:
    """Two at once, and one that is killed at any time: there always is one model, whole."""
    target = folder / "out"
    processes = [convert_loop(target, number, 8) for number in (2, 3)]
    assert [len(process.communicate()[0].split()) for process in processes] == [8, 8]
    assert number_of(target) in (2, 3)
    assert [path.name for path in folder.iterdir()] == ["out"], "something was left"
    process = convert_loop(target, 5, 10_000)
    assert process.stdout is not None
    for _ in range(rng.randint(1, 4)):
        process.stdout.readline()
    time.sleep(rng.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert number_of(target) == 5
    last = convert_loop(target, 7, 1)
    last.communicate()
    assert number_of(target) == 7 and [path.name for path in folder.iterdir()] == ["out"], "a kill left something"


# --- the command ---


CHECKS: dict[str, Callable[[Random, Path], None]] = {
    check.__name__: check for check in (invariants, damaged_files, damaged_configs, conversions)
}


def run_round(seed: int, names: list[str]) -> list[str]:
    """Runs checks with the random numbers of `seed`. Returns those that failed, which it prints."""
    failed = []
    for name in names:
        with temporary() as folder:
            try:
                CHECKS[name](Random(f"{name} {seed}"), folder)
            except Exception:  # of any kind: that is what an adversary looks for
                print(f"\n{name} fails: --only {name} --seed {seed} --rounds 1\n{traceback.format_exc()}", flush=True)
                failed.append(name)
    return failed


@contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins after so many")
    parser.add_argument("--rounds", type=int, help="at most so many rounds")
    parser.add_argument("--seed", type=int, help="of the first round; default: a random one")
    parser.add_argument("--only", action="append", choices=CHECKS, help="one of the checks; may be given repeatedly")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    end, rounds, failures = time.monotonic() + 60 * arguments.minutes, 0, 0
    print(f"seed {first}", flush=True)
    while time.monotonic() < end and rounds != arguments.rounds:
        failures += len(run_round(first + rounds, arguments.only or list(CHECKS)))
        rounds += 1
    print(f"{rounds} rounds from seed {first}: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
