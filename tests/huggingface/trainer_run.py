"""Trains a tiny masked language model with Trainer, in as many processes as torchrun starts, and saves its loss curve.

python trainer_run.py FOLDER
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from tests.huggingface.tasks import TASKS


def main(folder: Path) -> None:
    task = TASKS[0]
    data: Any = task.examples(16)
    arguments = TrainingArguments(
        str(folder / "run"),
        max_steps=4,
        per_device_train_batch_size=8 // int(os.environ.get("WORLD_SIZE", "1")),
        learning_rate=1e-2,
        adam_epsilon=1e-3,  # rounding errors are not scaled up
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    trainer = Trainer(task.model(), arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    result = {"losses": [log["loss"] for log in trainer.state.log_history if "loss" in log]}
    result["eval_loss"] = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        (folder / f"{arguments.world_size}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
