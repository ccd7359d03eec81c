"""Exports a causal language model to ONNX with its cache, and generates text with ONNX Runtime.

One graph is a step: a token, keys and values in, logits, keys and values out. A second file has weights of 8 bits. The
tokens of the first are compared with those of `generate`.

    python examples/huggingface/onnx_clm.py [MODEL] [--output DIR] [--prompt TEXT] [--num_latents 1]
                                            [--max_new_tokens 64]

MODEL is a folder or hub id. Without it the model is small and has random weights.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForCausalLM

from perceiver.model.core.decoding_step import DecodingStep
from perceiver.model.text import clm

NUM_SPECIAL_TOKENS = 6  # ids of PerceiverTokenizer before those of bytes


def small_model() -> clm.PerceiverCausalLanguageModel:
    config = clm.CausalLanguageModelConfig(
        max_seq_len=128, max_latents=32, num_channels=64, num_heads=4, num_self_attention_layers=2, init_scale=0.2
    )
    return clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config))


@torch.no_grad()
def export(step: DecodingStep, path: Path) -> None:
    """Writes a graph whose inputs are `input_ids`, `prefix_ids`, `position`, `keys_0`, `values_0`, `keys_1`, ..."""
    kinds = [name if name == "tokens" else "latents" if i > 1 else "seen" for i, name in enumerate(step.past_names)]
    past = [
        x.new_zeros(*x.shape[:2], 3 if kind == "seen" else 2, x.shape[3])
        for kind, x in zip(kinds, step.empty_past(), strict=True)
    ]
    tokens = torch.zeros(1, 4, dtype=torch.long)
    lengths = {kind: torch.export.Dim(kind) for kind in kinds}
    torch.onnx.export(
        step,
        (tokens[:, :1], tokens, torch.tensor([5]), *past),
        path,
        input_names=["input_ids", "prefix_ids", "position", *step.past_names],
        output_names=["logits", *(f"new_{name}" for name in step.past_names)],
        dynamic_shapes=(
            None,
            {1: torch.export.Dim("prefix")},
            None,
            tuple({2: lengths[kind]} for kind in kinds),
        ),
        dynamo=True,
        verbose=False,
    )


def generate(
    path: Path, step: DecodingStep, prompt: np.ndarray[Any, Any], num_latents: int, max_new_tokens: int
) -> tuple[list[int], float]:
    """Continues a prompt (1, n) greedily. What is needed besides the graph is in this function.

    Returns:
        New tokens, and seconds for each of them after the first
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    windows = step.past_windows.values()
    past = [x.numpy() for x in step.empty_past()]
    prefix_len, position, tokens = prompt.shape[1] - num_latents, 0, []
    ids, prefix = prompt[:, prefix_len:], prompt[:, :prefix_len]
    start = 0.0
    while len(tokens) < max_new_tokens:
        inputs = {"input_ids": ids[:, :1], "prefix_ids": prefix, "position": np.array([position])}
        logits, *past = session.run(None, inputs | dict(zip(step.past_names, past, strict=True)))
        past = [x[:, :, max(x.shape[2] - window + 1, 0) :] for x, window in zip(past, windows, strict=True)]
        position += prefix.shape[1] + 1
        ids, prefix = ids[:, 1:], prefix[:, :0]
        if ids.shape[1] == 0:  # all latents of the prompt are in
            ids = logits.argmax(axis=-1, keepdims=True)
            tokens.append(int(ids[0, 0]))
            start = start or time.perf_counter()
    return tokens, (time.perf_counter() - start) / max(max_new_tokens - 1, 1)


def main(argv: Sequence[str] | None = None) -> dict[str, list[int]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder or hub id")
    parser.add_argument("--output", type=Path, default=Path("onnx-clm"))
    parser.add_argument("--prompt", default="A man was reading a book on a sunny day until")
    parser.add_argument("--num_latents", type=int, default=1)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    arguments = parser.parse_args(argv)

    torch.manual_seed(0)
    model: Any = small_model() if arguments.model is None else AutoModelForCausalLM.from_pretrained(arguments.model)
    step = DecodingStep(model.eval().backend_model).eval()
    arguments.output.mkdir(parents=True, exist_ok=True)
    files = {"float32": arguments.output / "step.onnx", "int8": arguments.output / "step-int8.onnx"}
    export(step, files["float32"])
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser recommends a preparation that changes nothing here
    quantize_dynamic(files["float32"], files["int8"], weight_type=QuantType.QInt8)

    prompt = torch.tensor([[byte + NUM_SPECIAL_TOKENS for byte in arguments.prompt.encode()]])
    sizes = {"num_latents": arguments.num_latents, "max_new_tokens": arguments.max_new_tokens}
    expected = model.generate(prompt, do_sample=False, **sizes)[0, prompt.shape[1] :].tolist()
    results = {"torch": expected}
    for name, path in files.items():
        results[name], seconds = generate(path, step, prompt.numpy(), **sizes)
        size = sum(file.stat().st_size for file in arguments.output.glob(f"{path.name}*"))
        num_equal = sum(a == b for a, b in zip(results[name], expected, strict=True))
        print(
            f"{path}: {size / 1e6:.1f} MB, {1 / seconds:.0f} tokens/s, "
            f"{num_equal} of {len(expected)} tokens as those of torch"
        )
    text = bytes(max(token - NUM_SPECIAL_TOKENS, 0) for token in results["float32"])
    print(arguments.prompt + text.decode(errors="replace"))
    return results


if __name__ == "__main__":
    main()
