"""Contract 1: the public names, those that README and docs use, and the short programs that they show.

public_names.txt is the list. A name that goes breaks programs of users: docs/versioning.md says how one does.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from perceiver.tasks import TASKS
from tests.model.helpers import GOLDEN, TIED

ROOT = GOLDEN.parent.parent


def listed() -> dict[str, list[str]]:
    """Module -> names."""
    found: dict[str, list[str]] = {}
    module = ""
    for line in (Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            found[module].append(line.strip())
        else:
            module = line
            found[module] = []
    return found


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # below something that is no package
        return False


PUBLIC = listed()
PACKAGES = [*(task.package for task in TASKS.values()), "perceiver.model.foreign"]
PACKAGES += [f"perceiver.data.{domain}" for domain in ("audio", "multimodal", "text", "vision")]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("module", PUBLIC)
def test_names_exist(module: str) -> None:
    """A class or function is documented and called as its name says; the rest are constants and types."""
    for name in PUBLIC[module]:
        found = getattr(importlib.import_module(module), name)
        assert not isinstance(found, ModuleType)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__name__ == name and found.__doc__, name


def test_the_list_is_in_order() -> None:
    assert list(PUBLIC) == sorted(PUBLIC) and len(PUBLIC) >= 25
    assert all(names == sorted(set(names)) and names for names in PUBLIC.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_all_lists_what_a_package_offers(package: str) -> None:
    assert sorted(importlib.import_module(package).__all__) == PUBLIC[package]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_that_a_page_shows_are_public(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    imports = [
        (node.module, alias.name)
        for block in blocks
        if "# file: " not in block  # shows how something is written inside the package
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "perceiver"
        for alias in node.names
    ]
    unlisted = [
        f"{module}.{name}"
        for module, name in imports
        if name not in PUBLIC.get(module, ()) and not is_module(f"{module}.{name}")
    ]
    assert unlisted == []


def test_unknown_name() -> None:
    from perceiver.model.text import mlm

    with pytest.raises(AttributeError, match=r"'perceiver.model.text.mlm' has no attribute 'MaskedModel'"):
        _ = mlm.MaskedModel  # type: ignore[attr-defined]


def test_the_program_of_the_readme(tmp_path: Path) -> None:
    """With a folder in place of the hub id."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    from perceiver.model.text import mlm

    repo_id = str(TIED / "hub")
    model = AutoModelForMaskedLM.from_pretrained(repo_id)
    tokenizer = AutoTokenizer.from_pretrained(repo_id)
    assert type(model) is mlm.PerceiverMaskedLanguageModel
    encoding = tokenizer("words are[MASK][MASK][MASK]", return_tensors="pt")
    assert model(**encoding).logits.shape[:2] == encoding["input_ids"].shape
    assert len(pipeline("fill-mask", model=repo_id)("words are[MASK][MASK][MASK]")) == 3

    backend_model = model.backend_model
    assert type(backend_model) is mlm.MaskedLanguageModel
    backend_config = backend_model.config
    assert backend_config == model.config.backend_config
    lit_model = mlm.LitMaskedLanguageModel.create(backend_config, params=repo_id)
    assert type(lit_model.backend_model) is mlm.MaskedLanguageModel
    mlm.MaskedLanguageModel(backend_config)
    mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(backend_config))
    mlm.LitMaskedLanguageModel.create(backend_config)
    mlm.convert_checkpoint(save_dir=str(tmp_path / "a"), ckpt_url=str(TIED / "lit.ckpt"), tokenizer_name=repo_id)
    source = str(TIED.parent / "hf_mlm" / "hf_src")
    mlm.convert_model(save_dir=str(tmp_path / "b"), source_repo_id=source)
    assert (tmp_path / "a" / "model.safetensors").exists() and (tmp_path / "b" / "model.safetensors").exists()


def test_the_same_program_for_images(tmp_path: Path) -> None:
    import PIL.Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from perceiver.model.vision import image_classifier

    repo_id, checkpoint = str(GOLDEN / "img_clf_mnist" / "hub"), str(GOLDEN / "img_clf_mnist" / "lit.ckpt")
    model = AutoModelForImageClassification.from_pretrained(repo_id)
    processor = AutoImageProcessor.from_pretrained(repo_id)
    assert type(model) is image_classifier.PerceiverImageClassifier
    assert type(processor) is image_classifier.PerceiverImageClassifierInputProcessor
    digit = PIL.Image.new("L", (12, 10))
    assert model(**processor(digit, return_tensors="pt")).logits.shape == (1, 10)
    assert pipeline("image-classification", model=repo_id)(digit, top_k=1)[0]["label"] in range(10)

    backend_config = model.backend_model.config
    assert type(model.backend_model) is image_classifier.ImageClassifier
    assert backend_config == model.config.backend_config
    lit_model = image_classifier.LitImageClassifier.create(backend_config, params=repo_id)
    assert type(lit_model.backend_model) is image_classifier.ImageClassifier
    image_classifier.convert_checkpoint(save_dir=str(tmp_path / "a"), ckpt_url=checkpoint, image_processor=processor)
    image_classifier.convert_mnist_classifier_checkpoint(save_dir=str(tmp_path / "b"), ckpt_url=checkpoint)
    for name in "ab":
        assert {file.name for file in (tmp_path / name).iterdir()} == {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }


def test_the_same_program_for_optical_flow() -> None:
    import numpy as np
    from transformers import AutoModel, pipeline

    from perceiver.model.vision import optical_flow
    from perceiver.processing.optical_flow import OpticalFlowProcessor

    repo_id = str(GOLDEN / "optical_flow" / "hub")
    model = AutoModel.from_pretrained(repo_id)
    assert type(model) is optical_flow.OpticalFlowPerceiver
    assert type(model.backend_model) is optical_flow.OpticalFlow
    assert model.backend_model.config == model.config.backend_config
    frames = np.zeros((44, 48, 3), np.uint8), np.zeros((44, 48, 3), np.uint8)
    processor = OpticalFlowProcessor(patch_size=(44, 48))
    flow = processor.postprocess(model(processor.preprocess(frames)).logits, (44, 48))
    assert flow.shape == (1, 44, 48, 2)
    assert pipeline("optical-flow", model=repo_id)(frames, render=True).shape == (44, 48, 3)
    optical_flow.LitOpticalFlow.create(model.backend_model.config, params=repo_id)
