"""Weights of 8 bits (torchao): what they give to encoders in time, and what they cost a trained model in quality.

encoders  Encoders of official geometry with random weights, weights and activations of 8 bits and compiled, beside the
          same model in float32, compiled and not: seconds of a forward pass. Compiling takes minutes.
quality   A trained model (examples/demo writes a masked and a causal one) on held-out text: the share of positions
          whose most probable token stays the same, and bits per byte of a causal model.

    python benchmarks/int8.py encoders [--threads 2] [--repeats 5]
    python benchmarks/int8.py quality logs/demo-clm/model
"""

from __future__ import annotations

import copy
import statistics
from functools import partial

import mlm
import torch
import vision
from timing import alternate, benchmark_parser, machine, median_ratio
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from perceiver.data.text.pydoc import split_topics
from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.evaluation import sequence_latents
from perceiver.model.text.clm.evaluation import evaluate_text

FORMS = {"int8 weights": Int8WeightOnlyConfig, "int8 weights and activations": Int8DynamicActivationInt8WeightConfig}


def quantized(model: nn.Module, form: str) -> nn.Module:
    model = copy.deepcopy(model)
    quantize_(model, FORMS[form]())
    return model


def encoders(repeats: int) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = {
        "masked language model, 1 x 2048": (mlm.build("ours"), torch.randint(6, 262, (1, 2048), generator=generator)),
        "image classifier (conv), 1 x 224 x 224": (vision.build("conv", "ours"), vision.inputs("conv", "ours")),
    }
    print("| model | form | s | times float32 |")
    print("|---|---|---|---|")
    for name, (model, x) in cases.items():
        models = {
            "float32": model,
            "float32, compiled": torch.compile(copy.deepcopy(model)),
            "int8 weights and activations, compiled": torch.compile(quantized(model, "int8 weights and activations")),
        }
        with torch.no_grad():
            times = alternate({form: partial(forward, x) for form, forward in models.items()}, repeats)
        for form in models:
            median, ratio = statistics.median(times[form]), median_ratio(times["float32"], times[form])
            print(f"| {name} | {form} | {median:.3f} | {ratio:.2f} |", flush=True)


@torch.no_grad()
def quality(folder: str) -> None:
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    auto_class = AutoModelForCausalLM if "causal" in config.model_type else AutoModelForMaskedLM
    model = auto_class.from_pretrained(folder).backend_model
    texts = split_topics()["test"]
    ids = tokenizer("\n".join(texts), add_special_tokens=False, return_tensors="pt")["input_ids"][0, :16384]

    def predictions(model: nn.Module) -> Tensor:
        if isinstance(model, CausalSequenceModel):
            (latents,) = sequence_latents(model, ids[None])
            return model.logits(latents).argmax(dim=-1)
        windows = ids.unfold(0, model.config.encoder.max_seq_len, model.config.encoder.max_seq_len)
        masked = torch.rand(windows.shape, generator=torch.Generator().manual_seed(0)) < 0.15
        return model(windows.masked_fill(masked, tokenizer.mask_token_id)).argmax(dim=-1)

    print("| form | same prediction | bits per byte |")
    print("|---|---|---|")
    reference = predictions(model)
    for form, candidate in {"float32": model, **{form: quantized(model, form) for form in FORMS}}.items():
        same = (predictions(candidate) == reference).float().mean().item()
        bits = ""
        if isinstance(candidate, CausalSequenceModel):
            bits = f"{evaluate_text(candidate, tokenizer, texts).bits_per_byte:.4f}"
        print(f"| {form} | {same:.2%} | {bits} |", flush=True)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("part", choices=["encoders", "quality"])
    parser.add_argument("folder", nargs="?", help="of quality: a converted masked or causal model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if (arguments.part == "quality") != (arguments.folder is not None):
        parser.error("quality takes the folder of a model, encoders takes none")
    print(machine(), end="\n\n")
    if arguments.part == "encoders":
        encoders(arguments.repeats)
    else:
        quality(arguments.folder)


if __name__ == "__main__":
    main()
