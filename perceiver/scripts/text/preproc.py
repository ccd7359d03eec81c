"""Preprocesses text ahead of training: `python -m perceiver.scripts.text.preproc DATA ...`.

    python -m perceiver.scripts.text.preproc wikitext --tokenizer=deepmind/language-perceiver --max_seq_len=4096 \\
        --task=clm --preproc_workers=4

Flags are the arguments of the data module; a training with the same ones finds the text in `--dataset_dir`. Those that
don't change what is there (see docs/data.md) may differ. A text that is there already is not touched. An interrupted
run leaves nothing that a later one would use, and starts from the beginning.

Training does the same by itself when it starts. C4 has no preprocessing: it is streamed.
"""

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

import perceiver.data.text as data
from perceiver.data.text.base import CachedTextDataModule

DATA_MODULES: dict[str, type[CachedTextDataModule[Any]]] = {
    "bookcorpus": data.BookCorpusDataModule,
    "bookcorpusopen": data.BookCorpusOpenDataModule,
    "enwik8": data.Enwik8DataModule,
    "imdb": data.ImdbDataModule,
    "local": data.LocalTextDataModule,
    "local_token_classification": data.LocalTokenClassificationDataModule,
    "pydoc": data.PydocTextDataModule,
    "token_classification": data.TokenClassificationDataModule,
    "wikipedia": data.WikipediaDataModule,
    "wikitext": data.WikiTextDataModule,
}


def parser() -> ArgumentParser:
    """The arguments: the name of a data module and its own."""
    result = ArgumentParser(prog="preproc.py", description="Preprocesses text ahead of training.", allow_abbrev=False)
    names = result.add_subcommands(dest="data", metavar="DATA")
    for name, module in DATA_MODULES.items():
        arguments = ArgumentParser(description=(module.__doc__ or "").splitlines()[0], allow_abbrev=False)
        arguments.add_argument("--config", action="config", help="File with these arguments.")
        arguments.add_class_arguments(module)
        names.add_subcommand(name, arguments)
    return result


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None."""
    commands = parser()
    config = commands.parse_args(None if args is None else list(args))
    arguments = dict(config[config.data])
    arguments.pop("config", None)
    try:
        module = DATA_MODULES[config.data](**arguments)
        found = module.cache_dir.is_dir()
        module.prepare_data()
        module.setup()
    except (OSError, ValueError) as error:  # arguments, files or labels that are not as they must be
        sys.exit(f"preproc: error: {error}")
    print(f"{module.cache_dir}{' (was there already)' if found else ''}")
    for split, examples in module.chunks.items():
        num_bytes, num_tokens = module.num_bytes[split], len(examples.tokens)
        print(f"{split:<8}{num_bytes:>18,} bytes{num_tokens:>18,} tokens{len(examples):>14,} examples")


if __name__ == "__main__":
    main()
