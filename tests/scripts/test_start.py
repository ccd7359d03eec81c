"""Help and mistakes of the training scripts: one line each, without torch; and no mistake where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perceiver.scripts import help as help_texts
from perceiver.scripts.flags import CommandLine
from perceiver.scripts.mistakes import usage_error
from perceiver.scripts.parsing import condensed
from perceiver.scripts.start import train
from perceiver.tasks import TASKS

DATA = "--data=PydocTextDataModule --data.tokenizer=bytes --data.max_seq_len=64"


def run(capsys: pytest.CaptureFixture[str], task: str, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        train(task, list(args))
    assert isinstance(stop.value.code, int)
    return stop.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fti", "perceiver mlm: there is no command fti; did you mean fit?"),
        ("predict", "perceiver mlm: there is no command predict; there are fit, validate, test"),
        (
            "fit --data=WikiTextDataModul",
            "perceiver mlm fit: masked language models know no data module WikiTextDataModul; "
            "did you mean WikiTextDataModule?",
        ),
        (
            "fit --optimizer=AdmW",
            "perceiver mlm fit: masked language models know no optimizer AdmW; did you mean AdamW?",
        ),
        (
            "fit --data.tokeniser=x",
            "perceiver mlm fit: there is no flag --data.tokeniser; did you mean --data.tokenizer?",
        ),
        ("fit --model.num_latent=3", "there is no flag --model.num_latent; did you mean --model.num_latents?"),
        ("fit --model.dropuot=0.1", "there is no flag --model.dropuot; did you mean --model.encoder.dropout?"),
        ("fit --modell.num_latents=3", "there is no flag --modell.num_latents; did you mean --model.num_latents?"),
        ("fit --max_steps=3", "there is no flag --max_steps; did you mean --trainer.max_steps?"),
        ("fit --xyz=3", "there is no flag --xyz; perceiver mlm fit --help lists them"),
        ("validate --trainer.max_step=3", "perceiver mlm validate: there is no flag --trainer.max_step; did you mean"),
        ("fit --model.num_latents=many", "--model.num_latents=many: it must be an integer"),
        ("fit --trainer.max_steps=1e3", "--trainer.max_steps=1e3: it must be an integer"),
        ("fit --trainer.enable_progress_bar=maybe", "it must be true or false or null"),
        ("fit --model.encoder.max_seq_len=3", "is no flag: --data decides it, see --data.max_seq_len there"),
        ("fit more", "'more' is neither a flag nor the value of one"),
        ("fit --ckpt_path=none.ckpt", "--ckpt_path=none.ckpt: there is no such file"),
        ("fit --config=none.yaml", "--config=none.yaml: there is no such file"),
        ("fit", "--data is missing, the name of a data module"),
        ("fit --data=PydocTextDataModule --data.tokenizer=bytes", "PydocTextDataModule needs --data.max_seq_len"),
    ],
)
def test_a_mistake_costs_one_line(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    data = DATA.split() if "--data=" not in command and words != ["fit"] and len(words) > 1 else []
    code, out, err = run(capsys, "mlm", *words[:1], *data, *words[1:])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    "args",
    [
        DATA,
        f"{DATA} --optimizer=Lamb --optimizer.lr=1e-3 --trainer.max_epochs=-1 --data.init_args.task=clm",
        f"{DATA} --optimizer.lr 3e-4 --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss",
        f"{DATA} --trainer.strategy=ddp --trainer.devices=2 --trainer.precision=bf16-mixed --ckpt_path=last",
        f"{DATA} --model.encoder.params=folder --model.params=null --last_checkpoint.minutes=.5",
        f"{DATA} --trainer.logger.init_args.save_dir=a --lr_scheduler=CosineWithWarmupLR",
        "--data=my.own.Data --data.whatever=3 --optimizer=my.Own --optimizer.anything=1",
        "--data=TestsOfThis --data.whatever=3",
        "--data.class_path=PydocTextDataModule --data.init_args.tokenizer=bytes --data.init_args.max_seq_len=64",
        "--print_config",
    ],
)
def test_what_the_parser_takes_is_no_mistake(args: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TestsOfThis", type("TestsOfThis", (), {}), raising=False)
    assert usage_error(CommandLine("mlm", ("fit", *args.split()))) is None


def test_a_file_may_name_the_data(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data:\n  class_path: X\n")
    assert usage_error(CommandLine("mlm", ("fit", f"--config={tmp_path / 'run.yaml'}"))) is None
    (tmp_path / "run.yaml").write_text("model:\n  num_latents: 3\n")
    assert "--data is missing" in str(usage_error(CommandLine("mlm", ("fit", f"--config={tmp_path / 'run.yaml'}"))))


@pytest.mark.parametrize("content", [b"data: [", b"\xff", None])
def test_a_file_that_is_none(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path if content is None else tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run(capsys, "mlm", "fit", f"--config={path}")
    assert (code, err.count("\n")) == (2, 1) and f"--config={path} can't be read: " in err


@pytest.mark.parametrize("task", TASKS)
def test_help_has_what_is_the_tasks_first(
    task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(capsys, task, "fit", "--help")
    assert (code, err) == (0, "") and max(map(len, out.splitlines())) <= 80
    places = [out.index(f"\n{title}") for title in ("Data", "Model", "Optimizer", "Learning rate", "Run", "Trainer")]
    assert places == sorted(places)
    line = CommandLine(task, ("fit",))
    assert [name for name in line.model.names if f"\n  --{name}\n" not in out] == []
    assert [name for name in TASKS[task].data if name not in out] == []
    name = TASKS[task].data[0]
    _, out, _ = run(capsys, task, "fit", f"--data={name}", "--help")
    flags = CommandLine(task, ("fit", f"--data={name}")).data.names
    assert flags and [flag for flag in flags if f"\n  --{flag}\n" not in out] == []


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "clm", "--help")
    assert code == 0 and out.startswith("usage: perceiver clm COMMAND")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")][:4] == [
        "fit",
        "validate",
        "test",
        *TASKS["clm"].commands,
    ][:4]
    assert run(capsys, "clm")[:2] == (2, out)
    assert help_texts.wrapped("a " * 60)[0].startswith("      a a")


def test_nothing_heavy_is_imported_for_help_and_mistakes() -> None:
    code = """if True:
        import json, sys
        from perceiver.scripts.main import main
        try:
            main(sys.argv[1:])
        finally:
            heavy = {"torch", "pytorch_lightning", "transformers", "datasets", "numpy", "jsonargparse"}
            print("\\n" + json.dumps(sorted(heavy & sys.modules.keys())))
    """
    for args in (["clm", "--help"], ["clm", "fit", "--help"], ["mlm", "fit", "--data=X"], ["clm", "fti"]):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
        assert json.loads(done.stdout.splitlines()[-1]) == [], args
        assert done.returncode == (0 if "--help" in args else 2)


def test_errors_of_the_parser_are_condensed() -> None:
    message = (
        'Parser key "data":\n  Does not validate against any of the Union subtypes\n  Subtypes: [X, NoneType]\n'
        "  Errors:\n    - Problem with given class_path 'perceiver.data.text.X':\n      No such flag\n"
        "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n"
    )
    assert condensed(message) == "--data: Problem with given class_path 'perceiver.data.text.X': No such flag"
