"""Plain DistributedDataParallel trains every model, whatever a batch lacks, without `find_unused_parameters`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.huggingface.tasks import TASKS
from tests.huggingface.test_interface import shorter
from tests.model.helpers import assert_close, gradients

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
]


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    run = str(Path(__file__).parent / "ddp_run.py")
    commands = [[sys.executable, run, str(rank), str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-5000:]
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for task in TASKS:
        model = task.model().train()
        batch = shorter(task, task.batch(4))
        halves = [{name: x[2 * i : 2 * i + 2] for name, x in batch.items()} for i in range(2)]
        sum(model(**half).loss / 2 for half in halves).backward()
        assert_close(found[task.name], gradients(model), atol=1e-6, rtol=1e-4)


def test_command_line_without_a_prefix(tmp_path: Path) -> None:
    """As many latents as tokens: the norm of the prefix has nothing to do."""
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text(f"a {split} text of some words\n" * 200)
    options = {
        "model.max_latents": "64",
        "model.num_channels": "16",
        "model.num_heads": "2",
        "model.num_self_attention_layers": "1",
        "data": "LocalTextDataModule",
        "data.train_files": str(tmp_path / "train.txt"),
        "data.valid_files": str(tmp_path / "valid.txt"),
        "data.dataset_dir": str(tmp_path / "data"),
        "data.tokenizer": str(ROOT / "tests" / "golden" / "clm_1" / "hub"),
        "data.max_seq_len": "64",
        "data.batch_size": "2",
        "data.num_workers": "0",
        "trainer.devices": "2",
        "trainer.strategy": "ddp",
        "trainer.accelerator": "cpu",
        "trainer.max_steps": "3",
        "trainer.default_root_dir": str(tmp_path / "logs"),
        "optimizer": "AdamW",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "perceiver.scripts.text.clm", "fit", *arguments]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-5000:]
