"""Scores pieces of music with a symbolic audio model.

perceiver symbolic-audio evaluate --model=my-symbolic-audio --data a.mid b.mid
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from perceiver.scripts import generation
from perceiver.scripts.parsing import OneLineErrors


def main(args: Sequence[str]) -> None:
    """Runs the command line `args`."""
    generation.run(evaluate_parser(), evaluate, args)


def evaluate_parser() -> OneLineErrors:
    """The arguments of `evaluate`."""
    parser = OneLineErrors(
        prog="perceiver symbolic-audio evaluate",
        description="Scores every token of pieces but the first of each, with as much context as the model has.",
        allow_abbrev=False,
    )
    generation.add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="MIDI files, or folders of them, each a piece."
    )
    generation.add_scoring_arguments(parser)
    return parser


def evaluate(arguments: Namespace) -> None:
    """Runs parsed arguments and prints the results.

    Raises:
        OSError, ValueError: if a file is missing, can't be read or doesn't fit, or an argument is out of range.
    """
    files = [file for name in arguments.data for file in midi_files(Path(name))]
    generation.check_output(arguments)
    import torch

    from perceiver.model.core.evaluation import evaluate_tokens
    from perceiver.processing.midi import encode_midi

    model = generation.load_backend("symbolic-audio", arguments.model)
    device = generation.to_device(model, arguments.device)
    pieces = [torch.tensor(encode_midi(file), dtype=torch.int64) for file in files]
    num_tokens = sum(max(len(piece) - 1, 0) for piece in pieces)
    with generation.scoring(arguments, device, num_tokens) as options:
        result = evaluate_tokens(model, pieces, **options)
    values = {name: getattr(result, name) for name in ("nats", "num_tokens", "bits_per_token", "perplexity_per_token")}
    generation.show_results(arguments, model, {"num_pieces": len(pieces), **values})


def midi_files(path: Path) -> list[Path]:
    """A file, or the MIDI files below a folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path.is_file():
        return [path]
    if found := sorted(file for file in path.rglob("*") if file.suffix.lower() in (".mid", ".midi")):
        return found
    raise FileNotFoundError(f"there is no MIDI file {path}")
