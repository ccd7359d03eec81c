"""The checkpoint that one of two processes writes has the streams of both."""

from pathlib import Path

import pytest

from tests.data.text.test_streaming import hub_folder, texts_of
from tests.processes import Interpreter
from tests.tokenizers import byte_tokenizer

CODE = """
from itertools import islice
import torch
from perceiver.data.text import C4DataModule

torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)

def loader():
    data = C4DataModule(f"{folder}/tokenizer", 23, source=f"{folder}/hub", batch_size=3, num_train_workers=0,
                        shuffle_window_size=6, rank=rank, world_size=2)
    return data.train_dataloader()

def taken(loader, count):
    return [[x.tolist() for x in batch] for batch in islice(loader, count)]

whole = taken(loader(), 12)
stopped = loader()
taken(stopped, 5)
state = stopped.state_dict()
if rank == 0:
    torch.save(state, f"{folder}/state.pt")
torch.distributed.barrier()
resumed = loader()
resumed.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
assert taken(resumed, 7) == whole[5:]
assert sorted(state["states"]) == [0, 1]
with open(f"{folder}/{rank}.txt", "w") as file:
    print(whole, file=file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    hub_folder(tmp_path / "hub", texts_of(5))
    byte_tokenizer(tmp_path / "tokenizer")
    programs = [f"folder, rank = {str(tmp_path)!r}, {rank}\n{CODE}" for rank in range(2)]
    with Interpreter("import datasets, pytorch_lightning, transformers") as interpreter:
        interpreter.run(tmp_path, *programs)
    batches = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert batches[0] != batches[1]
