"""The whole way of a causal language model in about five minutes on two cores, without a download.

1. Train a small byte-level Perceiver AR with Lightning, on the English text that every Python carries.
2. Score held-out text with it, in bits per byte, and with an n-gram model: the same bytes, the same training text.
3. Convert the Lightning checkpoint to a Hugging Face folder; continue a held-out text, which appears as it is written.
4. Draw the loss curve.

    python examples/demo/clm.py [--output_dir logs/demo-clm] [--max_steps N] [--max_minutes M]
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from transformers import AutoModelForCausalLM, AutoTokenizer, PerceiverTokenizer, TextStreamer

from perceiver.data.text import PydocTextDataModule, Task
from perceiver.data.text.pydoc import split_topics
from perceiver.model.text import clm
from perceiver.model.text.clm.evaluation import evaluate_text
from perceiver.scripts.lrs import CosineWithWarmupLR

SEQ_LEN, NUM_LATENTS = 384, 256
NUM_SPECIAL_TOKENS = 6  # ids of PerceiverTokenizer before those of bytes


class Model(clm.LitCausalLanguageModel):
    """The library's Lightning module, with an optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2.5e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20, min_fraction=0.02)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config(vocab_size: int) -> clm.CausalLanguageModelConfig:
    """A Perceiver AR with a context of 384 bytes and 256 latents, 1,020,038 parameters."""
    return clm.CausalLanguageModelConfig(
        vocab_size=vocab_size,
        max_seq_len=SEQ_LEN,
        max_latents=NUM_LATENTS,
        num_channels=128,
        num_heads=4,
        num_self_attention_layers=4,
        num_self_attention_rotary_layers=-1,
        cross_attention_dropout=0.0,
        abs_pos_emb=False,  # rotary positions alone: the same word is the same wherever it stands
        output_norm=True,
        residual_dropout=0.1,
        init_scale=0.05,
    )


class NGram:
    """Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998) over bytes.

    Args:
        text: Training text.
        order: Longest n-gram in bytes: a context of `order` - 1 bytes, and the next byte.
    """

    def __init__(self, text: bytes, order: int):
        # By length of the context: context -> next byte -> how often, or for shorter contexts than the longest, after
        # how many different bytes the two were seen.
        self.longest = order - 1
        self.counts = [defaultdict[bytes, Counter[int]](Counter) for _ in range(order)]
        for i in range(self.longest, len(text)):
            self.counts[-1][text[i - self.longest : i]][text[i]] += 1
        for longer, shorter in zip(self.counts[:0:-1], self.counts[-2::-1], strict=True):
            for context, following in longer.items():
                shorter[context[1:]].update(following.keys())
        self.discounts = [self._discounts(contexts) for contexts in self.counts]

    @staticmethod
    def _discounts(contexts: dict[bytes, Counter[int]]) -> tuple[float, ...]:
        """What is taken from counts of 0, 1, 2, and 3 or more."""
        numbers = Counter(count for following in contexts.values() for count in following.values())
        n1, n2, n3, n4 = (max(numbers[count], 1) for count in range(1, 5))
        share = n1 / (n1 + 2 * n2)
        estimates = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
        return (0.0, *(max(estimate, 0.05) for estimate in estimates))

    def probability(self, byte: int, context: bytes) -> float:
        """Probability of a byte after `context`, of which there is less only where the text begins."""
        probability = 1 / 256
        for length, (contexts, discounts) in enumerate(zip(self.counts, self.discounts, strict=True)):
            following = contexts.get(context[len(context) - length :]) if length <= len(context) else None
            if following is None:
                break
            discount = sum(discounts[min(count, 3)] for count in following.values())
            rest = following[byte] - discounts[min(following[byte], 3)]
            probability = (rest + discount * probability) / following.total()
        return probability

    def bits(self, text: bytes, first: int) -> float:
        """Cross-entropy of `text` from index `first` on, in bits."""
        contexts = (text[max(i - self.longest, 0) : i] for i in range(first, len(text)))
        return -sum(
            math.log2(self.probability(byte, context)) for byte, context in zip(text[first:], contexts, strict=True)
        )


def ngram_validation_loss(ngram: NGram, data: PydocTextDataModule) -> float:
    """Bits per byte of the n-gram model at the positions that the validation loss is about."""
    bits, num_bytes = 0.0, 0
    for labels, input_ids, pad_mask in data.val_dataloader():
        for example, last, padding in zip(input_ids, labels[:, -1], pad_mask, strict=True):
            text = bytes((torch.cat([example[~padding], last[None]]) - NUM_SPECIAL_TOKENS).tolist())
            first = max(len(text) - NUM_LATENTS, 1)
            bits += ngram.bits(text, first)
            num_bytes += len(text) - first
    return bits / num_bytes


def draw(metrics_file: Path, ngrams: dict[int, float], picture: Path) -> None:
    """Draws training and validation loss over steps, with the losses of n-gram models, by order, as lines."""
    from matplotlib.figure import Figure

    metrics = np.genfromtxt(metrics_file, delimiter=",", names=True)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for split, label, style in (("train", "training", {"alpha": 0.5}), ("val", "validation", {"marker": "o"})):
        losses = metrics[f"{split}_bits_per_byte"]
        there = ~np.isnan(losses)
        axes.plot(metrics["step"][there], losses[there], label=label, **style)
    for (order, loss), line in zip(ngrams.items(), ("--", ":"), strict=True):
        axes.axhline(loss, color="gray", linestyle=line, label=f"{order}-gram model, validation")
    axes.set(xlabel="step", ylabel="bits per byte", ylim=(1, 5), title="Causal language model, pydoc topics")
    axes.legend()
    figure.savefig(picture, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/demo-clm"))
    parser.add_argument("--max_steps", type=int, default=3000)
    parser.add_argument("--max_minutes", type=float, default=8.0, help="stop training after this time in any case")
    parser.add_argument("--num_threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    output_dir: Path = arguments.output_dir

    torch.set_num_threads(arguments.num_threads)
    pl.seed_everything(0)
    PerceiverTokenizer().save_pretrained(output_dir / "tokenizer")
    data = PydocTextDataModule(
        str(output_dir / "cache"),
        tokenizer=str(output_dir / "tokenizer"),
        max_seq_len=SEQ_LEN,
        task=Task.clm,
        random_train_shift=True,
        batch_size=4,
        valid_batch_size=16,
        num_workers=0,
    )
    lit_model = Model.create(model_config(data.vocab_size))
    logger = CSVLogger(output_dir, name="clm")
    checkpoints = ModelCheckpoint(monitor="val_loss", filename="{epoch:03d}-{val_loss:.3f}")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=arguments.max_steps,
        max_time={"minutes": arguments.max_minutes},
        val_check_interval=min(300, arguments.max_steps),
        check_val_every_n_epoch=None,
        log_every_n_steps=min(25, arguments.max_steps),
        gradient_clip_val=1.0,
        logger=logger,
        callbacks=[checkpoints, TQDMProgressBar(refresh_rate=25)],
    )
    trainer.fit(lit_model, datamodule=data)
    logger.save()
    if not checkpoints.best_model_path:
        parser.exit(1, f"no validation within {arguments.max_minutes} minutes: give --max_minutes more\n")

    hub_dir = output_dir / "model"
    clm.convert_checkpoint(
        save_dir=hub_dir, ckpt_url=checkpoints.best_model_path, tokenizer_name=str(output_dir / "tokenizer")
    )
    model = AutoModelForCausalLM.from_pretrained(hub_dir)
    tokenizer = AutoTokenizer.from_pretrained(hub_dir)

    train_text = bytes((data.chunks["train"].tokens - NUM_SPECIAL_TOKENS).astype(np.uint8))
    ngrams = {order: NGram(train_text, order) for order in (5, 6)}
    losses = {order: ngram_validation_loss(ngram, data) for order, ngram in ngrams.items()}
    draw(Path(logger.log_dir) / "metrics.csv", losses, output_dir / "loss.png")
    texts = split_topics()["test"]  # neither trained on, nor what the checkpoint was chosen by
    score = evaluate_text(model.backend_model, tokenizer, texts, stride=64)

    prompt = max(texts, key=len)[:200]
    print(f"\nThe first {len(prompt)} characters of a held-out topic, continued:\n{'-' * 80}")
    encoding = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    pl.seed_everything(0, verbose=False)
    num_latents = encoding["input_ids"].shape[1]
    streamer = TextStreamer(tokenizer)
    model.generate(
        **encoding, num_latents=num_latents, max_new_tokens=300, do_sample=True, temperature=0.7, streamer=streamer
    )
    print(f"{'-' * 80}\n{score.num_bytes:,} held-out bytes, bits per byte:")
    print(f"Perceiver AR          {score.bits_per_byte:.3f}")
    for order, ngram in ngrams.items():
        bits = sum(ngram.bits(text.encode(), first=1) for text in texts)
        print(f"{order}-gram model          {bits / score.num_bytes:.3f}   modified Kneser-Ney smoothing")
    print(f"checkpoint    {checkpoints.best_model_path}")
    print(f"loss curve    {output_dir / 'loss.png'}")
    print(f"model folder  {hub_dir}   AutoModelForCausalLM.from_pretrained('{hub_dir}')")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    main()
