"""What `benchmarks/gpu.py` measures, a part per process: prints tables as their rows come. A case that fails is a row.

    python benchmarks/gpu_cases.py PART [--device cuda] [--tiny]

Functions of a case take turns in one process. A share "of matmul" is that of the rate of a large matrix product, one
"of copy" that of the rate of a large copy, both measured in the same process. Peak memory is beyond what is there
before: parameters and optimizer state, while gradients are part of it. `--tiny` is for trying it, also on CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import attention as attention_benchmark
import eager
import packing
import torch
import torch.nn.functional as F
from gpu_bench import Bench, Function, header, training_step
from timing import alternate
from torch import Tensor, nn

from perceiver.model.core.attention import attention
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.core.sampling import sample
from perceiver.model.text import clm, mlm

# bf16 TFLOP/s (dense) and TB/s of NVIDIA's data sheets, by the name that torch gives: what a measured rate is held to
DATA_SHEETS = {
    "NVIDIA A100-SXM4-40GB": (312, 1.56),
    "NVIDIA A100-SXM4-80GB": (312, 2.04),
    "NVIDIA A100 80GB PCIe": (312, 1.94),
    "NVIDIA H100 PCIe": (756, 2.0),
    "NVIDIA H100 80GB HBM3": (989, 3.35),
    "NVIDIA H200": (989, 4.8),
}


def device(bench: Bench) -> None:
    """What the device gives, beside NVIDIA's data sheet where the device is one that we know."""
    name = torch.cuda.get_device_name() if bench.device == "cuda" else "cpu"
    sheet_tflops, sheet_bandwidth = DATA_SHEETS.get(name, ("", ""))
    print("| | measured | data sheet |\n|---|---|---|")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        sheet = sheet_tflops if dtype != torch.float32 else ""
        print(f"| matrix product, {str(dtype)[6:]}, TFLOP/s | {bench.matmul_rate(dtype) / 1e12:.1f} | {sheet} |")
    print(f"| copy, TB/s read and written | {bench.copy_rate() / 1e12:.2f} | {sheet_bandwidth} |")


TINY_OFFICIAL = {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2, "v_channels": 32}


def pair(build: Callable[..., nn.Module], bench: Bench, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Our model and transformers' with the same weights. `build("ours")` and `build("theirs")` make them."""
    with torch.device(bench.device):
        return {"ours": build("ours").to(dtype), "transformers": build("theirs").to(dtype)}


def official_mlm(bench: Bench, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    import mlm as mlm_benchmark  # needs transformers, which other parts do without

    values = bench.of({}, TINY_OFFICIAL | {"d_model": 16, "max_position_embeddings": 64})
    return pair(partial(mlm_benchmark.build, **values), bench, dtype)


def masked_language_model(bench: Bench) -> None:
    """The official masked language model, 201M parameters: forward passes and a training step."""
    header()
    length = bench.of(2048, 64)
    for dtype, batch_sizes in ((torch.bfloat16, (1, 32)), (torch.float32, (8,))):
        models = official_mlm(bench, dtype)
        for batch_size in batch_sizes:
            x = bench.tokens(batch_size, length)
            bench.rows(
                f"forward, {batch_size} x {length}, {str(dtype)[6:]}",
                {name: partial(model.requires_grad_(False), x) for name, model in models.items()},
                items=x.numel(),
                count_flops=dtype == torch.bfloat16,
            )
        del models
    x = bench.tokens(bench.of(16, 2), length)
    bench.rows(
        f"AdamW step, {x.shape[0]} x {length}, bf16-mixed",
        {name: mlm_step(model, x, bench) for name, model in official_mlm(bench).items()},
        items=x.numel(),
        count_flops=True,
    )


def mlm_step(model: nn.Module, x: Tensor, bench: Bench, **compile_options: Any) -> Function:
    """15 % of the positions are labelled, equally many in each example."""
    labelled = torch.rand(x.shape, device=x.device).argsort(dim=1) < 0.15 * x.shape[1]
    labels = torch.where(labelled, x, -100)
    if not isinstance(model, mlm.MaskedLanguageModel):
        return training_step(model, lambda: model(x, labels=labels).loss, bench.autocast())
    loss = torch.compile(model.loss, **compile_options) if compile_options else model.loss
    return training_step(model, lambda: loss(labels, x), bench.autocast())


def ar_config(bench: Bench, prefix_len: int, **values: Any) -> clm.CausalLanguageModelConfig:
    """The byte model with 30.6M parameters, for a prefix of any length, of which nothing is dropped."""
    num_latents = bench.of(values.pop("max_latents", 512), 16)
    values |= bench.of({}, {"num_channels": 32, "num_heads": 2, "num_self_attention_layers": 2})
    sizes = {"max_seq_len": prefix_len + num_latents, "max_latents": num_latents, "cross_attention_dropout": 0.0}
    return replace(clm.perceiver_ar_byte_base(), **sizes, **values)


def ar_model(bench: Bench, config: clm.CausalLanguageModelConfig) -> clm.CausalLanguageModel:
    torch.manual_seed(0)
    with torch.device(bench.device):
        return clm.CausalLanguageModel(config)


def ar_losses(model: CausalSequenceModel, x: Tensor) -> dict[str, Function]:
    x, labels = x[:, :-1], x[:, 1:]
    prefix_len = x.shape[1] - model.max_latents
    return {
        "ours": lambda: model.loss(labels, x),
        "plain": lambda: token_cross_entropy(eager.forward(model, x, prefix_len), labels[:, prefix_len:]),
    }


def perceiver_ar(bench: Bench) -> None:
    """Perceiver AR, byte model of 30.6M parameters: forward and training step beside the plain implementation."""
    header()
    config = ar_config(bench, bench.of(3584, 48))
    x = bench.tokens(bench.of(32, 2), config.max_seq_len + 1)
    model = ar_model(bench, config).eval()

    def forward(loss: Function) -> Function:
        def run() -> Any:
            with torch.no_grad(), bench.autocast():
                return loss()

        return run

    losses = ar_losses(model, x)
    case = f"{x.shape[0]} x {config.max_seq_len}, bf16-mixed"
    items = x[:, 1:].numel()
    bench.rows(f"forward, {case}", {name: forward(f) for name, f in losses.items()}, items=items, count_flops=True)
    models = {name: ar_model(bench, config) for name in losses}
    steps = {name: training_step(m, ar_losses(m, x)[name], bench.autocast()) for name, m in models.items()}
    bench.rows(f"AdamW step, {case}", steps, items=items, count_flops=True)


def decode(bench: Bench) -> None:
    """Greedy decoding with the byte model in bfloat16: ms per step, without the first, which takes in the prompt."""
    header()
    num_tokens = bench.of(64, 3)
    config = clm.PerceiverCausalLanguageModelConfig(ar_config(bench, bench.of(3584, 48)))
    hub = clm.PerceiverCausalLanguageModel(config).eval().to(bench.device, torch.bfloat16)
    model = hub.backend_model

    def generate(**kwargs: Any) -> Callable[[Tensor, int], Any]:
        return lambda prompt, n: hub.generate(prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False, **kwargs)

    @torch.no_grad()
    def plain(prompt: Tensor, n: int) -> None:
        cache: eager.Cache = [[] for _ in range(1 + len(model.self_attention))]
        x, prefix_len = prompt, prompt.shape[1] - 1
        for _ in range(n):
            x, prefix_len = eager.forward(model, x, prefix_len, cache)[:, -1:].argmax(dim=-1), 0

    decoders: dict[str, Callable[[Tensor, int], Any]] = {
        "generate": generate(),
        "backend's loop": lambda prompt, n: sample(model, prompt, n, temperature=0.0),
        "plain": plain,
        "static cache, compiled": generate(cache_implementation="static", disable_compile=bench.tiny),
    }
    for batch_size in bench.of((1, 32), (1, 2)):
        for length in bench.of((512, 3072), (24,)):
            prompt = bench.tokens(batch_size, length)
            decode_rows(bench, f"{batch_size} after {length}", decoders, prompt, num_tokens, model)


def decode_rows(
    bench: Bench,
    case: str,
    decoders: Mapping[str, Callable[[Tensor, int], Any]],
    prompt: Tensor,
    num_tokens: int,
    model: nn.Module,
) -> None:
    num_bytes = sum(parameter.nbytes for parameter in model.parameters())
    copy_rate, first = bench.copy_rate(), None
    for number, (name, decoder) in enumerate(decoders.items()):
        try:
            decoder(prompt, num_tokens + 1)  # compiles
            times = alternate({str(n): partial(decoder, prompt, n) for n in (1, num_tokens + 1)}, 3, bench.clock)
        except Exception as error:  # this row's result, as in `Bench.rows`
            print(f"| {case} | {name} | failed: {bench.failure(error)} | | | | | |", flush=True)
            continue
        one, many = (statistics.median(values) for values in times.values())
        step = (many - one) / num_tokens
        first = step if number == 0 else first
        ratio = f"{step / first:.2f}" if first else ""
        print(
            f"| {case} | {name} | {step * 1e3:.3f} | {prompt.shape[0] / step:,.0f} | {ratio} | | "
            f"{num_bytes / copy_rate / step:.0%} | |",
            flush=True,
        )


def prefix(bench: Bench) -> None:
    """1,024 latents after long prefixes, rotary positions only, batch 1: forward, and forward and backward."""
    header()
    for length in bench.of([2**i for i in (14, 16, 17, 18, 20)], [64]):
        config = ar_config(bench, length, max_latents=1024, abs_pos_emb=False)
        model = ar_model(bench, config).train()
        losses = ar_losses(model, bench.tokens(1, config.max_seq_len + 1))

        def forward(loss: Function) -> Function:
            def run() -> None:
                with torch.no_grad(), bench.autocast():
                    loss()

            return run

        def backward(loss: Function, model: nn.Module = model) -> Function:
            def run() -> None:
                with bench.autocast():
                    value = loss()
                value.backward()
                model.zero_grad()

            return run

        for name, case in (("forward", forward), ("forward + backward", backward)):
            functions = {whose: case(loss) for whose, loss in losses.items()}
            bench.rows(f"{name}, prefix {length:,}", functions, items=length, count_flops=True, budget=1.0)
        del model, losses


TINY_VISION: dict[str, dict[str, Any]] = {
    "fourier": TINY_OFFICIAL | {"num_blocks": 1, "image_size": 32},
    "optical flow": TINY_OFFICIAL | {"train_size": (16, 24)},
}


def vision(bench: Bench) -> None:
    """Official image classifier (Fourier features, head size 261) and optical flow (head size 322), batch of one."""
    import vision as vision_benchmark  # needs transformers

    header()
    for name in ("fourier", "optical flow"):
        values = bench.of({}, TINY_VISION[name])
        size = bench.of((), (32, 32) if name == "fourier" else (16, 24))
        for dtype in (torch.bfloat16, torch.float32):
            models = pair(partial(vision_benchmark.build, name, **values), bench, dtype)
            functions = {}
            for who, model in models.items():
                x = vision_benchmark.inputs(name, "ours" if who == "ours" else "theirs", *size).to(bench.device, dtype)
                functions[who] = partial(model.requires_grad_(False), x)
            bench.rows(f"{name}, forward, {str(dtype)[6:]}", functions, items=1, count_flops=dtype == torch.bfloat16)
            del models, functions


# name: batch, heads, queries, keys, query/key head size, value head size
LONG_SHAPES = {
    "flow encoder, cross": (1, 1, 2048, 182528, 322, 322),
    "Perceiver AR, cross": (8, 8, 512, 4096, 64, 64),
    "Perceiver AR, long": (1, 8, 1024, 131072, 64, 64),
}


def kernels(bench: Bench) -> None:
    """Attention in bfloat16, forward and backward: `attention()`, torch's as it is, and with heads padded by zeros."""
    header()

    def padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """To one size for all, a multiple of 8, which fused kernels ask for."""
        width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8
        wide = [F.pad(x, (0, width - x.shape[-1])) for x in (q, k, v)]
        return F.scaled_dot_product_attention(*wide, scale=q.shape[-1] ** -0.5)[..., : v.shape[-1]]

    paths: dict[str, Callable[..., Tensor]] = {
        "attention()": attention,
        "torch's": F.scaled_dot_product_attention,
        "padded": padded,
    }
    causal: dict[str, Callable[..., Tensor]] = {"attention(), causal": lambda q, k, v: attention(q, k, v, causal=True)}
    for name, shape in (attention_benchmark.SHAPES | LONG_SHAPES).items():
        shape = bench.of(shape, (1, 2, 5, 7, shape[4] // 8, shape[5] // 8))
        b, h, n, m, k_size, v_size = shape
        inputs = [
            torch.randn(b, length, h, size, device=bench.device, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for length, size in ((n, k_size), (m, k_size), (m, v_size))
        ]
        functions = {
            path: lambda f=f, inputs=inputs: f(*inputs).sum().backward()
            for path, f in (paths | (causal if "AR" in name else {})).items()
        }
        bench.rows(f"{name} {shape}", functions, count_flops=True, budget=0.5)


def compiled(bench: Bench) -> None:
    """AdamW steps in bf16-mixed, as they are and compiled to one graph."""
    header()
    options: dict[str, Any] = {"fullgraph": True}
    config = ar_config(bench, bench.of(3584, 48))
    x = bench.tokens(bench.of(32, 2), config.max_seq_len + 1)
    models = [ar_model(bench, config) for _ in range(2)]
    losses = [model.loss for model in models]
    functions = {
        name: training_step(model, lambda loss=loss: loss(x[:, 1:], x[:, :-1]), bench.autocast())
        for name, model, loss in zip(
            ("eager", "compiled"), models, (losses[0], torch.compile(losses[1], **options)), strict=True
        )
    }
    bench.rows(f"Perceiver AR, {x.shape[0]} x {config.max_seq_len}", functions, items=x[:, 1:].numel())
    x = bench.tokens(bench.of(16, 2), bench.of(2048, 64))
    steps = {
        name: mlm_step(official_mlm(bench)["ours"], x, bench, **compile_options)
        for name, compile_options in (("eager", {}), ("compiled", options))
    }
    bench.rows(f"masked language model, {x.shape[0]} x {x.shape[1]}", steps, items=x.numel())
    packed_documents(bench, config)


def packed_documents(bench: Bench, config: clm.CausalLanguageModelConfig) -> None:
    """Documents of unequal length: packed, where a kernel is compiled for blocks of the mask, and padded."""
    documents = [ids[: config.max_seq_len + 1] for ids in packing.documents(bench.of(128, 5), 200, 1.0)]
    *tokens, lengths = packing.packed(documents)
    batches = {"packed": tokens, "padded": packing.padded(documents, max(lengths))}
    steps = {}
    for name, batch in batches.items():
        model, x = ar_model(bench, config), [tensor.to(bench.device) for tensor in batch]
        loss = partial(model.loss_packed, *x, lengths) if name == "packed" else partial(model.loss, *x)
        steps[name] = training_step(model, loss, bench.autocast())
    bench.rows(f"Perceiver AR, {len(documents)} documents", steps, items=sum(lengths))


PARTS: dict[str, Callable[[Bench], None]] = {
    "device": device,
    "mlm": masked_language_model,
    "perceiver-ar": perceiver_ar,
    "decode": decode,
    "prefix": prefix,
    "vision": vision,
    "attention": kernels,
    "compiled": compiled,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    bench = Bench(arguments.device, arguments.tiny)
    PARTS[arguments.part](bench)
    return int(bench.has_failed)


if __name__ == "__main__":
    sys.exit(main())
