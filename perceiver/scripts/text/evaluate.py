"""Scores texts with a causal language model: `perceiver clm evaluate ...` (`perceiver.model.text.clm.evaluation`).

perceiver clm evaluate --model=krasserm/perceiver-ar-clm-base --data book.txt --device=cuda
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from perceiver.scripts.convert import processor_of_run
from perceiver.scripts.meter import Meter
from perceiver.scripts.parsing import OneLineErrors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from perceiver.model.text.clm import CausalLanguageModel
    from perceiver.model.text.clm.evaluation import TextEvaluation

PROGRAM = "perceiver clm evaluate"


def main(args: Sequence[str]) -> None:
    """Runs the command line `args`."""
    try:
        evaluate(evaluate_parser().parse_args(list(args)))
    except (OSError, ValueError) as error:  # files that are missing or don't fit together
        sys.exit(f"{PROGRAM}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def evaluate_parser() -> OneLineErrors:
    """The arguments of `evaluate`."""
    parser = OneLineErrors(
        prog=PROGRAM,
        description="Scores every token of texts but the first of each, with as much context as the model has.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="File with these arguments, as --print_config prints them.")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="Hugging Face folder, hub id or Lightning checkpoint."
    )
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="UTF-8 text files, each a text of its own."
    )
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="Folder or hub id of the tokenizer, or bytes. Default: the model's."
    )
    parser.add_argument(
        "--stride",
        type=int | None,
        help="Tokens that a window scores. Default: max_latents. Fewer take longer and have more context.",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="Windows that the model sees at once.")
    parser.add_argument(
        "--device", metavar="NAME", help="Where the model runs: cpu, cuda, ... Default: cuda if there is one, else cpu."
    )
    parser.add_argument("--output", metavar="FILE", help="JSON file to write the results to.")
    return parser


def evaluate(arguments: Namespace) -> None:
    """Prints how well a model predicts texts.

    Raises:
        OSError: if a file is missing or can't be written.
        ValueError: if a file can't be read, or if model, tokenizer, texts and arguments don't fit together.
    """
    if missing := [file for file in arguments.data if not Path(file).is_file()]:
        raise FileNotFoundError(f"there is no file {', '.join(missing)}")  # now, not after the files before it
    if arguments.output is not None and not Path(arguments.output).parent.is_dir():
        raise FileNotFoundError(f"there is no folder for --output={arguments.output}")
    import torch

    from perceiver.model.text.clm.evaluation import evaluate_text, tokenized

    model = load_model(arguments.model)
    tokenizer = load_tokenizer(arguments.tokenizer, arguments.model)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} can't be used: {error}") from error
    num_tokens = sum(len(tokens) - 1 for tokens, _ in tokenized(read_texts(arguments.data), tokenizer))
    print(f"{arguments.model} on {device}, {num_tokens:,} tokens to score", file=sys.stderr, flush=True)
    meter = Meter("tokens", num_tokens, file=sys.stderr)
    result = evaluate_text(
        model,
        tokenizer,
        read_texts(arguments.data),
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        progress=lambda number: meter.show(number) if meter.is_time() or number == num_tokens else None,
    )
    meter.close()
    values = {**asdict(result), **metrics(result)}
    for name, value in values.items():
        print(f"{name:<22}{value:>14,.6g}" if isinstance(value, float) else f"{name:<22}{value:>14,}")
    if arguments.output is not None:
        settings = {
            "model": arguments.model,
            "data": arguments.data,
            "stride": arguments.stride or model.max_latents,
            "max_seq_len": model.max_seq_len,
        }
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        Path(arguments.output).write_text(json.dumps({**settings, **finite}, indent=2) + "\n")


def metrics(result: TextEvaluation) -> dict[str, float]:
    names = ("bits_per_byte", "bits_per_token", "perplexity_per_token", "perplexity_per_word")
    return {name: getattr(result, name) for name in names}


def load_model(source: str) -> CausalLanguageModel:
    """The model of a Hugging Face folder, a hub id or a Lightning checkpoint. Errors as in `read_checkpoint`."""
    from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
    from perceiver.model.text.clm import CausalLanguageModel, CausalLanguageModelConfig

    checkpoint = read_checkpoint(source)
    names = {field.name for field in fields(CausalLanguageModelConfig)}
    if "max_latents" not in checkpoint.hyper_parameters:
        raise ValueError(f"{source} is no causal language model: its configuration has no max_latents")
    values = {name: value for name, value in checkpoint.hyper_parameters.items() if name in names}
    model = CausalLanguageModel(CausalLanguageModelConfig.from_dict(values))
    load_parameters(model, checkpoint.state_dict, source)
    return model


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
