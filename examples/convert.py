"""Converts official models and training checkpoints into Hugging Face folders.

    python examples/convert.py official-models --output_dir models          those that perceiver convert --all knows
    python examples/convert.py training-checkpoints --output_dir models     the published ones of perceiver-io 0.8
    python examples/convert.py all --output_dir models                      both
    python examples/convert.py --output_dir models --checkpoints my.json    official models and your own checkpoints

What is there already is left alone, and one that fails stops no other. `--push_to_hub=true` uploads each folder. The
file is a list like

    [{"task": "clm", "ckpt": "logs/clm/version_0/checkpoints/last.ckpt", "name": "my-clm",
      "tokenizer": "deepmind/language-perceiver"}]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perceiver.scripts import convert

GROUPS = ("official-models", "training-checkpoints", "all")


def checkpoint_url(path: str, version: str = "0.8.0") -> str:
    """Where the results of the published training examples are."""
    return f"https://martin-krasser.com/perceiver/logs-{version}/{path}"


def training_checkpoints() -> list[tuple[str, str, str, dict[str, Any]]]:
    """Task, checkpoint, name of the folder, and arguments of `convert_checkpoint`."""
    from perceiver.processing.image import MNISTPreprocessor

    language_model, best = {"tokenizer_name": "deepmind/language-perceiver"}, "checkpoints/epoch"
    sentiment = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, **language_model}
    digits = {"id2label": {i: i for i in range(10)}, "image_processor": MNISTPreprocessor().image_processor}
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("clm", f"clm-fsdp/version_1/{best}=000-val_loss=2.820", "ar-clm-base", {"tokenizer_name": "xlnet-base-cased"}),
        ("mlm", f"mlm/version_0/{best}=012-val_loss=1.165", "io-mlm-imdb", language_model),
        ("text-classifier", f"txt_clf/version_1/{best}=006-val_loss=0.156", "io-txt-clf-imdb", sentiment),
        ("image-classifier", f"img_clf/version_0/{best}=025-val_loss=0.065", "io-img-clf-mnist", digits),
        ("symbolic-audio", f"sam/version_1/{best}=027-val_loss=1.944", "ar-sam-giant-midi", {}),
    ]
    return [(task, checkpoint_url(f"{path}.ckpt"), f"perceiver-{name}", own) for task, path, name, own in rows]


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", choices=GROUPS, default="official-models")
    parser.add_argument("--output_dir", type=Path, default=Path("krasserm"))
    parser.add_argument("--checkpoints", metavar="FILE", type=Path, help="list of your own checkpoints")
    parser.add_argument("--push_to_hub", "--push-to-hub", nargs="?", const=True, default=False, type=boolean)
    parser.add_argument("--commit_message")
    parser.set_defaults(usage_error=parser.error)
    arguments = parser.parse_args(argv)
    if arguments.commit_message is not None and not arguments.push_to_hub:
        parser.error("--commit_message is for --push_to_hub=true")

    upload = {"push_to_hub": True, "commit_message": arguments.commit_message} if arguments.push_to_hub else {}
    checkpoints = convert.read_list(arguments)
    if arguments.group != "official-models":
        checkpoints += training_checkpoints()
    return convert.convert_all(
        arguments.output_dir, checkpoints, upload, official=arguments.group != "training-checkpoints"
    )


if __name__ == "__main__":
    sys.exit(main())
