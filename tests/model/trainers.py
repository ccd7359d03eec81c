"""A Lightning trainer for tests: on the CPU, silent, without checkpoints and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl


def trainer(folder: Path, **kwargs: Any) -> pl.Trainer:
    values: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": folder,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    return pl.Trainer(**(values | kwargs))
