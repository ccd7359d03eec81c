"""Trains a masked language model with `transformers.Trainer`: text of Python's own documentation, collators that pad.

    python examples/huggingface/trainer_mlm.py [--output_dir logs/trainer-mlm] [--max_steps 500] [--bf16]

A run that is started again goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PerceiverTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from perceiver.data.text.pydoc import split_topics
from perceiver.model.text import mlm

SEQ_LEN = 256


def model_config(vocab_size: int) -> mlm.MaskedLanguageModelConfig:
    """904,710 parameters"""
    return mlm.MaskedLanguageModelConfig(
        encoder=mlm.TextEncoderConfig(
            vocab_size=vocab_size, max_seq_len=SEQ_LEN, num_input_channels=128, num_self_attention_layers_per_block=6
        ),
        decoder=mlm.TextDecoderConfig(vocab_size=vocab_size, max_seq_len=SEQ_LEN),
        num_latents=64,
        num_latent_channels=128,
    )


def examples(tokenizer: Any, texts: Sequence[str]) -> list[dict[str, list[int]]]:
    """Texts in pieces of at most `SEQ_LEN` bytes; the last piece of a text is shorter."""
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [{"input_ids": text[i : i + SEQ_LEN]} for text in ids for i in range(0, len(text), SEQ_LEN)]


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/trainer-mlm"))
    parser.add_argument("--max_steps", type=int, default=500)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args(argv)

    set_seed(0)
    tokenizer = PerceiverTokenizer()
    topics = split_topics()
    model = mlm.PerceiverMaskedLanguageModel(
        mlm.PerceiverMaskedLanguageModelConfig(model_config(len(tokenizer)), tokenizer_class="PerceiverTokenizer")
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            str(arguments.output_dir),
            max_steps=arguments.max_steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=2e-3,
            warmup_steps=arguments.max_steps // 10,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            save_steps=max(arguments.max_steps // 2, 1),
            bf16=arguments.bf16,
            dataloader_pin_memory=False,
            report_to="none",
        ),
        train_dataset=examples(tokenizer, topics["train"]),  # type: ignore[arg-type]  # a list is a data set
        eval_dataset=examples(tokenizer, topics["valid"]),  # type: ignore[arg-type]
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        processing_class=tokenizer,
    )
    last = get_last_checkpoint(str(arguments.output_dir)) if arguments.output_dir.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(arguments.output_dir / "model"))
    AutoModelForMaskedLM.from_pretrained(arguments.output_dir / "model")
    print(f"validation loss {loss:.3f}, model in {arguments.output_dir / 'model'}")
    return float(loss)


if __name__ == "__main__":
    main()
