"""The tasks, a row each: what there is for a task, and what its command line starts from.

A task is a package with three modules, `backend.py` (the model), `lightning.py` (its training) and `huggingface.py`
(its use), and a row here. Config class, registration with the Auto classes, conversion, command line, lists of models
in docs and the parametrisation of tests follow from both. docs/adding-a-task.md shows a complete one.

This module imports nothing, so that `perceiver --help` doesn't wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Command:
    """A command of a task besides fit, validate and test: `perceiver clm evaluate`.

    Attributes:
        module: Its `main` gets the rest of the command line.
        help: What it does.
        example: Its arguments for the model in `{folder}`, two spaces between them, if it is what a model is for.
    """

    module: str
    help: str
    example: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that transformers' Auto classes know.

    Attributes:
        package: Package of its modules, from which class names are imported.
        title: What it is called in texts.
        model: Backend class. Its config is called the same with `Config` at the end, its Lightning class with `Lit` at
            the start.
        huggingface: Hugging Face class, `Perceiver` and the backend's name by default. Its config is called the same
            with `Config` at the end.
        model_type: In `config.json`.
        auto_class: Of transformers, with which the Hugging Face class is registered.
        pipeline: Name of the transformers pipeline.
        processor: What is saved beside a converted model.
        official: Hub ids of official weights for transformers' own Perceiver classes. None: there is no such class.
        variant: Function of the backend that makes the default config, from which the command line starts. Default: the
            config class.
        encoder: Kind of its encoder. A model can start from a folder of another task whose models have the same.
    """

    package: str
    title: str
    model: str
    huggingface: str = ""
    model_type: str
    auto_class: str = "AutoModel"
    pipeline: str | None = None
    processor: Literal["tokenizer", "image_processor"] | None = None
    official: tuple[str, ...] | None = None
    variant: str = ""
    encoder: str | None = None

    def __post_init__(self) -> None:
        if not self.huggingface:
            object.__setattr__(self, "huggingface", f"Perceiver{self.model}")

    def relatives(self) -> list[Task]:
        """The other tasks whose models have the same kind of encoder."""
        return [task for task in TASKS.values() if task != self and task.encoder == self.encoder is not None]


@dataclass(frozen=True, kw_only=True)
class Task(Model):
    """What there is for a task: a model and its training.

    Attributes:
        links: Attributes of data modules that decide flags of the model, which then are none.
        data: Data modules that `--data` knows by name, of the package `data_package`.
        data_package: Where they are: `perceiver.data` and the domain by default.
        data_default: Class that all of these data modules are, and arguments that are their defaults.
        schedule: Of the learning rate, as the command line starts.
        logs: Folder of the runs, below `logs`.
        commands: What its command line can do besides training and validation.
    """

    links: Mapping[str, tuple[str, ...]]
    data: tuple[str, ...]
    data_package: str = ""
    data_default: Mapping[str, Any] | None = None
    schedule: Literal["ConstantWithWarmupLR", "CosineWithWarmupLR"] = "ConstantWithWarmupLR"
    logs: str
    commands: Mapping[str, Command] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_package:
            domain = self.package.split(".")[-2] if "." in self.package else ""
            object.__setattr__(self, "data_package", f"perceiver.data.{domain}")


# Arguments of `convert_checkpoint` that name a processor.
PROCESSOR_ARGUMENTS = {"tokenizer": "tokenizer_name", "image_processor": "image_processor"}

_TEXTS = (
    "BookCorpusDataModule",
    "BookCorpusOpenDataModule",
    "C4DataModule",
    "Enwik8DataModule",
    "ImdbDataModule",
    "LocalTextDataModule",
    "PydocTextDataModule",
    "WikiTextDataModule",
    "WikipediaDataModule",
)

TASKS: dict[str, Task] = {
    "mlm": Task(
        package="perceiver.model.text.mlm",
        title="masked language model",
        model="MaskedLanguageModel",
        model_type="perceiver-io-masked-language-model",
        auto_class="AutoModelForMaskedLM",
        pipeline="fill-mask",
        variant="perceiver_io_language_base",
        links={
            "vocab_size": ("encoder.vocab_size", "decoder.vocab_size"),
            "max_seq_len": ("encoder.max_seq_len", "decoder.max_seq_len"),
        },
        data=_TEXTS,
        processor="tokenizer",
        official=("deepmind/language-perceiver",),
        logs="mlm",
        encoder="text",
    ),
    "clm": Task(
        package="perceiver.model.text.clm",
        title="causal language model",
        model="CausalLanguageModel",
        model_type="perceiver-ar-causal-language-model",
        auto_class="AutoModelForCausalLM",
        pipeline="text-generation",
        variant="perceiver_ar_byte_base",
        links={"vocab_size": ("vocab_size",), "max_seq_len": ("max_seq_len",)},
        data=_TEXTS,
        data_default={
            "class_path": "perceiver.data.text.TextDataModule",
            "init_args": {"task": "clm", "padding_side": "left"},
        },
        processor="tokenizer",
        schedule="CosineWithWarmupLR",
        logs="clm",
        commands={
            "evaluate": Command("perceiver.scripts.text.evaluate", "bits per byte and perplexity of text files"),
            "generate": Command(
                "perceiver.scripts.text.generate", "continue a text", 'generate  --model={folder}  --prompt="Once upon"'
            ),
        },
    ),
    "text-classifier": Task(
        package="perceiver.model.text.classifier",
        title="text classifier",
        model="TextClassifier",
        model_type="perceiver-io-text-classifier",
        auto_class="AutoModelForSequenceClassification",
        pipeline="text-classification",
        variant="perceiver_io_text_classifier",
        links={
            "vocab_size": ("encoder.vocab_size",),
            "max_seq_len": ("encoder.max_seq_len",),
            "num_classes": ("decoder.num_classes",),
        },
        data=("ImdbDataModule", "LocalTextDataModule"),
        data_default={"class_path": "perceiver.data.text.TextDataModule", "init_args": {"task": "clf"}},
        processor="tokenizer",
        official=(),
        logs="txt_clf",
        encoder="text",
    ),
    "token-classifier": Task(
        package="perceiver.model.text.token_classifier",
        title="token classifier",
        model="TokenClassifier",
        model_type="perceiver-io-token-classifier",
        auto_class="AutoModelForTokenClassification",
        pipeline="token-classification",
        variant="perceiver_io_token_classifier",
        links={
            "vocab_size": ("encoder.vocab_size",),
            "max_seq_len": ("encoder.max_seq_len", "decoder.max_seq_len"),
            "num_classes": ("decoder.num_classes",),
        },
        data=("LocalTokenClassificationDataModule", "TokenClassificationDataModule"),
        processor="tokenizer",
        logs="ner",
        encoder="text",
    ),
    "image-classifier": Task(
        package="perceiver.model.vision.image_classifier",
        title="image classifier",
        model="ImageClassifier",
        model_type="perceiver-io-image-classifier",
        auto_class="AutoModelForImageClassification",
        pipeline="image-classification",
        variant="perceiver_io_mnist",
        links={"image_shape": ("encoder.image_shape",), "num_classes": ("decoder.num_classes",)},
        data=("DigitsDataModule", "ImageFolderDataModule", "ImageNetDataModule", "MNISTDataModule"),
        processor="image_processor",
        official=tuple(f"deepmind/vision-perceiver-{kind}" for kind in ("learned", "fourier", "conv")),
        logs="img_clf",
    ),
    "optical-flow": Task(
        package="perceiver.model.vision.optical_flow",
        title="optical flow",
        model="OpticalFlow",
        huggingface="OpticalFlowPerceiver",
        model_type="perceiver-io-optical-flow",
        pipeline="optical-flow",
        variant="perceiver_io_optical_flow",
        links={"image_shape": ("encoder.image_shape", "decoder.image_shape")},
        data=("FlyingChairsDataModule", "KittiFlowDataModule", "SintelFlowDataModule", "SyntheticFlowDataModule"),
        official=("deepmind/optical-flow-perceiver",),
        logs="optical_flow",
    ),
    "symbolic-audio": Task(
        package="perceiver.model.audio.symbolic",
        title="symbolic audio model",
        model="SymbolicAudioModel",
        model_type="perceiver-ar-symbolic-audio-model",
        auto_class="AutoModelForCausalLM",
        pipeline="symbolic-audio-generation",
        variant="perceiver_ar_maestro",
        links={"vocab_size": ("vocab_size",), "max_seq_len": ("max_seq_len",)},
        data=("GiantMidiPianoDataModule", "LocalMidiDataModule", "MaestroV3DataModule", "SyntheticPianoDataModule"),
        schedule="CosineWithWarmupLR",
        logs="sam",
        commands={
            "evaluate": Command("perceiver.scripts.audio.evaluate", "bits and perplexity per token of MIDI files"),
            "continue": Command(
                "perceiver.scripts.audio.continuation",
                "continue a MIDI file",
                "continue  in.mid  out.mid  --model={folder}",
            ),
        },
    ),
    "multimodal-autoencoder": Task(
        package="perceiver.model.multimodal.autoencoder",
        title="multimodal autoencoder",
        model="MultimodalAutoencoder",
        model_type="perceiver-io-multimodal-autoencoder",
        variant="perceiver_io_multimodal",
        links={
            "video_shape": ("video_shape",),
            "num_audio_samples": ("num_audio_samples",),
            "num_classes": ("decoder.num_classes",),
        },
        data=("SyntheticClipDataModule",),
        official=("deepmind/multimodal-perceiver",),
        logs="multimodal_autoencoder",
    ),
}

_FOREIGN = "perceiver.model.foreign"

# Models of other libraries whose weights `perceiver convert foreign` reads. They have no training of their own.
FOREIGN: dict[str, Model] = {
    "lucidrains-perceiver": Model(
        package=_FOREIGN,
        title="Perceiver of perceiver-pytorch",
        model="LucidrainsPerceiver",
        huggingface="LucidrainsPerceiverModel",
        model_type="lucidrains-perceiver",
    ),
    "lucidrains-perceiver-io": Model(
        package=_FOREIGN,
        title="Perceiver IO of perceiver-pytorch",
        model="LucidrainsPerceiverIO",
        huggingface="LucidrainsPerceiverIOModel",
        model_type="lucidrains-perceiver-io",
    ),
    "lucidrains-perceiver-lm": Model(
        package=_FOREIGN,
        title="language model of perceiver-pytorch",
        model="LucidrainsPerceiverLM",
        huggingface="LucidrainsPerceiverLMForMaskedLM",
        model_type="lucidrains-perceiver-lm",
        auto_class="AutoModelForMaskedLM",
        pipeline="fill-mask",
        processor="tokenizer",
    ),
    "lucidrains-perceiver-ar": Model(
        package=_FOREIGN,
        title="Perceiver AR of perceiver-ar-pytorch",
        model="LucidrainsPerceiverAR",
        huggingface="LucidrainsPerceiverARForCausalLM",
        model_type="lucidrains-perceiver-ar",
        auto_class="AutoModelForCausalLM",
        pipeline="text-generation",
        processor="tokenizer",
    ),
    "google-perceiver-ar": Model(
        package=_FOREIGN,
        title="Perceiver AR of google-research/perceiver-ar",
        model="GooglePerceiverAR",
        huggingface="GooglePerceiverARForCausalLM",
        model_type="google-perceiver-ar",
        auto_class="AutoModelForCausalLM",
        pipeline="text-generation",
        processor="tokenizer",
    ),
}
