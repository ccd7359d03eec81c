"""The console command `perceiver`: training scripts and conversions under one name.

    perceiver mlm fit ...                                        the training script of a task
    perceiver preproc wikitext ...                               preprocesses text ahead of training
    perceiver convert model --task mlm SOURCE SAVE_DIR           official weights in transformers' format -> a folder
    perceiver convert checkpoint --task mlm CKPT SAVE_DIR --tokenizer NAME      Lightning checkpoint -> a folder
    (--image-processor NAME for image classifiers; optical flow needs neither)

torch and the libraries around it are imported by the chosen command, not by `--help` and `--version`.
Exit codes: 0 done, 1 failed (the reason is the last line of stderr), 2 wrong usage.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from perceiver import __version__


class Task(NamedTuple):
    """What there is for a task: `perceiver.model.<module>` with its convert functions, `perceiver.scripts.<module>`.

    Attributes:
        module: Domain and task.
        official: Whether transformers' own Perceiver classes have weights for it.
        processor: What is saved beside a converted checkpoint, if anything is: one of `PROCESSORS`.
    """

    module: str
    official: bool
    processor: str | None


# The flags that name it, and the arguments of `convert_checkpoint`.
PROCESSORS = {"tokenizer": "tokenizer_name", "image_processor": "image_processor"}

TASKS = {
    "clm": Task("text.clm", official=False, processor="tokenizer"),
    "image-classifier": Task("vision.image_classifier", official=True, processor="image_processor"),
    "mlm": Task("text.mlm", official=True, processor="tokenizer"),
    "optical-flow": Task("vision.optical_flow", official=True, processor=None),
    "text-classifier": Task("text.classifier", official=True, processor="tokenizer"),
    "token-classifier": Task("text.token_classifier", official=False, processor="tokenizer"),
}

PREPROC = "perceiver.scripts.text.preproc"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, `sys.argv[1:]` if None, and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] == "preproc":
            importlib.import_module(PREPROC).main(argv[1:])
            return 0
        if argv and argv[0] in TASKS:
            # sys.argv stays as it is: Lightning starts the other processes of a distributed run with it
            importlib.import_module(f"perceiver.scripts.{TASKS[argv[0]].module}").main(argv[1:])
            return 0
        return convert(parser().parse_args(argv))
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
        commands.add_parser(task, help=f"train, evaluate: perceiver {task} fit|validate|test ... (see {task} --help)")
    commands.add_parser("preproc", help="preprocess text ahead of training: perceiver preproc DATA ... (see --help)")

    kinds = commands.add_parser("convert", help="write a Hugging Face folder").add_subparsers(
        metavar="KIND", required=True, dest="kind"
    )
    model = kinds.add_parser("model", help="from weights that transformers' own Perceiver classes load")
    model.add_argument("source", metavar="SOURCE", help="folder or id on the Hugging Face Hub")
    checkpoint = kinds.add_parser("checkpoint", help="from a Lightning checkpoint")
    checkpoint.add_argument("source", metavar="CKPT", help="path or URL of the .ckpt file")
    help_text = "folder or id of what {} were trained with"
    checkpoint.add_argument("--tokenizer", metavar="NAME", help=help_text.format("text models"))
    checkpoint.add_argument("--image-processor", metavar="NAME", help=help_text.format("image classifiers"))
    for kind in (model, checkpoint):
        kind.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
        tasks = [name for name, task in TASKS.items() if task.official or kind is checkpoint]
        kind.add_argument("--task", required=True, choices=tasks)
        kind.add_argument("--push-to-hub", action="store_true", help="upload SAVE_DIR as well")
    return result


def convert(arguments: argparse.Namespace) -> int:
    """Runs `perceiver convert model` or `perceiver convert checkpoint` and returns the exit code."""
    task = TASKS[arguments.task]
    package = importlib.import_module(f"perceiver.model.{task.module}")
    keywords = {"push_to_hub": True} if arguments.push_to_hub else {}
    try:
        if arguments.kind == "model":
            package.convert_model(save_dir=arguments.save_dir, source_repo_id=arguments.source, **keywords)
        else:
            package.convert_checkpoint(
                save_dir=arguments.save_dir, ckpt_url=arguments.source, **processor_of(arguments), **keywords
            )
    except (OSError, ValueError) as error:  # a source that is missing, unreadable or of a wrong kind
        return failed(str(error))
    print(f"wrote {arguments.save_dir}")
    return 0


def processor_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The argument of `convert_checkpoint` that names tokenizer or image processor. Others: usage error."""
    given = {name: value for name in PROCESSORS if (value := getattr(arguments, name)) is not None}
    needed = TASKS[arguments.task].processor
    if list(given) != ([] if needed is None else [needed]):
        flags = [f"--{name.replace('_', '-')}" for name in PROCESSORS]
        usage = f"no {' and no '.join(flags)}" if needed is None else flags[list(PROCESSORS).index(needed)]
        parser().error(f"--task {arguments.task} needs {usage}")
    return {PROCESSORS[name]: value for name, value in given.items()}


def failed(reason: str) -> int:
    """Prints why and returns the exit code of a failure."""
    print(f"perceiver: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
