"""The console command `perceiver`: training scripts and conversions under one name.

    perceiver mlm fit ...                                        the training script of a task
    perceiver preproc wikitext ...                               preprocesses data ahead of training
    perceiver convert model --task mlm SOURCE SAVE_DIR           official weights in transformers' format -> a folder
    perceiver convert checkpoint --task mlm CKPT SAVE_DIR --tokenizer NAME      Lightning checkpoint -> a folder
    (--image-processor NAME for image classifiers; optical flow, symbolic audio and multimodal models need neither)
    perceiver convert foreign SOURCE SAVE_DIR                    file of another library -> a folder
    perceiver convert export --to transformers SOURCE SAVE_DIR   a folder -> transformers' own Perceiver
    perceiver convert --all --output_dir DIR                     all official models, and those of --checkpoints FILE
    perceiver app FOLDER ...                                     a local page to play with converted models
    perceiver env                                                versions and devices, for a report of an error

torch and the libraries around it are imported by the chosen command, not by `--help` and `--version`.
Exit codes: 0 done, 1 failed (the reason is the last line of stderr), 2 wrong usage.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from perceiver import __version__
from perceiver.scripts import convert, env, preproc
from perceiver.tasks import TASKS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, `sys.argv[1:]` if None, and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] == "preproc":
            preproc.command(argv[1:])
            return 0
        if argv and argv[0] == "app":
            return importlib.import_module("perceiver.app.server").main(argv[1:])
        if argv and argv[0] == "env":
            return env.main(argv[1:])
        if argv and argv[0] in TASKS:
            # sys.argv stays as it is: Lightning starts the other processes of a distributed run with it
            importlib.import_module(TASKS[argv[0]].package.replace(".model.", ".scripts.")).main(argv[1:])
            return 0
        return convert.run(parser().parse_args(argv))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "perceiver":
            raise  # not a missing extra
        return failed(f"{error.name} is not installed: pip install 'perceiver-io[text,vision,audio]'")


def parser() -> argparse.ArgumentParser:
    """The arguments of everything but the training scripts, which parse their own."""
    result = argparse.ArgumentParser(prog="perceiver", description="Perceiver, Perceiver IO and Perceiver AR.")
    result.add_argument("--version", action="version", version=__version__)
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    for task in TASKS:
        names = "|".join(["fit", "validate", "test", *TASKS[task].commands])
        commands.add_parser(task, help=f"perceiver {task} {names} ... (see {task} --help)")
    app = commands.add_parser("app", help="a local page to play with converted models: perceiver app FOLDER ...")
    app.add_argument("folders", nargs="+")
    commands.add_parser("env", help="print versions and devices, for a report of an error")
    commands.add_parser(
        "preproc", help="preprocess text and MIDI files ahead of training: perceiver preproc DATA ... (see --help)"
    )

    convert.add_arguments(commands.add_parser("convert", help="write Hugging Face folders"))
    return result


def failed(reason: str) -> int:
    """Prints why and returns the exit code of a failure."""
    print(f"perceiver: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
