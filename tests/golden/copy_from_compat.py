"""Copies what the tests use of the recorded checkpoints: `python tests/golden/copy_from_compat.py ../shared/compat`.

They are small random-weight checkpoints in the format of perceiver-io 0.8 to 0.11 with inputs and outputs that an
independent implementation recorded. Only plain numbers and the published files come along.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent
MODELS = ("mlm_tied", "mlm_untied")
PIECES = ("fourier_", "mha_plain", "mha_nobias", "mha_output_channels")


def copy_model(source: Path, target: Path) -> None:
    shutil.copytree(source / "hub", target / "hub", dirs_exist_ok=True, copy_function=shutil.copyfile)
    for file in [source / "lit.ckpt", source / "io.safetensors", *Path(f"{source}_ckpts").glob("*.ckpt")]:
        shutil.copyfile(file, target / file.name)
    shutil.copyfile(source.parent / f"keys_{source.name}.txt", target / "keys.txt")
    write_cases(target / "cases.json", json.loads((source / "meta.json").read_text())["cases"])


def copy_transformers_model(source: Path, target: Path) -> None:
    shutil.copytree(source / "hf_src", target / "hf_src", dirs_exist_ok=True, copy_function=shutil.copyfile)
    shutil.copyfile(source / "io.safetensors", target / "io.safetensors")
    meta = json.loads((source / "meta.json").read_text())
    write_cases(target / "cases.json", meta["cases"])
    (target / "converted_config.json").write_text(json.dumps(meta["converted_config.json"], indent=1) + "\n")


def copy_pieces(source: Path, target: Path) -> None:
    cases = json.loads((source / "meta.json").read_text())["cases"]
    tensors = load_file(source / "io.safetensors")
    chosen = [case for case in cases if case["name"].startswith(PIECES)]
    unused = {"rot_q", "rot_k", "rotated"}  # rotary positions belong to Perceiver AR
    for case in chosen:
        for side in ("inputs", "outputs"):
            case[side] = {name: key for name, key in case.get(side, {}).items() if name not in unused}
    used = {key for case in chosen for side in ("inputs", "outputs") for key in case[side].values()}
    target.mkdir(exist_ok=True)
    save_file({key: tensors[key] for key in sorted(used)}, target / "io.safetensors")
    write_cases(target / "cases.json", chosen)
    (init,) = (case for case in cases if case["kind"] == "init_statistics")
    statistics = {name: init["data"][name] for name in init["data"] if name.startswith("mlm")}
    (target / "init_statistics.json").write_text(json.dumps(statistics, indent=1) + "\n")


def write_cases(file: Path, cases: list[dict[str, object]]) -> None:
    file.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    compat = Path(sys.argv[1])
    for name in MODELS:
        (GOLDEN / name).mkdir(exist_ok=True)
        copy_model(compat / name, GOLDEN / name)
    (GOLDEN / "hf_mlm").mkdir(exist_ok=True)
    copy_transformers_model(compat / "hf_mlm", GOLDEN / "hf_mlm")
    copy_pieces(compat / "pieces", GOLDEN / "pieces")
