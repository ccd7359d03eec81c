"""Commands and `config.yaml` files of perceiver-io 0.8 to 0.11."""

from __future__ import annotations

import shlex
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from transformers import PerceiverTokenizer

from perceiver.model.core.pickles import published_classes
from perceiver.model.text import classifier
from perceiver.model.vision import image_classifier
from perceiver.scripts import cli
from perceiver.scripts.former import todays, todays_config
from tests.model.helpers import GOLDEN

PUBLISHED = yaml.safe_load((GOLDEN / "recipes" / "0_11.yaml").read_text())
SHARDED = "pytorch_lightning.strategies.ModelParallelStrategy"
FLAGS = {
    "--model.optimizer=AdamW --model.optimizer.lr=3e-4": "--optimizer=AdamW --optimizer.lr=3e-4",
    "--model.scheduler.warmup_steps 9": "--lr_scheduler.warmup_steps=9",
    "--model.max_grad_norm=1.0": "--trainer.gradient_clip_val=1.0",
    "--data=MaestroV3DataModule --data.dataset_uri=m.zip": (
        "--data=MaestroV3DataModule --data.source=m.zip --data.sha256=null"
    ),
    "--data=ImdbDataModule --data.repo_id=x": "--data=ImdbDataModule --data.source=x",
    "--data=KittiFlowDataModule --data.dataset_dir x": "--data=KittiFlowDataModule --data.source=x",
    "--data=MNISTDataModule --data.dataset_dir=x": "--data=MNISTDataModule --data.dataset_dir=x",
    "--data=MNISTDataModule --data.shuffle=true": "--data=MNISTDataModule",
    "--data=perceiver.data.vision.MNISTDataModule --data.shuffle=true": "--data=perceiver.data.vision.MNISTDataModule",
    "--trainer.strategy=ddp_static_graph": "--trainer.strategy=ddp",
    "--trainer.strategy=fsdp_perceiver_ar --trainer.devices=8": (
        f"--trainer.strategy={SHARDED} --trainer.strategy.data_parallel_size=8 "
        "--trainer.strategy.tensor_parallel_size=1 --trainer.strategy.save_distributed_checkpoint=false "
        "--trainer.devices=8"
    ),
    "--trainer.gpus=2 --trainer.replace_sampler_ddp=false": (
        "--trainer.devices=2 --trainer.use_distributed_sampler=false"
    ),
    "--trainer.auto_lr_find=false --trainer.track_grad_norm=-1": "",
    # not ours to change
    "fit --data.batch_size=2 --config missing.yaml": "fit --data.batch_size=2 --config=missing.yaml",
    "--data=my.Images --data.shuffle=false": "--data=my.Images --data.shuffle=false",
    "--data=my.Midi --data.dataset_uri=m.zip": "--data=my.Midi --data.dataset_uri=m.zip",
    "--model.params=null --print_config": "--model.params=null --print_config",
    "--model.optimizers=3": "--model.optimizers=3",
    "-h": "-h",
}


@pytest.mark.parametrize("former", FLAGS)
def test_flags(former: str) -> None:
    assert todays(former.split()) == FLAGS[former].split()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=MNISTDataModule", "--data.shuffle=false"], "data.shuffle=False of perceiver-io 0.11 has no effect"),
        (["--trainer.auto_lr_find=true"], "trainer.auto_lr_find=True of perceiver-io 0.11 has no effect any more"),
    ],
)
def test_what_has_no_effect_is_said(flags: list[str], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        assert flags[-1] not in todays(flags)


@pytest.mark.parametrize("devices", [[], ["--trainer.devices=-1"]])
def test_sharding_needs_a_number_of_devices(devices: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        import_module("perceiver.scripts.text.clm_fsdp").main(["fit", "--trainer.strategy=fsdp_perceiver_ar", *devices])
    assert stop.value.code == 2
    assert "say how many devices, or use trainer.strategy=ModelParallelStrategy" in capsys.readouterr().err


# --- config.yaml ---


def printed(module: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        import_module(module).main([*arguments, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


@pytest.mark.parametrize("script", PUBLISHED["configs"])
def test_every_config_file_of_a_published_run_is_read(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "config.yaml").write_text(yaml.safe_dump(PUBLISHED["configs"][script]))
    module = shlex.split(PUBLISHED["commands"][script])[0]
    config = printed(module, ["validate", f"--config={file}", "--trainer.devices=1"], capsys)
    expected = todays_config(PUBLISHED["configs"][script])
    assert config["data"]["class_path"] == expected["data"]["class_path"]
    for section in ("model", "data"):
        ours, theirs = (values[section].get("init_args", values[section]) for values in (config, expected))
        for name, value in theirs.items():
            assert (ours[name] if not isinstance(value, dict) else value | ours[name]) == (
                value if not isinstance(value, dict) else ours[name] | value
            )
    assert config["trainer"]["devices"] == "1"


def test_config_of_todays_run_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data=MNISTDataModule", "--optimizer=Lamb", "--trainer.strategy=ddp", "--lr_scheduler.warmup_steps=3"]
    config = printed("perceiver.scripts.vision.image_classifier", ["fit", *flags], capsys)
    assert todays_config(config) == config


def test_config_of_older_lightning_and_of_other_data() -> None:
    config = {
        "trainer": {"gpus": None, "auto_lr_find": False, "replace_sampler_ddp": True, "max_epochs": 3},
        "data": {"class_path": "my.Images", "init_args": {"shuffle": False, "dataset_uri": "x"}},
        "optimizer": {
            "class_path": "torch_optimizer.Lamb",
            "init_args": {"lr": 0.1, "clamp_value": 10, "debias": True},
        },
        "lr_scheduler": None,
    }
    before = yaml.safe_dump(config)
    with pytest.warns(UserWarning, match="optimizer.debias=True of perceiver-io 0.11 has no effect any more"):
        assert todays_config(config) == {
            "trainer": {"max_epochs": 3, "use_distributed_sampler": True},
            "data": config["data"],
            "optimizer": {"class_path": "pytorch_optimizer.Lamb", "init_args": {"lr": 0.1}},
            "lr_scheduler": None,
        }
    assert yaml.safe_dump(config) == before


@pytest.mark.parametrize("content", ["- a list\n", "text", "{", "\udc80"])
def test_what_is_no_config_is_left_to_the_parser(content: str, tmp_path: Path) -> None:
    (file := tmp_path / "config.yaml").write_bytes(content.encode(errors="surrogateescape"))
    assert todays(["-c", str(file)]) == [f"--config={file}"]


# --- the scripts that validate published checkpoints ---


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The current folder, with tiny data and a tokenizer in it; gives the command lines that ran."""
    monkeypatch.chdir(tmp_path)
    PerceiverTokenizer().save_pretrained("krasserm/perceiver-io-mlm")
    reviews = {"text": ["A good film.", "A bad film.", "Watch this."] * 3, "label": [1, 0, 1] * 3}
    save("imdb", "plain_text", datasets.Dataset.from_dict(reviews), ["train", "test", "unsupervised"])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    rows = datasets.Dataset.from_dict({"image": list(images), "label": list(range(7))}, features=features)
    save("mnist", "default", rows, ["train", "test"])
    runs: list[Any] = []
    parse = cli.CLI
    monkeypatch.setattr(cli, "CLI", lambda *args, **kwargs: runs.append(parse(*args, **kwargs)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield runs
    torch.set_num_threads(threads)


def save(folder: str, config: str, rows: datasets.Dataset, splits: list[str]) -> None:
    """A data set in the layout of the hub."""
    Path(folder).mkdir()
    for split in splits:
        rows.to_parquet(f"{folder}/{split}.parquet")
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in splits)
    Path(folder, "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


def text_checkpoint(path: Path) -> Any:
    shutil.copy(GOLDEN / "txt_clf" / "lit.ckpt", path)
    return classifier.LitTextClassifier.load_from_checkpoint(path)


def image_checkpoint(path: Path) -> Any:
    """As 0.11 saved it: configurations are pickled, and there are position codes."""
    config = image_classifier.perceiver_io_mnist()
    encoder = replace(config.encoder, num_self_attention_layers_per_block=1, num_self_attention_heads=2)
    config = replace(config, encoder=encoder, num_latents=3, num_latent_channels=8)
    model = image_classifier.LitImageClassifier.create(config)
    codes = torch.zeros(28 * 28, config.encoder.num_frequency_bands * 4 + 2)
    with published_classes():
        content = torch.load(GOLDEN / "img_clf_mnist" / "lit_080.ckpt", weights_only=True)
    content["state_dict"] = model.state_dict() | {"model.0.input_adapter.position_encoding.position_encoding": codes}
    content["hyper_parameters"] = {**vars(config), "params": "nobody-has-it.ckpt"}
    torch.save(content, path)
    return model


SCRIPTS = {
    "txt_clf/valid_all.sh": ("txt_clf/train_all.sh", text_checkpoint, "--data.source=imdb"),
    "txt_clf/valid_dec.sh": ("txt_clf/train_dec.sh", text_checkpoint, "--data.source=imdb"),
    "img_clf/valid.sh": ("img_clf/train.sh", image_checkpoint, "--data.source=mnist"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_validation_scripts(script: str, workplace: list[Any]) -> None:
    """The command is the published one. The checkpoint is one of 0.11, the file beside it that of the training, but for
    the sizes of a small model."""
    training, save_checkpoint, data = SCRIPTS[script]
    module, *arguments = shlex.split(PUBLISHED["commands"][script])
    values = {name: value for name, _, value in (argument.partition("=") for argument in arguments)}
    file, checkpoint = Path(values["--config"]), Path(values["--ckpt_path"])
    checkpoint.parent.mkdir(parents=True)
    expected = save_checkpoint(checkpoint).eval()

    config = yaml.safe_load(yaml.safe_dump(PUBLISHED["configs"][training]))
    for name, value in expected.hparams.items():
        if isinstance(value, dict):
            config["model"][name] |= {k: v for k, v in value.items() if k in config["model"][name] and k != "params"}
        elif name in config["model"] and name != "params":
            config["model"][name] = value
    if "max_seq_len" in config["data"]["init_args"]:
        config["data"]["init_args"]["max_seq_len"] = expected.model.config.encoder.max_seq_len
    file.write_text(yaml.safe_dump(config))

    here = [data, "--data.num_workers=0", "--data.pin_memory=false", "--trainer.accelerator=cpu"]
    here += ["--trainer.precision=32-true", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    here += ["--trainer.strategy=auto"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        import_module(module).main([*arguments, *here])
    (run,) = workplace
    batches = list(run.datamodule.val_dataloader())
    with torch.no_grad():
        steps = [expected.step(batch) for batch in batches]
    assert len(batches) == 1
    found = run.trainer.callback_metrics
    torch.testing.assert_close(found["val_loss"], steps[0][0])
    torch.testing.assert_close(found["val_acc"], steps[0][1])
