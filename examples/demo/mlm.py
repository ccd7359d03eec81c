"""The whole way of a masked language model in about five minutes on two cores, without a download.

1. Train a small byte-level Perceiver IO with Lightning, on the English text that every Python carries.
2. Compare its validation loss with a unigram model: the same masked positions, each byte by its frequency.
3. Convert the Lightning checkpoint to a Hugging Face folder and fill masks in held-out sentences with a pipeline.
4. Draw the loss curve.

    python examples/demo/mlm.py [--output_dir logs/demo] [--max_steps N] [--max_minutes 4]
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from transformers import PerceiverTokenizer, pipeline

from perceiver.data.text import PydocTextDataModule
from perceiver.data.text.pydoc import split_topics
from perceiver.model.text import mlm
from perceiver.scripts.lrs import CosineWithWarmupLR

SEQ_LEN = 64


class Model(mlm.LitMaskedLanguageModel):
    """The library's Lightning module, with an optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20, min_fraction=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config(vocab_size: int) -> mlm.MaskedLanguageModelConfig:
    """A Perceiver IO for 64 bytes, 457,222 parameters."""
    return mlm.MaskedLanguageModelConfig(
        encoder=mlm.TextEncoderConfig(
            vocab_size=vocab_size,
            max_seq_len=SEQ_LEN,
            num_input_channels=128,
            num_cross_attention_heads=4,
            num_self_attention_heads=4,
            num_self_attention_layers_per_block=2,
            init_scale=0.1,
        ),
        decoder=mlm.TextDecoderConfig(
            vocab_size=vocab_size, max_seq_len=SEQ_LEN, num_cross_attention_heads=4, init_scale=0.1
        ),
        num_latents=64,
        num_latent_channels=128,
    )


def unigram_loss(data: PydocTextDataModule) -> float:
    """Mean cross-entropy of byte frequencies in the training text, at the masked positions of the validation text."""
    counts = np.bincount(data.chunks["train"].tokens, minlength=data.vocab_size) + 1  # + 1: no byte is impossible
    log_probs = torch.from_numpy(np.log(counts / counts.sum()))
    losses = [-log_probs[labels[labels != -100]] for labels, _, _ in data.val_dataloader()]
    return float(torch.cat(losses).mean())


def masked_sentences(num_sentences: int) -> list[tuple[str, str]]:
    """Sentences of the validation topics that fit the model, and the same with every tenth character masked."""
    sentences = []
    for text in split_topics()["valid"]:
        for sentence in re.findall(r"[A-Z][a-z]+(?: [a-z]+,?){4,9}\.", text.replace("\n", " ")):
            if len(sentence) <= SEQ_LEN:
                masked = ["[MASK]" if i % 10 == 7 else character for i, character in enumerate(sentence)]
                sentences.append((sentence, "".join(masked)))
    return sentences[:: max(1, len(sentences) // num_sentences)][:num_sentences]


def fill(fill_mask: Any, masked: str) -> str:
    """The masked sentence with the best prediction for each mask."""
    predictions = fill_mask(masked, top_k=1, tokenizer_kwargs={"add_special_tokens": False})
    for prediction in predictions:  # one list per mask, if there are several
        masked = masked.replace("[MASK]", prediction[0]["token_str"], 1)
    return masked


def draw(metrics_file: Path, unigram: float, picture: Path) -> None:
    """Draws training and validation loss over steps, with the unigram model's loss as a line."""
    from matplotlib.figure import Figure

    metrics = np.genfromtxt(metrics_file, delimiter=",", names=True)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (("train_loss", "training", {"alpha": 0.5}), ("val_loss", "validation", {"marker": "o"})):
        there = ~np.isnan(metrics[name])
        axes.plot(metrics["step"][there], metrics[name][there], label=label, **style)
    axes.axhline(unigram, color="gray", linestyle="--", label="unigram model")
    axes.set(xlabel="step", ylabel="cross-entropy per masked byte (nats)", title="Masked language model, pydoc topics")
    axes.legend()
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/demo"))
    parser.add_argument("--max_steps", type=int, default=4500)
    parser.add_argument("--max_minutes", type=float, default=4.0, help="stop training after this time in any case")
    arguments = parser.parse_args()
    output_dir: Path = arguments.output_dir

    torch.set_num_threads(1)  # the model is so small that threads would mostly wait for each other
    pl.seed_everything(0)
    PerceiverTokenizer().save_pretrained(output_dir / "tokenizer")
    data = PydocTextDataModule(
        str(output_dir / "cache"),
        tokenizer=str(output_dir / "tokenizer"),
        max_seq_len=SEQ_LEN,
        mask_words=False,
        mask_prob=0.3,  # more to learn from per step than the usual 0.15
        batch_size=16,
        valid_batch_size=128,
        num_workers=0,
    )
    model = Model.create(model_config(data.vocab_size))
    logger = CSVLogger(output_dir, name="mlm")
    checkpoints = ModelCheckpoint(monitor="val_loss", filename="{epoch:03d}-{val_loss:.3f}")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=arguments.max_steps,
        max_time={"minutes": arguments.max_minutes},
        val_check_interval=min(500, arguments.max_steps),
        check_val_every_n_epoch=None,
        log_every_n_steps=25,
        gradient_clip_val=1.0,
        logger=logger,
        callbacks=[checkpoints, TQDMProgressBar(refresh_rate=25)],
    )
    trainer.fit(model, datamodule=data)
    logger.save()
    if not checkpoints.best_model_path:
        parser.exit(1, f"no validation within {arguments.max_minutes} minutes: give --max_minutes more\n")

    hub_dir = output_dir / "model"
    mlm.convert_checkpoint(
        save_dir=hub_dir, ckpt_url=checkpoints.best_model_path, tokenizer_name=str(output_dir / "tokenizer")
    )
    unigram, loss = unigram_loss(data), float(checkpoints.best_model_score or "nan")
    draw(Path(logger.log_dir) / "metrics.csv", unigram, output_dir / "loss.png")

    fill_mask = pipeline("fill-mask", model=str(hub_dir))
    for original, masked in masked_sentences(5):
        print(f"\nheld out  {original}\nmasked    {masked.replace('[MASK]', '_')}\nfilled    {fill(fill_mask, masked)}")
    print(f"\nvalidation loss {loss:.3f}, unigram model {unigram:.3f} nats per masked byte")
    print(f"checkpoint      {checkpoints.best_model_path}")
    print(f"loss curve      {output_dir / 'loss.png'}")
    print(f"model folder    {hub_dir}   pipeline('fill-mask', model='{hub_dir}')")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    main()
