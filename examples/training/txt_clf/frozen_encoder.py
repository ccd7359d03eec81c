"""What pretraining is worth: text classifiers with few labels, with and without a pretrained encoder, offline.

The text is documentation that comes with installed packages. A class is a package, whose name is taken out of the text.

1. Train a masked language model on the docstrings of seven tenths of the modules, without labels.
2. Train classifiers on a few labelled docstrings of these. Their encoder starts from the masked language model or from
   random parameters, and is frozen or trained: four ways, each with the learning rate that validates best.
3. Print the accuracies on docstrings of test modules, which neither step has seen, beside that of a linear model of how
   often each word occurs.

    python examples/training/txt_clf/frozen_encoder.py [--output_dir logs/frozen_encoder] [--labels 16] [--seeds 5] ...

It takes about ten minutes on one core. docs/training-examples.md has the result.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import random
import re
import statistics
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from perceiver.data.text import LocalTextDataModule, Task
from perceiver.model.text import classifier, mlm
from perceiver.scripts.lrs import CosineWithWarmupLR

PACKAGES = ["matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch"]
OTHER_NAMES = ["mpl", "np", "nx", "pd", "plt", "pytorch", "scikit-learn"]
SPLITS = ["valid", "test", "test"] + 7 * ["train"]  # a hash of a module's path says which one it is in
VALID_LABELS, TEST_LABELS = 25, 100  # per class

SEQ_LEN = 128
NUM_LATENTS = 8  # few, so that they come to hold what a text is about
NUM_CHANNELS = 64
EPOCHS = 30
LEARNING_RATES = [3e-4, 1e-3, 3e-3]

Rows = list[dict[str, str]]


def docstrings(package: str) -> Iterator[tuple[str, list[str]]]:
    """Path and docstrings of each module that is no test. Files are read, nothing is imported."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed"
    root = Path(spec.origin).parent
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root.parent)
        if not any(part.startswith(("test", "_vendor", "external")) for part in path.parts):
            nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            found = [ast.get_docstring(n) for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
            yield path.as_posix(), [docstring for docstring in found if docstring]


def passages() -> dict[str, Rows]:
    """Rows of text and label by split. Modules are in one split, and a paragraph is kept only where it comes first."""
    names = re.compile(rf"\b({'|'.join(PACKAGES + OTHER_NAMES)})\b", re.IGNORECASE)
    splits: dict[str, Rows] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for package in PACKAGES:
        for path, found in docstrings(package):
            split = SPLITS[zlib.crc32(path.encode()) % len(SPLITS)]
            for docstring in found:
                paragraphs = [" ".join(paragraph.split()) for paragraph in docstring.split("\n\n")]
                new = [paragraph for paragraph in paragraphs if paragraph not in seen]
                seen.update(new)
                text = names.sub("_", " ".join(new))
                if len(text) >= 200:
                    splits[split].append({"text": text[:2000], "label": package})
    return splits


def sample(rows: Rows, per_class: int, seed: int) -> Rows:
    """As many rows of each class: `per_class`, or what the smallest class has."""
    classes: dict[str, Rows] = defaultdict(list)
    for row in rows:
        classes[row["label"]].append(row)
    num_rows = min(per_class, *map(len, classes.values()))
    draw = random.Random(seed)
    return [row for of_class in classes.values() for row in draw.sample(of_class, num_rows)]


def write(file: Path, rows: Rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def write_tokenizer(rows: Rows, folder: Path) -> None:
    """2,048 word pieces. With bytes, pretraining would take more than minutes."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    trainer = trainers.WordPieceTrainer(vocab_size=2048, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator((row["text"] for row in rows), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def text_data(folder: Path, **kwargs: Any) -> LocalTextDataModule:
    return LocalTextDataModule(
        str(folder / "cache"),
        tokenizer=str(folder / "tokenizer"),
        max_seq_len=SEQ_LEN,
        batch_size=32,
        num_workers=0,
        **kwargs,
    )


def encoder_config(vocab_size: int, **kwargs: Any) -> mlm.TextEncoderConfig:
    return mlm.TextEncoderConfig(
        vocab_size=vocab_size,
        max_seq_len=SEQ_LEN,
        num_input_channels=NUM_CHANNELS,
        num_cross_attention_heads=4,
        num_self_attention_heads=4,
        num_self_attention_layers_per_block=2,
        self_attention_widening_factor=2,
        init_scale=0.05,
        **kwargs,
    )


def new_trainer(**kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **kwargs,
    )


class LanguageModel(mlm.LitMaskedLanguageModel):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3, fused=True)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20, min_fraction=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def pretrain(folder: Path, max_steps: int) -> str:
    """Trains a masked language model on train.jsonl and returns its checkpoint."""
    data = text_data(
        folder, train_files=str(folder / "train.jsonl"), valid_files=str(folder / "valid.jsonl"), mask_prob=0.2
    )
    pl.seed_everything(0, verbose=False)
    decoder = mlm.TextDecoderConfig(
        vocab_size=data.vocab_size, max_seq_len=SEQ_LEN, num_cross_attention_heads=4, init_scale=0.05
    )
    config = mlm.MaskedLanguageModelConfig(encoder_config(data.vocab_size), decoder, NUM_LATENTS, NUM_CHANNELS)
    trainer = new_trainer(
        max_steps=max_steps,
        val_check_interval=max_steps,
        check_val_every_n_epoch=None,
        callbacks=[TQDMProgressBar(refresh_rate=100)],
    )
    trainer.fit(LanguageModel.create(config), datamodule=data)
    trainer.save_checkpoint(folder / "mlm.ckpt", weights_only=True)
    print(f"\nmasked language model: validation loss {trainer.callback_metrics['val_loss']:.3f}", flush=True)
    return str(folder / "mlm.ckpt")


class Classifier(classifier.LitTextClassifier):
    learning_rate = 1e-3

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, fused=True)


def classify(folder: Path, labelled: Rows, learning_rate: float, seed: int, **encoder: Any) -> tuple[float, float]:
    """Trains a classifier, whose encoder has `params` and `freeze`, and returns validation and test accuracy."""
    data = text_data(
        folder,
        task=Task.clf,
        train_files=write(folder / f"labelled-{seed}.jsonl", labelled),
        valid_files=str(folder / "labelled-valid.jsonl"),
        test_files=str(folder / "labelled-test.jsonl"),
        seed=seed,
    )
    pl.seed_everything(seed, verbose=False)
    decoder = classifier.ClassificationDecoderConfig(
        num_classes=data.num_classes,
        num_output_query_channels=NUM_CHANNELS,
        num_cross_attention_heads=4,
        init_scale=0.05,
    )
    model = Classifier.create(
        classifier.TextClassifierConfig(encoder_config(data.vocab_size, **encoder), decoder, NUM_LATENTS, NUM_CHANNELS)
    )
    model.learning_rate = learning_rate
    trainer = new_trainer(max_epochs=EPOCHS, check_val_every_n_epoch=EPOCHS, enable_progress_bar=False)
    trainer.fit(model, datamodule=data)
    validation = float(trainer.callback_metrics["val_acc"])
    (test,) = trainer.test(model, datamodule=data, verbose=False)
    return validation, test["test_acc"]


def classify_words(folder: Path, labelled: Rows, test: Rows) -> float:
    """Test accuracy of a logistic regression on frequencies of the word pieces that the other models see."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    words = TfidfVectorizer(analyzer=lambda text: tokenizer.tokenize(text)[:SEQ_LEN], sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10.0))
    model.fit([row["text"] for row in labelled], [row["label"] for row in labelled])
    return float(model.score([row["text"] for row in test], [row["label"] for row in test]))


def show(name: str, accuracies: list[float], remark: str = "") -> None:
    mean, deviation = statistics.mean(accuracies), statistics.pstdev(accuracies)
    print(f"{name:<36}{mean:6.1%} ± {deviation:.1%}{remark}", flush=True)


def main(argv: Sequence[str] | None = None) -> dict[tuple[bool, bool], list[float]]:
    """Returns the test accuracies of all seeds by (pretrained, frozen)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/frozen_encoder"))
    parser.add_argument("--pretraining_steps", type=int, default=10000)
    parser.add_argument("--labels", type=int, default=16, help="labelled docstrings per class")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs, each with other labelled docstrings")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.output_dir

    torch.set_num_threads(1)  # the model is so small that threads would mostly wait for each other
    folder.mkdir(parents=True, exist_ok=True)
    splits = passages()
    for split, rows in splits.items():
        write(folder / f"{split}.jsonl", rows)
        print(f"{split:<6} {len(rows):6,} docstrings, {sum(len(row['text']) for row in rows) / 1e6:5.1f} M characters")
    valid, test = sample(splits["valid"], VALID_LABELS, seed=0), sample(splits["test"], TEST_LABELS, seed=0)
    write(folder / "labelled-valid.jsonl", valid)
    write(folder / "labelled-test.jsonl", test)
    write_tokenizer(splits["train"], folder / "tokenizer")
    mlm_checkpoint = pretrain(folder, arguments.pretraining_steps)

    print(f"{arguments.labels} labels per class; accuracy on {len(test)} docstrings, mean and standard deviation:")
    show("always the same class", [1 / len(PACKAGES)])
    samples = [sample(splits["train"], arguments.labels, seed) for seed in range(arguments.seeds)]
    show("linear model of word frequencies", [classify_words(folder, labelled, test) for labelled in samples])
    results = {}
    for pretrained, frozen in ((True, True), (True, False), (False, True), (False, False)):
        encoder = {"params": mlm_checkpoint if pretrained else None, "freeze": frozen}
        trials = []
        for learning_rate in LEARNING_RATES:
            accuracies = [
                classify(folder, labelled, learning_rate, seed, **encoder) for seed, labelled in enumerate(samples)
            ]
            validation, tested = zip(*accuracies, strict=True)
            trials.append((statistics.mean(validation), learning_rate, list(tested)))
        _, learning_rate, tested = max(trials)
        name = f"{'pretrained' if pretrained else 'random'} encoder, {'frozen' if frozen else 'trained'}"
        show(name, tested, f"   (learning rate {learning_rate})")
        results[pretrained, frozen] = tested
    return results


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # there are sixty trainers
    datasets.disable_progress_bars()
    main()
