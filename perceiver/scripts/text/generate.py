"""Continues a text with a causal language model.

perceiver clm generate --model=krasserm/perceiver-ar-clm-base --prompt="A man was reading a book on"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import Namespace

from perceiver.scripts import generation
from perceiver.scripts.parsing import OneLineErrors
from perceiver.scripts.text.evaluate import load_tokenizer


def main(args: Sequence[str]) -> None:
    """Runs the command line `args`."""
    generation.run(generate_parser(), generate, args)


def generate_parser() -> OneLineErrors:
    """The arguments of `generate`."""
    parser = OneLineErrors(
        prog="perceiver clm generate", description="Continues a text. It is printed as it comes.", allow_abbrev=False
    )
    generation.add_model_arguments(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="What is to be continued. Default: what comes from standard input."
    )
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="Folder or hub id of the tokenizer, or bytes. Default: the model's."
    )
    generation.add_sampling_arguments(parser)
    return parser


def generate(arguments: Namespace) -> None:
    """Runs parsed arguments.

    Raises:
        OSError, ValueError: if a file is missing, can't be read or doesn't fit, or an argument is out of range.
    """
    prompt = sys.stdin.read() if arguments.prompt is None else arguments.prompt
    if not prompt:
        raise ValueError("the prompt is empty: give --prompt a text")
    options = generation.sampling(arguments)
    import torch
    from transformers import TextStreamer

    model = generation.load_hugging_face("clm", arguments.model)
    tokenizer = load_tokenizer(arguments.tokenizer, arguments.model)
    device = generation.to_device(model, arguments.device)
    print(f"{arguments.model} on {device}", file=sys.stderr, flush=True)
    encoded = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(device)
    torch.manual_seed(arguments.seed)  # not earlier: making the model draws numbers
    model.generate(
        input_ids=encoded.input_ids,
        attention_mask=encoded.attention_mask,
        streamer=TextStreamer(tokenizer, skip_special_tokens=True),
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
