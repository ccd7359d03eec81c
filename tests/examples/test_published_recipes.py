"""The recipes of perceiver-io 0.11, complete: defaults count as much as flags.

`tests/golden/recipes/0_11.yaml` has the published commands and what each of them configured. Compared are what the
published command configures here, and what our example script of the same name does. Each difference is in a table,
with its reason; one that is not, or no more, fails.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from perceiver.scripts.former import todays_config
from tests.examples.test_training_examples import commands

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "golden" / "recipes" / "0_11.yaml").read_text())
ABSENT = "(absent)"
Differences = dict[str, tuple[Any, Any, str]]

# Flags that 0.11 did not have, with the value at which they do nothing. Those of newer Lightning and torch don't count.
NEW = {
    "data.init_args.config_name": {"plain_text", "wikitext-103-raw-v1", "en"},
    "data.init_args.max_pixels": {89478485},  # a limit of damaged files
    "data.init_args.max_unpacked_bytes": {2**32},  # the same
    "data.init_args.mask_prob": {0.15},  # C4 serves masked language models, too
    "data.init_args.mask_words": {True},
    "data.init_args.mixing": {None},
    "data.init_args.packing": {False},
    "data.init_args.preproc_workers": {1, 4},  # the result is the same
    "data.init_args.random_tempo": {0.0},
    "data.init_args.random_transposition": {0},
    "data.init_args.revision": {None},
    "data.init_args.seed": {0},
    "data.init_args.source": {  # as the hub calls them now
        "Salesforce/wikitext",
        "allenai/c4",
        "stanfordnlp/imdb",
        "ylecun/mnist",
    },
    "data.init_args.task": {"clm"},
    "data.init_args.valid_batch_size": {None},
    "data.init_args.valid_fraction": {0.05},
    "lr_scheduler.init_args.training_steps": {0},  # the length of the training
    "model.encoder.adapter": {"fourier"},
    "model.encoder.cross_attention_residual": {True},
    "model.encoder.num_adapter_channels": {256},  # of the other adapters
    "model.label_names": {None},
    "model.label_smoothing": {0.0},
    "model.num_loss_blocks": {1},
    "model.problem_type": {None, "single_label_classification"},
    "model.token_shift": {False},
}

ALWAYS: Differences = {
    "model.params_strict": (ABSENT, True, "parameters of another function are refused"),
    "trainer.callbacks.ModelCheckpoint.save_weights_only": (True, False, "an interrupted run goes on exactly"),
    "data.init_args.num_workers": (3, 2, "equal: batches don't depend on it"),
    "trainer.precision": ("32-true", None, "equal: Lightning's default"),
    "trainer.strategy": ("ddp_find_unused_parameters_false", "auto", "equal: auto is that on several devices"),
}
ARCHIVE = "https://martin-krasser.com/perceiver/data/midi/"
MAESTRO = "https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip"
MAESTRO_DATA: Differences = {
    "data.init_args.source": (f"{ARCHIVE}maestro-v3.0.0-midi.zip", MAESTRO, "the archive of its authors"),
    "data.init_args.sha256": (None, "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c", "checked"),
    "data.init_args.dataset_dir": (".cache/maestro-v3-midi", ".cache/maestro-v3", "equal: a folder's name"),
}
GIANTMIDI_SOURCE = f"{ARCHIVE}giantmidi-piano.zip"

# What differs when the published command runs here.
COMMANDS: dict[str, Differences] = {
    "clm/train.sh": {},
    "clm/train_fsdp.sh": {"data.init_args.batches_per_epoch": (ABSENT, 10000, "a stream has no epochs of its own")},
    "img_clf/train.sh": {},
    "mlm/train.sh": {},
    "sam/giantmidi/train.sh": {
        "data.init_args.source": (GIANTMIDI_SOURCE, None, "not ours to link to: an error says where to get it"),
    },
    "sam/maestrov3/train.sh": MAESTRO_DATA,
    "txt_clf/train_all.sh": {},
    "txt_clf/train_dec.sh": {},
}

BFLOAT16 = "as fast as float16, and needs no loss scaling"
FASTER = "several times as fast as float32"
OURS: Differences = {
    "trainer.log_every_n_steps": (20, None, "Lightning's default, 50"),
    "trainer.strategy": ("ddp_find_unused_parameters_false", "ddp", "equal"),
}
TOKENIZER: Differences = {
    "data.init_args.tokenizer": ("krasserm/perceiver-io-mlm", "deepmind/language-perceiver", "equal: UTF-8 bytes"),
    "trainer.precision": (16, "bf16-mixed", BFLOAT16),
}
AUDIO: Differences = {
    "data.init_args.num_workers": (1, 2, "equal: batches don't depend on it"),
    "model.validation_sample_record": (None, -1, "each validation continues an example, for the ear"),
    "trainer.precision": ("32-true", "bf16-mixed", FASTER),
}
# What differs in our script (the key), besides the folder that it logs to, from the published one (the first value).
SCRIPTS: dict[str, tuple[str, Differences]] = {
    "clm/train.sh": (
        "clm/train.sh",
        {
            "trainer.precision": ("32-true", "bf16-mixed", FASTER),
        },
    ),
    "clm/train_c4.sh": (
        "clm/train_fsdp.sh",
        {
            "data.init_args.batch_size": (256, 32, "equal with trainer.accumulate_grad_batches: for less memory"),
            "trainer.accumulate_grad_batches": (1, 8, "see data.batch_size"),
            "data.init_args.batches_per_epoch": (ABSENT, 4000, "so that an epoch is 500 steps"),
            "trainer.val_check_interval": (500, None, "equal: every 500 steps"),
            "trainer.check_val_every_n_epoch": (None, 1, "equal: every 500 steps"),
            "model.max_heads_parallel": (2, None, "equal: it never had an effect on results"),
            "trainer.precision": ("bf16", "bf16-mixed", "equal: its name"),
        },
    ),
    "img_clf/train.sh": ("img_clf/train.sh", {}),
    "mlm/train.sh": (
        "mlm/train.sh",
        {
            **TOKENIZER,
            "model.params": ("krasserm/perceiver-io-mlm", "logs/language-perceiver", "equal: converted here"),
        },
    ),
    "sam/train.sh": ("sam/maestrov3/train.sh", {**MAESTRO_DATA, **AUDIO}),
    "sam/train_giantmidi.sh": (
        "sam/giantmidi/train.sh",
        {
            **AUDIO,
            "data.init_args.source": (GIANTMIDI_SOURCE, "midis_v1.2.zip", "the authors' archive, downloaded by hand"),
        },
    ),
    "txt_clf/train_all.sh": (
        "txt_clf/train_all.sh",
        {
            **TOKENIZER,
            "model.params": (
                "logs/txt_clf/version_0/checkpoints/epoch=009-val_loss=0.215.ckpt",
                "logs/txt_clf_dec/version_0/checkpoints/last.ckpt",
                "the end of our train_dec.sh",
            ),
        },
    ),
    "txt_clf/train_dec.sh": (
        "txt_clf/train_dec.sh",
        {
            **TOKENIZER,
            "model.encoder.params": (
                "logs/mlm/version_0/checkpoints/epoch=012-val_loss=1.165.ckpt",
                "logs/mlm_imdb/version_0/checkpoints/last.ckpt",
                "the end of our mlm/train.sh",
            ),
        },
    ),
}


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Flags of a configuration. Those of a list of classes have the names of the classes."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from flat(item["init_args"], f"{name}.{item['class_path'].split('.')[-1]}")
    else:
        yield name, value


def printed(module: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        import_module(module).main([*arguments, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return dict(flat(yaml.safe_load(output.out)))


def differences(script: str, ours: dict[str, Any], allowed: Differences) -> dict[str, tuple[Any, Any]]:
    """Flags, and those flags alone, that are not as published, nor as `allowed` or `NEW` say."""
    published = dict(flat(todays_config(PUBLISHED["configs"][script])))
    names = published.keys() | {name for name in ours if name.startswith(("model.", "data.", "lr_scheduler."))}
    pairs = {name: (published.get(name, ABSENT), ours.get(name, ABSENT)) for name in names}
    return {
        name: pair
        for name, pair in pairs.items()
        if pair[0] != pair[1]
        and not (name in allowed and pair == allowed[name][:2])
        and not (pair[0] == ABSENT and pair[1] in NEW.get(name, ()))
    }


def declared(table: Differences) -> dict[str, tuple[Any, Any]]:
    assert all(reason for _, _, reason in table.values())
    return {name: (theirs, our) for name, (theirs, our, _) in table.items()}


@pytest.mark.parametrize("script", COMMANDS)
def test_published_commands_train_what_they_trained(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = shlex.split(PUBLISHED["commands"][script])
    assert differences(script, printed(module, arguments, capsys), ALWAYS) == declared(COMMANDS[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_our_scripts_are_the_published_recipes(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published, table = SCRIPTS[script]
    command = commands(script, tmp_path)[-1]
    ours = printed(command[1], command[2:], capsys)
    ours["trainer.logger.init_args.name"] = {"clm/train_fsdp.sh": "clm-fsdp"}.get(published, published.split("/")[0])
    assert differences(published, ours, ALWAYS | OURS) == declared(table)


def test_every_published_recipe_is_compared() -> None:
    trainings = {script for script in PUBLISHED["commands"] if "/train" in script}
    assert (
        trainings == COMMANDS.keys() == {published for published, _ in SCRIPTS.values()} == PUBLISHED["configs"].keys()
    )
