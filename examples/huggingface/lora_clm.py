"""Fine-tunes a causal language model with LoRA (PEFT): a few percent of the parameters, merged into a plain model.

    python examples/huggingface/lora_clm.py MODEL [--output_dir logs/lora-clm] [--max_steps 200]

MODEL is a folder or hub id, the folder that `make demo-clm` writes for example: logs/demo-clm/model. Its text is the
docstrings of Python's standard library.
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from perceiver.model.text import clm  # registers the model


def docstrings(num_files: int) -> str:
    """The docstrings in the first files of the standard library."""
    texts = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:num_files]:
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                texts.append(ast.get_docstring(node) or "")
    return "\n\n".join(filter(None, texts))


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("--output_dir", type=Path, default=Path("logs/lora-clm"))
    parser.add_argument("--max_steps", type=int, default=200)
    parser.add_argument("--num_files", type=int, default=100)
    arguments = parser.parse_args(argv)

    set_seed(0)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(arguments.model),
        AutoTokenizer.from_pretrained(arguments.model),
    )
    assert isinstance(model, clm.PerceiverCausalLanguageModel)
    seq_len = model.backend_model.max_seq_len
    ids = tokenizer(docstrings(arguments.num_files), add_special_tokens=False, verbose=False)["input_ids"]
    chunks = [ids[i : i + seq_len] for i in range(0, len(ids) - seq_len, seq_len)]
    data = [{"input_ids": chunk, "labels": chunk} for chunk in chunks]  # labels are shifted inside
    num_held_out = max(len(data) // 10, 1)

    peft_model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    peft_model.print_trainable_parameters()
    trainer = Trainer(
        peft_model,
        TrainingArguments(
            str(arguments.output_dir),
            max_steps=arguments.max_steps,
            per_device_train_batch_size=8,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            save_strategy="no",
            dataloader_pin_memory=False,
            report_to="none",
        ),
        train_dataset=data[num_held_out:],  # type: ignore[arg-type]  # a list is a data set
        eval_dataset=data[:num_held_out],  # type: ignore[arg-type]
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    merged = peft_model.merge_and_unload()
    merged.save_pretrained(arguments.output_dir / "model")
    tokenizer.save_pretrained(arguments.output_dir / "model")
    print(f"held-out loss {before:.3f} before, {after:.3f} after, model in {arguments.output_dir / 'model'}")
    return float(before), float(after)


if __name__ == "__main__":
    main()
