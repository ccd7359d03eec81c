"""The console command `perceiver`: training scripts and conversions under one name.

    perceiver mlm fit ...                                        the training script of a task
    perceiver preproc wikitext ...                               preprocesses text ahead of training
    perceiver convert model --task mlm SOURCE SAVE_DIR           official weights in transformers' format -> a folder
    perceiver convert checkpoint --task mlm CKPT SAVE_DIR --tokenizer NAME      Lightning checkpoint -> a folder

torch and the libraries around it are imported by the chosen command, not by `--help` and `--version`.
Exit codes: 0 done, 1 failed (the reason is the last line of stderr), 2 wrong usage.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from perceiver import __version__

# task -> (package with the convert functions, training script)
TASKS = {
    "clm": ("perceiver.model.text.clm", "perceiver.scripts.text.clm"),
    "mlm": ("perceiver.model.text.mlm", "perceiver.scripts.text.mlm"),
    "text-classifier": ("perceiver.model.text.classifier", "perceiver.scripts.text.classifier"),
    "token-classifier": ("perceiver.model.text.token_classifier", "perceiver.scripts.text.token_classifier"),
}
# tasks that transformers' own Perceiver classes have weights for
OFFICIAL_TASKS = ("mlm", "text-classifier")

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
            _, script = TASKS[argv[0]]
            importlib.import_module(script).main(argv[1:])
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
    checkpoint.add_argument(
        "--tokenizer", required=True, metavar="NAME", help="folder or id of the tokenizer it was trained with"
    )
    for kind in (model, checkpoint):
        kind.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
        kind.add_argument("--task", required=True, choices=OFFICIAL_TASKS if kind is model else sorted(TASKS))
        kind.add_argument("--push-to-hub", action="store_true", help="upload SAVE_DIR as well")
    return result


def convert(arguments: argparse.Namespace) -> int:
    """Runs `perceiver convert model` or `perceiver convert checkpoint` and returns the exit code."""
    package, _ = TASKS[arguments.task]
    task = importlib.import_module(package)
    upload = {"push_to_hub": True} if arguments.push_to_hub else {}
    try:
        if arguments.kind == "model":
            task.convert_model(save_dir=arguments.save_dir, source_repo_id=arguments.source, **upload)
        else:
            task.convert_checkpoint(
                save_dir=arguments.save_dir, ckpt_url=arguments.source, tokenizer_name=arguments.tokenizer, **upload
            )
    except (OSError, ValueError) as error:  # a source that is missing, unreadable or of a wrong kind
        return failed(str(error))
    print(f"wrote {arguments.save_dir}")
    return 0


def failed(reason: str) -> int:
    """Prints why and returns the exit code of a failure."""
    print(f"perceiver: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
