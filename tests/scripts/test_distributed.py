"""DDP and FSDP2 with two processes on CPU: they train what one process trains, and all checkpoints are read alike.

Starting processes takes longer than what they do, so each test starts as few as it can and then asserts a lot.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PerceiverTokenizer

from perceiver.model.core.checkpoint import read_checkpoint
from perceiver.model.text import mlm
from tests.model.helpers import assert_same_parameters
from tests.processes import ENVIRONMENT, Interpreter
from tests.scripts.distributed_runs import MODELS, STRATEGIES


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    imports = (
        "import datasets, torch.distributed.checkpoint, perceiver.scripts.text.clm, tests.scripts.distributed_runs"
    )
    with Interpreter(imports, PYTHONWARNINGS="default") as interpreter:
        yield interpreter


def assert_close(actual: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    torch.testing.assert_close(actual["parameters"], expected["parameters"], rtol=0, atol=tolerance)
    assert actual["val_loss"] == pytest.approx(expected["val_loss"], abs=5 * tolerance)
    assert actual["norms"] == pytest.approx(expected["norms"], rel=5 * tolerance)


class Results:
    """What `distributed_runs.py` saved."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.strategies = [name for name in STRATEGIES if self.checkpoint(name).exists()]
        assert {"one", "ddp", "fsdp"} <= set(self.strategies)

    def __call__(self, strategy: str, run: str, rank: int = 0) -> dict[str, Any]:
        return torch.load(self.folder / f"{self.model}-{strategy}-{run}-{rank}.pt", weights_only=True)

    def checkpoint(self, strategy: str) -> Path:
        return self.folder / f"{self.model}-{strategy}-resumed.ckpt"


def check_equal_to_one_process(result: Results) -> None:
    for strategy in ("ddp", "fsdp"):
        assert_close(result(strategy, "plain"), result("one", "plain"), 1e-6)
        losses = torch.tensor([result(strategy, "plain", rank)["losses"] for rank in (0, 1)]).mean(dim=0)
        assert losses.tolist() == pytest.approx(result("one", "plain")["losses"], abs=5e-6)


def check_random_numbers(result: Results) -> None:
    """Each process draws others, for dropout and for the prefix, and the same with both strategies."""
    ddp, fsdp = ([result(strategy, "dropout", rank) for rank in (0, 1)] for strategy in ("ddp", "fsdp"))
    assert not set(ddp[0]["draws"]) & set(ddp[1]["draws"])
    for rank in (0, 1):
        assert fsdp[rank]["draws"] == ddp[rank]["draws"]
        assert_close(fsdp[rank], ddp[0], 1e-6)
        assert_same_parameters(fsdp[rank]["parameters"], fsdp[0]["parameters"])


def check_resumed(result: Results) -> None:
    """With activation checkpointing and stopped in between: as without and in one go."""
    for strategy in result.strategies:
        whole, begun = result("fsdp" if strategy == "sharded" else strategy, "dropout"), result(strategy, "begun")
        resumed = result(strategy, "resumed")
        assert begun["draws"] + resumed["draws"] == whole["draws"]
        assert begun["losses"] + resumed["losses"] == pytest.approx(whole["losses"], abs=1e-6)
        assert resumed["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-6)
        torch.testing.assert_close(resumed["parameters"], whole["parameters"], rtol=0, atol=1e-6)


def check_checkpoints(result: Results) -> None:
    """They hold the same, however they were saved."""
    hyper_parameters = read_checkpoint(result.checkpoint("one")).hyper_parameters
    for strategy in result.strategies:
        file = result.checkpoint(strategy)
        assert file.is_dir() == (strategy == "sharded")
        assert read_checkpoint(file).hyper_parameters == hyper_parameters
        lit_model = MODELS[result.model][0].load_from_checkpoint(file)
        assert_same_parameters(lit_model.state_dict(), result(strategy, "resumed")["parameters"])


def check_accumulation(result: Results) -> None:
    """Batches with unequal numbers of labels, of both processes, are one large batch."""
    for strategy in ("one", "ddp", "fsdp"):
        assert_close(result(strategy, "accumulated"), result("one", "unequal"), 1e-6)


def check_clipped_shared_and_frozen_layers(result: Results) -> None:
    for strategy in ("one", "ddp", "fsdp"):
        assert min(result(strategy, "plain")["norms"]) > 1.0
        clipped = result(strategy, "shared")
        assert len(clipped["norms"]) > 1 and clipped["norms"] == pytest.approx([0.3] * len(clipped["norms"]), abs=1e-5)
        assert_close(clipped, result("one", "shared"), 1e-6)


def check_bfloat16(result: Results) -> None:
    for precision, dtype in (("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)):
        sharded, copied = result("fsdp", precision), result("ddp", precision)
        assert {parameter.dtype for parameter in sharded["parameters"].values()} == {dtype}
        assert sharded["val_loss"] == pytest.approx(copied["val_loss"], abs=1e-3)
        assert sharded["val_loss"] == pytest.approx(result("one", "plain")["val_loss"], abs=1e-2)
        assert abs(sharded["val_loss"] - result("one", "plain")["val_loss"]) > 1e-5


needs_distributed = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


@needs_distributed
def test_two_processes_train_what_one_trains(interpreter: Interpreter, tmp_path: Path) -> None:
    program = "from tests.scripts.distributed_runs import main; main({rank})"
    for text in interpreter.run(tmp_path, *(program.format(rank=rank) for rank in (0, 1))):
        assert "view tensor" not in text  # torch's warning, see `LitModel.configure_model`
    for model in MODELS:
        result = Results(tmp_path, model)
        check_equal_to_one_process(result)
        check_random_numbers(result)
        check_resumed(result)
        check_checkpoints(result)
    result = Results(tmp_path, "mlm")
    assert result.strategies == list(STRATEGIES)
    check_accumulation(result)
    check_clipped_shared_and_frozen_layers(result)
    check_bfloat16(result)
    for rank in (0, 1):
        assert "set tensor_parallel_size=1 and data_parallel_size=2" in (tmp_path / f"error-{rank}.txt").read_text()


COMMAND = """fit --data=PydocTextDataModule --data.tokenizer=tokenizer --data.max_seq_len=61 --data.num_workers=0
    --data.batch_size=2 --data.valid_batch_size=2 --model.num_latents=3 --model.num_latent_channels=16
    --model.encoder.num_input_channels=11 --model.encoder.num_self_attention_layers_per_block=1
    --model.encoder.num_cross_attention_qk_channels=8 --model.encoder.num_cross_attention_v_channels=16
    --model.encoder.num_self_attention_qk_channels=8 --model.encoder.num_self_attention_v_channels=16
    --model.decoder.num_cross_attention_qk_channels=8 --model.decoder.num_cross_attention_v_channels=16
    --model.masked_samples=["a<mask>c"] --optimizer=AdamW --optimizer.lr=1e-2 --optimizer.eps=1e-3
    --trainer.accelerator=cpu
    --trainer.devices=2 --trainer.max_steps=4 --trainer.val_check_interval=2 --trainer.limit_val_batches=1
    --trainer.gradient_clip_val=0.5 --trainer.callbacks.save_top_k=-1 --trainer.enable_progress_bar=false
    --trainer.enable_model_summary=false""".split()
FSDP2 = """--trainer.strategy=ModelParallelStrategy --trainer.strategy.data_parallel_size=2
    --trainer.strategy.tensor_parallel_size=1 --trainer.strategy.save_distributed_checkpoint=false""".split()


def run(folder: Path, *command: str) -> None:
    environment = os.environ | ENVIRONMENT | {"PYTHONWARNINGS": "default"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "view tensor" not in done.stderr


@needs_distributed
@pytest.mark.slow
def test_command_line(tmp_path: Path) -> None:
    """DDP, processes started by Lightning; then FSDP2, started by torchrun, from the middle of that run to its end."""
    PerceiverTokenizer().save_pretrained(tmp_path / "tokenizer")
    run(tmp_path, "-m", "perceiver.scripts.text.mlm", *COMMAND, "--trainer.strategy=ddp")
    folder = tmp_path / "logs/mlm/version_0/checkpoints"
    files = {torch.load(file, weights_only=True)["global_step"]: file for file in folder.glob("epoch*.ckpt")}
    assert sorted(files) == [2, 4]

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = ["-m", "perceiver.scripts.text.mlm", *COMMAND, *FSDP2, f"--ckpt_path={files[2]}"]
    run(tmp_path, *torchrun, *script)
    sharded = tmp_path / "logs/mlm/version_1/checkpoints/last.ckpt"
    trained, copied = read_checkpoint(sharded), read_checkpoint(folder / "last.ckpt")
    assert trained.hyper_parameters == copied.hyper_parameters
    torch.testing.assert_close(trained.state_dict, copied.state_dict, rtol=0, atol=1e-6)
    begin = read_checkpoint(files[2]).state_dict
    assert any((trained.state_dict[name] - begin[name]).abs().max() > 1e-3 for name in begin)

    for i, file in enumerate((folder / "last.ckpt", sharded)):
        mlm.convert_checkpoint(
            save_dir=tmp_path / f"{i}", ckpt_url=str(file), tokenizer_name=str(tmp_path / "tokenizer")
        )
        expected = read_checkpoint(file).state_dict
        for model in (
            mlm.PerceiverMaskedLanguageModel.from_pretrained(tmp_path / f"{i}"),
            mlm.PerceiverMaskedLanguageModel.from_checkpoint(file),
            mlm.LitMaskedLanguageModel.load_from_checkpoint(file),
        ):
            assert_same_parameters(model.backend_model.state_dict(), expected)


# Rank and address are what Lightning would set for the processes that it starts.
COMMAND_LINE = """
import os
from perceiver.scripts.text import clm

os.environ.update(LOCAL_RANK="{rank}", MASTER_ADDR="127.0.0.1", MASTER_PORT="{port}")
try:
    clm.main({arguments})
except SystemExit as stopped:
    print("exit code", stopped.code)
"""


@needs_distributed
def test_sigterm_to_the_main_process_stops_all(interpreter: Interpreter, tmp_path: Path) -> None:
    """They stop after the same step, save once, and end; a process that waits for another would wait forever."""
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i} {name}\n" for i in range(400)))
    flags = """fit --data=LocalTextDataModule --data.train_files=train.txt --data.valid_files=valid.txt
        --data.num_workers=0 --data.tokenizer=bytes --data.max_seq_len=13 --data.batch_size=4
        --model.max_latents=5 --model.num_channels=24
        --model.num_heads=2 --model.num_self_attention_layers=2 --trainer.accelerator=cpu --trainer.devices=2
        --trainer.strategy=ddp --trainer.max_epochs=-1 --trainer.limit_val_batches=1 --trainer.val_check_interval=3
        --trainer.num_sanity_val_steps=0 --lr_scheduler=ConstantWithWarmupLR"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = [COMMAND_LINE.format(rank=rank, port=port, arguments=flags.split()) for rank in (0, 1)]
    main_process, _ = interpreter.start(tmp_path, *programs)
    logs = [tmp_path / f"{rank}.log" for rank in (0, 1)]
    while "val_loss" not in (text := logs[0].read_text()):  # it trains
        assert "exit code" not in text and "Traceback" not in text, text
        time.sleep(0.1)
    os.kill(main_process, signal.SIGTERM)
    codes, texts = interpreter.wait(), [log.read_text() for log in logs]
    ends = [[line for line in text.splitlines() if line.startswith("exit code")] for text in texts]
    assert codes == [0, 0] and ends == [["exit code 143"], ["exit code 0"]], texts
    text = "".join(texts)
    assert text.count("stopped by SIGTERM after step ") == 1 and "Traceback" not in text
    step = int(text.split("stopped by SIGTERM after step ")[1].split(".")[0])
    (last,) = tmp_path.glob("logs/clm/version_0/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == step
