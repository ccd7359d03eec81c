"""Training commands as perceiver-io 0.8 to 0.11 had them, in today's flags.

What was called otherwise gets its name, what has no effect any more is left out, with a warning where it asked for
something that does not happen now. It holds for flags and for the `config.yaml` that a run left beside its checkpoints,
which is what `--config` of a validation names. docs/migration/perceiver-io-0.11.md lists all of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

# Former name of a flag -> its name. What follows the former name stays: model.optimizer.lr -> optimizer.lr.
RENAMED = {
    "data.dataset_uri": "data.source",
    "model.max_grad_norm": "trainer.gradient_clip_val",
    "model.optimizer": "optimizer",
    "model.scheduler": "lr_scheduler",
    "trainer.gpus": "trainer.devices",
    "trainer.replace_sampler_ddp": "trainer.use_distributed_sampler",
    "trainer.resume_from_checkpoint": "ckpt_path",
}
# What `source` was called in data modules that 0.11 did not have, or before it was an argument.
SOURCES = ("data_dir", "dataset_id", "dataset_uri", "repo_id")
FLOW = ("FlyingChairsDataModule", "KittiFlowDataModule", "SintelFlowDataModule")  # it was their dataset_dir
# Flags that are no more -> the values that ask for nothing else than what happens now.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "data.shuffle": (True,),  # training examples are shuffled, the others are not
    # of Lightning before 2.0
    "trainer.amp_backend": ("native", None),
    "trainer.amp_level": (None,),
    "trainer.auto_lr_find": (False,),
    "trainer.auto_scale_batch_size": (False, None),
    "trainer.auto_select_gpus": (False, None),
    "trainer.ipus": (None,),
    "trainer.move_metrics_to_cpu": (False,),
    "trainer.multiple_trainloader_mode": ("max_size_cycle",),
    "trainer.num_processes": (None, 1),
    "trainer.tpu_cores": (None,),
    "trainer.track_grad_norm": (-1,),
}
FSDP = "fsdp_perceiver_ar"  # the strategy that 0.11 had for `perceiver.scripts.text.clm_fsdp`
STATIC_GRAPH = "ddp_static_graph"  # of Lightning before 2.0; no model here needs more than ddp
# Of the package torch_optimizer, whose Lamb is also in pytorch_optimizer, but for these arguments.
LAMB = {"clamp_value": (10,), "debias": (False,)}


def todays(arguments: Sequence[str]) -> list[str]:
    """Arguments of a training script, those of 0.8 to 0.11 as today's. All others are as they were.

    Raises:
        ValueError: if what a former flag asks for can't be said today.
    """
    flags = list(_flags(arguments))
    own = not any(name == "data" and not _is_own(value) for name, value in flags)
    flow = any(name == "data" and str(value).split(".")[-1] in FLOW for name, value in flags)
    devices = [value for name, value in flags if name == "trainer.devices"]
    result: list[str] = []
    for name, value in flags:
        if name == "config" and value is not None:
            result.append(f"--config={_todays_file(value)}")
        elif name == "trainer.strategy" and value == FSDP:
            strategy = _sharded(devices[-1] if devices else None)
            result.append(f"--trainer.strategy={strategy['class_path']}")
            result += [f"--trainer.strategy.{key}={_dump(item)}" for key, item in strategy["init_args"].items()]
        elif name == "trainer.strategy" and value == STATIC_GRAPH:
            result.append("--trainer.strategy=ddp")
        elif name in WITHOUT_EFFECT and (own or not name.startswith("data.")):
            _warn_unless_neutral(name, yaml.safe_load(value or "true"), WITHOUT_EFFECT[name])
        elif name is None:
            result.append(value or "")
        else:
            todays_name = _renamed(name) if own or not name.startswith("data.") else name
            if flow and name == "data.dataset_dir":
                todays_name = "data.source"
            result.append(f"--{todays_name}" if value is None else f"--{todays_name}={value}")
            if name == "data.dataset_uri" and own:
                result.append("--data.sha256=null")  # the default is that of the default source
    return result


def todays_config(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration of a training script, one of 0.8 to 0.11 as today's. Any other is as it was.

    Raises:
        ValueError: if what it asks for can't be said today.
    """
    result: dict[str, Any] = {}
    for name, value in values.items():  # a copy of what is changed below
        result[name] = dict(value) if isinstance(value, dict) else value
    data = result.get("data")
    if isinstance(data, dict) and _is_own(data.get("class_path")):
        data["init_args"] = arguments = dict(data.get("init_args") or {})
        if "dataset_uri" in arguments:
            arguments["sha256"] = None
        names = set(SOURCES)
        if str(data["class_path"]).split(".")[-1] in FLOW:
            names.add("dataset_dir")
        for name in names & arguments.keys():
            arguments["source"] = arguments.pop(name)
        if arguments.get("preproc_workers", 1) is None:  # as many as there are processors; the result is the same
            del arguments["preproc_workers"]
        _leave_out("data", arguments)
    trainer = result.get("trainer")
    if isinstance(trainer, dict):
        if trainer.get("gpus") is None:
            trainer.pop("gpus", None)
        _leave_out("trainer", trainer)
        if trainer.get("strategy") == FSDP:
            trainer["strategy"] = _sharded(trainer.get("devices"))
        elif trainer.get("strategy") == STATIC_GRAPH:
            trainer["strategy"] = "ddp"
    for name, todays_name in RENAMED.items():
        section, key = name.split(".")
        if section != "data" and isinstance(result.get(section), dict) and key in result[section]:
            _put(result, todays_name, result[section].pop(key))
    if result.get("seed_everything") is True:
        result["seed_everything"] = 0  # what Lightning takes it for, with a warning
    schedule = result.get("lr_scheduler")
    if isinstance(schedule, dict) and "class_path" not in schedule:
        kind = "CosineWithWarmupLR" if "num_cycles" in schedule else "ConstantWithWarmupLR"
        result["lr_scheduler"] = {"class_path": f"perceiver.scripts.lrs.{kind}", "init_args": schedule}
    optimizer = result.get("optimizer")
    if isinstance(optimizer, dict) and str(optimizer.get("class_path")).startswith("torch_optimizer."):
        result["optimizer"] = _todays_optimizer(optimizer)
    return result


def _todays_optimizer(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer of the package torch_optimizer, by the same name in pytorch_optimizer."""
    name, arguments = optimizer["class_path"].split(".")[-1], dict(optimizer.get("init_args") or {})
    if name == "Lamb":
        for key in LAMB.keys() & arguments.keys():
            _warn_unless_neutral(f"optimizer.{key}", arguments.pop(key), LAMB[key])
    return {"class_path": f"pytorch_optimizer.{name}", "init_args": arguments}


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Names and values of flags, `--name=value` or `--name value`; what is none has no name."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") and argument != "-c":
            yield None, argument
            continue
        name, is_there, value = argument.removeprefix("--").partition("=")
        if not is_there and rest and not rest[0].startswith("--"):
            value, is_there = rest.pop(0), "="
        yield "config" if name == "-c" else name, value if is_there else None


def _todays_file(path: str) -> str:
    """The path as it is, or the content of the file if it must be another."""
    if path.startswith("{") or not Path(path).is_file():  # a file's content, of todays' own for example
        return path  # the parser says that it is not there
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return path  # the parser says what is wrong with it
    if not isinstance(values, dict):
        return path
    config = todays_config(values)
    return path if config == values else _dump(config)


def _renamed(name: str) -> str:
    if name.removeprefix("data.") in SOURCES and name.startswith("data."):
        return "data.source"
    for former, todays_name in RENAMED.items():
        if name == former or name.startswith(f"{former}."):
            return todays_name + name.removeprefix(former)
    return name


def _sharded(devices: Any) -> dict[str, Any]:
    """The strategy that shards parameters over devices."""
    if not str(devices).isdigit():
        raise ValueError(
            f"trainer.strategy={FSDP} with trainer.devices={devices}: say how many devices, or use "
            "trainer.strategy=ModelParallelStrategy with trainer.strategy.data_parallel_size"
        )
    values = {"data_parallel_size": int(devices), "tensor_parallel_size": 1, "save_distributed_checkpoint": False}
    return {"class_path": "pytorch_lightning.strategies.ModelParallelStrategy", "init_args": values}


def _is_own(data: Any) -> bool:
    """Whether a data module is one of the library: by its name alone, or by its path."""
    return data is None or "." not in str(data) or str(data).startswith("perceiver.data.")


def _leave_out(section: str, values: dict[str, Any]) -> None:
    for name, neutral in WITHOUT_EFFECT.items():
        prefix, key = name.split(".")
        if prefix == section and key in values:
            _warn_unless_neutral(name, values.pop(key), neutral)


def _warn_unless_neutral(name: str, value: Any, neutral: tuple[Any, ...]) -> None:
    if value not in neutral:
        warnings.warn(f"{name}={value} of perceiver-io 0.11 has no effect any more", stacklevel=3)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[key] = value


def _dump(value: Any) -> str:
    return (
        str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)).removesuffix("...\n").strip()
    )
