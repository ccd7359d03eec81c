"""Scores texts with a causal language model: `perceiver clm evaluate ...` (`perceiver.model.text.clm.evaluation`).

perceiver clm evaluate --model=krasserm/perceiver-ar-clm-base --data book.txt --device=cuda
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from perceiver.scripts import generation
from perceiver.scripts.convert import processor_of_run
from perceiver.scripts.parsing import OneLineErrors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from perceiver.model.text.clm.evaluation import TextEvaluation


def main(args: Sequence[str]) -> None:
    """Runs the command line `args`."""
    generation.run(evaluate_parser(), evaluate, args)


def evaluate_parser() -> OneLineErrors:
    """The arguments of `evaluate`."""
    parser = OneLineErrors(
        prog="perceiver clm evaluate",
        description="Scores every token of texts but the first of each, with as much context as the model has.",
        allow_abbrev=False,
    )
    generation.add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="UTF-8 text files, each a text of its own."
    )
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="Folder or hub id of the tokenizer, or bytes. Default: the model's."
    )
    generation.add_scoring_arguments(parser)
    return parser


def evaluate(arguments: Namespace) -> None:
    """Prints how well a model predicts texts.

    Raises:
        OSError: if a file is missing or can't be written.
        ValueError: if a file can't be read, or if model, tokenizer, texts and arguments don't fit together.
    """
    if missing := [file for file in arguments.data if not Path(file).is_file()]:
        raise FileNotFoundError(f"there is no file {', '.join(missing)}")  # now, not after the files before it
    generation.check_output(arguments)
    from perceiver.model.text.clm.evaluation import evaluate_text, tokenized

    model = generation.load_backend("clm", arguments.model)
    tokenizer = load_tokenizer(arguments.tokenizer, arguments.model)
    device = generation.to_device(model, arguments.device)
    num_tokens = sum(len(tokens) - 1 for tokens, _ in tokenized(read_texts(arguments.data), tokenizer))
    with generation.scoring(arguments, device, num_tokens) as options:
        result = evaluate_text(model, tokenizer, read_texts(arguments.data), **options)
    generation.show_results(arguments, model, {**asdict(result), **metrics(result)})


def metrics(result: TextEvaluation) -> dict[str, float]:
    names = ("bits_per_byte", "bits_per_token", "perplexity_per_token", "perplexity_per_word")
    return {name: getattr(result, name) for name in names}


def load_tokenizer(name: str | None, model: str) -> PreTrainedTokenizerBase:
    """The tokenizer `name`, or that of a model's folder or hub id.

    Raises:
        ValueError: if there is none.
    """
    from perceiver.processing import text

    name = name or processor_of_run("clm", model).get("tokenizer")
    if name is None and Path(model).suffix == ".ckpt":
        raise ValueError(f"{model} has no tokenizer: pass --tokenizer, the one that the model was trained with")
    try:
        return text.load_tokenizer(name or model)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name or model} has no tokenizer that can be read, see --tokenizer: {error}") from error


def read_texts(files: Sequence[str]) -> Iterator[str]:
    """The texts, byte for byte.

    Raises:
        OSError: if a file can't be read.
        ValueError: if a file is not UTF-8.
    """
    for file in files:
        try:
            yield Path(file).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error}") from error
