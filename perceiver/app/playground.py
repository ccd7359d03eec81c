"""What a playground is: fields that the page asks for, and outputs that it draws.

A playground names its fields and has `run`, a generator of outputs: dictionaries whose `kind` the page can draw.

    bars       title, rows [[label, probability], ...]
    weights    title, parts [[text, weight], ...]: text coloured by weights
    stream     text, which is added to what came before
    image      title, url
    slider     titles and urls of pictures of one size, one over the other
    frames     titles, rate, rows of addresses of pictures: videos beside each other
    roll       title, seconds, start of the continuation, notes [[start, end, pitch, weight], ...]
    audio      url; title and curve [[lowest, highest], ...] may be left out
    progress   text
    note       text
"""

from __future__ import annotations

import base64
import binascii
import io
import queue
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceiver.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

Output = dict[str, Any]
Outputs = Generator[Output, None, None]

# Module and class of the playground of a task.
PLAYGROUNDS = {
    "mlm": ("text", "MaskPlayground"),
    "text-classifier": ("text", "ClassifierPlayground"),
    "token-classifier": ("text", "EntityPlayground"),
    "clm": ("causal", "ContinuationPlayground"),
    "image-classifier": ("vision", "ImagePlayground"),
    "optical-flow": ("vision", "FlowPlayground"),
    "symbolic-audio": ("music", "MusicPlayground"),
    "multimodal-autoencoder": ("clips", "ClipPlayground"),
}


@dataclass(frozen=True)
class Field:
    """An input of the page.

    Attributes:
        name: Under which `run` finds the value.
        label: What the page calls it.
        kind: `text`, `file` or `number`.
        value: What it is at first.
        low: Least number.
        high: Largest number, or of a text its largest number of characters.
        step: Of a number. 1: it is an integer.
        accept: Kinds of files.
        optional: Whether a file may be missing, which is b"" then.
    """

    name: str
    label: str
    kind: str = "number"
    value: Any = None
    low: float = 0
    high: float = 1
    step: float = 1
    accept: str = ""
    optional: bool = False

    def read(self, values: Mapping[str, Any]) -> Any:
        """The value of the field: a string, the bytes of a file, or a number.

        Raises:
            ValueError: if there is none, or it is none of these, or out of range.
        """
        value = values.get(self.name)
        if self.kind == "number":
            if not isinstance(value, int | float) or not self.low <= value <= self.high:
                raise ValueError(f"{self.label}: {value!r} must be a number in [{self.low}, {self.high}]")
            return int(value) if self.step == 1 else float(value)
        if self.optional and not value:
            return b""
        if not isinstance(value, str) or not value:
            raise ValueError(f"{self.label}: {'choose a file' if self.kind == 'file' else 'give a text'}")
        if self.kind == "text":
            if len(value) > self.high:
                raise ValueError(f"{self.label}: {len(value)} characters are more than {self.high:.0f}")
            return value
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{self.label}: the upload is damaged: {error}") from error


class Playground:
    """Base of the playgrounds, around the pipeline of a task.

    Args:
        folder: Folder or hub id of a converted model.
        task: Its task.
    """

    fields: list[Field]
    hint: str = ""

    def __init__(self, folder: str, task: str):
        from transformers import pipeline

        self.folder = folder
        self.task = TASKS[task]
        name: Any = self.task.pipeline  # typed as the names that transformers has itself
        self.pipeline: Any = pipeline(name, model=folder)
        self.model: Any = self.pipeline.model

    def description(self) -> dict[str, Any]:
        """What the page draws the inputs from."""
        fields = [asdict(field) for field in self.fields]
        return {"title": self.task.title, "folder": self.folder, "hint": self.hint, "fields": fields}

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {field.name: field.read(values) for field in self.fields}

    def run(self, *args: Any, **values: Any) -> Outputs:
        """Outputs for the values of the fields, which each playground names as its arguments.

        Raises:
            ValueError, OSError: if the model can't be run on them.
        """
        raise NotImplementedError


def open_playground(folder: str) -> Playground:
    """Loads a converted model, and makes the playground of its task.

    Raises:
        OSError: if there is no such model.
        ValueError: if there is no playground for it.
    """
    from transformers import PreTrainedConfig

    model_type = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    names = [name for name in PLAYGROUNDS if TASKS[name].model_type == model_type]
    if not names:
        titles = ", ".join(TASKS[name].title for name in PLAYGROUNDS)
        raise ValueError(f"{folder} is a model of the type {model_type!r}. There are pages for: {titles}")
    import_module(f"{TASKS[names[0]].package}.huggingface")  # registers the model with the Auto classes
    module, class_name = PLAYGROUNDS[names[0]]
    playground: Playground = getattr(import_module(f"perceiver.app.{module}"), class_name)(folder, names[0])
    return playground


@contextmanager
def uploaded(content: bytes, suffix: str) -> Iterator[Path]:
    """An upload as a file, for readers that want one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"upload{suffix}"
        file.write_bytes(content)
        yield file


def seen_by_outputs(maps: Mapping[str, Tensor]) -> Tensor:
    """How much each output takes of each input by way of the latents (B, O, M), see docs/attention-maps.md"""
    to_latents = maps["encoder.cross_attention.0"].mean(dim=1)  # B N M
    return maps["decoder.cross_attention"].mean(dim=1) @ to_latents


def seen_by_last(model: Any, ids: Tensor) -> tuple[int, Tensor]:
    """What the last token of a Perceiver AR's window looks at, in the cross-attention.

    Args:
        model: The model.
        ids: Tokens (n,).

    Returns:
        How many tokens are before the window; weights (m,) of those in it, the mean over heads.
    """
    import torch

    from perceiver.model.core.attention_maps import record_attention

    backend = model.backend_model
    window = ids[-backend.max_seq_len :]
    prefix_len = max(len(window) - backend.max_latents, 0)
    with torch.no_grad(), record_attention(model, "cross_attention") as maps:
        backend(window[None].to(model.device), prefix_len)
    return len(ids) - len(window), maps["cross_attention"][0, :, -1].mean(dim=0).float().cpu()


def with_progress(generate: Callable[..., Any]) -> Generator[Any, None, None]:
    """Runs a generation in a thread: token ids of each step as they come, and last what `generate` returned.

    Whoever stops to iterate stops the generation after its next token.

    Args:
        generate: Gets the `streamer` and the `stopping_criteria` of transformers' `generate`.
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer

    items: queue.Queue[tuple[str, Any]] = queue.Queue()
    stopped = threading.Event()

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.full((len(input_ids),), stopped.is_set(), device=input_ids.device)

    class Streamer(BaseStreamer):
        def put(self, value: Any) -> None:
            items.put(("step", value.flatten().tolist()))

        def end(self) -> None: ...

    def work() -> None:
        try:
            items.put(("done", generate(streamer=Streamer(), stopping_criteria=StoppingCriteriaList([Stop()]))))
        except (ValueError, OSError, RuntimeError, TypeError, LookupError) as error:
            items.put(("error", error))
        finally:
            items.put(("end", None))  # after any other error: nobody waits for more

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, item = items.get()
            if kind == "error":
                raise item
            if kind == "end":
                raise RuntimeError("the generation has failed: the app's output says why")
            yield item
            if kind == "done":
                return
    finally:
        stopped.set()
        thread.join()


def coloured(title: str, tokenizer: Any, ids: list[int], weights: Tensor) -> Output:
    """Tokens with their weights (n,), the largest of which has the full colour."""
    # not decode: bytes of one character would be of no text
    tokens = [str(tokenizer.convert_ids_to_tokens(i)) for i in ids]
    parts = [list(part) for part in zip(tokens, (weights / weights.max()).tolist(), strict=True)]
    return {"kind": "weights", "title": title, "parts": parts}


def data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def picture(pixels: Any) -> str:
    """A Pillow image, or an array (H, W, 3), uint8, as the address of a PNG."""
    import PIL.Image

    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "PNG")
    return data_url(file.getvalue(), "image/png")
