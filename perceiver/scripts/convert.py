"""Conversions of the command `perceiver convert`: one model, one checkpoint, or all that are published.

A conversion writes a Hugging Face folder, and all its files or none.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceiver.tasks import PROCESSOR_ARGUMENTS, TASKS

if TYPE_CHECKING:
    from perceiver.model.core.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `perceiver convert`."""
    parser.add_argument("--all", action="store_true", help="convert all official models, into folders of their names")
    parser.add_argument("--output_dir", metavar="DIR", type=Path, help="where --all writes these folders")
    parser.add_argument(
        "--checkpoints",
        metavar="FILE",
        type=Path,
        help="JSON list of training checkpoints that --all converts, too: each with task, ckpt, name and, if its task "
        "has one, tokenizer or image_processor",
    )
    kinds = parser.add_subparsers(metavar="KIND", dest="kind")
    model = kinds.add_parser("model", help="from weights that transformers' own Perceiver classes load")
    model.add_argument("source", metavar="SOURCE", help="folder or id on the Hugging Face Hub")
    checkpoint = kinds.add_parser("checkpoint", help="from a Lightning checkpoint")
    checkpoint.add_argument("source", metavar="CKPT", help="path or URL of the .ckpt file")
    help_text = "folder or id of what {} were trained with. Default: what the run left beside the checkpoint"
    checkpoint.add_argument("--tokenizer", metavar="NAME", help=help_text.format("text models"))
    checkpoint.add_argument("--image-processor", metavar="NAME", help=help_text.format("image classifiers"))
    for kind in (model, checkpoint):
        kind.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
        tasks = [name for name, task in TASKS.items() if task.official is not None or kind is checkpoint]
        kind.add_argument("--task", required=True, choices=tasks)
    foreign = kinds.add_parser("foreign", help="from a file of another library: docs/migration")
    foreign.add_argument("source", metavar="SOURCE", help="path or URL of the file")
    foreign.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
    foreign.add_argument("--processor", metavar="NAME", help="folder or id of a tokenizer or an image processor")
    foreign.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="argument that the original was built with, if its parameters don't tell it, and it is no default",
    )
    export = kinds.add_parser("export", help="to the format of another library")
    export.add_argument("source", metavar="SOURCE", help="folder of ours, or id on the Hugging Face Hub")
    export.add_argument("save_dir", metavar="SAVE_DIR", help="folder to write")
    export.add_argument("--to", required=True, choices=["transformers"], help="whose format")
    for kind in (parser, model, checkpoint, foreign, export):
        kind.add_argument("--push-to-hub", action="store_true", help="upload what is written as well")
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Runs `perceiver convert` and returns the exit code."""
    if arguments.all != (arguments.kind is None) or arguments.all != (arguments.output_dir is not None):
        arguments.usage_error("give either model or checkpoint, or --all with --output_dir")
    keywords: dict[str, Any] = {"push_to_hub": True} if arguments.push_to_hub else {}
    if arguments.all:
        return convert_all(arguments.output_dir, read_list(arguments), keywords)
    if arguments.kind == "foreign":
        given = dict(argument_of(text, arguments.usage_error) for text in arguments.set)
        keywords |= {"processor": arguments.processor, "arguments": given}
        return called("convert_foreign", arguments.source, arguments.save_dir, keywords)
    if arguments.kind == "export":
        return called("export_transformers", arguments.source, arguments.save_dir, keywords)
    if arguments.kind == "model":
        return convert("model", arguments.task, arguments.source, arguments.save_dir, keywords)
    given = processor_of_run(arguments.task, arguments.source) | {k: v for k, v in vars(arguments).items() if v}
    keywords |= processor_of(arguments.task, given, arguments.usage_error)
    return convert("checkpoint", arguments.task, arguments.source, arguments.save_dir, keywords)


def convert_all(
    output_dir: Path, checkpoints: list[tuple[str, str, str, dict[str, Any]]], keywords: Any, *, official: bool = True
) -> int:
    """Converts all official models, and checkpoints (task, ckpt, name, arguments). One that fails stops no other.

    Folders that are there already are left alone.
    """
    sources = [
        ("model", task, repo_id, repo_id.split("/")[-1], keywords)
        for task in (TASKS if official else ())
        for repo_id in TASKS[task].official or ()
    ]
    sources += [("checkpoint", task, ckpt, name, own | keywords) for task, ckpt, name, own in checkpoints]
    code = 0
    for kind, task, source, name, own in sources:
        if (output_dir / name / "config.json").exists():
            print(f"{output_dir / name} is there already")
        else:
            code |= convert(kind, task, source, output_dir / name, own)
    return code


def convert(kind: str, task: str, source: str, save_dir: str | Path, keywords: Mapping[str, Any]) -> int:
    """Converts a model or a checkpoint, and says what came of it. Returns the exit code."""
    if kind == "checkpoint" and Path(source).exists() and (found := other_task(task, source)):
        print(f"perceiver: error: {source} is another model's checkpoint: {found}", file=sys.stderr)
        return 1
    package = importlib.import_module(TASKS[task].package)
    try:
        if kind == "model":
            package.convert_model(save_dir=save_dir, source_repo_id=source, **keywords)
        else:
            package.convert_checkpoint(save_dir=save_dir, ckpt_url=source, **keywords)
    except (OSError, ValueError) as error:  # a source that is missing, unreadable or of a wrong kind
        print(f"perceiver: error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {save_dir}")
    return 0


def called(function: str, source: str, save_dir: str, keywords: Mapping[str, Any]) -> int:
    """Calls a function of `perceiver.model.foreign`, and says what came of it. Returns the exit code."""
    try:
        result = getattr(importlib.import_module("perceiver.model.foreign"), function)(save_dir, source, **keywords)
    except (OSError, ValueError) as error:
        print(f"perceiver: error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {save_dir}" if result is None else f"wrote {save_dir}; {result}")
    return 0


def argument_of(text: str, usage_error: Any) -> tuple[str, Any]:
    """`NAME=VALUE`, a number, True, False, None, a list or a text; wrong usage if there is no `=`."""
    name, equals, value = text.partition("=")
    if not equals:
        usage_error(f"--set {text} must be NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def read_list(arguments: argparse.Namespace) -> list[tuple[str, str, str, dict[str, Any]]]:
    """The checkpoints in the file `--checkpoints`; wrong usage if it is no such list."""
    if arguments.checkpoints is None:
        return []
    try:
        items = json.loads(arguments.checkpoints.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        arguments.usage_error(f"--checkpoints {arguments.checkpoints} can't be read: {error}")
    if not isinstance(items, list):
        arguments.usage_error(f"--checkpoints {arguments.checkpoints} must hold a list")
    result = []
    for item in items:
        texts = [item.get(name) for name in ("task", "ckpt", "name")] if isinstance(item, dict) else [None]
        if not all(isinstance(text, str) for text in texts) or item["task"] not in TASKS:
            arguments.usage_error(f"{item} must have a task ({', '.join(TASKS)}), a ckpt and a name")
        own = processor_of(item["task"], item, arguments.usage_error)
        result.append((item["task"], item["ckpt"], item["name"], own))
    return result


def processor_of_run(task: str, source: str) -> dict[str, str]:
    """What a training left beside its checkpoints: its image processor, or the name of its tokenizer."""
    run, processor = Path(source).parent.parent, TASKS[task].processor
    if processor == "image_processor" and (run / "preprocessor_config.json").is_file():
        return {processor: str(run)}
    if processor == "tokenizer" and (run / "config.yaml").is_file():
        import yaml

        from perceiver.scripts.flags import content, of_group

        with suppress(UnicodeDecodeError, yaml.YAMLError):  # it is no run's: as if it were not there
            data = of_group(of_group(content(str(run / "config.yaml")), "data"), "init_args")
            if isinstance(data, Mapping) and data.get("tokenizer"):
                return {processor: str(data["tokenizer"])}
    return {}


def other_task(task: str, source: str) -> str | None:
    """Which model a checkpoint is of, if it can be told and is not that of `task`."""
    from perceiver.model.core.checkpoint import read_checkpoint

    try:
        checkpoint = read_checkpoint(source)
    except (OSError, ValueError):
        return None  # which the conversion says better
    tasks = [name for name in TASKS if f"Lit{TASKS[name].model}" == checkpoint.lit_class]
    tasks = tasks or [name for name in TASKS if fits(name, checkpoint)]
    if not tasks or task in tasks:
        return None
    return " or ".join(f"{TASKS[name].title}, --task {name}" for name in tasks)


def fits(task: str, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has the configuration and the parameters of a task's model."""
    import torch

    backend = importlib.import_module(f"{TASKS[task].package}.backend")
    config_class, model_class = (getattr(backend, TASKS[task].model + end) for end in ("Config", ""))
    try:
        config = config_class.of_hyper_parameters(checkpoint.hyper_parameters)
        with torch.device("meta"):
            expected = model_class(config).state_dict()
    except ValueError:
        return False
    return {name: p.shape for name, p in expected.items()} == {n: p.shape for n, p in checkpoint.state_dict.items()}


def processor_of(task: str, given: Mapping[str, Any], usage_error: Any) -> dict[str, str]:
    """The argument of `convert_checkpoint` that names tokenizer or image processor. Others: wrong usage."""
    found = {name: given[name] for name in PROCESSOR_ARGUMENTS if given.get(name) is not None}
    needed = TASKS[task].processor
    if list(found) != ([] if needed is None else [needed]):
        flags = [f"--{name.replace('_', '-')}" for name in PROCESSOR_ARGUMENTS]
        needs = f"no {' and no '.join(flags)}" if needed is None else flags[list(PROCESSOR_ARGUMENTS).index(needed)]
        usage_error(f"--task {task} needs {needs}")
    return {PROCESSOR_ARGUMENTS[name]: value for name, value in found.items()}
