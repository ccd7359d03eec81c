"""Copies what the tests use of the recorded checkpoints: `python tests/golden/copy_from_compat.py ../shared/compat`.

They are small random-weight checkpoints in the format of perceiver-io 0.8 to 0.11 with inputs and outputs that an
independent implementation recorded. Only plain numbers and the published files come along.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parent
MODELS = ("mlm_tied", "mlm_untied", "txt_clf", "img_clf_mnist", "img_clf_fourier")
CAUSAL_MODELS = ("clm_1", "clm_2", "clm_3", "clm_4", "sam")
PIECES = (
    "fourier_",
    "mha_",
    "positions",
    "frequency_",
    "rotary_",
    "cross_attention_layer_prefix",
    "self_attention_block",
)


def copy_model(source: Path, target: Path) -> None:
    shutil.copytree(source / "hub", target / "hub", dirs_exist_ok=True, copy_function=shutil.copyfile)
    for file in [source / "lit.ckpt", source / "io.safetensors", *Path(f"{source}_ckpts").glob("*.ckpt")]:
        shutil.copyfile(file, target / file.name)
    shutil.copyfile(source.parent / f"keys_{source.name}.txt", target / "keys.txt")
    write_cases(target / "cases.json", json.loads((source / "meta.json").read_text())["cases"])


def copy_causal_model(source: Path, target: Path) -> None:
    """Without what 0.11 generated when it lost the growing prefix, and without the contents of caches."""
    shutil.copytree(source / "hub", target / "hub", dirs_exist_ok=True, copy_function=shutil.copyfile)
    ckpts = Path(f"{source}_ckpts").glob("*.ckpt") if source.name == "clm_1" else []
    for file in [source / "lit.ckpt", *ckpts]:
        shutil.copyfile(file, target / file.name)
    shutil.copyfile(source.parent / f"keys_{source.name}.txt", target / "keys.txt")
    cases = json.loads((source / "meta.json").read_text())["cases"]
    cases = [case for case in cases if not case["kind"].startswith("midi")]  # see copy_midi
    for case in cases:
        unused = {"use_cache_false", *(name for name in case.get("outputs", {}) if name.startswith("cache_"))}
        case["outputs"] = {name: key for name, key in case.get("outputs", {}).items() if name not in unused}
        for name in [name for name in case if name.startswith(("trace_", "min_margin_"))]:
            del case[name]
    save_used(cases, load_file(source / "io.safetensors"), target)


def copy_optical_flow(source: Path, target: Path) -> None:
    """There was no Lightning module, so there is no checkpoint of one."""
    shutil.copytree(source / "hub", target / "hub", dirs_exist_ok=True, copy_function=shutil.copyfile)
    shutil.copyfile(source.parent / f"keys_{source.name}.txt", target / "keys.txt")
    save_used(json.loads((source / "meta.json").read_text())["cases"], load_file(source / "io.safetensors"), target)


def copy_midi(source: Path, target: Path) -> None:
    shutil.copytree(source / "midi", target, dirs_exist_ok=True, copy_function=shutil.copyfile)
    cases = json.loads((source / "meta.json").read_text())["cases"]
    write_cases(target / "cases.json", [case for case in cases if case["kind"] in ("midi", "midi_decode")])


def copy_transformers_model(source: Path, target: Path) -> None:
    shutil.copytree(source / "hf_src", target / "hf_src", dirs_exist_ok=True, copy_function=shutil.copyfile)
    shutil.copyfile(source / "io.safetensors", target / "io.safetensors")
    meta = json.loads((source / "meta.json").read_text())
    write_cases(target / "cases.json", meta["cases"])
    (target / "converted_config.json").write_text(json.dumps(meta["converted_config.json"], indent=1) + "\n")


def copy_pieces(source: Path, target: Path) -> None:
    cases = json.loads((source / "meta.json").read_text())["cases"]
    target.mkdir(exist_ok=True)
    save_used([case for case in cases if case["name"].startswith(PIECES)], load_file(source / "io.safetensors"), target)
    (init,) = (case for case in cases if case["kind"] == "init_statistics")
    statistics = {name: init["data"][name] for name in init["data"] if name.startswith(("mlm", "clm"))}
    (target / "init_statistics.json").write_text(json.dumps(statistics, indent=1) + "\n")


def save_used(cases: list[dict[str, Any]], tensors: dict[str, Tensor], target: Path) -> None:
    used = {key for case in cases for side in ("inputs", "outputs") for key in case.get(side, {}).values()}
    save_file({key: tensors[key] for key in sorted(used)}, target / "io.safetensors")
    write_cases(target / "cases.json", cases)


def write_cases(file: Path, cases: list[dict[str, object]]) -> None:
    file.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    compat = Path(sys.argv[1])
    for name in MODELS:
        (GOLDEN / name).mkdir(exist_ok=True)
        copy_model(compat / name, GOLDEN / name)
    for name in CAUSAL_MODELS:
        (GOLDEN / name).mkdir(exist_ok=True)
        copy_causal_model(compat / name, GOLDEN / name)
    (GOLDEN / "optical_flow").mkdir(exist_ok=True)
    copy_optical_flow(compat / "optical_flow", GOLDEN / "optical_flow")
    copy_midi(compat / "sam", GOLDEN / "midi")
    (GOLDEN / "hf_mlm").mkdir(exist_ok=True)
    copy_transformers_model(compat / "hf_mlm", GOLDEN / "hf_mlm")
    copy_pieces(compat / "pieces", GOLDEN / "pieces")
