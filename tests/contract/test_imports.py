"""Who pays for what: each program runs in a process of its own, where only what it builds on is imported already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.helpers import GOLDEN, TIED
from tests.processes import ENVIRONMENT, Interpreter

TRAINING = "pytorch_lightning", "torchmetrics", "tensorboard", "jsonargparse", "datasets"


@pytest.fixture(scope="module")
def after_torch() -> Iterator[Interpreter]:
    with Interpreter("import torch") as interpreter:
        yield interpreter


@pytest.fixture(scope="module")
def after_transformers() -> Iterator[Interpreter]:
    with Interpreter("import transformers.modeling_utils") as interpreter:
        yield interpreter


def without(program: str, *packages: str) -> str:
    """A program that fails if it imports one of `packages`."""
    return f"{program}\nimport sys\nassert not {set(packages)} & sys.modules.keys()"


def test_backend_imports_torch_only(after_torch: Interpreter, tmp_path: Path) -> None:
    heavy = *TRAINING, "torchvision"
    program = without("from perceiver.model.text.mlm import backend", *heavy)
    after_torch.run(tmp_path, program)


def test_inference_of_optical_flow_imports_neither_lightning_nor_what_reads_files(
    after_torch: Interpreter, tmp_path: Path
) -> None:
    heavy = *TRAINING, "transformers", "av", "PIL"
    program = without("from perceiver.data.vision import OpticalFlowProcessor", *heavy)
    after_torch.run(tmp_path, program)


def test_inference_of_text_imports_transformers_only(after_transformers: Interpreter, tmp_path: Path) -> None:
    program = without("from perceiver.data.text import TextPreprocessor", *TRAINING)
    after_transformers.run(tmp_path, program)


def test_inference_imports_no_lightning_and_lightning_comes_with_its_class(
    after_transformers: Interpreter, tmp_path: Path
) -> None:
    program = f"""
import sys
from perceiver.model.text import mlm
from perceiver.model.vision import image_classifier, optical_flow
assert not any(name in sys.modules for name in {TRAINING})
from transformers import AutoImageProcessor, AutoModelForMaskedLM, pipeline
# importing a task is enough: there is no model yet
processor = AutoImageProcessor.from_pretrained({str(GOLDEN / "img_clf_mnist" / "hub")!r})
assert type(processor) is image_classifier.PerceiverImageClassifierInputProcessor
flow_pipeline = pipeline("optical-flow", model={str(GOLDEN / "optical_flow" / "hub")!r})
assert type(flow_pipeline) is optical_flow.OpticalFlowPipeline
model = AutoModelForMaskedLM.from_pretrained({str(TIED / "hub")!r})
assert type(model) is mlm.PerceiverMaskedLanguageModel
pipeline("fill-mask", model={str(TIED / "hub")!r})("a[MASK]")
assert "pytorch_lightning" not in sys.modules
sys.modules["pytorch_lightning"] = None  # importing it takes seconds
try:
    mlm.LitMaskedLanguageModel
except ImportError as error:
    print(error)"""
    (printed,) = after_transformers.run(tmp_path, program)
    assert "LitMaskedLanguageModel needs pytorch_lightning: pip install perceiver-io[text]" in printed.splitlines()


def test_a_pickled_config_registers_its_model(after_transformers: Interpreter, tmp_path: Path) -> None:
    """A worker process gets a config without making one."""
    folder, file = str(TIED / "hub"), str(tmp_path / "config.pickle")
    writer = f"""
import pickle
from perceiver.model.text import mlm
config = mlm.PerceiverMaskedLanguageModelConfig.from_pretrained({folder!r})
pickle.dump(config, open({file!r}, 'wb'))"""
    reader = f"""
import pickle
from transformers import AutoModelForMaskedLM
config = pickle.load(open({file!r}, 'rb'))
print(type(AutoModelForMaskedLM.from_config(config)).__name__)"""
    after_transformers.run(tmp_path, writer)
    (printed,) = after_transformers.run(tmp_path, reader)
    assert "PerceiverMaskedLanguageModel" in printed.splitlines()


def test_a_task_has_one_config_class_whatever_is_imported_first(
    after_transformers: Interpreter, tmp_path: Path
) -> None:
    """A related task asks for it while the task's package is being imported, which asks for it as well."""
    program = """
import perceiver.model.text.mlm as mlm
from transformers import AutoConfig, AutoModelForSequenceClassification
mlm.PerceiverMaskedLanguageModelConfig()
config = AutoConfig.for_model("perceiver-io-text-classifier")
assert type(config) in AutoModelForSequenceClassification._model_mapping"""
    after_transformers.run(tmp_path, program)


def test_importing_tasks_costs_little_more_than_importing_transformers(
    after_torch: Interpreter, tmp_path: Path
) -> None:
    """Of what transformers has not imported, they need themselves and two small libraries: no compiler of torch."""
    program = """
import sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
before = set(sys.modules)
from perceiver.model.text import classifier, clm, mlm, token_classifier
from perceiver.model.vision import optical_flow  # `image_classifier` needs transformers' image processors
from perceiver.model.audio import symbolic
from perceiver.model.multimodal import autoencoder
print(*{name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"""
    (printed,) = after_torch.run(tmp_path, program)
    assert set(printed.split()) - {"safetensors"} == {"einops", "perceiver"}  # 5.20 has imported safetensors


# --- without libraries ---

# One after the other in one process, as importing torch is most of it.
EXTRAS = ["transformers", "pytorch_lightning", "datasets", "huggingface_hub", "tokenizers", "numpy", "jsonargparse"]
LIBRARIES = {
    "LitMaskedLanguageModel": "pytorch_lightning",
    "PerceiverMaskedLanguageModel": "transformers",
    "PerceiverMaskedLanguageModelConfig": "transformers",
    "convert_checkpoint": "transformers",
    "convert_model": "transformers",
}
WITHOUT_LIBRARIES = f"""
import json, sys

import perceiver
print(json.dumps([name for name in (*{EXTRAS}, "torch", "einops") if name in sys.modules]))

for name in {EXTRAS}:
    sys.modules[name] = None
import torch
from perceiver.model.text import mlm
from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.core import modules
shapes = []
for source in {[str(TIED / "lit.ckpt"), str(TIED / "hub")]}:
    checkpoint = read_checkpoint(source)
    fields = mlm.MaskedLanguageModelConfig.__dataclass_fields__
    values = {{name: value for name, value in checkpoint.hyper_parameters.items() if name in fields}}
    model = mlm.MaskedLanguageModel(mlm.MaskedLanguageModelConfig.from_dict(values))
    load_parameters(model, checkpoint.state_dict, source)
    x = torch.arange(10)[None]
    model.loss(x, x).backward()
    shapes.append(model.eval()(x).shape)
print(json.dumps(shapes))

errors = []
for name in {list(LIBRARIES)}:
    try:
        getattr(mlm, name)
    except ImportError as error:
        errors.append(str(error))
print(json.dumps(errors))

try:
    read_checkpoint("someone/model")
except FileNotFoundError as error:
    print(json.dumps(str(error)))
"""


def test_without_libraries() -> None:
    """Importing perceiver imports nothing. The backend works, and what needs a library says which one."""
    command = [sys.executable, "-c", WITHOUT_LIBRARIES]
    result = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found, shapes, errors, hub_error = map(json.loads, result.stdout.splitlines())
    assert found == []
    assert shapes == [[1, 10, 262]] * 2
    assert errors == [f"{name} needs {library}: pip install perceiver-io[text]" for name, library in LIBRARIES.items()]
    assert hub_error == (
        "there is no file or folder someone/model; reading it from the hub needs pip install perceiver-io[hf]"
    )
