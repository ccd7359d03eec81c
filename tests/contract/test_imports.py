"""Who pays for what: each program runs in an interpreter of its own, so that nothing is imported already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.model.helpers import GOLDEN, TIED

ROOT = Path(__file__).parent.parent.parent
MISSING = "import sys\nfor name in {names}: sys.modules[name] = None\n"


def run(program: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def imported(program: str, *packages: str) -> set[str]:
    """Which of `packages` a program imports."""
    return set(run(f"import sys\n{program}\nprint(*[name for name in {packages} if name in sys.modules])").split())


def test_perceiver_alone_imports_nothing() -> None:
    assert not imported("import perceiver", "torch", "numpy", "transformers", "pytorch_lightning", "einops")


def test_backend_imports_torch_only() -> None:
    program = "from perceiver.model.text.mlm import backend"
    heavy = "pytorch_lightning", "datasets", "torchvision", "tensorboard", "torchmetrics"
    assert imported(program, "torch", *heavy) == {"torch"}


def test_inference_imports_no_lightning_and_lightning_comes_with_its_class() -> None:
    training = "pytorch_lightning", "torchmetrics", "tensorboard", "jsonargparse", "datasets"
    program = f"""
from perceiver.model.text import mlm
from perceiver.model.vision import image_classifier, optical_flow
assert not any(name in sys.modules for name in {training})
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
mlm.LitMaskedLanguageModel"""
    assert imported(program, "pytorch_lightning") == {"pytorch_lightning"}


def test_a_pickled_config_registers_its_model(tmp_path: Path) -> None:
    """A worker process gets a config without making one."""
    folder, file = str(TIED / "hub"), str(tmp_path / "config.pickle")
    run(
        "import pickle\nfrom perceiver.model.text import mlm\n"
        f"config = mlm.PerceiverMaskedLanguageModelConfig.from_pretrained({folder!r})\n"
        f"pickle.dump(config, open({file!r}, 'wb'))"
    )
    program = (
        "import pickle\nfrom transformers import AutoModelForMaskedLM\n"
        f"config = pickle.load(open({file!r}, 'rb'))\n"
        "print(type(AutoModelForMaskedLM.from_config(config)).__name__)"
    )
    assert run(program) == "PerceiverMaskedLanguageModel"


BACKEND_PROGRAM = """
import torch
from perceiver.model.text import mlm
from perceiver.model.core.checkpoint import load_parameters, read_checkpoint
from perceiver.model.core import modules
for source in {sources}:
    checkpoint = read_checkpoint(source)
    fields = mlm.MaskedLanguageModelConfig.__dataclass_fields__
    values = {{name: value for name, value in checkpoint.hyper_parameters.items() if name in fields}}
    model = mlm.MaskedLanguageModel(mlm.MaskedLanguageModelConfig.from_dict(values))
    load_parameters(model, checkpoint.state_dict, source)
    x = torch.arange(10)[None]
    model.loss(x, x).backward()
    assert model.eval()(x).shape == (1, 10, 262)
"""
EXTRAS = ["transformers", "pytorch_lightning", "datasets", "huggingface_hub", "tokenizers", "numpy", "jsonargparse"]


def test_backend_needs_torch_einops_and_safetensors_only() -> None:
    sources = [str(TIED / "lit.ckpt"), str(TIED / "hub")]
    run(MISSING.format(names=EXTRAS) + BACKEND_PROGRAM.format(sources=sources))


def test_names_that_need_a_missing_library_say_so() -> None:
    libraries = {
        "LitMaskedLanguageModel": "pytorch_lightning",
        "PerceiverMaskedLanguageModel": "transformers",
        "PerceiverMaskedLanguageModelConfig": "transformers",
        "convert_checkpoint": "transformers",
        "convert_model": "transformers",
    }
    program = f"""
from perceiver.model.text import mlm
for name in {list(libraries)}:
    try:
        getattr(mlm, name)
    except ImportError as error:
        print(error)"""
    expected = [f"{name} needs {library}: pip install perceiver-io[text]" for name, library in libraries.items()]
    assert run(MISSING.format(names=EXTRAS) + program).splitlines() == expected


def test_hub_id_without_the_hub_library_says_so() -> None:
    program = """
from perceiver.model.core.checkpoint import read_checkpoint
try:
    read_checkpoint("someone/model")
except FileNotFoundError as error:
    print(error)"""
    printed = run(MISSING.format(names=EXTRAS) + program)
    assert (
        printed
        == "there is no file or folder someone/model; reading it from the hub needs pip install perceiver-io[hf]"
    )


def test_importing_tasks_costs_little_more_than_importing_transformers() -> None:
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
    assert set(run(program).split()) == {"einops", "perceiver", "safetensors"}
