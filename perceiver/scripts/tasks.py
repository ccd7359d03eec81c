"""The tasks: where their code is, and which weights are published for them."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """What there is for a task: `perceiver.model.<module>` with its convert functions, `perceiver.scripts.<module>`.

    Attributes:
        module: Domain and task.
        official: Weights for transformers' own Perceiver classes. None: there is no class for the task.
        processor: What is saved beside a converted checkpoint, if anything is: one of `PROCESSORS`.
    """

    module: str
    official: tuple[str, ...] | None
    processor: str | None


# The flags that name it, and the arguments of `convert_checkpoint`.
PROCESSORS = {"tokenizer": "tokenizer_name", "image_processor": "image_processor"}

_IMAGE_CLASSIFIERS = tuple(f"deepmind/vision-perceiver-{kind}" for kind in ("learned", "fourier", "conv"))

TASKS = {
    "clm": Task("text.clm", official=None, processor="tokenizer"),
    "image-classifier": Task("vision.image_classifier", official=_IMAGE_CLASSIFIERS, processor="image_processor"),
    "mlm": Task("text.mlm", official=("deepmind/language-perceiver",), processor="tokenizer"),
    "multimodal-autoencoder": Task(
        "multimodal.autoencoder", official=("deepmind/multimodal-perceiver",), processor=None
    ),
    "optical-flow": Task("vision.optical_flow", official=("deepmind/optical-flow-perceiver",), processor=None),
    "symbolic-audio": Task("audio.symbolic", official=None, processor=None),
    "text-classifier": Task("text.classifier", official=(), processor="tokenizer"),
    "token-classifier": Task("text.token_classifier", official=None, processor="tokenizer"),
}
