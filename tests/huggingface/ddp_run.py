"""Two steps of plain DistributedDataParallel around the model of each task: `python ddp_run.py RANK FOLDER`, twice.

The batches are such that some parameters have nothing to do: short texts, no labels, no prefix. The processes meet in a
file, so no port can be taken. The first one saves the gradients of each task to `FOLDER/gradients.pt`.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.huggingface.tasks import TASKS
from tests.huggingface.test_interface import shorter, without_labels


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", world_size=2, rank=rank)
    gradients: dict[str, dict[str, Tensor]] = {}
    for task in TASKS:
        model = DistributedDataParallel(task.model().train())
        batch = task.batch(4)
        for inputs in (without_labels(batch), shorter(task, batch)):  # the second step fails if the first left some out
            model.zero_grad()
            half = {name: x[2 * rank : 2 * rank + 2] for name, x in inputs.items()}
            model(**half).loss.backward()
        gradients[task.name] = {name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
