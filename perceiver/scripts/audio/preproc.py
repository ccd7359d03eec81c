"""Encodes MIDI files ahead of training: `python -m perceiver.scripts.audio.preproc DATA ...`.

    python -m perceiver.scripts.audio.preproc maestro --max_seq_len=6144 --preproc_workers=4

Flags are the arguments of the data module; a training with the same ones finds the pieces in `--dataset_dir`. Only the
source and what is for validation decide what is there; the other flags may differ. Pieces that are there already are
not touched. An interrupted run leaves nothing that a later one would use, but for what it downloaded. Files that cannot
be read are named and left out.

Training does the same by itself when it starts.
"""

import json
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

import perceiver.data.audio as data

DATA_MODULES: dict[str, type[data.SymbolicAudioDataModule]] = {
    "giantmidi": data.GiantMidiPianoDataModule,
    "local": data.LocalMidiDataModule,
    "maestro": data.MaestroV3DataModule,
    "synthetic": data.SyntheticPianoDataModule,
}


def parser() -> ArgumentParser:
    """The arguments: the name of a data module and its own."""
    result = ArgumentParser(prog="preproc.py", description="Encodes MIDI files ahead of training.", allow_abbrev=False)
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
    except (OSError, ValueError) as error:  # arguments or files that are not as they must be
        sys.exit(f"preproc: error: {error}")
    print(f"{module.cache_dir}{' (was there already)' if found else ''}")
    for split, examples in module.pieces.items():
        num_pieces, num_tokens = examples.num_pieces, len(examples.tokens)
        print(f"{split:<8}{num_pieces:>10,} pieces{num_tokens:>18,} tokens{len(examples):>14,} examples")
    skipped = json.loads((module.cache_dir / "skipped.json").read_text())
    if skipped:
        print(f"skipped {len(skipped):>10,} pieces, listed in {module.cache_dir / 'skipped.json'}")


if __name__ == "__main__":
    main()
