"""The copy task of Perceiver AR (arXiv 2202.07765, section 5.1.1): the second half of a sequence repeats the first.

    tokens     BOS  b1 b2 ... bh  b1 b2 ... bh      bytes at random, h = seq_len / 2
    inputs     BOS  b1 b2 ... bh  b1 b2 ... bh-1    seq_len positions
    targets                   b1  b2 ... ...   bh   what the last h inputs are followed by

Nothing in the first half can be predicted, all of the second half can, by looking back h - 1 positions: further than
there are latents. In training, the latents are a random window of the second half and the sequence ends with it. For
evaluation they sweep over the second half, block by block, so that each of its positions is scored once.

    python examples/training/copy/train.py [--seq_len 512] [--num_latents 64] ...

Which one of very many positions is the right one takes long to find out. `--curriculum=K` shows the model less at
first: the positions that the latents copy from, and K others at random. K doubles whenever the model can do it, until
it is all of the prefix. Evaluation is always over the whole.

docs/copy-task.md has results and the command for the paper's size.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perceiver.model.core.causal import CausalSequenceModel
from perceiver.model.core.config import CausalSequenceModelConfig
from perceiver.model.core.loss import token_cross_entropy
from perceiver.model.core.mask import AttentionMask
from perceiver.model.core.perceiver_ar import AttentionInputs
from perceiver.scripts.lrs import CosineWithWarmupLR

BOS = 256  # after the bytes
VOCAB_SIZE = 257
CHECK_EVERY, LEARNT = 10, 0.1  # a curriculum goes on when the mean loss of so many steps is less


def sequences(num_sequences: int, seq_len: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Labels and inputs, each (B, `seq_len`)."""
    device = generator.device
    first_half = torch.randint(BOS, (num_sequences, seq_len // 2), generator=generator, device=device)
    tokens = torch.cat([torch.full((num_sequences, 1), BOS, device=device), first_half, first_half], dim=1)
    return tokens[:, 1:], tokens[:, :-1]


def random_end(seq_len: int, num_latents: int, generator: torch.Generator) -> int:
    """End of a window of `num_latents` positions, somewhere in the second half."""
    return int(torch.randint(seq_len // 2 + num_latents, seq_len + 1, (), generator=generator))


def kept_positions(seq_len: int, end: int, num_latents: int, num_others: int, generator: torch.Generator) -> Tensor:
    """Positions before the latents that they copy from and `num_others` at random, maybe some of the same, in order."""
    prefix_len = end - num_latents
    kept = torch.zeros(prefix_len, dtype=torch.bool)
    kept[torch.randint(prefix_len, (num_others,), generator=generator)] = True
    kept[prefix_len + 1 - seq_len // 2 : end + 1 - seq_len // 2] = True
    return kept.nonzero()[:, 0]


def loss_of(model: CausalSequenceModel, labels: Tensor, x: Tensor, kept: Tensor) -> Tensor:
    """The model's loss of (B, M + N) if all of the prefix but the positions `kept` were not there."""
    prefix_len = x.shape[1] - model.max_latents
    pos = torch.cat([kept, torch.arange(prefix_len, x.shape[1])]).to(x.device)
    mask = AttentionMask(causal=True)
    inputs = AttentionInputs(x[:, pos], len(kept), pos[None], mask, mask, [None] * len(model.windows))
    return token_cross_entropy(model.logits(model.out_norm(model.attend(inputs))), labels[:, prefix_len:])


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy over the second half, and how many positions that were."""

    loss: float
    accuracy: float
    num_positions: int


@torch.no_grad()
def evaluate(model: Callable[[Tensor, int], Tensor], labels: Tensor, x: Tensor, num_latents: int) -> Score:
    """Scores every position of the second half once.

    Args:
        model: Makes logits (B, `num_latents`, vocabulary) from inputs (B, M + `num_latents`) and M.
        labels: (B, sequence length)
        x: (B, sequence length)
        num_latents: Number of latents, at most half of the sequence length.
    """
    seq_len = x.shape[1]
    loss, num_right, num_positions = 0.0, 0, 0
    for start in range(seq_len // 2, seq_len, num_latents):
        end = min(start + num_latents, seq_len)  # the last block may be shorter: its first latents were scored before
        logits = model(x[:, :end], end - num_latents)[:, start - end :].float()  # B P vocabulary
        block = labels[:, start:end].to(logits.device)
        loss += nn.functional.cross_entropy(logits.flatten(0, 1), block.flatten(), reduction="sum").item()
        num_right += int((logits.argmax(dim=-1) == block).sum())
        num_positions += block.numel()
    return Score(loss / num_positions, num_right / num_positions, num_positions)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use so far: what torch has allocated on a GPU, or resident memory of the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq_len", type=int, default=512, help="number of positions, even")
    parser.add_argument("--num_latents", type=int, default=64)
    parser.add_argument("--num_channels", type=int, default=128)
    parser.add_argument("--num_heads", type=int, default=4)
    parser.add_argument("--num_layers", type=int, default=2, help="self-attention layers")
    parser.add_argument("--abs_pos_emb", action="store_true", help="learned positions, besides rotary ones")
    parser.add_argument("--init_scale", type=float, default=0.1)
    parser.add_argument("--activation_checkpointing", action="store_true")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--warmup_steps", type=int, default=100)
    parser.add_argument("--max_steps", type=int, default=2000)
    parser.add_argument("--max_seconds", type=float, default=float("inf"), help="training ends then, too")
    parser.add_argument("--curriculum", type=int, help="number of prefix positions at first besides those to copy")
    parser.add_argument("--bfloat16", action="store_true", help="layers compute in bfloat16 (autocast)")
    parser.add_argument("--eval_every", type=int, default=100, help="number of steps between evaluations")
    parser.add_argument("--eval_sequences", type=int, default=16)
    parser.add_argument("--target_accuracy", type=float, default=1.0, help="training ends when it is reached")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="file for the trained parameters, *.safetensors")
    arguments = parser.parse_args(argv)
    if arguments.seq_len % 2 or not 1 <= arguments.num_latents <= arguments.seq_len // 2:
        parser.error("--seq_len must be even and --num_latents at most half of it")
    return arguments


def main(argv: Sequence[str] | None = None) -> Score:
    arguments = parse(argv)
    seq_len, num_latents, device = arguments.seq_len, arguments.num_latents, arguments.device
    torch.manual_seed(arguments.seed)
    model = CausalSequenceModel(
        CausalSequenceModelConfig(
            vocab_size=VOCAB_SIZE,
            max_seq_len=seq_len,
            max_latents=num_latents,
            num_channels=arguments.num_channels,
            num_heads=arguments.num_heads,
            num_self_attention_layers=arguments.num_layers,
            num_self_attention_rotary_layers=-1,
            cross_attention_dropout=0.0,  # what is dropped from the prefix can't be copied
            output_norm=True,
            abs_pos_emb=arguments.abs_pos_emb,
            init_scale=arguments.init_scale,
            activation_checkpointing=arguments.activation_checkpointing,
        )
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr, betas=(0.9, 0.95), fused=True)
    warmup_steps = min(arguments.warmup_steps, arguments.max_steps - 1)
    scheduler = CosineWithWarmupLR(optimizer, arguments.max_steps, warmup_steps, min_fraction=0.05)
    windows = torch.Generator().manual_seed(arguments.seed)
    draw = windows if device.type == "cpu" else torch.Generator(device).manual_seed(arguments.seed)
    held_out = sequences(arguments.eval_sequences, seq_len, torch.Generator(device).manual_seed(arguments.seed + 1))
    num_others = seq_len if arguments.curriculum is None else arguments.curriculum

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=arguments.bfloat16)

    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{num_parameters:,} parameters, {seq_len:,} positions, {num_latents:,} latents, seed {arguments.seed}")
    start = since = time.perf_counter()
    seconds, num_tokens, losses = 0.0, 0, []
    for step in range(1, arguments.max_steps + 1):
        labels, x = sequences(arguments.batch_size, seq_len, draw)
        end = random_end(seq_len, num_latents, windows)
        labels, x = labels[:, :end], x[:, :end]
        with autocast():
            if num_others < seq_len:
                kept = kept_positions(seq_len, end, num_latents, num_others, windows)
                loss = loss_of(model, labels, x, kept)
            else:
                loss = model.loss(labels, x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
        num_tokens += arguments.batch_size * (end if num_others >= seq_len else len(kept) + num_latents)
        if step % CHECK_EVERY == 0 and num_others < seq_len and torch.stack(losses[-CHECK_EVERY:]).mean() < LEARNT:
            num_others *= 2
        is_last = step == arguments.max_steps or time.perf_counter() - start > arguments.max_seconds
        if step % arguments.eval_every == 0 or is_last:
            mean_loss = torch.stack(losses).mean().item()  # waits for the device
            seconds += time.perf_counter() - since
            with autocast():
                score = evaluate(model, *held_out, num_latents)
            print(
                f"step {step:6,}   loss {mean_loss:6.4f}   "
                f"second half: loss {score.loss:6.4f}, accuracy {score.accuracy:7.2%}   "
                f"{num_tokens / seconds:9,.0f} tokens/s   {peak_memory_mb(device):6,.0f} MB   "
                f"{time.perf_counter() - start:5.0f} s" + (f"   {num_others:,} others" if num_others < seq_len else ""),
                flush=True,
            )
            losses.clear()
            since = time.perf_counter()
            if score.accuracy >= arguments.target_accuracy or is_last:
                break
    if arguments.save is not None:
        save_file(model.state_dict(), arguments.save)
    return score


if __name__ == "__main__":
    main()
