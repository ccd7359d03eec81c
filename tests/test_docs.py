"""What README and docs show, runs.

The Python blocks of a page run in order, in one namespace and in a folder of their own. In it tiny models with random
weights lie under the names that the pages use: a relative path wins over a hub id. Commands are parsed, not run, and
links point to files that exist. A block that begins with `# not run: <reason>` is left out, one that begins with
`# file: <path>` becomes that file, which the blocks after it can import.
"""

import ast
import importlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from transformers import (
    PerceiverConfig,
    PerceiverForImageClassificationConvProcessing,
    PerceiverForMaskedLM,
    PerceiverForOpticalFlow,
    PerceiverImageProcessorPil,
)

from perceiver.model.audio import symbolic
from perceiver.model.text import clm, mlm
from perceiver.scripts import main
from perceiver.tasks import TASKS, Task
from tests.tokenizers import byte_tokenizer

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OFFICIAL, PUBLISHED = "deepmind/language-perceiver", "krasserm/perceiver-io-mlm"
OFFICIAL_IMAGES, OFFICIAL_FLOW = "deepmind/vision-perceiver-conv", "deepmind/optical-flow-perceiver"
CKPT = "logs/mlm/version_0/checkpoints/epoch=012-val_loss=1.165.ckpt"
CAUSAL, CAUSAL_CKPT = "my-clm", "logs/clm/version_0/checkpoints/epoch=011-val_loss=0.876.ckpt"
AUDIO, AUDIO_CKPT = "my-sam", "logs/sam_maestro/version_0/checkpoints/last.ckpt"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks, each after so many empty lines that its lines have the numbers they have in the page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    shown = [block for block in found if block[1] in languages and not block[2].startswith("# not run: ")]
    return ["\n" * text.count("\n", 0, block.start(2)) + block[2] for block in shown]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model as transformers has it, and with models in our format and their Lightning checkpoints."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small models lose time with more
    folder = tmp_path_factory.mktemp("models")
    config = PerceiverConfig(
        d_model=24, d_latents=16, num_latents=5, num_self_attends_per_block=2, qk_channels=8, v_channels=16
    )
    PerceiverForMaskedLM(config).save_pretrained(folder / OFFICIAL)
    byte_tokenizer(folder / OFFICIAL)
    mlm.convert_model(save_dir=folder / PUBLISHED, source_repo_id=str(folder / OFFICIAL))
    backend_config = mlm.PerceiverMaskedLanguageModelConfig.from_pretrained(folder / PUBLISHED).backend_config
    save_checkpoint(mlm.LitMaskedLanguageModel.create(backend_config, params=str(folder / PUBLISHED)), folder / CKPT)
    causal_config = clm.CausalLanguageModelConfig(
        max_seq_len=64, max_latents=16, num_channels=24, num_heads=2, num_self_attention_layers=2, init_scale=0.2
    )
    save_checkpoint(clm.LitCausalLanguageModel.create(causal_config), folder / CAUSAL_CKPT)
    clm.convert_checkpoint(folder / CAUSAL, folder / CAUSAL_CKPT, str(folder / OFFICIAL))
    audio_config = symbolic.SymbolicAudioModelConfig(
        max_seq_len=64, max_latents=16, num_channels=24, num_heads=2, num_self_attention_layers=2, init_scale=0.2
    )
    save_checkpoint(symbolic.LitSymbolicAudioModel.create(audio_config), folder / AUDIO_CKPT)
    symbolic.convert_checkpoint(folder / AUDIO, folder / AUDIO_CKPT)
    config = PerceiverConfig(
        d_model=322,
        d_latents=16,
        num_latents=5,
        num_self_attends_per_block=2,
        num_cross_attention_heads=1,
        num_labels=7,
        train_size=[40, 48],
    )
    PerceiverForImageClassificationConvProcessing(config).save_pretrained(folder / OFFICIAL_IMAGES)
    PerceiverImageProcessorPil().save_pretrained(folder / OFFICIAL_IMAGES)
    PerceiverForOpticalFlow(config).save_pretrained(folder / OFFICIAL_FLOW)
    yield folder
    torch.set_num_threads(threads)


def save_checkpoint(lit_model: pl.LightningModule, path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(lit_model)
    trainer.save_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Stored version is not the same")  # of torchao 0.17
@each_page
@patch.dict(TASKS)  # a page adds one
def test_python_blocks_run(page: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks(page, "python"):
        if file := re.match(r"\s*# file: (\S+)\n", block):
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(block)
            continue
        exec(compile(block, str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.title)
def test_the_readme_has_a_row_for_every_task(task: Task) -> None:
    classes = ", ".join(f"`{name}`" for name in (task.model, f"Lit{task.model}", task.huggingface))
    rows = [line.split(" | ") for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    (row,) = [row for row in rows if row[0] == f"| {task.title}"]
    assert row[1:3] == [f"`{task.package}`", classes]
    official = re.sub(r"\{(.*)\}", lambda kinds: kinds[1].split(",")[0], row[3])  # of several, the first
    assert (task.official[0] in official) if task.official else ("none" if task.official is None else "any") in official


def test_a_task_is_four_files_and_at_most_120_lines() -> None:
    files = [block for block in blocks(ROOT / "docs" / "adding-a-task.md", "python") if "# file: " in block]
    code = [ast.unparse(without_docstrings(ast.parse(block))) for block in files]
    assert len(files) == 4 and sum(len(text.splitlines()) for text in code) <= 120


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/howto-*.md")), ids=lambda page: page.name)
def test_howto_pages_build_a_model_in_less_than_60_lines(page: Path) -> None:
    assert sum(len(block.strip().splitlines()) for block in blocks(page, "python")) < 60


@each_page
def test_commands_parse(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def print_config(train: Callable[[list[str]], object], arguments: list[str]) -> None:
        arguments, file = (arguments[:-2], arguments[-1]) if ">" in arguments else (arguments, None)
        with pytest.raises(SystemExit) as stop:
            train([*arguments, "--print_config"])
        output = capsys.readouterr()
        assert stop.value.code == 0, output.err
        if file:  # a later command may read it
            Path(file).write_text(output.out)

    text = "\n".join(blocks(page, "shell", "bash", "sh", "console")).replace("\\\n", " ")
    for line in text.splitlines():
        match shlex.split(line.removeprefix("$ "), comments=True):
            case []:
                pass
            case ["python", "-m", module, *arguments] if module.startswith("perceiver.scripts."):
                print_config(importlib.import_module(module).main, arguments)
            case ["perceiver", task, *arguments] if task in main.TASKS:
                print_config(main.main, [task, *arguments])
            case ["perceiver", "preproc", *arguments]:
                print_config(main.main, ["preproc", *arguments])
            case ["perceiver", *arguments]:
                main.parser().parse_args(arguments)
            case ["python", "-m", module, *_] if module.startswith("benchmarks."):
                assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), line
            case ["python" | "bash", script, *_]:
                assert (ROOT / script).is_file(), line
            case ["make", target, *_]:
                assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), line
            case [program, *_]:
                assert program in ("pip", "git", "cd", "source", "tensorboard"), f"what is {line!r}?"


@each_page
def test_links(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_figures_of_the_readme_are_measured_ones() -> None:
    """Each number of the table stands in the result that its row names."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is different\n\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert len(rows) >= 6
    measured = ""
    for name, here, there, run in rows:
        if link := re.search(r"\]\((benchmarks/results/[^)]+)\)", run):
            measured = (ROOT / link[1]).read_text(encoding="utf-8")
        else:
            assert run == "the same", name
        numbers = re.findall(r"\d[\d.]*", f"{here} {there}")
        assert numbers and [number for number in numbers if f"| {number} |" not in measured] == [], name
