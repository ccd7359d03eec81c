"""Converts all official models, and the training checkpoints that a file names, into Hugging Face folders.

    python examples/convert.py --output_dir models [--checkpoints checkpoints.json] [--push-to-hub]

The same as `perceiver convert --all`. The file is a list like

    [{"task": "clm", "ckpt": "logs/clm/version_0/checkpoints/last.ckpt", "name": "my-clm",
      "tokenizer": "deepmind/language-perceiver"}]
"""

import sys

from perceiver.scripts.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", "--all", *sys.argv[1:]]))
