"""Trains a small symbolic audio model on generated pieces, ten minutes on one core, and measures what it plays.

1. Train a small Perceiver AR with Lightning on `SyntheticPianoDataModule`: pieces in a known key and metre.
2. Convert the Lightning checkpoint to a Hugging Face folder; continue held-out pieces with the pipeline.
3. Measure how often continuations stay in key and metre (docs/symbolic-audio.md says how), beside those of the same
   model before training and of a Markov chain.
4. Draw the piano rolls of a prompt and its continuations.

    python examples/training/sam/synthetic.py [--output_dir logs/sam-synthetic] [--max_steps N] [--max_minutes M]
"""

from __future__ import annotations

import argparse
import copy
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pretty_midi import PrettyMIDI
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from transformers import pipeline

from perceiver.data.audio import PianoPiece, SyntheticPianoDataModule, decode_midi, encode_midi, piano_piece
from perceiver.data.audio.synthetic import LOWEST_TONIC
from perceiver.model.audio import symbolic
from perceiver.processing.midi import NOTE_OFF, STEPS_PER_SECOND, TIME_SHIFT, VELOCITY
from perceiver.scripts.lrs import CosineWithWarmupLR

SEQ_LEN, NUM_LATENTS = 512, 256
NUM_NEW = 128  # tokens of a continuation
ORDER = 3  # of the Markov chain
HELD_OUT = 1_000_000  # seed of the first piece to continue: no piece to train on


class Model(symbolic.LitSymbolicAudioModel):
    """The library's Lightning module, with an optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
        steps = self.trainer.max_steps
        scheduler = CosineWithWarmupLR(optimizer, training_steps=steps, warmup_steps=steps // 20, min_fraction=0.02)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def model_config() -> symbolic.SymbolicAudioModelConfig:
    """A Perceiver AR with a context of 512 events and 256 latents, 1,036,032 parameters."""
    return symbolic.SymbolicAudioModelConfig(
        max_seq_len=SEQ_LEN,
        max_latents=NUM_LATENTS,
        num_channels=128,
        num_heads=4,
        num_self_attention_layers=4,
        num_self_attention_rotary_layers=-1,
        cross_attention_dropout=0.0,
        abs_pos_emb=False,
        output_norm=True,
        output_bias=False,
        init_scale=0.05,
    )


# --- what continues a prompt ---


def continued_by_model(model: Any, prompts: Sequence[PrettyMIDI]) -> list[list[int]]:
    """Token ids of prompts and continuations. `model` is a folder or a Hugging Face model."""
    generator = pipeline("symbolic-audio-generation", model=model)
    results = generator(
        list(prompts),
        batch_size=len(prompts),
        num_latents=NUM_LATENTS - NUM_NEW,
        max_new_tokens=NUM_NEW,
        top_k=0,
        return_type=symbolic.ReturnType.TENSORS,
    )
    return [result["generated_token_ids"] for result in results]


class MarkovChain:
    """Next tokens as often as they followed the last `order` ones in pieces, or the last few that occur there."""

    def __init__(self, pieces: Iterable[Sequence[int]], order: int):
        self.order = order
        self.following = defaultdict[tuple[int, ...], Counter[int]](Counter)
        for piece in pieces:
            for i, token in enumerate(piece):
                for length in range(min(order, i) + 1):
                    self.following[tuple(piece[i - length : i])][token] += 1

    def continued(self, prompt: Sequence[int], num_new: int) -> list[int]:
        """Token ids of a prompt and its continuation."""
        ids = list(prompt)
        for _ in range(num_new):
            contexts = (tuple(ids[len(ids) - length :]) for length in range(min(self.order, len(ids)), -1, -1))
            following = next(self.following[context] for context in contexts if context in self.following)
            ids += random.choices(list(following), list(following.values()))
        return ids


# --- whether it stays in key and metre ---


def first_half(piece: PianoPiece) -> PrettyMIDI:
    """The first half of a piece's bars."""
    num_bars = round(piece.midi.get_end_time() / piece.bar_seconds)
    end = num_bars // 2 * piece.bar_seconds - 0.5 / STEPS_PER_SECOND
    half = copy.deepcopy(piece.midi)
    for instrument in half.instruments:
        instrument.notes = [note for note in instrument.notes if note.start < end]
        instrument.control_changes = [change for change in instrument.control_changes if change.time < end]
    return half


class Onset(NamedTuple):
    """A note that begins: MIDI pitch, and seconds since the piece began."""

    pitch: int
    seconds: float


def onsets(ids: Sequence[int]) -> list[Onset]:
    """The notes that token ids begin, whether they end or not."""
    steps, found = 0, []
    for token in ids:
        if token < NOTE_OFF:
            found.append(Onset(token, steps / STEPS_PER_SECOND))
        elif TIME_SHIFT <= token < VELOCITY:
            steps += token - TIME_SHIFT + 1
    return found


def in_key(onset: Onset, piece: PianoPiece) -> bool:
    """Whether a note is of the key's scale."""
    return onset.pitch % 12 in piece.pitch_classes


def in_bass(onset: Onset, piece: PianoPiece) -> bool:
    """Whether a note is in the lowest octave of the scale. In the pieces, these notes begin bars."""
    return onset.pitch < LOWEST_TONIC + piece.pitch_classes[0] + 12


def on_bar_line(onset: Onset, piece: PianoPiece) -> bool:
    """Whether a note begins a bar, within 10 ms."""
    bar = round(onset.seconds / piece.bar_seconds)
    return abs(onset.seconds - bar * piece.bar_seconds) < 1.5 / STEPS_PER_SECOND


class Score(NamedTuple):
    """Shares of what continuations play.

    Attributes:
        key: Notes that are in the key of the piece.
        metre: Notes in the bass that begin a bar of the piece.
        num_notes: Number of notes.
        num_bass_notes: Number of notes in the bass.
    """

    key: float
    metre: float
    num_notes: int
    num_bass_notes: int


def score(pieces: Sequence[PianoPiece], prompts: Sequence[Sequence[int]], continued: Sequence[Sequence[int]]) -> Score:
    """Scores what follows the prompts in `continued`; both are token ids."""
    key: list[bool] = []
    metre: list[bool] = []
    for piece, prompt, ids in zip(pieces, prompts, continued, strict=True):
        new = onsets(ids)[len(onsets(prompt)) :]
        key += [in_key(onset, piece) for onset in new]
        metre += [on_bar_line(onset, piece) for onset in new if in_bass(onset, piece)]
    return Score(sum(key) / max(len(key), 1), sum(metre) / max(len(metre), 1), len(key), len(metre))


def draw(piece: PianoPiece, prompt: Sequence[int], continued: Mapping[str, Sequence[int]], picture: Path) -> None:
    """Draws a prompt and its continuations: bars are dotted, pitches of the key are shaded."""
    from matplotlib.figure import Figure

    heard = decode_midi(prompt).instruments[0].notes
    lowest, highest = min(note.pitch for note in heard) - 8, max(note.pitch for note in heard) + 8
    begin = onsets(prompt)[-1].seconds + 0.5 / STEPS_PER_SECOND  # of the continuation
    figure = Figure(figsize=(10, 3 * len(continued)), layout="constrained")
    rows = figure.subplots(len(continued), sharex=True)
    for axes, (name, ids) in zip(np.atleast_1d(rows), continued.items(), strict=True):
        for pitch in range(lowest, highest + 1):
            if pitch % 12 in piece.pitch_classes:
                axes.axhspan(pitch - 0.5, pitch + 0.5, color="0.94", linewidth=0)
        added = [note for note in decode_midi(ids).instruments[0].notes if note.start > begin]
        for label, notes in {"prompt": heard, "continuation": added}.items():
            axes.bar(
                x=[note.start for note in notes],
                width=[note.end - note.start for note in notes],
                bottom=[note.pitch - 0.45 for note in notes],
                height=0.9,
                align="edge",
                label=label,
            )
        axes.set(title=name, ylabel="pitch", ylim=(lowest - 0.5, highest + 0.5), xlim=(0, 1.75 * begin))
        axes.set_xticks(np.arange(0, 1.75 * begin, piece.bar_seconds), minor=True)
        axes.grid(axis="x", which="minor", color="0.5", linestyle=":")
    axes.set_xlabel(f"seconds; bars of {piece.key}, {piece.metre[0]}/{piece.metre[1]}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.savefig(picture, dpi=100)


def train(
    lit_model: Model, data: SyntheticPianoDataModule, output_dir: Path, max_steps: int, max_minutes: float
) -> str:
    """Trains the model and returns its best checkpoint, empty if there was no time for a validation."""
    checkpoints = ModelCheckpoint(monitor="val_loss", filename="{epoch:03d}-{val_loss:.3f}")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_time={"minutes": max_minutes},
        val_check_interval=min(500, max_steps),
        check_val_every_n_epoch=None,
        log_every_n_steps=min(25, max_steps),
        gradient_clip_val=1.0,
        logger=CSVLogger(output_dir, name="sam"),
        callbacks=[checkpoints, TQDMProgressBar(refresh_rate=25)],
    )
    trainer.fit(lit_model, datamodule=data)
    return checkpoints.best_model_path


def main(argv: Sequence[str] | None = None) -> dict[str, Score]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("logs/sam-synthetic"))
    parser.add_argument("--num_pieces", type=int, default=2000, help="to train on")
    parser.add_argument("--num_held_out", type=int, default=50, help="pieces to validate with, and others to continue")
    parser.add_argument("--max_steps", type=int, default=3000)
    parser.add_argument("--max_minutes", type=float, default=30.0, help="stop training after this time in any case")
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    output_dir: Path = arguments.output_dir

    torch.set_num_threads(arguments.num_threads)
    pl.seed_everything(0)
    data = SyntheticPianoDataModule(
        str(output_dir / "cache"),
        num_train_pieces=arguments.num_pieces,
        num_valid_pieces=arguments.num_held_out,
        max_seq_len=SEQ_LEN,
        batch_size=4,
        valid_batch_size=25,
        num_workers=0,
    )
    lit_model = Model.create(model_config())
    untrained = symbolic.PerceiverSymbolicAudioModel(symbolic.PerceiverSymbolicAudioModelConfig(model_config()))
    untrained.backend_model.load_state_dict(lit_model.backend_model.state_dict())
    checkpoint = train(lit_model, data, output_dir, arguments.max_steps, arguments.max_minutes)
    if not checkpoint:
        parser.exit(1, f"no validation within {arguments.max_minutes} minutes: give --max_minutes more\n")
    hub_dir = output_dir / "model"
    symbolic.convert_checkpoint(save_dir=hub_dir, ckpt_url=checkpoint)

    pieces = [piano_piece(seed) for seed in range(HELD_OUT, HELD_OUT + arguments.num_held_out)]
    midis = [first_half(piece) for piece in pieces]
    prompts = [encode_midi(midi) for midi in midis]
    trained_on = data.pieces["train"]
    chain = MarkovChain((trained_on.piece(i).tolist() for i in range(trained_on.num_pieces)), ORDER)
    pl.seed_everything(0, verbose=False)
    continued = {
        "Perceiver AR": continued_by_model(str(hub_dir), midis),
        f"Markov chain of order {ORDER}": [chain.continued(prompt, NUM_NEW) for prompt in prompts],
        "Perceiver AR before training": continued_by_model(untrained, midis),
    }
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    shown = {name: ids[longest] for name, ids in continued.items() if "before" not in name}
    draw(pieces[longest], prompts[longest], shown, output_dir / "continuations.png")
    scores = {name: score(pieces, prompts, ids) for name, ids in continued.items()}
    scores["the pieces themselves"] = score(pieces, prompts, [encode_midi(piece.midi) for piece in pieces])
    print(f"\n{'continuations':30} in key   in metre   notes")
    for name, (key, metre, num_notes, num_bass_notes) in scores.items():
        print(f"{name:30} {key:6.1%}  {metre:8.1%}   {num_notes:,}, {num_bass_notes:,} of them in the bass")
    print(f"\ncheckpoint    {checkpoint}")
    print(f"piano rolls   {output_dir / 'continuations.png'}")
    print(f"model folder  {hub_dir}   pipeline('symbolic-audio-generation', model='{hub_dir}')")
    return scores


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # inside Lightning
    main()
