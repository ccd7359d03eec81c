"""A few rounds of the adversary of models, `models.py`: it looks for the same in other numbers each time it is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perceiver.model.core import checkpoint, layers, pickles
from perceiver.model.text.common.huggingface import AlignedText
from tests.adversary import models
from tests.adversary.models import CHECKS, Random, damaged_files, invariants

ROUNDS = {"invariants": 2, "damaged_files": 3, "damaged_configs": 4}  # conversions take minutes
FAST = [(name, seed) for name, rounds in ROUNDS.items() for seed in range(rounds)]


@pytest.mark.parametrize(("name", "seed"), FAST)
def test_a_round(name: str, seed: int, tmp_path: Path) -> None:
    CHECKS[name](Random(f"{name} {seed}"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_many_rounds(name: str, tmp_path: Path) -> None:
    """Others in each run: set ADVERSARY_SEED to repeat one."""
    first = int(os.environ.get("ADVERSARY_SEED", int.from_bytes(os.urandom(3), "little")))
    print(f"ADVERSARY_SEED={first}")
    for seed in range(first, first + 10 * ROUNDS.get(name, 0) + 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        CHECKS[name](Random(f"{name} {seed}"), folder)


def test_another_number_of_the_pickle_protocol_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch only warns: values and tensors are unharmed, and an instruction that it doesn't know is an error."""
    changed = []

    def other_protocol(rng: Random, file: Path) -> str:
        content = file.read_bytes()
        file.write_bytes(content.replace(b"\x80\x02", b"\x80\x03", 1))
        changed.append(content != file.read_bytes())
        return "protocol 3"

    monkeypatch.setattr(models, "damaged", other_protocol)
    damaged_files(Random("damaged_files 0"), tmp_path)
    assert changed == [True] * 18 + [False] * 18  # three of the six kinds are pickles


# --- the adversary finds what is broken ---


def test_it_finds_padding_that_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(AlignedText, "moved", lambda self, x: x)
    with pytest.raises(AssertionError):
        invariants(Random("invariants 0"), tmp_path)


def test_it_finds_a_model_that_sees_the_future(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forward = layers.MLP.forward

    def leaky(self: layers.MLP, x: Tensor) -> Tensor:
        return forward(self, x + 0.01 * torch.flip(x, dims=(1,)))

    monkeypatch.setattr(layers.MLP, "forward", leaky)
    with pytest.raises(AssertionError):
        invariants(Random("invariants 0"), tmp_path)


def test_it_finds_errors_that_name_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (checkpoint, pickles):
        monkeypatch.setattr(module, "UNPICKLING_ERRORS", ())
    with pytest.raises(AssertionError):
        for seed in range(10):
            (tmp_path / str(seed)).mkdir()
            damaged_files(Random(f"damaged_files {seed}"), tmp_path / str(seed))
