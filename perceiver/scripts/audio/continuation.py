"""Continues a piece of music with a symbolic audio model.

perceiver symbolic-audio continue in.mid out.mid --model=my-symbolic-audio
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from perceiver.scripts import generation
from perceiver.scripts.parsing import OneLineErrors


def main(args: Sequence[str]) -> None:
    """Runs the command line `args`."""
    generation.run(continue_parser(), continue_piece, args)


def continue_parser() -> OneLineErrors:
    """The arguments of `continue`."""
    parser = OneLineErrors(
        prog="perceiver symbolic-audio continue",
        description="Continues a piece of music. The result has the prompt in it, and a text event where that ends.",
        allow_abbrev=False,
    )
    parser.add_argument("prompt", help="MIDI file to continue.")
    parser.add_argument("result", help="MIDI file to write. Next to it, with --render, the same as a WAV file.")
    generation.add_model_arguments(parser)
    parser.add_argument("--max_prompt_length", type=int | None, help="Tokens of the prompt to keep, its first ones.")
    parser.add_argument("--render", type=bool, default=False, help="Whether to write a WAV file, too.")
    parser.add_argument("--sf2_path", metavar="FILE", help="Sound font to play it with.")
    generation.add_sampling_arguments(parser)
    return parser


def continue_piece(arguments: Namespace) -> None:
    """Runs parsed arguments.

    Raises:
        OSError, ValueError: if a file is missing, can't be read or doesn't fit, or an argument is out of range.
    """
    result = Path(arguments.result)
    if not result.parent.is_dir():
        raise FileNotFoundError(f"there is no folder for {result}")
    if not Path(arguments.prompt).is_file():
        raise FileNotFoundError(f"there is no file {arguments.prompt}")
    options = generation.sampling(arguments)
    import torch
    from transformers import pipeline

    model = generation.load_hugging_face("symbolic-audio", arguments.model)
    device = generation.to_device(model, arguments.device)
    print(f"{arguments.model} on {device}", file=sys.stderr, flush=True)
    continue_prompt = pipeline("symbolic-audio-generation", model=model, device=device)  # type: ignore[call-overload]
    audio = {"max_prompt_length": arguments.max_prompt_length, "sf2_path": arguments.sf2_path}
    torch.manual_seed(arguments.seed)  # not earlier: making the model draws numbers
    piece = continue_prompt(
        arguments.prompt, render=arguments.render, **{k: v for k, v in audio.items() if v is not None}, **options
    )
    piece["generated_audio_midi"].write(str(result))
    written = [result]
    if sound := piece.get("generated_audio_wav"):
        written.append(result.with_suffix(".wav"))
        written[1].write_bytes(sound)
    length = piece["generated_audio_midi"].get_end_time()
    print(f"wrote {' and '.join(map(str, written))}, {length:.1f} s")
