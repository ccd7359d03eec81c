"""Preprocesses data ahead of training: `python -m perceiver.scripts.text.preproc DATA ...`, and `...audio.preproc`.

    python -m perceiver.scripts.text.preproc wikitext --tokenizer=deepmind/language-perceiver --max_seq_len=4096 \\
        --task=clm --preproc_workers=4
    python -m perceiver.scripts.audio.preproc maestro --max_seq_len=6144 --preproc_workers=4

Flags are the arguments of the data module; a training with the same ones finds the data in `--dataset_dir`. Those that
don't change what is there (see docs/data.md and docs/audio-data.md) may differ. What is there already is not touched.
An interrupted run leaves nothing that a later one would use, but for what it downloaded.

Training does the same by itself when it starts. C4 has no preprocessing: it is streamed.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# Names on the command line: data modules of `perceiver.data.<domain>`.
DATA_MODULES = {
    "text": {
        "bookcorpus": "BookCorpusDataModule",
        "bookcorpusopen": "BookCorpusOpenDataModule",
        "enwik8": "Enwik8DataModule",
        "imdb": "ImdbDataModule",
        "local": "LocalTextDataModule",
        "local_token_classification": "LocalTokenClassificationDataModule",
        "pydoc": "PydocTextDataModule",
        "token_classification": "TokenClassificationDataModule",
        "wikipedia": "WikipediaDataModule",
        "wikitext": "WikiTextDataModule",
    },
    "audio": {
        "giantmidi": "GiantMidiPianoDataModule",
        "local": "LocalMidiDataModule",
        "maestro": "MaestroV3DataModule",
        "maestro-v3": "MaestroV3DataModule",  # as in 0.11
        "synthetic": "SyntheticPianoDataModule",
    },
}


# Names of `perceiver preproc`, which knows both domains: domain and name there.
NAMES = {name: ("text", name) for name in DATA_MODULES["text"]} | {
    "local_midi" if name == "local" else name: ("audio", name) for name in DATA_MODULES["audio"]
}


def command(args: Sequence[str]) -> None:
    """Runs `perceiver preproc NAME ...`, for data of any domain."""
    if args and args[0] in NAMES:
        domain, name = NAMES[args[0]]
        main(domain, [name, *args[1:]])
    elif set(args) & {"--help", "-h"}:
        print(
            "usage: perceiver preproc DATA [--flag=value ...]\n\nPreprocesses data ahead of training. DATA is one of\n"
        )
        print("\n".join(f"  {name:<28}{DATA_MODULES[domain][own]}" for name, (domain, own) in NAMES.items()))
        print("\nperceiver preproc DATA --help lists the flags of one.")
        sys.exit(0)
    else:
        known = ", ".join(NAMES)
        close = get_close_matches(args[0], NAMES, 1, 0.5) if args else []
        hint = f"did you mean {close[0]}?" if close else f"there are {known}"
        print(f"perceiver preproc: there is no data {args[0] if args else 'named'}; {hint}", file=sys.stderr)
        sys.exit(2)


def main(domain: str, args: Sequence[str] | None = None) -> None:
    """Runs the command line `args`, `sys.argv[1:]` if None, of a domain."""
    package = importlib.import_module(f"perceiver.data.{domain}")
    modules = {name: getattr(package, module) for name, module in DATA_MODULES[domain].items()}
    config = parser(modules).parse_args(None if args is None else list(args))
    arguments = dict(config[config.data])
    arguments.pop("config", None)
    try:
        module = modules[config.data](**arguments)
        found = module.cache_dir.is_dir()
        module.prepare_data()
        module.setup()
    except (OSError, ValueError) as error:  # arguments, files or labels that are not as they must be
        sys.exit(f"preproc: error: {error}")
    print(f"{module.cache_dir}{' (was there already)' if found else ''}")
    for split, examples in module.examples.items():
        size = f"{examples.num_bytes:>18,} bytes" if domain == "text" else f"{examples.num_pieces:>10,} pieces"
        print(f"{split:<8}{size}{len(examples.tokens):>18,} tokens{len(examples):>14,} examples")
    skipped = module.cache_dir / "skipped.json"
    if skipped.exists() and (pieces := json.loads(skipped.read_text())):
        print(f"skipped {len(pieces):>10,} pieces, listed in {skipped}")


def parser(modules: dict[str, Any]) -> ArgumentParser:
    """The arguments: the name of a data module and its own."""
    from jsonargparse import ArgumentParser

    description = "Preprocesses data ahead of training."
    result = ArgumentParser(prog="preproc.py", description=description, allow_abbrev=False)
    names = result.add_subcommands(dest="data", metavar="DATA")
    for name, module in modules.items():
        arguments = ArgumentParser(description=module.__doc__.splitlines()[0], allow_abbrev=False)
        arguments.add_argument("--config", action="config", help="File with these arguments.")
        arguments.add_class_arguments(module)
        names.add_subcommand(name, arguments)
    return result
